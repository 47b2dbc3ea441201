//! OpenAI's responses, as vLLM turns them into chat messages: `vllm/entrypoints/openai/responses/utils.py`, vLLM 0.32.
//! (gpt-oss goes another way there, without a template: see `harmony`.)

use minijinja::Value;
use work::Work;

use super::{array, bad, chat_tool, excludes_tools, kwargs, object, refuse, required, text};
use crate::error::PromptError;
use crate::images::Images;
use crate::json::Json;
use crate::messages::{self, KeyOrder};
use crate::template::{ChatTemplate, Rendered, Request};

/// Fields whose effect is not modelled.
pub(super) fn refuse_unknown(fields: &Json<'_>) -> Result<(), PromptError> {
    // Earlier turns, some of which only the worker knows; a template of prompts.
    refuse(fields, &["previous_response_id", "previous_input_messages", "prompt"])?;
    match fields.get("truncation").map(Json::as_str) {
        None | Some(Some("disabled")) => Ok(()),
        // Cuts prompts to the engine's length.
        Some(_) => Err(PromptError::UnsupportedField("truncation")),
    }
}

pub(super) fn render(fields: &Json<'_>, work: &Work, template: &ChatTemplate) -> Result<Rendered, PromptError> {
    refuse_unknown(fields)?;
    let messages = chat_messages(fields)?;
    let continued = is_continued(fields);
    template.render(
        Request {
            template: None,
            messages: &messages,
            key_order: KeyOrder::AsGiven,
            tools: if excludes_tools(fields, template) {
                None
            } else {
                tools(fields)?
            },
            documents: None,
            reasoning_effort: fields
                .get_set("reasoning")
                .and_then(|reasoning| reasoning.get_set("effort")),
            kwargs: kwargs(fields)?,
            add_generation_prompt: !continued,
            continue_final_message: continued,
            images: Images::default(),
        },
        work,
    )
}

/// A chat message; of an assistant, several items may add to it.
struct Draft<'r> {
    role: &'r str,
    content: Option<Json<'r>>,
    reasoning: Option<Json<'r>>,
    calls: Vec<Json<'r>>,
    call_id: Option<&'r str>,
}

impl<'r> Draft<'r> {
    fn new(role: &'r str) -> Self {
        Self {
            role,
            content: None,
            reasoning: None,
            calls: Vec::new(),
            call_id: None,
        }
    }

    fn into_message(self) -> Json<'r> {
        let mut entries = vec![("role", text(self.role))];
        entries.extend(self.content.map(|content| ("content", content)));
        entries.extend(self.reasoning.map(|reasoning| ("reasoning", reasoning)));
        if !self.calls.is_empty() {
            entries.push(("tool_calls", Json::Array(self.calls)));
        }
        entries.extend(self.call_id.map(|id| ("tool_call_id", text(id))));
        object(entries)
    }
}

/// `construct_input_messages`.
fn chat_messages<'r>(fields: &'r Json<'_>) -> Result<Vec<Json<'r>>, PromptError> {
    let mut drafts = Vec::new();
    match fields.get_set("instructions") {
        None => {}
        Some(Json::String(instructions)) if instructions.is_empty() => {}
        Some(instructions @ Json::String(_)) => drafts.push(Draft {
            content: Some(instructions.borrowed()),
            ..Draft::new("system")
        }),
        Some(other) => return Err(bad("instructions", &format!("is {}", other.type_name()))),
    }
    match fields.get_set("input") {
        Some(input @ Json::String(_)) => drafts.push(Draft {
            content: Some(input.borrowed()),
            ..Draft::new("user")
        }),
        _ => {
            for item in array(fields, "input")? {
                take(item, &mut drafts)?;
            }
        }
    }
    Ok(drafts.into_iter().map(Draft::into_message).collect())
}

/// `_construct_message_from_response_item`.
fn take<'r>(item: &'r Json<'_>, drafts: &mut Vec<Draft<'r>>) -> Result<(), PromptError> {
    let role = item.get("role").and_then(Json::as_str);
    match (item.get_set("type").and_then(Json::as_str), role) {
        (Some("function_call"), _) => {
            refuse(item, &["namespace"])?;
            let function = object([
                ("name", text(required(item, "name", "input")?)),
                ("arguments", text(required(item, "arguments", "input")?)),
            ]);
            let id = required(item, "call_id", "input")?;
            let call = object([("id", text(id)), ("function", function), ("type", text("function"))]);
            add_to_assistant(drafts, |_| true, |message| message.calls.push(call));
        }
        (Some("reasoning"), _) => {
            let reasoning = text(reasoning(item)?);
            let has_room = |last: &Draft<'_>| last.reasoning.is_none();
            add_to_assistant(drafts, has_room, |message| message.reasoning = Some(reasoning));
        }
        (Some("function_call_output"), _) => drafts.push(Draft {
            content: item.get_set("output").map(Json::borrowed),
            call_id: Some(required(item, "call_id", "input")?),
            ..Draft::new("tool")
        }),
        (Some("message") | None, Some("assistant")) => {
            let content = text(answer(item)?);
            let has_room = |last: &Draft<'_>| last.content.is_none();
            add_to_assistant(drafts, has_room, |message| message.content = Some(content));
        }
        (Some("message") | None, Some(role)) => drafts.push(Draft {
            content: item.get_set("content").map(Json::borrowed),
            ..Draft::new(role)
        }),
        (Some(kind @ ("custom_tool_call" | "custom_tool_call_output")), _) => {
            let known = ["custom_tool_call", "custom_tool_call_output"];
            let name = known.into_iter().find(|name| *name == kind).unwrap_or_default();
            return Err(PromptError::UnsupportedField(name));
        }
        (kind, _) => {
            let kind: String = kind.unwrap_or("none").chars().take(64).collect();
            return Err(bad("input", &format!("has an item of type `{kind}`")));
        }
    }
    Ok(())
}

/// Adds to the last message, if it is an assistant's with room for it, else to a new one.
fn add_to_assistant<'r>(
    drafts: &mut Vec<Draft<'r>>,
    has_room: impl FnOnce(&Draft<'r>) -> bool,
    add: impl FnOnce(&mut Draft<'r>),
) {
    match drafts.last_mut() {
        Some(last) if last.role == "assistant" && has_room(last) => add(last),
        _ => {
            let mut draft = Draft::new("assistant");
            add(&mut draft);
            drafts.push(draft);
        }
    }
}

/// The first text of a reasoning item, or of its summary.
fn reasoning<'r>(item: &'r Json<'_>) -> Result<&'r str, PromptError> {
    if item
        .get("encrypted_content")
        .and_then(Json::as_str)
        .is_some_and(|content| !content.is_empty())
    {
        return Err(bad("input", "has encrypted reasoning"));
    }
    for key in ["content", "summary"] {
        if let Some(Json::Array(parts)) = item.get(key)
            && let Some(first) = parts.first()
        {
            return required(first, "text", "input");
        }
    }
    Ok("")
}

/// The first text of an assistant's message.
fn answer<'r>(item: &'r Json<'_>) -> Result<&'r str, PromptError> {
    match item.get("content") {
        Some(Json::String(content)) => Ok(content),
        Some(Json::Array(parts)) => {
            let first = parts.first();
            let first = first.ok_or_else(|| bad("input", "has an assistant message without content"))?;
            required(first, "text", "input")
        }
        _ => Err(bad("input", "has an assistant message without content")),
    }
}

/// `should_continue_final_message`.
fn is_continued(fields: &Json<'_>) -> bool {
    let Some(Json::Array(items)) = fields.get("input") else {
        return false;
    };
    let text_of = |key| items.last().and_then(|item| item.get(key)).and_then(Json::as_str);
    matches!(text_of("type"), None | Some("message" | "reasoning"))
        && matches!(text_of("status"), Some("in_progress" | "incomplete"))
}

/// `construct_tool_dicts`: functions only, of an empty list none.
fn tools(fields: &Json<'_>) -> Result<Option<Value>, PromptError> {
    let given = match fields.get_set("tools") {
        None => return Ok(None),
        Some(Json::Array(tools)) if tools.is_empty() => return Ok(None),
        Some(Json::Array(tools)) => tools,
        Some(other) => return Err(bad("tools", &format!("is {}", other.type_name()))),
    };
    let mut functions = Vec::new();
    for tool in given {
        match required(tool, "type", "tools")? {
            "function" => {
                let parameters = tool.get("parameters").map(Json::borrowed);
                functions.push(chat_tool(tool, parameters, "tools")?);
            }
            "custom" | "namespace" => return Err(PromptError::UnsupportedField("tools")),
            // Those that the worker runs by itself are not in the prompt.
            _ => {}
        }
    }
    messages::tools(&functions).map(Some)
}
