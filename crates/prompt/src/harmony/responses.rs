//! OpenAI's responses as Harmony messages: `_render_responses_with_harmony` and `response_input_to_harmony`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use work::Work;

use super::chat::{effort, function_tool, instructions, is_instruction};
use super::{Channel, Conversation, Message, Tool, bad, flattened, texts, today};
use crate::body::Piece;
use crate::error::PromptError;
use crate::json::Json;
use crate::template;

/// The prompt of a request for a response. `now` in seconds since 1970-01-01 UTC; `work`: of
/// the request.
pub(crate) fn rendered(fields: &Json<'_>, now: Option<i64>, work: &Work) -> Result<Vec<Piece>, PromptError> {
    let given = match fields.get_set("instructions") {
        None => None,
        Some(Json::String(instructions)) => Some(Cow::Borrowed(&**instructions)),
        Some(other) => return Err(bad("instructions", &format!("is {}", other.type_name()))),
    };
    let (instructions, messages) = match fields.get_set("input") {
        Some(Json::String(input)) => (given, vec![Message::User(vec![input])]),
        Some(Json::Array(items)) => {
            let (instructions, items) = match given {
                Some(given) => (Some(given), items.as_slice()),
                None => instructions(items)?,
            };
            (instructions, messages(items)?)
        }
        _ => return Err(bad("input", "is neither text nor a list")),
    };
    let reasoning = fields.get_set("reasoning");
    let conversation = Conversation {
        reasoning_effort: effort(reasoning.and_then(|reasoning| reasoning.get("effort")))?,
        instructions,
        tools: tools(fields)?,
        messages,
    };
    conversation.render(&today(now)?, template::output_limit(work.body_len()))
}

/// Functions. The tools that the library brings itself are in the prompt only where the worker runs a server for them.
fn tools<'r>(fields: &'r Json<'_>) -> Result<Vec<Tool<'r>>, PromptError> {
    let given = match fields.get_set("tools") {
        None => return Ok(Vec::new()),
        Some(Json::Array(tools)) => tools,
        Some(other) => return Err(bad("tools", &format!("is {}", other.type_name()))),
    };
    let mut functions = Vec::new();
    let mut unknown = false;
    for tool in given {
        match tool.get("type").and_then(Json::as_str) {
            Some("function") => functions.push(function_tool(tool)?),
            Some("web_search_preview" | "code_interpreter" | "container") => {}
            // Passed over where there is no other tool.
            Some("mcp") => unknown |= given.len() > 1,
            _ => unknown = true,
        }
    }
    match unknown {
        true => Err(bad("tools", "has a tool of a type that gpt-oss does not know")),
        false => Ok(functions),
    }
}

fn messages<'r>(items: &'r [Json<'_>]) -> Result<Vec<Message<'r>>, PromptError> {
    let mut messages = Vec::with_capacity(items.len());
    // Of the calls so far, by their ids.
    let mut names = BTreeMap::new();
    for item in items {
        let text_of = |key| item.get(key).and_then(Json::as_str);
        let required = |key| text_of(key).ok_or_else(|| bad("input", &format!("has an item without the text `{key}`")));
        match item.get_set("type").and_then(Json::as_str) {
            None | Some("message") => messages.extend(said(item, required("role")?)?),
            Some("reasoning") => messages.extend(reasoning(item)?),
            Some("function_call") => {
                let name = required("name")?;
                names.insert(text_of("call_id"), name);
                messages.push(Message::Call {
                    name,
                    arguments: Cow::Borrowed(required("arguments")?),
                });
            }
            Some("function_call_output") => {
                let name = names.get(&Some(required("call_id")?)).copied();
                messages.push(Message::Result {
                    name: name.ok_or_else(|| bad("input", "has an output without a call"))?,
                    content: Cow::Borrowed(required("output")?),
                });
            }
            Some(kind) => {
                let kind: String = kind.chars().take(64).collect();
                return Err(bad("input", &format!("has an item of type `{kind}`")));
            }
        }
    }
    Ok(messages)
}

fn said<'r>(item: &'r Json<'_>, role: &str) -> Result<Option<Message<'r>>, PromptError> {
    let content = item.get_set("content");
    if is_instruction(Some(role)) {
        let text = flattened(content)?.filter(|text| !text.is_empty());
        return Ok(text.map(Message::Developer));
    }
    let texts = texts(content.ok_or_else(|| bad("input", "has a message without `content`"))?)?;
    match role {
        "user" => Ok(Some(Message::User(texts))),
        "assistant" => {
            let texts = texts.into_iter().map(Cow::Borrowed).collect();
            Ok(Some(Message::Assistant(Channel::Final, texts)))
        }
        _ => Err(bad("input", "has a message of an unknown role")),
    }
}

/// The texts of a reasoning item in lines; its summary does not count.
fn reasoning<'r>(item: &'r Json<'_>) -> Result<Option<Message<'r>>, PromptError> {
    let parts = match item.get_set("content") {
        Some(Json::Array(parts)) if !parts.is_empty() => parts,
        _ => return Ok(None),
    };
    let texts = parts.iter().map(|part| part.get("text").and_then(Json::as_str));
    let texts: Option<Vec<_>> = texts.collect();
    let texts = texts.ok_or_else(|| bad("input", "has reasoning without text"))?;
    let text = Cow::Owned(texts.join("\n"));
    Ok(Some(Message::Assistant(Channel::Analysis, vec![text])))
}
