//! The rendered text, bounded.

use std::io;

/// Collects what a template writes, up to a limit, beyond which writing fails.
pub(super) struct BoundedText {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl BoundedText {
    /// `expected`: a length that is likely, in bytes.
    pub(super) fn new(limit: usize, expected: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(expected.min(limit)),
            limit,
            full: false,
        }
    }

    /// Whether a write failed.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn into_text(self) -> Option<String> {
        String::from_utf8(self.bytes).ok()
    }
}

impl io::Write for BoundedText {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        if chunk.len() > self.limit.saturating_sub(self.bytes.len()) {
            self.full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
