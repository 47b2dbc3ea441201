//! From the messages of a request to the messages a template sees, as vLLM does it for templates whose content is a
//! string, and for a model of images for those that take parts (`vllm/entrypoints/chat_utils.py`).

use serde_json::{Map, Value as Json, json};

use crate::images::{PLACEHOLDER, Processor, Sent};
use crate::openai::{ChatPrompt, Tool};
use crate::template::RenderInput;

/// A message that vLLM would refuse.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// No `role`.
    #[error("messages[{index}]: `role` must be a string")]
    Role {
        /// Position of the message.
        index: usize,
    },
    /// Neither text nor parts.
    #[error("messages[{index}]: `content` must be a string, a list of parts or null")]
    Content {
        /// Position of the message.
        index: usize,
    },
    /// A part that is neither text nor an image.
    #[error("messages[{index}]: unsupported content part of type {kind}")]
    Part {
        /// Position of the message.
        index: usize,
        /// The `type` as it came.
        kind: Json,
    },
    /// A tool call that is no object with a function.
    #[error("messages[{index}]: a tool call must be an object with a `function` object")]
    ToolCall {
        /// Position of the message.
        index: usize,
    },
    /// Arguments that are no JSON.
    #[error("messages[{index}]: the arguments of a tool call are not JSON: {source}")]
    Arguments {
        /// Position of the message.
        index: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
}

/// What the template is rendered with. `processor`: the model's, whose template takes parts.
pub fn render_input(prompt: ChatPrompt, processor: Option<&Processor>) -> Result<RenderInput, ChatError> {
    let ChatPrompt {
        messages,
        tools,
        documents,
        add_generation_prompt,
        continue_final_message,
        add_special_tokens: _,
        chat_template_kwargs,
        reasoning_effort,
    } = prompt;
    let mut images = Vec::new();
    let messages = messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| flatten(index, message, processor, &mut images))
        .collect::<Result<_, _>>()?;
    let mut kwargs = chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = reasoning_effort {
        kwargs.insert("reasoning_effort".to_owned(), effort.into());
    }
    Ok(RenderInput {
        messages,
        tools: tools.map(|tools| tools.into_iter().map(Tool::into_json).collect()),
        documents,
        add_generation_prompt: add_generation_prompt.unwrap_or(true),
        continue_final_message: continue_final_message.unwrap_or(false),
        kwargs,
        images,
    })
}

fn flatten(
    index: usize,
    mut message: Map<String, Json>,
    processor: Option<&Processor>,
    images: &mut Vec<Sent>,
) -> Result<Map<String, Json>, ChatError> {
    let Some(Json::String(role)) = message.remove("role") else {
        return Err(ChatError::Role { index });
    };
    let mut flat = Map::new();
    flat.insert("role".to_owned(), role.clone().into());
    let content = message.remove("content");
    let content = match processor {
        None => text_content(index, content, images)?.into(),
        Some(processor) => parts_content(index, content, processor, images)?.into(),
    };
    flat.insert("content".to_owned(), content);
    if role == "assistant" {
        if let Some(Json::Array(calls)) = message.remove("tool_calls").filter(|calls| *calls != json!([])) {
            let calls = calls
                .into_iter()
                .map(|call| tool_call(index, call))
                .collect::<Result<Vec<_>, _>>()?;
            flat.insert("tool_calls".to_owned(), calls.into());
        }
        let reasoning = message.remove("reasoning").filter(|value| !value.is_null());
        if let Some(reasoning) = reasoning
            .or_else(|| message.remove("reasoning_content"))
            .filter(|v| !v.is_null())
        {
            flat.insert("reasoning".to_owned(), reasoning.clone());
            flat.insert("reasoning_content".to_owned(), reasoning);
        }
    }
    if role == "tool"
        && let Some(id) = message.remove("tool_call_id")
    {
        flat.insert("tool_call_id".to_owned(), id);
    }
    if let Some(Json::String(name)) = message.remove("name") {
        flat.insert("name".to_owned(), name.into());
    }
    if role == "developer" {
        flat.insert("tools".to_owned(), message.remove("tools").unwrap_or(Json::Null));
    }
    Ok(flat)
}

/// Text parts are joined by newlines, empty ones left out. Images stand before them.
fn text_content(index: usize, content: Option<Json>, images: &mut Vec<Sent>) -> Result<String, ChatError> {
    match content {
        None | Some(Json::Null) => Ok(String::new()),
        Some(Json::String(text)) => Ok(text),
        Some(Json::Array(parts)) => {
            let (of_images, of_texts): (Vec<_>, Vec<_>) = parts.iter().partition(|part| part["type"] == "image_url");
            let mut texts = vec![PLACEHOLDER.to_owned(); of_images.len()];
            images.extend(of_images.iter().map(|part| Sent::of_part(part, None)));
            for part in of_texts {
                texts.push(part_text(index, part.clone())?);
            }
            texts.retain(|text| !text.is_empty());
            Ok(texts.join("\n"))
        }
        Some(_) => Err(ChatError::Content { index }),
    }
}

/// Texts and images in their order.
fn parts_content(
    index: usize,
    content: Option<Json>,
    processor: &Processor,
    images: &mut Vec<Sent>,
) -> Result<Vec<Json>, ChatError> {
    let parts = match content {
        None | Some(Json::Null) => Vec::new(),
        Some(Json::String(text)) => vec![Json::String(text)],
        Some(Json::Array(parts)) => parts,
        Some(_) => return Err(ChatError::Content { index }),
    };
    let part = |part: Json| {
        if part["type"] == "image_url" {
            images.push(Sent::of_part(&part, Some(processor)));
            return Ok(json!({"type": "image"}));
        }
        Ok(json!({"type": "text", "text": part_text(index, part)?}))
    };
    parts.into_iter().map(part).collect()
}

fn part_text(index: usize, part: Json) -> Result<String, ChatError> {
    let Json::Object(mut part) = part else {
        return match part {
            Json::String(text) => Ok(text),
            other => Err(ChatError::Part { index, kind: other }),
        };
    };
    let kind = part.remove("type").unwrap_or(Json::Null);
    let field = match kind.as_str() {
        Some("text" | "input_text" | "output_text") => "text",
        Some("refusal") => "refusal",
        Some("thinking") => "thinking",
        _ => return Err(ChatError::Part { index, kind }),
    };
    match part.remove(field) {
        Some(Json::String(text)) => Ok(text),
        None | Some(Json::Null) => Ok(String::new()),
        Some(_) => Err(ChatError::Part { index, kind }),
    }
}

/// Arguments are JSON text on the wire and an object in templates; none at all becomes an empty object.
fn tool_call(index: usize, mut call: Json) -> Result<Json, ChatError> {
    let Some(Json::Object(function)) = call.get_mut("function") else {
        return Err(ChatError::ToolCall { index });
    };
    let arguments = match function.get("arguments") {
        None | Some(Json::Null) => json!({}),
        Some(Json::String(text)) if text.is_empty() => json!({}),
        Some(Json::String(text)) => {
            serde_json::from_str(text).map_err(|source| ChatError::Arguments { index, source })?
        }
        Some(other) => other.clone(),
    };
    function.insert("arguments".to_owned(), arguments);
    Ok(call)
}

#[cfg(test)]
mod tests;
