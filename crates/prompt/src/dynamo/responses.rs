//! OpenAI's responses as chat messages.

use std::borrow::Cow;
use std::collections::BTreeSet;

use minijinja::Value;

use super::arguments::Arguments;
use super::chat::Chat;
use super::message::{Call, Content, Message, Part, Reasoning};
use super::tools::tool;
use crate::conversation::{array, bad, refuse, required};
use crate::error::PromptError;
use crate::json::Json;

/// The conversation of a request, for workers with a parser of reasoning.
pub(super) fn read<'r>(fields: &'r Json<'_>, parser: Option<&str>) -> Result<Chat<'r>, PromptError> {
    // Refused there.
    refuse(fields, &["previous_response_id", "prompt"])?;
    let mut messages = Vec::new();
    match fields.get_set("instructions") {
        None => {}
        Some(Json::String(instructions)) => messages.push(Message::new("system", Content::text(instructions))),
        Some(other) => return Err(bad("instructions", &format!("is {}", other.type_name()))),
    }
    match fields.get_set("input") {
        Some(Json::String(input)) => messages.push(Message::new("user", Content::text(input))),
        _ => convert(array(fields, "input")?, &mut messages)?,
    }
    merge_leading_system(&mut messages);
    let mut arguments = Arguments::read(fields)?;
    let reasoning = fields.get_set("reasoning");
    arguments.settle_chat(None, reasoning.and_then(|reasoning| reasoning.get_set("effort")))?;
    arguments.settle(parser);
    let tool_choice = fields.get_set("tool_choice");
    let mode = tool_choice.and_then(|choice| choice.as_str().or_else(|| choice.get("type")?.as_str()));
    Ok(Chat {
        messages,
        tools: tools(fields, tool_choice.filter(|_| mode == Some("allowed_tools")))?,
        tool_choice_none: mode == Some("none"),
        arguments,
        add_generation_prompt: true,
        continue_final_message: false,
    })
}

/// Some templates take but one.
fn merge_leading_system(messages: &mut Vec<Message<'_>>) {
    let leading = messages.iter().take_while(|message| message.role == "system").count();
    if leading > 1 {
        let texts = messages.drain(..leading).map(|message| match message.content {
            Content::Text(text) => text,
            Content::Absent | Content::Parts(_) => Cow::Borrowed(""),
        });
        let merged = texts.collect::<Vec<_>>().join("\n\n");
        messages.insert(0, Message::new("system", Content::Text(Cow::Owned(merged))));
    }
}

/// The turn of an assistant, to which several items add.
#[derive(Default)]
struct Turn<'r> {
    content: String,
    thought: String,
    segments: Vec<Cow<'r, str>>,
    calls: Vec<Call<'r>>,
    begun: bool,
}

impl<'r> Turn<'r> {
    fn begun(&mut self) -> &mut Self {
        self.begun = true;
        self
    }

    fn end(&mut self, messages: &mut Vec<Message<'r>>) {
        let turn = std::mem::take(self);
        if !turn.begun {
            return;
        }
        let content = match turn.content.is_empty() && !turn.calls.is_empty() {
            true => Content::Absent,
            false => Content::Text(Cow::Owned(turn.content)),
        };
        messages.push(Message {
            reasoning: Reasoning::around_calls(turn.segments, turn.thought),
            calls: Some(turn.calls).filter(|calls| !calls.is_empty()),
            ..Message::new("assistant", content)
        });
    }
}

/// Appends the messages that items come to.
fn convert<'r>(items: &'r [Json<'_>], messages: &mut Vec<Message<'r>>) -> Result<(), PromptError> {
    let mut turn = Turn::default();
    for item in items {
        let kind = item.get_set("type").and_then(Json::as_str);
        match kind {
            // With an `id` and no type, any item is taken for a reference to one, and skipped like those.
            None | Some("item_reference") if item.get("id").and_then(Json::as_str).is_some() => {}
            None | Some("message") => match required(item, "role", "input")? {
                "assistant" => answer(item, turn.begun())?,
                role => {
                    turn.end(messages);
                    messages.push(message(role, item)?);
                }
            },
            Some("function_call") => {
                refuse(item, &["namespace"])?;
                let turn = turn.begun();
                turn.segments.push(Cow::Owned(std::mem::take(&mut turn.thought)));
                turn.calls.push(Call {
                    id: required(item, "call_id", "input")?,
                    name: required(item, "name", "input")?,
                    arguments: Cow::Borrowed(required(item, "arguments", "input")?),
                });
            }
            Some("function_call_output") => {
                turn.end(messages);
                let id = required(item, "call_id", "input")?;
                messages.push(Message::result(id, output(item)?));
            }
            Some("reasoning") => thought(item, &mut turn.begun().thought)?,
            Some("agent_message") => {
                turn.end(messages);
                messages.push(Message::new(
                    "user",
                    Content::Text(agents_text(item.get_set("content"))?),
                ));
            }
            // Of all others nothing is left.
            Some(_) => turn.end(messages),
        }
    }
    turn.end(messages);
    Ok(())
}

/// What another agent of Codex's told.
fn agents_text<'r>(content: Option<&'r Json<'_>>) -> Result<Cow<'r, str>, PromptError> {
    match content {
        None => Ok(Cow::Borrowed("")),
        Some(Json::String(text)) => Ok(Cow::Borrowed(text)),
        Some(Json::Array(parts)) => {
            let texts = parts.iter().map(|part| match required(part, "type", "input")? {
                "encrypted_content" => required(part, "encrypted_content", "input"),
                _ => required(part, "text", "input"),
            });
            Ok(Cow::Owned(texts.collect::<Result<Vec<_>, _>>()?.join("\n")))
        }
        Some(other) => Err(bad("input", &format!("has {} as `content`", other.type_name()))),
    }
}

/// Adds all texts of an assistant's message.
fn answer(item: &Json<'_>, turn: &mut Turn<'_>) -> Result<(), PromptError> {
    match item.get_set("content") {
        None => {}
        Some(Json::String(text)) => turn.content.push_str(text),
        Some(Json::Array(parts)) => {
            for part in parts {
                let key = match required(part, "type", "input")? {
                    "refusal" => "refusal",
                    _ => "text",
                };
                turn.content.push_str(required(part, key, "input")?);
            }
        }
        Some(other) => return Err(bad("input", &format!("has {} as `content`", other.type_name()))),
    }
    Ok(())
}

/// A message of anybody else. Of the developer's and the system's only text is left.
fn message<'r>(role: &'r str, item: &'r Json<'_>) -> Result<Message<'r>, PromptError> {
    let content = Content::read(item.get_set("content"))?;
    match (role, content) {
        (_, Content::Absent) => Err(bad("input", "has a message without `content`")),
        ("system" | "developer", Content::Parts(parts)) => Ok(Message::new("system", Content::Text(text(&parts)))),
        ("system" | "developer", content) => Ok(Message::new("system", content)),
        ("user", Content::Parts(parts)) => Ok(Message::new(role, unwrapped(parts))),
        ("user", content) => Ok(Message::new(role, content)),
        _ => Err(bad("input", "has a message of an unknown role")),
    }
}

/// A text that is the only part stands for the content.
fn unwrapped(mut parts: Vec<Part<'_>>) -> Content<'_> {
    match (parts.pop(), parts.is_empty()) {
        (Some(Part::Text(text)), true) => Content::Text(text),
        (last, _) => {
            parts.extend(last);
            Content::Parts(parts)
        }
    }
}

/// What a tool gave, which is a text unless there is an image or the like in it.
fn output<'r>(item: &'r Json<'_>) -> Result<Content<'r>, PromptError> {
    match Content::read(item.get_set("output"))? {
        Content::Absent => Err(bad("input", "has an output of a call without `output`")),
        Content::Parts(parts) if parts.iter().all(|part| matches!(part, Part::Text(_))) => {
            Ok(Content::Text(text(&parts)))
        }
        content => Ok(content),
    }
}

fn text<'r>(parts: &[Part<'r>]) -> Cow<'r, str> {
    let texts = parts.iter().map(|part| match part {
        Part::Text(text) => &**text,
        Part::Refusal(_) | Part::Medium(_) => "",
    });
    Cow::Owned(texts.collect())
}

/// Adds the texts of a reasoning item, or if they are empty those of its summary.
fn thought(item: &Json<'_>, thought: &mut String) -> Result<(), PromptError> {
    for key in ["content", "summary"] {
        let before = thought.len();
        if let Some(Json::Array(parts)) = item.get(key) {
            for part in parts {
                thought.push_str(required(part, "text", "input")?);
            }
        }
        if thought.len() > before {
            break;
        }
    }
    Ok(())
}

/// Functions, and of those the ones that `allowed` names.
fn tools(fields: &Json<'_>, allowed: Option<&Json<'_>>) -> Result<Option<Value>, PromptError> {
    let given = match fields.get_set("tools") {
        None => return Ok(None),
        Some(Json::Array(tools)) => tools,
        Some(other) => return Err(bad("tools", &format!("is {}", other.type_name()))),
    };
    let allowed = allowed.map(|choice| match choice.get("tools") {
        Some(Json::Array(entries)) => entries.iter().filter_map(|entry| entry.get("name")?.as_str()).collect(),
        _ => BTreeSet::new(),
    });
    let is_allowed = |name: &str| allowed.as_ref().is_none_or(|allowed| allowed.contains(name));
    let mut tools = Vec::new();
    for entry in given {
        match required(entry, "type", "tools")? {
            "function" if is_allowed(required(entry, "name", "tools")?) => {
                tools.push(tool(entry, entry.get("parameters"))?);
            }
            "function" => {}
            "namespace" => return Err(PromptError::UnsupportedField("tools")),
            _ => return Err(bad("tools", "has a tool that is no function")),
        }
    }
    Ok(Some(tools).filter(|tools| !tools.is_empty()).map(Value::from))
}
