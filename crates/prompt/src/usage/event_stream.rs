//! Server-sent events, as far as usage needs them.
//!
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>. Lines end in CR, LF
//! or CR LF. Every event of an OpenAI-style stream has one `data` line, so lines are read one by one.

use super::Usage;

/// The longest line that is kept, in bytes. The line with the usage is a few hundred, but that of `response.completed`
/// repeats the whole answer.
const MAX_LINE_BYTES: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct EventStream {
    /// The line that has begun and not ended.
    line: Vec<u8>,
    /// The line is beyond the limit: it is skipped up to its end.
    skipping: bool,
    usage: Option<Usage>,
}

impl EventStream {
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            self.end_line(line);
            // The LF of a CR LF ends an empty line, which says nothing.
            rest = tail.get(1..).unwrap_or_default();
        }
        self.begin_line(rest);
    }

    pub(super) fn finish(mut self) -> Option<Usage> {
        // A last line without an end is no event by the standard, but servers are not that careful.
        self.end_line(&[]);
        self.usage
    }

    fn begin_line(&mut self, start: &[u8]) {
        if self.skipping || self.line.len().saturating_add(start.len()) > MAX_LINE_BYTES {
            self.skipping = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(start);
        }
    }

    fn end_line(&mut self, end: &[u8]) {
        if std::mem::take(&mut self.skipping) || self.line.len().saturating_add(end.len()) > MAX_LINE_BYTES {
            self.line.clear();
        } else if self.line.is_empty() {
            self.read_line(end);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(end);
            self.read_line(&line);
            line.clear();
            self.line = line;
        }
    }

    fn read_line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        // Most lines have no usage: look before parsing.
        if data.windows(USAGE_KEY.len()).any(|window| window == USAGE_KEY)
            && let Some(usage) = super::read(data)
        {
            self.usage = Some(usage);
        }
    }
}

const USAGE_KEY: &[u8] = b"\"usage\"";
