//! Token counts out of a response that passes by in chunks.
//!
//! Fields as in OpenAI's chats, completions and embeddings (`usage.prompt_tokens`,
//! `usage.prompt_tokens_details.cached_tokens`), OpenAI's responses (`usage.input_tokens`,
//! `usage.input_tokens_details.cached_tokens`) and Anthropic's messages (`usage.input_tokens`,
//! `usage.cache_read_input_tokens`), as vLLM 0.32 writes them. Nothing is kept of a response but what still may hold them.

mod event_stream;

use serde::Deserialize;

use event_stream::EventStream;

/// The largest JSON response that is looked into, in bytes. `usage` may stand anywhere in it, so it is kept whole.
const MAX_JSON_BYTES: usize = 1 << 20;

/// The token counts of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Prompt tokens whose KV cache the engine reused; `None` if it does not say.
    pub cached_tokens: Option<u64>,
}

/// Reads [`Usage`] from the body of one response.
#[derive(Debug)]
pub struct UsageReader {
    body: ResponseBody,
}

#[derive(Debug)]
enum ResponseBody {
    Json(Vec<u8>),
    Events(EventStream),
    /// Not a type that carries usage, or a JSON body beyond the limit.
    Ignored,
}

impl UsageReader {
    /// A reader for a response of this `content-type`. One that is neither JSON nor an event stream is ignored.
    pub fn new(content_type: &str) -> Self {
        let media_type = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let body = match media_type.as_str() {
            "text/event-stream" => ResponseBody::Events(EventStream::default()),
            "application/json" => ResponseBody::Json(Vec::new()),
            _ => ResponseBody::Ignored,
        };
        Self { body }
    }

    /// Takes the next piece of the body, cut anywhere.
    pub fn feed(&mut self, chunk: &[u8]) {
        match &mut self.body {
            ResponseBody::Json(kept) if kept.len().saturating_add(chunk.len()) <= MAX_JSON_BYTES => {
                kept.extend_from_slice(chunk);
            }
            ResponseBody::Json(_) => self.body = ResponseBody::Ignored,
            ResponseBody::Events(events) => events.feed(chunk),
            ResponseBody::Ignored => {}
        }
    }

    /// The body is over: what it said. Of several usages in an event stream the last counts.
    pub fn finish(&mut self) -> Option<Usage> {
        match std::mem::replace(&mut self.body, ResponseBody::Ignored) {
            ResponseBody::Json(body) => read(&body),
            ResponseBody::Events(events) => events.finish(),
            ResponseBody::Ignored => None,
        }
    }
}

/// The usage in a JSON text, if it has one: a whole response or an event of a stream.
fn read(json: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Text {
        usage: Option<Counts>,
        /// OpenAI's responses: in `response.completed`.
        response: Option<Inner>,
        /// Anthropic's messages: in `message_start`.
        message: Option<Inner>,
    }

    #[derive(Deserialize)]
    struct Inner {
        usage: Option<Counts>,
    }

    let text: Text = serde_json::from_slice(json).ok()?;
    let inner = text.response.or(text.message).and_then(|inner| inner.usage);
    text.usage.or(inner)?.usage()
}

/// All names that counts have.
#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u64>,
    // Absent in vLLM's chunks before the first token and in embeddings.
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Counts {
    fn usage(self) -> Option<Usage> {
        let of_openai = self.prompt_tokens_details.or(self.input_tokens_details);
        let prompt_tokens = match (self.prompt_tokens.or(self.input_tokens)?, &of_openai) {
            // Anthropic's `input_tokens` are those that no cache has to do with.
            (input, None) => input
                .saturating_add(self.cache_read_input_tokens.unwrap_or(0))
                .saturating_add(self.cache_creation_input_tokens.unwrap_or(0)),
            (all, Some(_)) => all,
        };
        Some(Usage {
            prompt_tokens,
            completion_tokens: self.completion_tokens.or(self.output_tokens).unwrap_or(0),
            cached_tokens: match of_openai {
                Some(details) => details.cached_tokens,
                None => self.cache_read_input_tokens,
            },
        })
    }
}

#[cfg(test)]
mod tests;
