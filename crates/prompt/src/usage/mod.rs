//! Token counts out of a response that passes by in chunks.
//!
//! Fields as in the OpenAI API: `usage.prompt_tokens`, `usage.completion_tokens` and
//! `usage.prompt_tokens_details.cached_tokens`. Nothing is kept of a response but what still may hold them.

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

/// The usage in a JSON text, if it has one.
fn read(json: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Response {
        usage: Option<Counts>,
    }

    #[derive(Deserialize)]
    struct Counts {
        prompt_tokens: u64,
        // Absent in vLLM's chunks before the first token and in embeddings.
        #[serde(default)]
        completion_tokens: Option<u64>,
        #[serde(default)]
        prompt_tokens_details: Option<Details>,
    }

    #[derive(Deserialize)]
    struct Details {
        #[serde(default)]
        cached_tokens: Option<u64>,
    }

    let counts = serde_json::from_slice::<Response>(json).ok()?.usage?;
    Some(Usage {
        prompt_tokens: counts.prompt_tokens,
        completion_tokens: counts.completion_tokens.unwrap_or(0),
        cached_tokens: counts.prompt_tokens_details.and_then(|details| details.cached_tokens),
    })
}

#[cfg(test)]
mod tests;
