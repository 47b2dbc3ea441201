//! Messages and tools, normalised as vLLM does before it renders a template.
//!
//! Two layers act there: the request model (pydantic over the types of the `openai` package), which decides the order of
//! keys in tools and tool calls, and `vllm/entrypoints/chat_utils.py` (`_parse_chat_message_content`,
//! `_postprocess_messages`). What the request model refuses is mostly let through here: the engine answers such a request
//! with an error, so its prompt does not matter.

use std::borrow::Cow;

use minijinja::Value;
use work::Work;

use crate::body::NODE;
use crate::error::PromptError;
use crate::json::Json;
use crate::media::{EMBEDDINGS, MARK, Medium, StandIn, UNKNOWN, unknown_part};

/// How a template wants the content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFormat {
    /// One string; the texts of several parts are joined by line breaks.
    Text,
    /// A list of parts, as in the OpenAI API.
    Parts,
}

/// How the keys of tool calls are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyOrder {
    /// As in the types of the `openai` package, through which chat completions are read.
    OfTheType,
    /// As they stand there.
    AsGiven,
}

/// A message as the template will see it.
pub(crate) struct Message<'a> {
    role: &'a str,
    content: Content<'a>,
    /// How many images and the like the content holds.
    pub(crate) media: usize,
    /// All other keys, in vLLM's order.
    rest: Vec<(&'static str, Value)>,
}

enum Content<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

enum Part<'a> {
    Text(Cow<'a, str>),
    ToolReference(&'a str),
    Medium(Medium),
}

/// Reads the messages of a request.
pub(crate) fn conversation<'a>(
    messages: &'a [Json<'_>],
    format: ContentFormat,
    order: KeyOrder,
    stand_in: StandIn,
    work: &Work,
) -> Result<Vec<Message<'a>>, PromptError> {
    // For the first rendering, values were paid for with the body.
    if matches!(stand_in, StandIn::Mark { .. }) {
        work.take(messages.iter().map(Json::nodes).sum(), NODE)?;
    }
    let mut stand_in = stand_in;
    let read = |message| {
        let message = Message::read(message, format, order, stand_in, work)?;
        stand_in = stand_in.after(message.media);
        Ok(message)
    };
    messages.iter().map(read).collect()
}

impl<'a> Message<'a> {
    fn read(
        message: &'a Json<'_>,
        format: ContentFormat,
        order: KeyOrder,
        stand_in: StandIn,
        work: &Work,
    ) -> Result<Self, PromptError> {
        let role = message
            .get("role")
            .and_then(Json::as_str)
            .ok_or_else(|| bad("has no `role`"))?;
        let mut parts = read_content(message.get_set("content"))?;
        let media = parts.iter().filter(|part| matches!(part, Part::Medium(_))).count();
        if media > 0 {
            parts = with_stand_ins(parts, format, stand_in);
        }
        let content = match format {
            ContentFormat::Text => Content::Text(joined(parts)),
            // A list of texts is undone again for tool results, which most templates take as strings only.
            ContentFormat::Parts if role == "tool" && parts.iter().all(|part| matches!(part, Part::Text(_))) => {
                let texts: Vec<_> = parts.iter().map(Part::text).collect();
                Content::Text(Cow::Owned(texts.join("\n")))
            }
            ContentFormat::Parts => Content::Parts(parts),
        };
        let mut rest = Vec::new();
        match role {
            "assistant" => {
                if let Some(calls) = tool_calls(message.get_set("tool_calls"), order, work)? {
                    rest.push(("tool_calls", calls));
                }
                // Templates may use either name.
                if let Some(reasoning) = reasoning(message) {
                    let reasoning = value(reasoning)?;
                    rest.push(("reasoning", reasoning.clone()));
                    rest.push(("reasoning_content", reasoning));
                }
            }
            "tool" => {
                if let Some(id) = message.get("tool_call_id") {
                    rest.push(("tool_call_id", value(id)?));
                }
            }
            _ => {}
        }
        for key in ["name", "task"] {
            if let Some(text) = message.get(key).and_then(Json::as_str) {
                rest.push((key, Value::from(text)));
            }
        }
        if role == "developer" {
            rest.push(("tools", message.get_set("tools").map_or(Ok(Value::from(())), value)?));
        }
        Ok(Self {
            role,
            content,
            media,
            rest,
        })
    }

    /// Appends `tag` to the last text of the content and returns that text as it was; `None` if there is no text.
    pub(crate) fn tag_last_text(&mut self, tag: &str) -> Option<String> {
        let text = match &mut self.content {
            Content::Text(text) => text,
            Content::Parts(parts) => parts.iter_mut().rev().find_map(|part| match part {
                Part::Text(text) => Some(text),
                Part::ToolReference(_) | Part::Medium(_) => None,
            })?,
        };
        let before = text.to_string();
        text.to_mut().push_str(tag);
        Some(before)
    }

    pub(crate) fn into_value(self) -> Value {
        let content = match self.content {
            Content::Text(text) => Value::from(&*text),
            Content::Parts(parts) => parts.into_iter().map(Part::into_value).collect(),
        };
        let head = [("role", Value::from(self.role)), ("content", content)];
        Value::from_pairs(head.into_iter().chain(self.rest))
    }
}

impl Part<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::ToolReference(name) => name,
            Self::Medium(_) => "",
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::from_pairs([("type", Value::from("text")), ("text", Value::from(&*text))]),
            Self::ToolReference(name) => {
                Value::from_pairs([("type", Value::from("tool_reference")), ("name", Value::from(name))])
            }
            Self::Medium(medium) => Value::from_pairs([("type", medium.part_type())]),
        }
    }
}

/// Parts with what stands in for media; only templates that take parts can be left with a [`Part::Medium`].
fn with_stand_ins(parts: Vec<Part<'_>>, format: ContentFormat, stand_in: StandIn) -> Vec<Part<'_>> {
    let (mut first, mut rest) = (Vec::new(), Vec::with_capacity(parts.len()));
    let mut stand_in = stand_in;
    for part in parts {
        let Part::Medium(medium) = part else {
            rest.push(part);
            continue;
        };
        match (stand_in, medium, format) {
            (StandIn::Mark { from: 0 }, ..) => rest.push(Part::Text(Cow::Borrowed(MARK))),
            (_, Medium::Embeddings, _) => rest.push(Part::Text(Cow::Borrowed(EMBEDDINGS))),
            (.., ContentFormat::Text) => first.push(Part::Text(Cow::Borrowed(UNKNOWN))),
            (.., ContentFormat::Parts) => rest.push(part),
        }
        stand_in = stand_in.after(1);
    }
    first.append(&mut rest);
    first
}

/// Empty texts are dropped: vLLM keeps a part only if its text is true in Python's sense.
fn joined(parts: Vec<Part<'_>>) -> Cow<'_, str> {
    let mut parts: Vec<_> = parts.into_iter().filter(|part| !part.text().is_empty()).collect();
    match (parts.pop(), parts.is_empty()) {
        (None, _) => Cow::Borrowed(""),
        (Some(Part::Text(text)), true) => text,
        (Some(last), _) => {
            let mut text = String::new();
            for part in &parts {
                text.push_str(part.text());
                text.push('\n');
            }
            text.push_str(last.text());
            Cow::Owned(text)
        }
    }
}

fn read_content<'a>(content: Option<&'a Json<'_>>) -> Result<Vec<Part<'a>>, PromptError> {
    match content {
        None => Ok(Vec::new()),
        Some(Json::String(text)) => Ok(vec![Part::Text(Cow::Borrowed(text))]),
        Some(Json::Array(parts)) => parts.iter().filter_map(|part| read_part(part).transpose()).collect(),
        Some(other) => Err(bad(&format!("has {} as `content`", other.type_name()))),
    }
}

/// `Ok(None)`: a part that vLLM skips.
fn read_part<'a>(part: &'a Json<'_>) -> Result<Option<Part<'a>>, PromptError> {
    if let Json::String(text) = part {
        return Ok(Some(Part::Text(Cow::Borrowed(text))));
    }
    if let Some(medium) = Medium::of_part(part) {
        return Ok(Some(Part::Medium(medium)));
    }
    let kind = part
        .get("type")
        .and_then(Json::as_str)
        .ok_or_else(|| bad("has a content part without `type`"))?;
    let field = match kind {
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        "thinking" => "thinking",
        "tool_reference" => "name",
        other => return Err(unknown_part(other)),
    };
    match part.get_set(field) {
        Some(Json::String(name)) if kind == "tool_reference" => Ok(Some(Part::ToolReference(name))),
        Some(Json::String(text)) => Ok(Some(Part::Text(Cow::Borrowed(text)))),
        None if matches!(kind, "text" | "refusal") => Ok(None),
        _ => Err(bad(&format!("has a content part of type `{kind}` without text"))),
    }
}

/// What an assistant thought; `reasoning_content` is the older name of the field.
pub(crate) fn reasoning<'r, 'a>(message: &'r Json<'a>) -> Option<&'r Json<'a>> {
    let reasoning = message.get_set("reasoning");
    reasoning.or_else(|| message.get_set("reasoning_content"))
}

/// The tool calls of an assistant message; `None` when there are none, which a template must not see as a list.
fn tool_calls(calls: Option<&Json<'_>>, order: KeyOrder, work: &Work) -> Result<Option<Value>, PromptError> {
    match calls {
        None => Ok(None),
        Some(Json::Array(calls)) if calls.is_empty() => Ok(None),
        Some(Json::Array(calls)) => {
            let calls = calls.iter().map(|call| tool_call(call, order, work));
            Ok(Some(calls.collect::<Result<Value, _>>()?))
        }
        Some(other) => Err(bad(&format!("has {} as `tool_calls`", other.type_name()))),
    }
}

/// Key order as in the types of the `openai` package, then unknown keys in the order of the request.
fn tool_call(call: &Json<'_>, order: KeyOrder, work: &Work) -> Result<Value, PromptError> {
    let function = call
        .get("function")
        .ok_or_else(|| bad("has a tool call without `function`"))?;
    let (of_call, of_function): (&[&str], &[&str]) = match order {
        KeyOrder::OfTheType => (&["id", "function", "type"], &["arguments", "name"]),
        KeyOrder::AsGiven => (&[], &[]),
    };
    ordered(call, of_call, |key, field| match key {
        "function" => ordered(function, of_function, |key, field| match key {
            "arguments" => arguments(field, work),
            _ => value(field),
        }),
        _ => value(field),
    })
}

/// Templates take arguments as an object, while the API carries them as JSON text. What is not JSON becomes an empty
/// object.
fn arguments(arguments: &Json<'_>, work: &Work) -> Result<Value, PromptError> {
    match arguments {
        Json::String(text) => match serde_json::from_str::<Json<'_>>(text) {
            Ok(parsed) => {
                work.take(parsed.nodes(), NODE)?;
                value(&parsed)
            }
            // Python reads these, and a deeper nesting too; `serde_json` does not.
            Err(error)
                if ["NaN", "Infinity", "\\ud", "\\uD"]
                    .iter()
                    .any(|mark| text.contains(mark))
                    || error.to_string().starts_with("recursion limit") =>
            {
                Err(bad("has tool call arguments that only Python's JSON reader takes"))
            }
            Err(_) => Ok(empty_object()),
        },
        Json::Object(_) | Json::Array(_) | Json::Tokens(_) => value(arguments),
        _ => Ok(empty_object()),
    }
}

fn empty_object() -> Value {
    Value::from_pairs::<_, &str, Value>([])
}

/// The tools of a request as vLLM's request model dumps them: fixed keys in a fixed order, with `null` for what is
/// absent, and nothing else.
pub(crate) fn tools(tools: &[Json<'_>]) -> Result<Value, PromptError> {
    let bad = |why: &str| PromptError::BadField {
        field: "tools",
        why: why.to_owned(),
    };
    let tools = tools.iter().map(|tool| {
        let function = tool
            .get_set("function")
            .ok_or_else(|| bad("has an entry without `function`"))?;
        let name = function.get("name").and_then(Json::as_str);
        let name = name.ok_or_else(|| bad("has a function without `name`"))?;
        let mut dumped = vec![("name", Value::from(name))];
        for key in ["description", "parameters"] {
            dumped.push((key, function.get(key).map_or(Ok(Value::from(())), value)?));
        }
        let deferred = tool.get_set("defer_loading");
        if let Some(strict) = function.get_set("strict") {
            dumped.push(("strict", value(strict)?));
        }
        if let Some(deferred) = function.get_set("defer_loading").or(deferred) {
            dumped.push(("defer_loading", value(deferred)?));
        }
        let mut tool = vec![
            ("type", Value::from("function")),
            ("function", Value::from_pairs(dumped)),
        ];
        if let Some(deferred) = deferred {
            tool.push(("defer_loading", value(deferred)?));
        }
        Ok(Value::from_pairs(tool))
    });
    tools.collect()
}

/// An object with its `known` keys first, every value made by `convert`.
fn ordered(
    object: &Json<'_>,
    known: &[&str],
    convert: impl Fn(&str, &Json<'_>) -> Result<Value, PromptError>,
) -> Result<Value, PromptError> {
    let Json::Object(entries) = object else {
        return Err(bad("has a tool call that is not an object"));
    };
    let first = known.iter().filter_map(|key| Some((*key, object.get(key)?)));
    let others = entries
        .iter()
        .map(|(key, value)| (&**key, value))
        .filter(|(key, _)| !known.contains(key));
    let pairs: Vec<_> = first
        .chain(others)
        .map(|(key, field)| Ok((key, convert(key, field)?)))
        .collect::<Result<_, PromptError>>()?;
    Ok(Value::from_pairs(pairs))
}

/// A JSON value as a template sees it.
pub(crate) fn value(json: &Json<'_>) -> Result<Value, PromptError> {
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Unsigned(number) => Value::from(*number),
        Json::Signed(number) => Value::from(*number),
        Json::Float(number) => Value::from(*number),
        Json::Inexact => return Err(PromptError::InexactNumber),
        Json::String(text) => Value::from(&**text),
        Json::Tokens(numbers) => numbers.iter().copied().collect(),
        Json::Array(items) => items.iter().map(value).collect::<Result<_, _>>()?,
        Json::Object(entries) => {
            let pairs = entries.iter().map(|(key, item)| Ok((&**key, value(item)?)));
            Value::from_pairs(pairs.collect::<Result<Vec<_>, PromptError>>()?)
        }
    })
}

/// As Python's `json.dumps` writes it.
pub(crate) fn dumped(json: &Json<'_>) -> Result<String, PromptError> {
    jinja::dumps(&value(json)?).map_err(|error| PromptError::Template(error.to_string()))
}

fn bad(why: &str) -> PromptError {
    PromptError::BadField {
        field: "messages",
        why: format!("has a message that {why}"),
    }
}
