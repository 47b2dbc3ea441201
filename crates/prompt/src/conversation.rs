//! Conversations of every shape, as requests to the chat template.
//!
//! vLLM turns responses and Anthropic messages into chat messages and renders those ([`responses`], [`anthropic`]).

mod anthropic;
mod responses;

use std::borrow::Cow;

use crate::body::{Prompt, Shape};
use crate::error::PromptError;
use crate::json::Json;
use crate::messages::{self, KeyOrder};
use crate::template::{ChatTemplate, Request};

/// The prompt of a request whose `field` holds a conversation. `body_len` is the length of the request in bytes.
pub(crate) fn prompt(
    shape: Shape,
    fields: &Json<'_>,
    field: &'static str,
    body_len: usize,
    template: &ChatTemplate,
) -> Result<Prompt<'static>, PromptError> {
    let (text, add_special_tokens) = match shape {
        Shape::Chat | Shape::Completions => chat(fields, body_len, template)?,
        Shape::Embeddings => embeddings(fields, field, body_len, template)?,
        Shape::Messages => (anthropic::render(fields, body_len, template)?, false),
        // vLLM renders a template that writes the special tokens, and adds them all the same (0.32, `TokenizeParams`).
        Shape::Responses => (responses::render(fields, body_len, template)?, true),
    };
    Ok(Prompt::Text {
        text: Cow::Owned(text),
        add_special_tokens,
    })
}

fn chat(fields: &Json<'_>, body_len: usize, template: &ChatTemplate) -> Result<(String, bool), PromptError> {
    refuse(fields, &["chat_template"])?;
    let request = Request {
        messages: array(fields, "messages")?,
        key_order: KeyOrder::OfTheType,
        tools: messages::tools(fields.get_set("tools"))?,
        documents: fields.get_set("documents"),
        reasoning_effort: fields.get_set("reasoning_effort"),
        kwargs: kwargs(fields)?,
        add_generation_prompt: flag(fields, "add_generation_prompt", true)?,
        continue_final_message: flag(fields, "continue_final_message", false)?,
    };
    let add_special_tokens = flag(fields, "add_special_tokens", false)?;
    Ok((template.render(&request, body_len)?, add_special_tokens))
}

/// `ChatRequestOptionsMixin` in `vllm/entrypoints/pooling/base/protocol.py`: fewer fields, and nothing to generate.
fn embeddings(
    fields: &Json<'_>,
    field: &'static str,
    body_len: usize,
    template: &ChatTemplate,
) -> Result<(String, bool), PromptError> {
    refuse(fields, &["chat_template"])?;
    let messages = array(fields, field)?;
    if matches!(messages.first(), Some(Json::Array(_))) {
        return Err(PromptError::UnsupportedField(field));
    }
    let request = Request {
        messages,
        key_order: KeyOrder::OfTheType,
        tools: None,
        documents: None,
        reasoning_effort: None,
        kwargs: kwargs(fields)?,
        add_generation_prompt: flag(fields, "add_generation_prompt", false)?,
        continue_final_message: flag(fields, "continue_final_message", false)?,
    };
    let add_special_tokens = flag(fields, "add_special_tokens", false)?;
    Ok((template.render(&request, body_len)?, add_special_tokens))
}

/// A boolean field.
pub(crate) fn flag(fields: &Json<'_>, field: &'static str, default: bool) -> Result<bool, PromptError> {
    match fields.get(field) {
        None => Ok(default),
        Some(value) => value.as_lax_bool().ok_or_else(|| PromptError::BadField {
            field,
            why: format!("is {}, not a boolean", value.type_name()),
        }),
    }
}

/// Fields whose effect on the prompt is not modelled.
fn refuse(fields: &Json<'_>, names: &[&'static str]) -> Result<(), PromptError> {
    match names.iter().find(|name| fields.get_set(name).is_some()) {
        Some(name) => Err(PromptError::UnsupportedField(name)),
        None => Ok(()),
    }
}

fn array<'r, 'a>(fields: &'r Json<'a>, field: &'static str) -> Result<&'r [Json<'a>], PromptError> {
    match fields.get_set(field) {
        Some(Json::Array(items)) => Ok(items),
        _ => Err(bad(field, "is not an array")),
    }
}

fn kwargs<'r, 'a>(fields: &'r Json<'a>) -> Result<&'r [(Cow<'a, str>, Json<'a>)], PromptError> {
    match fields.get_set("chat_template_kwargs") {
        None => Ok(&[]),
        Some(Json::Object(entries)) => Ok(entries),
        Some(other) => Err(bad("chat_template_kwargs", &format!("is {}", other.type_name()))),
    }
}

fn bad(field: &'static str, why: &str) -> PromptError {
    PromptError::BadField {
        field,
        why: why.to_owned(),
    }
}

/// A text that must be there.
fn required<'r>(object: &'r Json<'_>, key: &str, field: &'static str) -> Result<&'r str, PromptError> {
    let text = object.get(key).and_then(Json::as_str);
    text.ok_or_else(|| bad(field, &format!("has an entry without the text `{key}`")))
}

fn object<'r>(entries: impl IntoIterator<Item = (&'static str, Json<'r>)>) -> Json<'r> {
    let entries = entries.into_iter().map(|(key, value)| (Cow::Borrowed(key), value));
    Json::Object(entries.collect())
}

fn text(text: &str) -> Json<'_> {
    Json::String(Cow::Borrowed(text))
}

/// A tool in the form of chat completions; `parameters` apart, as its name differs.
fn chat_tool<'r>(
    tool: &'r Json<'_>,
    parameters: Option<Json<'r>>,
    field: &'static str,
) -> Result<Json<'r>, PromptError> {
    let mut function = vec![("name", text(required(tool, "name", field)?))];
    function.extend(parameters.map(|parameters| ("parameters", parameters)));
    for key in ["description", "strict", "defer_loading"] {
        function.extend(tool.get(key).map(|value| (key, value.borrowed())));
    }
    Ok(object([("type", text("function")), ("function", object(function))]))
}
