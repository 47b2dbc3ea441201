//! Conversations of every shape, as requests to the chat template.
//!
//! vLLM turns responses and Anthropic messages into chat messages and renders those ([`responses`], [`anthropic`]).

mod anthropic;
mod responses;

use std::borrow::Cow;

use work::Work;

use crate::body::{Piece, Prompt, Shape};
use crate::dynamo;
use crate::error::PromptError;
use crate::harmony;
use crate::images::{self, Images};
use crate::json::Json;
use crate::messages::{self, KeyOrder};
use crate::rules::Frontend;
use crate::template::{ChatTemplate, Rendered, Request};

/// The prompt of a request whose `field` holds a conversation. `work` is that of the request.
pub(crate) fn prompt(
    shape: Shape,
    fields: &Json<'_>,
    field: &'static str,
    work: &Work,
    template: &ChatTemplate,
) -> Result<Prompt<'static>, PromptError> {
    if template.rules().frontend == Frontend::Dynamo {
        let habits = template.dynamo_habits().ok_or(PromptError::NoTemplate)?;
        return dynamo::conversation(shape, fields, work, template, habits);
    }
    if template.rules().harmony {
        return in_harmony(shape, fields, work, template).map(Prompt::Pieces);
    }
    let (Rendered { text, media }, add_special_tokens) = match shape {
        Shape::Chat | Shape::Completions => chat(fields, work, template)?,
        Shape::Embeddings => embeddings(fields, field, work, template)?,
        Shape::Messages => (anthropic::render(fields, work, template)?, false),
        // vLLM renders a template that writes the special tokens, and adds them all the same (0.32, `TokenizeParams`).
        Shape::Responses => (responses::render(fields, work, template)?, true),
    };
    Ok(Prompt::Text {
        text: Cow::Owned(text),
        add_special_tokens,
        media,
    })
}

/// gpt-oss's prompts.
fn in_harmony(
    shape: Shape,
    fields: &Json<'_>,
    work: &Work,
    template: &ChatTemplate,
) -> Result<Vec<Piece>, PromptError> {
    let now = template.now();
    match shape {
        Shape::Chat | Shape::Completions => {
            let chat = harmony::Chat {
                messages: array(fields, "messages")?,
                tools: chat_tools(fields, template)?.unwrap_or_default(),
                reasoning_effort: fields.get_set("reasoning_effort"),
            };
            harmony::chat(&chat, now, work)
        }
        Shape::Messages => anthropic::in_harmony(fields, work, template),
        Shape::Responses => {
            responses::refuse_unknown(fields)?;
            harmony::responses(fields, now, work)
        }
        Shape::Embeddings => Err(PromptError::NoTemplate),
    }
}

/// The tools of a chat, unless they are left out.
fn chat_tools<'r, 'a>(fields: &'r Json<'a>, template: &ChatTemplate) -> Result<Option<&'r [Json<'a>]>, PromptError> {
    match fields.get_set("tools") {
        Some(_) if excludes_tools(fields, template) => Ok(None),
        None => Ok(None),
        Some(Json::Array(tools)) if tools.is_empty() => Err(bad("tools", "is empty")),
        Some(Json::Array(tools)) => Ok(Some(tools)),
        Some(other) => Err(bad("tools", &format!("is {}", other.type_name()))),
    }
}

/// Whether `tool_choice` keeps the tools out of the prompt. In Anthropic's form it is an object.
fn excludes_tools(fields: &Json<'_>, template: &ChatTemplate) -> bool {
    let choice = fields.get("tool_choice");
    let is_none = choice.and_then(|choice| choice.as_str().or_else(|| choice.get("type")?.as_str())) == Some("none");
    is_none && template.rules().exclude_tools_when_tool_choice_none
}

fn chat(fields: &Json<'_>, work: &Work, template: &ChatTemplate) -> Result<(Rendered, bool), PromptError> {
    let request = Request {
        template: requested_template(fields, template)?,
        messages: array(fields, "messages")?,
        key_order: KeyOrder::OfTheType,
        tools: chat_tools(fields, template)?.map(messages::tools).transpose()?,
        documents: fields.get_set("documents"),
        reasoning_effort: fields.get_set("reasoning_effort"),
        kwargs: kwargs(fields)?,
        add_generation_prompt: flag(fields, "add_generation_prompt", true)?,
        continue_final_message: flag(fields, "continue_final_message", false)?,
        images: images_of_chat(fields, work, template)?,
    };
    let add_special_tokens = flag(fields, "add_special_tokens", false)?;
    Ok((template.render(request, work)?, add_special_tokens))
}

/// Options for media change what images become, and their identities.
fn images_of_chat<'r>(fields: &Json<'_>, work: &Work, template: &'r ChatTemplate) -> Result<Images<'r>, PromptError> {
    let has_options = ["media_io_kwargs", "mm_processor_kwargs"].iter().any(|name| {
        let options = fields.get_set(name);
        options.is_some_and(|options| !matches!(options, Json::Object(entries) if entries.is_empty()))
    });
    match template.images() {
        Some(processor) if !has_options => images::known(array(fields, "messages")?, processor, work),
        _ => Ok(Images::default()),
    }
}

/// `ChatRequestOptionsMixin` in `vllm/entrypoints/pooling/base/protocol.py`: fewer fields, and nothing to generate.
fn embeddings(
    fields: &Json<'_>,
    field: &'static str,
    work: &Work,
    template: &ChatTemplate,
) -> Result<(Rendered, bool), PromptError> {
    let messages = array(fields, field)?;
    if matches!(messages.first(), Some(Json::Array(_))) {
        return Err(PromptError::UnsupportedField(field));
    }
    let request = Request {
        template: requested_template(fields, template)?,
        messages,
        key_order: KeyOrder::OfTheType,
        tools: None,
        documents: None,
        reasoning_effort: None,
        kwargs: kwargs(fields)?,
        add_generation_prompt: flag(fields, "add_generation_prompt", false)?,
        continue_final_message: flag(fields, "continue_final_message", false)?,
        images: Images::default(),
    };
    let add_special_tokens = flag(fields, "add_special_tokens", false)?;
    Ok((template.render(request, work)?, add_special_tokens))
}

/// The template that a request brings, if the workers use it; else they refuse it.
fn requested_template<'r>(fields: &'r Json<'_>, template: &ChatTemplate) -> Result<Option<&'r str>, PromptError> {
    match fields.get_set("chat_template") {
        None => Ok(None),
        Some(Json::String(source)) if template.rules().trust_request_chat_template => Ok(Some(source)),
        Some(_) => Err(PromptError::UnsupportedField("chat_template")),
    }
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
pub(crate) fn refuse(fields: &Json<'_>, names: &[&'static str]) -> Result<(), PromptError> {
    match names.iter().find(|name| fields.get_set(name).is_some()) {
        Some(name) => Err(PromptError::UnsupportedField(name)),
        None => Ok(()),
    }
}

pub(crate) fn array<'r, 'a>(fields: &'r Json<'a>, field: &'static str) -> Result<&'r [Json<'a>], PromptError> {
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

pub(crate) fn bad(field: &'static str, why: &str) -> PromptError {
    PromptError::BadField {
        field,
        why: why.to_owned(),
    }
}

/// A text that must be there.
pub(crate) fn required<'r>(object: &'r Json<'_>, key: &str, field: &'static str) -> Result<&'r str, PromptError> {
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
