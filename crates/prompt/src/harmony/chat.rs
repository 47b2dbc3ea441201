//! Chat completions as Harmony messages: `_make_request_with_harmony` and `parse_chat_input_to_harmony_message`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use work::Work;

use super::{Channel, Conversation, Message, Tool, bad, flattened, texts, today};
use crate::body::Piece;
use crate::error::PromptError;
use crate::json::Json;
use crate::messages;
use crate::template;

/// What the shapes have that vLLM turns into chat completions first.
pub(crate) struct Chat<'r, 'a> {
    pub(crate) messages: &'r [Json<'a>],
    /// In the form of chat completions; empty is as good as none.
    pub(crate) tools: &'r [Json<'a>],
    pub(crate) reasoning_effort: Option<&'r Json<'a>>,
}

/// The prompt of a chat. `now` in seconds since 1970-01-01 UTC; `work`: of the request.
pub(crate) fn rendered(chat: &Chat<'_, '_>, now: Option<i64>, work: &Work) -> Result<Vec<Piece>, PromptError> {
    let (instructions, rest) = instructions(chat.messages)?;
    let tools = chat.tools.iter().map(tool).collect::<Result<_, _>>()?;
    let conversation = Conversation {
        reasoning_effort: effort(chat.reasoning_effort)?,
        instructions,
        tools,
        messages: converted(rest)?,
    };
    conversation.render(&today(now)?, template::output_limit(work.body_len()))
}

pub(super) fn effort<'r>(effort: Option<&'r Json<'_>>) -> Result<Option<&'r str>, PromptError> {
    match effort {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(effort)) => Ok(Some(effort)),
        Some(other) => Err(bad("reasoning_effort", &format!("is {}", other.type_name()))),
    }
}

/// A leading message of the system or the developer, and the messages after it.
pub(super) fn instructions<'r, 'a>(
    messages: &'r [Json<'a>],
) -> Result<(Option<Cow<'r, str>>, &'r [Json<'a>]), PromptError> {
    match messages.split_first() {
        Some((first, rest)) if is_instruction(first.get("role").and_then(Json::as_str)) => {
            Ok((flattened(first.get("content"))?, rest))
        }
        _ => Ok((None, messages)),
    }
}

pub(super) fn is_instruction(role: Option<&str>) -> bool {
    matches!(role, Some("system" | "developer"))
}

fn tool<'r>(tool: &'r Json<'_>) -> Result<Tool<'r>, PromptError> {
    let function = tool
        .get_set("function")
        .ok_or_else(|| bad("tools", "has an entry without `function`"))?;
    function_tool(function)
}

pub(super) fn function_tool<'r>(function: &'r Json<'_>) -> Result<Tool<'r>, PromptError> {
    let name = function.get("name").and_then(Json::as_str);
    Ok(Tool {
        name: name.ok_or_else(|| bad("tools", "has a function without `name`"))?,
        description: function.get("description").and_then(Json::as_str).unwrap_or_default(),
        parameters: function.get_set("parameters"),
    })
}

fn converted<'r>(given: &'r [Json<'_>]) -> Result<Vec<Message<'r>>, PromptError> {
    let mut names = BTreeMap::new();
    for call in given.iter().flat_map(calls) {
        let id = call.get("id").and_then(Json::as_str);
        names.insert(id, called(call)?);
    }
    let mut messages = Vec::with_capacity(given.len());
    for message in given {
        convert(message, &names, &mut messages)?;
    }
    Ok(messages)
}

fn calls<'r, 'a>(message: &'r Json<'a>) -> &'r [Json<'a>] {
    match (message.get("role").and_then(Json::as_str), message.get("tool_calls")) {
        (Some("assistant"), Some(Json::Array(calls))) => calls,
        _ => &[],
    }
}

fn called<'r>(call: &'r Json<'_>) -> Result<&'r str, PromptError> {
    let name = call.get("function").and_then(|function| function.get("name")?.as_str());
    name.ok_or_else(|| bad("messages", "has a tool call without a name"))
}

fn convert<'r>(
    message: &'r Json<'_>,
    names: &BTreeMap<Option<&str>, &'r str>,
    messages: &mut Vec<Message<'r>>,
) -> Result<(), PromptError> {
    let role = message.get("role").and_then(Json::as_str);
    let content = message.get_set("content");
    match role {
        Some("assistant") => assistant(message, content, messages)?,
        Some("tool") => {
            let id = message.get("tool_call_id").and_then(Json::as_str);
            messages.push(Message::Result {
                name: names.get(&id).copied().unwrap_or_default(),
                content: flattened(content)?.unwrap_or_default(),
            });
        }
        role if is_instruction(role) => messages.extend(flattened(content)?.map(Message::Developer)),
        Some("user") => messages.push(Message::User(content.map_or(Ok(Vec::new()), texts)?)),
        _ => return Err(bad("messages", "has a message of an unknown role")),
    }
    Ok(())
}

fn assistant<'r>(
    message: &'r Json<'_>,
    content: Option<&'r Json<'_>>,
    messages: &mut Vec<Message<'r>>,
) -> Result<(), PromptError> {
    let reasoning = messages::reasoning(message)
        .and_then(Json::as_str)
        .filter(|text| !text.is_empty());
    let reasoning = reasoning.map(|text| Message::Assistant(Channel::Analysis, vec![Cow::Borrowed(text)]));
    let calls = calls(message);
    if calls.is_empty() {
        messages.extend(reasoning);
        let texts = content.map_or(Ok(Vec::new()), texts)?;
        if texts.first().is_some_and(|first| !first.is_empty()) {
            let texts = texts.into_iter().map(Cow::Borrowed).collect();
            messages.push(Message::Assistant(Channel::Final, texts));
        }
        return Ok(());
    }
    let said = flattened(content)?.filter(|text| !text.is_empty());
    messages.extend(said.map(|text| Message::Assistant(Channel::Commentary, vec![text])));
    messages.extend(reasoning);
    for call in calls {
        let arguments = call.get("function").and_then(|function| function.get_set("arguments"));
        messages.push(Message::Call {
            name: called(call)?,
            arguments: match arguments {
                None => Cow::Borrowed(""),
                Some(Json::String(arguments)) => Cow::Borrowed(arguments),
                Some(_) => return Err(bad("messages", "has tool call arguments that are no text")),
            },
        });
    }
    Ok(())
}
