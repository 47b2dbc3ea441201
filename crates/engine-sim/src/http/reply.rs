//! Responses as vLLM words them: whole, and as server-sent events.

use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::generate::Answer;
use crate::scheduler::Progress;

/// The two APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

impl Api {
    pub(super) fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Text => "cmpl",
        }
    }
}

/// All that a response says, whenever it says it.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) api: Api,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) prompt_tokens: usize,
    pub(super) answer: Answer,
}

impl Reply {
    /// The response to a request that does not stream.
    pub(super) fn full(&self, cached_tokens: usize) -> Json {
        let text = self.answer.pieces.concat();
        let finish_reason = self.answer.finish_reason.as_str();
        let (object, choice) = match self.api {
            Api::Chat => {
                let message = json!({"role": "assistant", "content": text});
                let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason});
                ("chat.completion", choice)
            }
            Api::Text => {
                let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason});
                ("text_completion", choice)
            }
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "usage": self.usage(self.answer.ids.len(), cached_tokens),
        })
    }

    /// The events that a token brings: before the first of a chat its role, after the last `usage` (if asked for) and
    /// the end mark. A token that completes no character brings none.
    pub(super) fn events(&self, progress: Progress, include_usage: bool) -> Vec<Bytes> {
        let mut events = Vec::new();
        if progress.generated == 1 && self.api == Api::Chat {
            events.push(self.chunk(json!([{
                "index": 0,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": null,
                "finish_reason": null,
            }])));
        }
        let piece = progress
            .generated
            .checked_sub(1)
            .and_then(|index| self.answer.pieces.get(index));
        let text = piece.map_or("", String::as_str);
        let finish_reason = progress.finished.then(|| self.answer.finish_reason.as_str());
        if !text.is_empty() || progress.finished {
            let choice = match self.api {
                Api::Chat => {
                    json!({"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": finish_reason})
                }
                Api::Text => json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason}),
            };
            events.push(self.chunk(json!([choice])));
        }
        if progress.finished {
            if include_usage {
                let mut chunk = self.chunk_json(json!([]));
                if let Json::Object(fields) = &mut chunk {
                    let usage = self.usage(progress.generated, progress.cached_tokens);
                    fields.insert("usage".to_owned(), usage);
                }
                events.push(sse(&chunk.to_string()));
            }
            events.push(sse("[DONE]"));
        }
        events
    }

    fn chunk(&self, choices: Json) -> Bytes {
        sse(&self.chunk_json(choices).to_string())
    }

    fn chunk_json(&self, choices: Json) -> Json {
        let object = match self.api {
            Api::Chat => "chat.completion.chunk",
            Api::Text => "text_completion",
        };
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    fn usage(&self, completion_tokens: usize, cached_tokens: usize) -> Json {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        })
    }
}

/// One server-sent event.
fn sse(data: &str) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

#[cfg(test)]
mod tests;
