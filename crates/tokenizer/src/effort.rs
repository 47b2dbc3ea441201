//! How much work a text may take.
//!
//! Nearly all of the time that encoding takes goes into merging words that are neither remembered nor whole in the
//! vocabulary, and there it depends on the text: a look at the table of merges, or at some of those to come, is a
//! *step*, and a long word takes up to six for each of its symbols. What the rest takes grows with the length alone.

use crate::EncodeError;

/// Steps that any text may take, and further ones for each of its bytes.
///
/// A step takes some 50 ns in Envoy's V8 at worst (words of a megabyte, whose symbols and merges are in no cache), so a
/// text of 1 MB is left after 55 ms of merging, where it could be 300. Prose and code take a tenth to a fifth of what they
/// may, with nothing remembered.
const BASE: u64 = 100_000;
const PER_BYTE: u64 = 1;

/// The same for models that have no pre-tokenizer (SentencePiece's): without one, every new word is merged from its
/// characters. Code takes half of it; long JSON without spaces more than that.
const PER_BYTE_OF_WHOLE_TEXTS: u64 = 3;

/// What is left of the steps that a text may take.
#[derive(Clone, Copy, Debug)]
pub struct Effort(u64);

impl Effort {
    /// For texts that are no request's.
    pub fn unbounded() -> Self {
        Self(u64::MAX)
    }

    /// For a text of so many bytes; `whole` if nothing cuts it into words before it is merged.
    pub(crate) fn for_text(bytes: usize, whole: bool) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let per_byte = if whole { PER_BYTE_OF_WHOLE_TEXTS } else { PER_BYTE };
        Self(BASE.saturating_add(bytes.saturating_mul(per_byte)))
    }

    /// Steps that are left.
    pub fn left(self) -> u64 {
        self.0
    }

    pub(crate) fn take(&mut self, steps: usize) -> Result<(), EncodeError> {
        let left = u64::try_from(steps).ok().and_then(|steps| self.0.checked_sub(steps));
        self.0 = left.ok_or(EncodeError::TooMuchWork)?;
        Ok(())
    }
}
