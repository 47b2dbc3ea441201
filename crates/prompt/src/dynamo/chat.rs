//! A chat request, which the other shapes become, too.

use minijinja::Value;

use super::arguments::Arguments;
use super::message::Message;
use super::tools::tool;
use crate::conversation::{array, bad, flag, refuse};
use crate::error::PromptError;
use crate::json::Json;

/// What of it bears on the prompt.
pub(super) struct Chat<'r> {
    pub(super) messages: Vec<Message<'r>>,
    /// A list with something in it.
    pub(super) tools: Option<Value>,
    pub(super) tool_choice_none: bool,
    pub(super) arguments: Arguments<'r>,
    pub(super) add_generation_prompt: bool,
    pub(super) continue_final_message: bool,
}

/// A chat completion, for workers with a parser of reasoning.
pub(super) fn read<'r>(fields: &'r Json<'_>, parser: Option<&str>) -> Result<Chat<'r>, PromptError> {
    // Refused there.
    refuse(fields, &["chat_template", "documents", "add_special_tokens"])?;
    let messages = array(fields, "messages")?.iter().map(Message::read);
    let mut arguments = Arguments::read(fields)?;
    arguments.settle_chat(fields.get_set("thinking"), fields.get_set("reasoning_effort"))?;
    arguments.settle(parser);
    let continue_final_message = flag(fields, "continue_final_message", false)?;
    Ok(Chat {
        messages: messages.collect::<Result<_, _>>()?,
        tools: tools(fields)?,
        tool_choice_none: fields.get("tool_choice").and_then(Json::as_str) == Some("none"),
        arguments,
        add_generation_prompt: !continue_final_message && flag(fields, "add_generation_prompt", true)?,
        continue_final_message,
    })
}

fn tools(fields: &Json<'_>) -> Result<Option<Value>, PromptError> {
    let tools = match fields.get_set("tools") {
        None => return Ok(None),
        Some(Json::Array(tools)) if tools.is_empty() => return Err(bad("tools", "is empty")),
        Some(Json::Array(tools)) => tools,
        Some(other) => return Err(bad("tools", &format!("is {}", other.type_name()))),
    };
    let read = |entry: &Json<'_>| {
        let function = entry.get_set("function");
        let function = function.ok_or_else(|| bad("tools", "has an entry without `function`"))?;
        tool(function, function.get("parameters"))
    };
    tools.iter().map(read).collect::<Result<_, _>>().map(Some)
}
