//! Anthropic's messages as chat messages.

use std::borrow::Cow;

use super::arguments::Arguments;
use super::chat::Chat;
use super::message::{Call, Content, Message, Part, Reasoning, compact};
use super::tools::tool;
use crate::conversation::{array, bad, required};
use crate::error::PromptError;
use crate::json::Json;

/// Claude Code's attribution, different in each request: the line that starts with this does not reach the prompt.
const BILLING_HEADER: &str = "x-anthropic-billing-header:";

/// The messages of a request, for workers with a parser of reasoning: they think unless the request says not to.
/// `output_config` says nothing to the template.
pub(super) fn read<'r>(fields: &'r Json<'_>, parser: Option<&str>) -> Result<Chat<'r>, PromptError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.get_set("system") {
        let system = without_billing_header(texts(system, |block| required(block, "text", "system").map(Some))?);
        messages.push(Message::new("system", Content::Text(system)));
    }
    for message in array(fields, "messages")? {
        convert(message, &mut messages)?;
    }
    let thinking = fields.get_set("thinking");
    let thinking = thinking
        .map(|thinking| required(thinking, "type", "thinking"))
        .transpose()?;
    let mut arguments = Arguments::default();
    let is_assumed = parser.is_some() && thinking != Some("disabled");
    if is_assumed || thinking == Some("enabled") {
        arguments.set("enable_thinking", Json::Bool(true));
    }
    if is_assumed {
        arguments.set("truncate_history_thinking", Json::Bool(false));
    }
    arguments.settle(parser);
    let tools = match fields.get_set("tools") {
        None => None,
        Some(Json::Array(tools)) if tools.is_empty() => None,
        Some(Json::Array(tools)) => Some(tools),
        Some(other) => return Err(bad("tools", &format!("is {}", other.type_name()))),
    };
    let read_tool = |entry: &Json<'_>| match entry.get_set("input_schema") {
        Some(schema) => tool(entry, Some(schema)),
        None => Err(bad("tools", "has a tool without an `input_schema`")),
    };
    let tool_choice = fields.get("tool_choice").and_then(|choice| choice.get("type"));
    Ok(Chat {
        messages,
        tools: tools
            .map(|tools| tools.iter().map(read_tool).collect::<Result<_, _>>())
            .transpose()?,
        tool_choice_none: tool_choice.and_then(Json::as_str) == Some("none"),
        arguments,
        add_generation_prompt: true,
        continue_final_message: false,
    })
}

/// The text, or those of blocks, a line each.
fn texts<'r>(
    content: &'r Json<'_>,
    text_of: impl Fn(&'r Json<'_>) -> Result<Option<&'r str>, PromptError>,
) -> Result<Cow<'r, str>, PromptError> {
    match content {
        Json::String(text) => Ok(Cow::Borrowed(text)),
        Json::Array(blocks) => {
            let texts = blocks.iter().filter_map(|block| text_of(block).transpose());
            Ok(Cow::Owned(texts.collect::<Result<Vec<_>, _>>()?.join("\n")))
        }
        other => Err(bad("system", &format!("is {}", other.type_name()))),
    }
}

fn without_billing_header(system: Cow<'_, str>) -> Cow<'_, str> {
    let start = system.trim_start();
    match start.split_once('\n') {
        Some((_, rest)) if start.starts_with(BILLING_HEADER) => Cow::Owned(rest.to_owned()),
        _ => system,
    }
}

/// Appends the messages that one comes to.
fn convert<'r>(message: &'r Json<'_>, messages: &mut Vec<Message<'r>>) -> Result<(), PromptError> {
    let role = required(message, "role", "messages")?;
    let refused = || bad("messages", "has a message whose `content` is neither text nor blocks");
    match (role, message.get_set("content").ok_or_else(refused)?) {
        ("system", content) => {
            let text_of = |block: &'r Json<'_>| match block.get("type").and_then(Json::as_str) {
                Some("text") => required(block, "text", "messages").map(Some),
                _ => Ok(None),
            };
            messages.push(Message::new(role, Content::Text(texts(content, text_of)?)));
        }
        ("user" | "assistant", Json::String(text)) => messages.push(Message::new(role, Content::text(text))),
        ("user", Json::Array(blocks)) => user(blocks, messages)?,
        ("assistant", Json::Array(blocks)) => messages.push(assistant(blocks)?),
        ("user" | "assistant", _) => return Err(refused()),
        _ => return Err(bad("messages", "has a message of an unknown role")),
    }
    Ok(())
}

/// Text before a tool's result is a message before it.
fn user<'r>(blocks: &'r [Json<'_>], messages: &mut Vec<Message<'r>>) -> Result<(), PromptError> {
    let mut parts = Vec::new();
    for block in blocks {
        match block.get("type").and_then(Json::as_str).unwrap_or_default() {
            "text" => parts.push(Part::text(required(block, "text", "messages")?)),
            "image" => parts.push(Part::Medium("image")),
            "tool_result" => {
                flush(&mut parts, messages);
                let id = required(block, "tool_use_id", "messages")?;
                messages.push(Message::result(id, result(block.get_set("content"))?));
            }
            _ => {}
        }
    }
    flush(&mut parts, messages);
    Ok(())
}

fn flush<'r>(parts: &mut Vec<Part<'r>>, messages: &mut Vec<Message<'r>>) {
    if !parts.is_empty() {
        messages.push(Message::new("user", joined(std::mem::take(parts))));
    }
}

/// Texts as one; as they are with an image among them.
fn joined(parts: Vec<Part<'_>>) -> Content<'_> {
    if parts.iter().any(|part| matches!(part, Part::Medium(_))) {
        return Content::Parts(parts);
    }
    let texts = parts.iter().map(|part| match part {
        Part::Text(text) => &**text,
        Part::Refusal(_) | Part::Medium(_) => "",
    });
    Content::Text(Cow::Owned(texts.collect()))
}

fn result<'r>(content: Option<&'r Json<'_>>) -> Result<Content<'r>, PromptError> {
    let blocks = match content {
        Some(Json::String(text)) => return Ok(Content::text(text)),
        Some(Json::Array(blocks)) => blocks,
        _ => return Ok(Content::text("")),
    };
    let part = |block: &'r Json<'_>| match (block.get("type").and_then(Json::as_str), block.get("text")) {
        (Some("text"), _) | (None, Some(Json::String(_))) => Ok(Part::text(required(block, "text", "messages")?)),
        (Some("image"), _) => Ok(Part::Medium("image")),
        _ => Err(bad("messages", "has a tool result of neither text nor images")),
    };
    blocks.iter().map(part).collect::<Result<_, _>>().map(joined)
}

fn assistant<'r>(blocks: &'r [Json<'_>]) -> Result<Message<'r>, PromptError> {
    let (mut content, mut thought) = (String::new(), String::new());
    let (mut calls, mut segments) = (Vec::new(), Vec::new());
    for block in blocks {
        match block.get("type").and_then(Json::as_str).unwrap_or_default() {
            "text" => content.push_str(required(block, "text", "messages")?),
            "thinking" => {
                if !thought.is_empty() {
                    thought.push('\n');
                }
                thought.push_str(required(block, "thinking", "messages")?);
            }
            "tool_use" | "server_tool_use" => {
                segments.push(Cow::Owned(std::mem::take(&mut thought)));
                calls.push(Call {
                    id: required(block, "id", "messages")?,
                    name: required(block, "name", "messages")?,
                    arguments: block
                        .get("input")
                        .map_or(Ok(Cow::Borrowed("{}")), |input| compact(input).map(Cow::Owned))?,
                });
            }
            _ => {}
        }
    }
    let content = match content {
        nothing if nothing.is_empty() => Content::Absent,
        content => Content::Text(Cow::Owned(content)),
    };
    Ok(Message {
        reasoning: Reasoning::around_calls(segments, thought),
        calls: Some(calls).filter(|calls| !calls.is_empty()),
        ..Message::new("assistant", content)
    })
}
