//! The request body: the fields that routing needs, and the prompt.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

use crate::error::{BodyError, PromptError};
use crate::json::{Json, Key};
use crate::messages;
use crate::template::{ChatTemplate, Request};

/// Which API a body is written for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI text completions.
    Completions,
}

impl Shape {
    /// The shape that a request path stands for, its query string ignored. `None`: not a path with a prompt.
    pub fn of_path(path: &str) -> Option<Self> {
        match path.split_once('?').map_or(path, |(path, _)| path) {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/completions" => Some(Self::Completions),
            _ => None,
        }
    }

    /// The field that holds the prompt.
    fn prompt_field(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completions => "prompt",
        }
    }
}

/// A request body, read once. Borrows from the bytes; holds only the fields that bear on routing.
#[derive(Debug)]
pub struct Body<'a> {
    shape: Shape,
    /// Length of the body in bytes: the measure for what rendering may cost.
    len: usize,
    fields: Json<'a>,
    model: Option<Cow<'a, str>>,
}

/// A prompt, as the engine is about to tokenize it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt<'a> {
    Text {
        text: Cow<'a, str>,
        add_special_tokens: bool,
    },
    Tokens(Vec<u32>),
}

impl<'a> Body<'a> {
    /// Reads a body in one pass over `bytes`. Of duplicate keys the last wins, as in Python.
    pub fn read(shape: Shape, bytes: &'a [u8]) -> Result<Self, BodyError> {
        let Fields(fields) = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
        let field = shape.prompt_field();
        let Some(prompt) = fields.get_set(field) else {
            return Err(BodyError::NoPrompt(field));
        };
        let fits = match shape {
            Shape::Chat => matches!(prompt, Json::Array(_)),
            Shape::Completions => matches!(prompt, Json::Array(_) | Json::Tokens(_) | Json::String(_)),
        };
        if !fits {
            return Err(BodyError::BadField {
                field,
                why: format!("is {}", prompt.type_name()),
            });
        }
        let model = match fields.get_set("model") {
            None => None,
            Some(Json::String(model)) => Some(model.clone()),
            Some(other) => {
                return Err(BodyError::BadField {
                    field: "model",
                    why: format!("is {}", other.type_name()),
                });
            }
        };
        Ok(Self {
            shape,
            len: bytes.len(),
            fields,
            model,
        })
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The model or LoRA adapter asked for.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// What separates this request's cache blocks from others' equal ones: `nvext.cache_salt`, else `cache_salt`; an
    /// empty one counts as absent. (Dynamo puts a tenant header before both; headers are the caller's.)
    pub fn cache_salt<'s>(&'s self) -> Option<&'s str> {
        let salt = |object: &'s Json<'a>| object.get("cache_salt")?.as_str().filter(|salt| !salt.is_empty());
        self.fields.get("nvext").and_then(salt).or_else(|| salt(&self.fields))
    }

    /// Whether the answer is to be streamed.
    pub fn stream(&self) -> bool {
        self.fields.get("stream").and_then(Json::as_lax_bool).unwrap_or(false)
    }

    /// The bound on generated tokens, if the request sets one: `max_completion_tokens` before `max_tokens`.
    pub fn max_tokens(&self) -> Option<u32> {
        let field = |name| self.fields.get(name).and_then(Json::as_u64);
        let limit = match self.shape {
            Shape::Chat => field("max_completion_tokens").or_else(|| field("max_tokens")),
            Shape::Completions => field("max_tokens"),
        };
        limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX))
    }

    /// Whether this is a completion request with several prompts. [`Body::prompt`] gives the first.
    pub fn is_batch(&self) -> bool {
        match self.fields.get("prompt") {
            Some(Json::Array(prompts)) => self.shape == Shape::Completions && prompts.len() > 1,
            _ => false,
        }
    }

    /// The prompt that an engine makes of this body. Chat needs the model's template.
    pub fn prompt(&self, template: Option<&ChatTemplate>) -> Result<Prompt<'_>, PromptError> {
        // An engine that truncates keeps tokens from an end that depends on its configuration.
        if self.fields.get_set("truncate_prompt_tokens").is_some() {
            return Err(PromptError::UnsupportedField("truncate_prompt_tokens"));
        }
        match self.shape {
            Shape::Chat => self.chat_prompt(template.ok_or(PromptError::NoTemplate)?),
            Shape::Completions => self.completions_prompt(),
        }
    }

    fn completions_prompt(&self) -> Result<Prompt<'_>, PromptError> {
        if self.fields.get_set("prompt_embeds").is_some() {
            return Err(PromptError::UnsupportedField("prompt_embeds"));
        }
        let prompt = match self.fields.get("prompt") {
            Some(Json::Array(batch)) => batch.first(),
            single => single,
        };
        match prompt {
            Some(Json::String(text)) => {
                let add_special_tokens = self.flag("add_special_tokens", true)?;
                Ok(Prompt::Text {
                    text: Cow::Borrowed(text),
                    add_special_tokens,
                })
            }
            Some(Json::Tokens(tokens)) => Ok(Prompt::Tokens(tokens.clone())),
            None => Err(PromptError::BadField {
                field: "prompt",
                why: "is empty".to_owned(),
            }),
            Some(other) => {
                let why = format!("holds {}, neither text nor token ids", other.type_name());
                Err(PromptError::BadField { field: "prompt", why })
            }
        }
    }

    fn chat_prompt(&self, template: &ChatTemplate) -> Result<Prompt<'_>, PromptError> {
        if self.fields.get_set("chat_template").is_some() {
            return Err(PromptError::UnsupportedField("chat_template"));
        }
        let add_special_tokens = self.flag("add_special_tokens", false)?;
        let text = template.render(&self.chat_request()?, self.len)?;
        Ok(Prompt::Text {
            text: Cow::Owned(text),
            add_special_tokens,
        })
    }

    fn chat_request(&self) -> Result<Request<'_, 'a>, PromptError> {
        let fields = &self.fields;
        let Some(Json::Array(messages)) = fields.get("messages") else {
            return Err(PromptError::BadField {
                field: "messages",
                why: "is not an array".to_owned(),
            });
        };
        let kwargs = match fields.get_set("chat_template_kwargs") {
            None => &[],
            Some(Json::Object(entries)) => entries.as_slice(),
            Some(other) => {
                let why = format!("is {}", other.type_name());
                return Err(PromptError::BadField {
                    field: "chat_template_kwargs",
                    why,
                });
            }
        };
        Ok(Request {
            messages,
            tools: messages::tools(fields.get_set("tools"))?,
            documents: fields.get_set("documents"),
            reasoning_effort: fields.get_set("reasoning_effort"),
            kwargs,
            add_generation_prompt: self.flag("add_generation_prompt", true)?,
            continue_final_message: self.flag("continue_final_message", false)?,
        })
    }

    fn flag(&self, field: &'static str, default: bool) -> Result<bool, PromptError> {
        match self.fields.get(field) {
            None => Ok(default),
            Some(value) => value.as_lax_bool().ok_or_else(|| PromptError::BadField {
                field,
                why: format!("is {}, not a boolean", value.type_name()),
            }),
        }
    }
}

fn unreadable(error: &serde_json::Error) -> BodyError {
    if error.classify() == Category::Data {
        return BodyError::NotAnObject;
    }
    let message = error.to_string();
    // The position is given apart.
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    BodyError::NotJson {
        line: error.line(),
        column: error.column(),
        message,
    }
}

/// The top level of a body: an object with the fields that matter here; the rest is checked for syntax and dropped.
struct Fields<'a>(Json<'a>);

const KEPT: &[&str] = &[
    "add_generation_prompt",
    "add_special_tokens",
    "cache_salt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "nvext",
    "prompt",
    "prompt_embeds",
    "reasoning_effort",
    "stream",
    "tools",
    "truncate_prompt_tokens",
];

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    if KEPT.contains(&&*key) {
                        fields.push((key, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Fields(Json::Object(fields)))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}
