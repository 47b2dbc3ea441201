//! `truncate_prompt_tokens`: prompts of which the engine keeps some tokens only.
//!
//! Source: `TokenizeParams` in `vllm/renderers/params.py`, vLLM 0.32, and for the sides `vllm/tokenizers/registry.py`.

use crate::body::Shape;
use crate::error::PromptError;
use crate::json::Json;

const FIELD: &str = "truncate_prompt_tokens";

/// Which tokens of a prompt are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// At most so many; not 0.
    keep: usize,
    side: Side,
    /// The engine leaves it to its tokenizer, which keeps the special tokens that it adds around a text.
    by_tokenizer: bool,
}

/// Where tokens are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// At the start.
    Left,
    /// At the end.
    Right,
}

impl Truncation {
    /// What a body asks for. Responses and Anthropic's messages have no such field, so there it is ignored.
    pub(crate) fn of(shape: Shape, fields: &Json<'_>) -> Result<Option<Self>, PromptError> {
        if matches!(shape, Shape::Responses | Shape::Messages) {
            return Ok(None);
        }
        let keep = match fields.get_set(FIELD) {
            None => return Ok(None),
            // An empty prompt is refused.
            Some(Json::Unsigned(0)) => return Err(bad(FIELD, "is 0")),
            Some(Json::Unsigned(keep)) => usize::try_from(*keep).unwrap_or(usize::MAX),
            // As long as the model's context, which only the worker knows.
            Some(Json::Signed(-1)) => return Err(PromptError::UnsupportedField(FIELD)),
            Some(other) => return Err(bad(FIELD, &format!("is {}", other.type_name()))),
        };
        let side = match fields.get_set("truncation_side").map(Json::as_str) {
            None => None,
            Some(Some("left")) => Some(Side::Left),
            Some(Some("right")) => Some(Side::Right),
            Some(_) => return Err(bad("truncation_side", "is neither `left` nor `right`")),
        };
        // vLLM loads tokenizers so.
        let of_tokenizer = match shape {
            Shape::Embeddings => Side::Right,
            _ => Side::Left,
        };
        Ok(Some(Self {
            keep,
            side: side.unwrap_or(of_tokenizer),
            by_tokenizer: side.is_none(),
        }))
    }

    /// What is left of a prompt of token ids.
    pub(crate) fn of_tokens(self, tokens: &[u32]) -> &[u32] {
        self.side.kept(self.keep, tokens)
    }

    /// What is left of the ids of a text, of which `around` are those that the tokenizer added before and after it.
    ///
    /// # Errors
    /// When those alone are more than may be kept: tokenizers do not agree on what that means.
    pub fn apply(self, ids: &[u32], around: [usize; 2]) -> Result<Vec<u32>, PromptError> {
        if ids.len() <= self.keep || !self.by_tokenizer {
            return Ok(self.of_tokens(ids).to_vec());
        }
        let [before, after] = around;
        let of_text = before..ids.len().saturating_sub(after);
        let room = before.checked_add(after).and_then(|added| self.keep.checked_sub(added));
        let (Some(room), Some(text)) = (room, ids.get(of_text.clone())) else {
            return Err(PromptError::UnsupportedField(FIELD));
        };
        let [before, after] = [ids.get(..of_text.start), ids.get(of_text.end..)].map(Option::unwrap_or_default);
        Ok([before, self.side.kept(room, text), after].concat())
    }
}

impl Side {
    fn kept(self, keep: usize, tokens: &[u32]) -> &[u32] {
        let kept = match (self, tokens.len().checked_sub(keep)) {
            (_, None) => None,
            (Self::Left, Some(surplus)) => tokens.get(surplus..),
            (Self::Right, Some(_)) => tokens.get(..keep),
        };
        kept.unwrap_or(tokens)
    }
}

fn bad(field: &'static str, why: &str) -> PromptError {
    PromptError::BadField {
        field,
        why: why.to_owned(),
    }
}
