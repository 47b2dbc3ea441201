//! gpt-oss's prompts: OpenAI's Harmony format, which vLLM writes with a library instead of the model's chat template.
//!
//! Sources: `vllm/entrypoints/openai/parser/harmony_utils.py` and `renderers/online_renderer.py` of vLLM 0.32 for which
//! messages there are, and the library `oss-harmony` 0.0.11 for how they are written. The library tokenizes piece by
//! piece, and reads no special tokens in what a client wrote: so a prompt is [`Piece`]s, not one text.

mod chat;
mod responses;
mod typescript;

use std::borrow::Cow;

use crate::body::Piece;
use crate::error::PromptError;
use crate::json::Json;
use crate::media::unknown_part;
use jinja::strftime;

pub(crate) use chat::{Chat, rendered as chat};
pub(crate) use responses::rendered as responses;

/// What every prompt starts with, up to the date.
const IDENTITY: &str =
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: ";
const CHANNELS: &str = "\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message.";
const CHANNEL_OF_TOOLS: &str = "\nCalls to these tools must go to the commentary channel: 'functions'.";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Channel {
    Analysis,
    Commentary,
    Final,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Self::Analysis => "analysis",
            Self::Commentary => "commentary",
            Self::Final => "final",
        }
    }
}

/// One message of a conversation.
enum Message<'r> {
    /// Each text is tokenized by itself.
    User(Vec<&'r str>),
    /// Instructions in the middle of a conversation.
    Developer(Cow<'r, str>),
    Assistant(Channel, Vec<Cow<'r, str>>),
    Call {
        name: &'r str,
        arguments: Cow<'r, str>,
    },
    Result {
        /// Of the tool; empty if nothing told it.
        name: &'r str,
        content: Cow<'r, str>,
    },
}

/// A conversation, ready to be written.
struct Conversation<'r> {
    reasoning_effort: Option<&'r str>,
    instructions: Option<Cow<'r, str>>,
    tools: Vec<Tool<'r>>,
    messages: Vec<Message<'r>>,
}

/// A function that the model may call.
struct Tool<'r> {
    name: &'r str,
    description: &'r str,
    parameters: Option<&'r Json<'r>>,
}

impl Conversation<'_> {
    /// Writes everything, and the start of the answer. `today` as in `2026-11-24`; no more than `limit` bytes of tools.
    fn render(&self, today: &str, limit: usize) -> Result<Vec<Piece>, PromptError> {
        let mut pieces = Vec::new();
        self.preamble(today, limit, &mut pieces)?;
        let last_final = self
            .messages
            .iter()
            .rposition(|message| matches!(message, Message::Assistant(Channel::Final, _)));
        for (index, message) in self.messages.iter().enumerate() {
            // What was thought for an answer goes once the answer is there.
            let is_past = last_final.is_some_and(|last| index < last);
            if !(is_past && matches!(message, Message::Assistant(Channel::Analysis, _))) {
                message.render(&mut pieces)?;
            }
        }
        pieces.extend([Piece::Special("<|start|>"), text("assistant")]);
        Ok(pieces)
    }

    /// The system message and, if there is something to tell, the developer's.
    fn preamble(&self, today: &str, limit: usize, pieces: &mut Vec<Piece>) -> Result<(), PromptError> {
        let effort = self.reasoning_effort.unwrap_or("medium");
        if !matches!(effort, "low" | "medium" | "high") {
            return Err(PromptError::BadField {
                field: "reasoning_effort",
                why: "is none of low, medium and high, which gpt-oss knows".to_owned(),
            });
        }
        let mut system = format!("{IDENTITY}{today}\n\nReasoning: {effort}{CHANNELS}");
        let tools = &self.tools;
        if !tools.is_empty() {
            system.push_str(CHANNEL_OF_TOOLS);
        }
        write(pieces, "system", None, [Cow::Owned(system)], "<|end|>");
        let has_instructions = self.instructions.as_deref().is_some_and(|text| !text.is_empty());
        if !has_instructions && tools.is_empty() {
            return Ok(());
        }
        let mut developer = String::new();
        if let Some(instructions) = &self.instructions {
            developer.push_str("# Instructions\n\n");
            developer.push_str(instructions);
        }
        if !tools.is_empty() {
            if self.instructions.is_some() {
                developer.push_str("\n\n");
            }
            typescript::tools_section(tools, &mut developer, limit)?;
        }
        write(pieces, "developer", None, [Cow::Owned(developer)], "<|end|>");
        Ok(())
    }
}

impl Message<'_> {
    fn render(&self, pieces: &mut Vec<Piece>) -> Result<(), PromptError> {
        match self {
            Self::User(texts) => {
                let texts = texts.iter().map(|text| Cow::Borrowed(*text));
                write(pieces, "user", None, texts, "<|end|>");
            }
            Self::Developer(instructions) => {
                let text = Cow::Owned(format!("# Instructions\n\n{instructions}"));
                write(pieces, "developer", None, [text], "<|end|>");
            }
            Self::Assistant(channel, texts) => {
                let texts = texts.iter().map(|text| Cow::Borrowed(&**text));
                write(pieces, "assistant", Some(channel.name()), texts, "<|end|>");
            }
            Self::Call { name, arguments } => {
                let author = format!("assistant to=functions.{}", header_name(name)?);
                let arguments = [Cow::Borrowed(&**arguments)];
                write(pieces, &author, Some("commentary json"), arguments, "<|call|>");
            }
            Self::Result { name, content } => {
                let author = format!("functions.{}", header_name(name)?);
                let content = [Cow::Borrowed(&**content)];
                write(pieces, &author, Some("commentary to=assistant"), content, "<|end|>");
            }
        }
        Ok(())
    }
}

/// vLLM refuses a name with a special token in it when it rewrites the header.
fn header_name(name: &str) -> Result<&str, PromptError> {
    if name.contains("<|") {
        return Err(bad("messages", "has a tool name with a special token in it"));
    }
    Ok(name)
}

fn write<'t>(
    pieces: &mut Vec<Piece>,
    author: &str,
    channel: Option<&str>,
    texts: impl IntoIterator<Item = Cow<'t, str>>,
    end: &'static str,
) {
    pieces.extend([Piece::Special("<|start|>"), text(author)]);
    if let Some(channel) = channel {
        pieces.extend([Piece::Special("<|channel|>"), text(channel)]);
    }
    pieces.push(Piece::Special("<|message|>"));
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    pieces.extend(texts.map(|text| Piece::Text(text.into_owned())));
    pieces.push(Piece::Special(end));
}

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

/// `flatten_input_text_content`: all texts in one; `None` if there is none.
fn flattened<'r>(content: Option<&'r Json<'_>>) -> Result<Option<Cow<'r, str>>, PromptError> {
    match content {
        Some(Json::String(text)) => Ok(Some(Cow::Borrowed(text))),
        Some(Json::Array(parts)) => {
            let mut texts = Vec::new();
            for part in parts {
                match part {
                    Json::String(text) => texts.push(&**text),
                    part => texts.extend(only_text(part)?),
                }
            }
            Ok((!texts.is_empty()).then(|| Cow::Owned(texts.concat())))
        }
        _ => Ok(None),
    }
}

/// The texts of a content, one for each part.
fn texts<'r>(content: &'r Json<'_>) -> Result<Vec<&'r str>, PromptError> {
    match content {
        Json::String(text) => Ok(vec![text]),
        Json::Array(parts) => parts
            .iter()
            .map(|part| Ok(only_text(part)?.unwrap_or_default()))
            .collect(),
        other => Err(bad("messages", &format!("has {} as `content`", other.type_name()))),
    }
}

/// The text of a content part, if it has one.
fn only_text<'r>(part: &'r Json<'_>) -> Result<Option<&'r str>, PromptError> {
    match part.get("type").and_then(Json::as_str) {
        Some("text" | "input_text" | "output_text" | "reasoning_text" | "refusal" | "thinking" | "tool_reference")
        | None => Ok(part.get("text").and_then(Json::as_str)),
        Some(other) => Err(unknown_part(other)),
    }
}

/// Today by the clock of the engine, which is taken to run in UTC.
fn today(now: Option<i64>) -> Result<String, PromptError> {
    let now = now.ok_or_else(|| PromptError::Template("nobody told the time".to_owned()))?;
    strftime::format("%Y-%m-%d", now).map_err(|error| PromptError::Template(error.to_string()))
}

fn bad(field: &'static str, why: &str) -> PromptError {
    PromptError::BadField {
        field,
        why: why.to_owned(),
    }
}
