//! Chat messages, of which the frontend's types keep some keys and drop all others.

use std::borrow::Cow;

use minijinja::Value;
use work::Work;

use crate::body::NODE;
use crate::conversation::{bad, required};
use crate::error::PromptError;
use crate::json::Json;
use crate::media::{MARK, unknown_part};
use crate::messages;

/// A message, as far as it bears on the prompt.
#[derive(Clone)]
pub(super) struct Message<'r> {
    pub(super) role: &'r str,
    pub(super) content: Content<'r>,
    pub(super) reasoning: Option<Reasoning<'r>>,
    /// An empty list is not the same as none.
    pub(super) calls: Option<Vec<Call<'r>>>,
    /// All other keys.
    pub(super) rest: Vec<(&'static str, Value)>,
}

#[derive(Clone)]
pub(super) enum Content<'r> {
    /// The message has no such key.
    Absent,
    Text(Cow<'r, str>),
    Parts(Vec<Part<'r>>),
}

#[derive(Clone)]
pub(super) enum Part<'r> {
    Text(Cow<'r, str>),
    Refusal(&'r str),
    /// An image or the like, and what its type is for the template.
    Medium(&'static str),
}

/// What an assistant thought.
#[derive(Clone)]
pub(super) enum Reasoning<'r> {
    Text(Cow<'r, str>),
    /// Before each call, and after the last one.
    Segments(Vec<Cow<'r, str>>),
}

/// A call of a tool.
#[derive(Clone)]
pub(super) struct Call<'r> {
    pub(super) id: &'r str,
    pub(super) name: &'r str,
    /// JSON.
    pub(super) arguments: Cow<'r, str>,
}

impl<'r> Message<'r> {
    /// A message with nothing but a content.
    pub(super) fn new(role: &'r str, content: Content<'r>) -> Self {
        Self {
            role,
            content,
            reasoning: None,
            calls: None,
            rest: Vec::new(),
        }
    }

    /// A tool's result.
    pub(super) fn result(id: &'r str, content: Content<'r>) -> Self {
        Self {
            rest: vec![("tool_call_id", Value::from(id))],
            ..Self::new("tool", content)
        }
    }

    /// Reads a message of a chat request.
    pub(super) fn read(message: &'r Json<'_>) -> Result<Self, PromptError> {
        let role = required(message, "role", "messages")?;
        if !matches!(
            role,
            "developer" | "system" | "user" | "assistant" | "tool" | "function"
        ) {
            return Err(bad("messages", "has a message of an unknown role"));
        }
        let content = Content::read(message.get_set("content"))?;
        if matches!(content, Content::Absent) && !matches!(role, "assistant" | "function") {
            return Err(bad("messages", "has a message without `content`"));
        }
        let mut read = Self::new(role, content);
        let keys: &[_] = match role {
            "assistant" => {
                read.reasoning = messages::reasoning(message).map(Reasoning::read).transpose()?;
                read.calls = message.get_set("tool_calls").map(calls).transpose()?;
                &["refusal", "name"]
            }
            "tool" => &["tool_call_id"],
            _ => &["name"],
        };
        for key in keys {
            if let Some(text) = message.get(key).and_then(Json::as_str) {
                read.rest.push((key, Value::from(text)));
            }
        }
        if role == "assistant" && message.get_set("function_call").is_some() {
            return Err(PromptError::UnsupportedField("function_call"));
        }
        Ok(read)
    }

    /// How many images and the like there are in it.
    pub(super) fn media(&self) -> usize {
        match &self.content {
            Content::Parts(parts) => parts.iter().filter(|part| matches!(part, Part::Medium(_))).count(),
            Content::Absent | Content::Text(_) => 0,
        }
    }

    /// Puts a mark in place of each.
    pub(super) fn mark_media(&mut self) {
        if let Content::Parts(parts) = &mut self.content {
            for part in parts.iter_mut().filter(|part| matches!(part, Part::Medium(_))) {
                *part = Part::Text(Cow::Borrowed(MARK));
            }
        }
    }

    /// As a template sees it.
    pub(super) fn into_value(self, argument_texts: bool, work: &Work) -> Result<Value, PromptError> {
        let mut entries = vec![("role", Value::from(self.role))];
        match self.content {
            Content::Absent => {}
            Content::Text(text) => entries.push(("content", Value::from(&*text))),
            Content::Parts(parts) => entries.push(("content", parts.into_iter().map(Part::into_value).collect())),
        }
        match self.reasoning {
            None => {}
            Some(Reasoning::Text(text)) => entries.push(("reasoning_content", Value::from(&*text))),
            Some(Reasoning::Segments(segments)) => {
                entries.push((
                    "reasoning_content",
                    segments.iter().map(|segment| Value::from(&**segment)).collect(),
                ));
            }
        }
        entries.extend(self.rest);
        if let Some(calls) = self.calls {
            let calls = calls.into_iter().map(|call| call.into_value(argument_texts, work));
            entries.push(("tool_calls", calls.collect::<Result<Value, _>>()?));
        }
        Ok(Value::from_pairs(entries))
    }
}

impl<'r> Content<'r> {
    pub(super) fn text(text: &'r str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(super) fn read(content: Option<&'r Json<'_>>) -> Result<Self, PromptError> {
        match content {
            None => Ok(Self::Absent),
            Some(Json::String(text)) => Ok(Self::text(text)),
            Some(Json::Array(parts)) => Ok(Self::Parts(parts.iter().map(Part::read).collect::<Result<_, _>>()?)),
            Some(other) => Err(bad("messages", &format!("has {} as `content`", other.type_name()))),
        }
    }
}

impl<'r> Part<'r> {
    pub(super) fn text(text: &'r str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// Reads a part of a chat message or, with an `input_` in its type, of a response's message.
    pub(super) fn read(part: &'r Json<'_>) -> Result<Self, PromptError> {
        match required(part, "type", "messages")? {
            "text" | "input_text" => Ok(Self::text(required(part, "text", "messages")?)),
            "refusal" => Ok(Self::Refusal(required(part, "refusal", "messages")?)),
            "image_url" | "input_image" => Ok(Self::Medium("image")),
            "video_url" => Ok(Self::Medium("video")),
            "audio_url" => Ok(Self::Medium("audio")),
            "input_audio" => Ok(Self::Medium("input_audio")),
            other => Err(unknown_part(other)),
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::from_pairs([("type", Value::from("text")), ("text", Value::from(&*text))]),
            Self::Refusal(refusal) => Value::from_pairs([("type", "refusal"), ("refusal", refusal)]),
            Self::Medium(kind) => Value::from_pairs([("type", kind)]),
        }
    }
}

impl<'r> Reasoning<'r> {
    fn read(reasoning: &'r Json<'_>) -> Result<Self, PromptError> {
        let refused = || bad("messages", "has reasoning that is neither a text nor a list of texts");
        match reasoning {
            Json::String(text) => Ok(Self::Text(Cow::Borrowed(text))),
            Json::Array(segments) => {
                let segments = segments
                    .iter()
                    .map(|segment| segment.as_str().map(Cow::Borrowed).ok_or_else(refused));
                Ok(Self::Segments(segments.collect::<Result<_, _>>()?))
            }
            _ => Err(refused()),
        }
    }

    /// What was thought before each call and after the last one; without calls, as one text. `None`: nothing.
    pub(super) fn around_calls(mut segments: Vec<Cow<'r, str>>, last: String) -> Option<Self> {
        let has_calls = !segments.is_empty();
        if last.is_empty() && segments.iter().all(|segment| segment.is_empty()) {
            None
        } else if has_calls {
            segments.push(Cow::Owned(last));
            Some(Self::Segments(segments))
        } else {
            Some(Self::Text(Cow::Owned(last)))
        }
    }
}

fn calls<'r>(calls: &'r Json<'_>) -> Result<Vec<Call<'r>>, PromptError> {
    let Json::Array(calls) = calls else {
        return Err(bad("messages", &format!("has {} as `tool_calls`", calls.type_name())));
    };
    let read = |call: &'r Json<'_>| {
        let function = call.get("function");
        let function = function.ok_or_else(|| bad("messages", "has a tool call without `function`"))?;
        Ok(Call {
            id: required(call, "id", "messages")?,
            name: required(function, "name", "messages")?,
            arguments: match function.get("arguments") {
                Some(Json::String(text)) => Cow::Borrowed(&**text),
                Some(object @ Json::Object(_)) => Cow::Owned(compact(object)?),
                _ => return Err(bad("messages", "has a tool call without `arguments`")),
            },
        })
    };
    calls.iter().map(read).collect()
}

impl Call<'_> {
    fn into_value(self, argument_texts: bool, work: &Work) -> Result<Value, PromptError> {
        let parsed = match serde_json::from_str::<Json<'_>>(&self.arguments) {
            Ok(parsed) if !argument_texts => {
                work.take(parsed.nodes(), NODE)?;
                messages::value(&parsed)?
            }
            _ => Value::from(&*self.arguments),
        };
        let function = [("name", Value::from(self.name)), ("arguments", parsed)];
        Ok(Value::from_pairs([
            ("id", Value::from(self.id)),
            ("type", Value::from("function")),
            ("function", Value::from_pairs(function)),
        ]))
    }
}

/// JSON as `serde_json` writes it, without spaces.
pub(super) fn compact(json: &Json<'_>) -> Result<String, PromptError> {
    Ok(plain(json)?.to_string())
}

fn plain(json: &Json<'_>) -> Result<serde_json::Value, PromptError> {
    Ok(match json {
        Json::Null => serde_json::Value::Null,
        Json::Bool(value) => (*value).into(),
        Json::Unsigned(number) => (*number).into(),
        Json::Signed(number) => (*number).into(),
        Json::Float(number) => (*number).into(),
        Json::Inexact => return Err(PromptError::InexactNumber),
        Json::String(text) => (&**text).into(),
        Json::Tokens(numbers) => numbers.iter().copied().collect(),
        Json::Array(items) => items.iter().map(plain).collect::<Result<_, _>>()?,
        Json::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| Ok((key.to_string(), plain(value)?)));
            serde_json::Value::Object(entries.collect::<Result<_, PromptError>>()?)
        }
    })
}
