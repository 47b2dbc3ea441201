//! Anthropic's messages, as vLLM turns them into chat messages: `vllm/entrypoints/anthropic/serving.py`, vLLM 0.32.

use std::borrow::Cow;

use work::Work;

use super::{array, bad, chat_tool, excludes_tools, kwargs, object, refuse, required, text};
use crate::body::Piece;
use crate::error::PromptError;
use crate::harmony;
use crate::images::Images;
use crate::json::Json;
use crate::media::unknown_part;
use crate::messages::{self, KeyOrder};
use crate::template::{ChatTemplate, Rendered, Request};

/// Claude Code's attribution, different in each request, starts with this; it does not reach the prompt.
const BILLING_HEADER: &str = "x-anthropic-billing-header";

pub(super) fn render(fields: &Json<'_>, work: &Work, template: &ChatTemplate) -> Result<Rendered, PromptError> {
    refuse(fields, &["chat_template"])?;
    let messages = chat_messages(fields, template.wants_system_first())?;
    let effort = reasoning_effort(fields, template)?;
    let tools = tools(fields, template)?;
    template.render(
        Request {
            template: None,
            messages: &messages,
            key_order: KeyOrder::OfTheType,
            tools: tools.as_deref().map(messages::tools).transpose()?,
            documents: None,
            reasoning_effort: effort.as_ref(),
            kwargs: kwargs(fields)?,
            add_generation_prompt: true,
            continue_final_message: false,
            images: Images::default(),
        },
        work,
    )
}

/// gpt-oss's prompts.
pub(super) fn in_harmony(fields: &Json<'_>, work: &Work, template: &ChatTemplate) -> Result<Vec<Piece>, PromptError> {
    let mut messages = chat_messages(fields, template.wants_system_first())?;
    messages.iter_mut().try_for_each(dump_arguments)?;
    let tools = tools(fields, template)?.unwrap_or_default();
    let effort = reasoning_effort(fields, template)?;
    let chat = harmony::Chat {
        messages: &messages,
        tools: &tools,
        reasoning_effort: effort.as_ref(),
    };
    harmony::chat(&chat, template.now(), work)
}

/// Makes texts of the arguments of tool calls, as Python's `json.dumps` writes them.
fn dump_arguments(message: &mut Json<'_>) -> Result<(), PromptError> {
    let Some(Json::Array(calls)) = message.get_mut("tool_calls") else {
        return Ok(());
    };
    for call in calls {
        if let Some(arguments) = call
            .get_mut("function")
            .and_then(|function| function.get_mut("arguments"))
        {
            *arguments = Json::String(Cow::Owned(messages::dumped(arguments)?));
        }
    }
    Ok(())
}

/// `_convert_system_message` and `_convert_messages`.
fn chat_messages<'r>(fields: &'r Json<'_>, system_first: bool) -> Result<Vec<Json<'r>>, PromptError> {
    let given = array(fields, "messages")?;
    let mut converted = Vec::with_capacity(given.len());
    let mut system = match fields.get_set("system") {
        Some(Json::String(system)) => Cow::Borrowed(&**system),
        other => system_text(other)?,
    };
    if system_first {
        for message in given.iter().filter(|message| is_system(message)) {
            system.to_mut().push_str(&system_text(message.get_set("content"))?);
        }
    }
    if !system.is_empty() {
        converted.push(object([("role", text("system")), ("content", Json::String(system))]));
    }
    for message in given {
        if !is_system(message) {
            convert(message, &mut converted)?;
        } else if !system_first {
            let system = system_text(message.get_set("content"))?;
            if !system.is_empty() {
                converted.push(object([("role", text("system")), ("content", Json::String(system))]));
            }
        }
    }
    Ok(converted)
}

fn is_system(message: &Json<'_>) -> bool {
    message.get("role").and_then(Json::as_str) == Some("system")
}

fn system_text<'r>(content: Option<&'r Json<'_>>) -> Result<Cow<'r, str>, PromptError> {
    let kept = |text: &&str| !text.starts_with(BILLING_HEADER);
    match content {
        None => Ok(Cow::Borrowed("")),
        Some(Json::String(text)) => Ok(Cow::Borrowed(Some(&**text).filter(kept).unwrap_or_default())),
        Some(Json::Array(blocks)) => {
            let mut texts = Vec::new();
            for block in blocks {
                match required(block, "type", "system")? {
                    "text" => texts.extend(block.get("text").and_then(Json::as_str).filter(kept)),
                    "tool_addition" | "tool_removal" => return Err(PromptError::UnsupportedField("tool_addition")),
                    _ => {}
                }
            }
            Ok(Cow::Owned(texts.concat()))
        }
        Some(other) => Err(bad("system", &format!("is {}", other.type_name()))),
    }
}

/// What the blocks of one message come to.
#[derive(Default)]
struct Parts<'r> {
    content: Vec<Json<'r>>,
    calls: Vec<Json<'r>>,
    reasoning: Option<String>,
}

/// Appends a message, after those of the tool results in it.
fn convert<'r>(message: &'r Json<'_>, converted: &mut Vec<Json<'r>>) -> Result<(), PromptError> {
    let role = required(message, "role", "messages")?;
    if !matches!(role, "user" | "assistant") {
        return Err(bad("messages", "has a message of an unknown role"));
    }
    let mut entries = vec![("role", text(role))];
    match message.get("content") {
        Some(Json::String(content)) => entries.push(("content", text(content))),
        Some(Json::Array(blocks)) => {
            let mut parts = Parts::default();
            for block in blocks {
                parts.take(block, role, converted)?;
            }
            if let Some(reasoning) = parts.reasoning {
                entries.push(("reasoning", Json::String(Cow::Owned(reasoning))));
            }
            if !parts.calls.is_empty() {
                entries.push(("tool_calls", Json::Array(parts.calls)));
            }
            if !parts.content.is_empty() {
                entries.push(("content", Json::Array(parts.content)));
            } else if role == "user" {
                return Ok(());
            }
        }
        _ => {
            return Err(bad(
                "messages",
                "has a message whose `content` is neither text nor blocks",
            ));
        }
    }
    converted.push(object(entries));
    Ok(())
}

impl<'r> Parts<'r> {
    fn take(&mut self, block: &'r Json<'_>, role: &str, converted: &mut Vec<Json<'r>>) -> Result<(), PromptError> {
        match required(block, "type", "messages")? {
            "text" => {
                let shown = block.get("text").and_then(Json::as_str).filter(|text| !text.is_empty());
                self.content.extend(shown.map(text_part));
            }
            "thinking" => {
                if let Some(thinking) = block.get("thinking").and_then(Json::as_str) {
                    self.reasoning.get_or_insert_default().push_str(thinking);
                }
            }
            "tool_use" => self.calls.push(tool_call(block)?),
            "tool_result" if role == "user" => tool_result(block, converted)?,
            "tool_result" => match block.get_set("content") {
                // Python's `str` of blocks.
                Some(Json::Array(_)) => return Err(PromptError::UnsupportedField("tool_result")),
                content => {
                    let told = content.and_then(Json::as_str).unwrap_or_default();
                    let told = Json::String(Cow::Owned(format!("Tool result: {told}")));
                    self.content.push(object([("type", text("text")), ("text", told)]));
                }
            },
            "redacted_thinking" | "tool_reference" => {}
            "image" if block.get_set("source").is_none_or(is_empty) => {}
            "tool_addition" | "tool_removal" => return Err(PromptError::UnsupportedField("tool_addition")),
            "image" => self.content.push(image_part()),
            other => return Err(unknown_part(other)),
        }
        Ok(())
    }
}

fn text_part(shown: &str) -> Json<'_> {
    object([("type", text("text")), ("text", text(shown))])
}

/// An image in a chat message. Which one it is does not matter.
fn image_part() -> Json<'static> {
    object([("type", text("image_url"))])
}

fn is_empty(source: &Json<'_>) -> bool {
    matches!(source, Json::Object(entries) if entries.is_empty())
}

fn is_empty_url(source: &Json<'_>) -> bool {
    let text_of = |key| source.get(key).and_then(Json::as_str).unwrap_or_default();
    text_of("type") == "url" && text_of("url").is_empty()
}

fn tool_call<'r>(block: &'r Json<'_>) -> Result<Json<'r>, PromptError> {
    // vLLM makes one up from the time.
    let id = block.get("id").and_then(Json::as_str).filter(|id| !id.is_empty());
    let id = id.ok_or(PromptError::UnsupportedField("tool_use without id"))?;
    let name = block.get("name").and_then(Json::as_str).unwrap_or_default();
    let arguments = match block.get_set("input") {
        None => object([]),
        Some(input @ Json::Object(_)) => input.borrowed(),
        Some(_) => return Err(bad("messages", "has a tool use whose `input` is no object")),
    };
    let function = object([("name", text(name)), ("arguments", arguments)]);
    Ok(object([
        ("id", text(id)),
        ("type", text("function")),
        ("function", function),
    ]))
}

/// `_convert_user_tool_result`. Images of a result come in a message of their own.
fn tool_result<'r>(block: &'r Json<'_>, converted: &mut Vec<Json<'r>>) -> Result<(), PromptError> {
    let id = block.get("tool_use_id").and_then(Json::as_str).unwrap_or_default();
    let (mut images, mut references) = (Vec::new(), Vec::new());
    let content = match block.get_set("content") {
        None => Cow::Borrowed(""),
        Some(Json::String(content)) => Cow::Borrowed(&**content),
        Some(Json::Array(items)) => {
            let mut texts = Vec::new();
            for item in items {
                match item.get("type").and_then(Json::as_str) {
                    Some("text") if item.get("text").is_none() => texts.push(""),
                    Some("text") => texts.push(required(item, "text", "messages")?),
                    Some("image") if item.get("source").is_some_and(is_empty_url) => {}
                    Some("image") => images.push(image_part()),
                    Some("tool_reference") => {
                        let name = |key| item.get(key).and_then(Json::as_str).filter(|name| !name.is_empty());
                        if let Some(name) = name("tool_name").or_else(|| name("name")) {
                            references.push(object([("type", text("tool_reference")), ("name", text(name))]));
                        }
                    }
                    _ => {}
                }
            }
            Cow::Owned(texts.join("\n"))
        }
        Some(_) => return Err(bad("messages", "has a tool result that is neither text nor blocks")),
    };
    let message = |content| object([("role", text("tool")), ("tool_call_id", text(id)), ("content", content)]);
    converted.push(message(Json::String(content)));
    if !images.is_empty() {
        converted.push(object([("role", text("user")), ("content", Json::Array(images))]));
    }
    if !references.is_empty() {
        converted.push(message(Json::Array(references)));
    }
    Ok(())
}

/// Tools in the form of chat completions. An empty list of them reaches the template as such.
fn tools<'r>(fields: &'r Json<'_>, template: &ChatTemplate) -> Result<Option<Vec<Json<'r>>>, PromptError> {
    let tools = match fields.get_set("tools") {
        Some(_) if excludes_tools(fields, template) => return Ok(None),
        None => return Ok(None),
        Some(Json::Array(tools)) => tools,
        Some(other) => return Err(bad("tools", &format!("is {}", other.type_name()))),
    };
    let tools = tools.iter().map(|tool| {
        let Some(Json::Object(schema)) = tool.get("input_schema") else {
            return Err(bad("tools", "has a tool without an `input_schema`"));
        };
        let mut schema: Vec<_> = schema
            .iter()
            .map(|(key, value)| (Cow::Borrowed(&**key), value.borrowed()))
            .collect();
        if !schema.iter().any(|(key, _)| key == "type") {
            schema.push((Cow::Borrowed("type"), text("object")));
        }
        chat_tool(tool, Some(Json::Object(schema)), "tools")
    });
    tools.collect::<Result<_, _>>().map(Some)
}

/// `_handle_output_config`, then `_handle_thinking`.
fn reasoning_effort<'r>(fields: &'r Json<'_>, template: &ChatTemplate) -> Result<Option<Json<'r>>, PromptError> {
    let thinking = fields
        .get_set("thinking")
        .map(|thinking| required(thinking, "type", "thinking"));
    match thinking.transpose()? {
        Some("disabled") => Ok(Some(text(template.effort_of_no_thinking()))),
        _ => {
            let effort = fields
                .get_set("output_config")
                .and_then(|config| config.get_set("effort"));
            Ok(effort.map(Json::borrowed))
        }
    }
}
