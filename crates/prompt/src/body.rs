//! The request body: the fields that routing needs, and the prompt.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use work::{Limits, Work};

use crate::conversation;
use crate::dynamo;
use crate::error::{BodyError, PromptError};
use crate::images::Image;
use crate::json::{Json, Key};
use crate::rules::Frontend;
use crate::template::ChatTemplate;
use crate::truncation::Truncation;

/// Which API a body is written for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shape {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI text completions.
    Completions,
    /// OpenAI responses.
    Responses,
    /// Anthropic messages.
    Messages,
    /// OpenAI embeddings: texts, or with vLLM a conversation.
    Embeddings,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Chat,
        Self::Completions,
        Self::Responses,
        Self::Messages,
        Self::Embeddings,
    ];

    /// The path of its requests.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// The shape that a request path stands for, its query string ignored. `None`: not a path with a prompt.
    pub fn of_path(path: &str) -> Option<Self> {
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        Self::ALL.into_iter().find(|shape| shape.path() == path)
    }

    /// The fields that may hold the prompt, the first that is set first.
    fn prompt_fields(self) -> &'static [&'static str] {
        match self {
            Self::Chat | Self::Messages => &["messages"],
            Self::Completions => &["prompt"],
            Self::Responses => &["input"],
            Self::Embeddings => &["input", "messages"],
        }
    }

    fn fits(self, field: &str, prompt: &Json<'_>) -> bool {
        match self {
            Self::Completions => matches!(prompt, Json::Array(_) | Json::Tokens(_) | Json::String(_)),
            Self::Embeddings if field == "input" => {
                matches!(prompt, Json::Array(_) | Json::Tokens(_) | Json::String(_))
            }
            Self::Responses => matches!(prompt, Json::Array(_) | Json::String(_)),
            Self::Chat | Self::Messages | Self::Embeddings => matches!(prompt, Json::Array(_)),
        }
    }
}

/// What reading a body costs for each of its bytes, in nanoseconds (see [`work`]).
const BODY_BYTE: u64 = 2;
/// What a value in it costs beyond its bytes, until a template has it.
pub(crate) const NODE: u64 = 150;

/// A request body, read once. Borrows from the bytes; holds only the fields that bear on routing.
#[derive(Debug)]
pub struct Body<'a> {
    shape: Shape,
    /// Which field holds the prompt.
    prompt_field: &'static str,
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
        /// `None`: the text is the prompt.
        media: Option<Media>,
    },
    /// A text of whose tokens the engine keeps some.
    Truncated {
        text: Cow<'a, str>,
        add_special_tokens: bool,
        truncation: Truncation,
    },
    /// Tokenized one by one.
    Pieces(Vec<Piece>),
    Tokens(Vec<u32>),
}

/// Images, audio and video in a prompt's text, for which the engine puts other tokens than the text's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// How many there are.
    pub count: usize,
    /// Bytes of the text before the first of them that is not known; all of it if there is none.
    pub before: usize,
    /// Those before, in their order.
    pub images: Vec<Image>,
}

impl Media {
    /// Whether all of them are known.
    pub fn are_known(&self) -> bool {
        self.images.len() == self.count
    }
}

/// A part of a prompt that is tokenized by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// One special token.
    Special(&'static str),
    /// Text, also where it reads like a special token.
    Text(String),
}

impl Piece {
    /// As text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Special(token) => token,
            Self::Text(text) => text,
        }
    }
}

impl<'a> Body<'a> {
    /// Reads a body in one pass over `bytes`. Of duplicate keys the last wins, as in Python.
    pub fn read(shape: Shape, bytes: &'a [u8]) -> Result<Self, BodyError> {
        let Fields(fields) = serde_json::from_slice(bytes).map_err(|error| unreadable(&error))?;
        let names = shape.prompt_fields();
        let mut set = names.iter().filter_map(|&field| Some((field, fields.get_set(field)?)));
        let Some((prompt_field, prompt)) = set.next() else {
            return Err(BodyError::NoPrompt(names.first().copied().unwrap_or_default()));
        };
        if !shape.fits(prompt_field, prompt) {
            return Err(BodyError::BadField {
                field: prompt_field,
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
            prompt_field,
            len: bytes.len(),
            fields,
            model,
        })
    }

    /// The `model` of a body that is too large to be read as a whole; nothing else of it is kept.
    pub fn model_of(bytes: &[u8]) -> Option<Cow<'_, str>> {
        #[derive(Deserialize)]
        struct OnlyModel<'a> {
            #[serde(borrow, default)]
            model: Option<Cow<'a, str>>,
        }
        serde_json::from_slice::<OnlyModel<'_>>(bytes).ok()?.model
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What reading its prompt may cost, by limits as they are without a setting.
    pub fn work(&self) -> Work {
        Work::new(Limits::DEFAULT, self.len)
    }

    /// The model or LoRA adapter asked for.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The cache namespace, which separates this request's blocks from others' equal ones; an empty one counts as absent.
    /// `tenant` is the request's header `x-tenant-id`.
    ///
    /// vLLM takes `cache_salt`. Dynamo 1.6.1 takes the header before `nvext.cache_salt`, and that before `cache_salt`, which
    /// it knows in chats and text completions only.
    pub fn cache_namespace<'s>(&'s self, frontend: Frontend, tenant: Option<&'s str>) -> Option<&'s str> {
        let salt = |object: &'s Json<'a>| object.get("cache_salt")?.as_str().filter(|salt| !salt.is_empty());
        let own = || salt(&self.fields);
        match frontend {
            Frontend::Vllm => own(),
            Frontend::Dynamo => {
                let has_own = !matches!(self.shape, Shape::Messages | Shape::Responses);
                tenant
                    .filter(|tenant| !tenant.is_empty())
                    .or_else(|| self.fields.get("nvext").and_then(salt))
                    .or_else(|| own().filter(|_| has_own))
            }
        }
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
            Shape::Completions | Shape::Messages => field("max_tokens"),
            Shape::Responses => field("max_output_tokens"),
            Shape::Embeddings => None,
        };
        limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX))
    }

    /// Whether this is a request with several prompts. [`Body::prompt`] gives the first.
    pub fn is_batch(&self) -> bool {
        match self.fields.get(self.prompt_field) {
            Some(Json::Array(prompts)) => prompts.len() > 1 && !self.is_conversation(),
            _ => false,
        }
    }

    /// The prompt that an engine makes of this body. A conversation needs the model's template.
    pub fn prompt(&self, template: Option<&ChatTemplate>) -> Result<Prompt<'_>, PromptError> {
        self.prompt_within(template, &self.work())
    }

    /// Does what [`Body::prompt`] does with the work of this request.
    pub fn prompt_within(&self, template: Option<&ChatTemplate>, work: &Work) -> Result<Prompt<'_>, PromptError> {
        work.take(self.len, BODY_BYTE)?;
        work.take(self.fields.nodes(), NODE)?;
        // To a length that only the worker knows.
        let padding = self
            .fields
            .get_set("padding")
            .filter(|_| self.shape == Shape::Embeddings);
        if padding.is_some_and(|padding| padding.as_str() != Some("do_not_pad")) {
            return Err(PromptError::UnsupportedField("padding"));
        }
        let prompt = if self.is_conversation() {
            let template = template.ok_or(PromptError::NoTemplate)?;
            conversation::prompt(self.shape, &self.fields, self.prompt_field, work, template)?
        } else {
            self.plain_prompt(template.map_or(Frontend::Vllm, |template| template.rules().frontend))?
        };
        match Truncation::of(self.shape, &self.fields)? {
            None => Ok(prompt),
            Some(truncation) => truncated(prompt, truncation, template),
        }
    }

    /// Whether the prompt is made by a chat template.
    pub fn is_conversation(&self) -> bool {
        match self.shape {
            Shape::Chat | Shape::Responses | Shape::Messages => true,
            Shape::Completions => false,
            Shape::Embeddings => match self.fields.get(self.prompt_field) {
                Some(Json::Array(items)) => {
                    self.prompt_field == "messages" || matches!(items.first(), Some(Json::Object(_)))
                }
                _ => false,
            },
        }
    }

    fn plain_prompt(&self, frontend: Frontend) -> Result<Prompt<'_>, PromptError> {
        let field = self.prompt_field;
        conversation::refuse(&self.fields, &["prompt_embeds"])?;
        // Some models get prompt and suffix in a format of their own.
        if self.shape == Shape::Completions {
            conversation::refuse(&self.fields, &["suffix"])?;
        }
        let prompt = match self.fields.get(field) {
            Some(Json::Array(batch)) => batch.first(),
            single => single,
        };
        match prompt {
            Some(Json::String(text)) if frontend == Frontend::Dynamo && self.shape == Shape::Completions => {
                Ok(dynamo::completion(text))
            }
            Some(Json::String(text)) => Ok(Prompt::Text {
                text: Cow::Borrowed(text),
                add_special_tokens: conversation::flag(&self.fields, "add_special_tokens", true)?,
                media: None,
            }),
            Some(Json::Tokens(tokens)) => Ok(Prompt::Tokens(tokens.clone())),
            None => Err(PromptError::BadField {
                field,
                why: "is empty".to_owned(),
            }),
            Some(other) => {
                let why = format!("holds {}, neither text nor token ids", other.type_name());
                Err(PromptError::BadField { field, why })
            }
        }
    }
}

/// A prompt of which the engine keeps some tokens.
fn truncated<'a>(
    prompt: Prompt<'a>,
    truncation: Truncation,
    template: Option<&ChatTemplate>,
) -> Result<Prompt<'a>, PromptError> {
    let refused = PromptError::UnsupportedField("truncate_prompt_tokens");
    if template.is_some_and(|template| template.rules().frontend == Frontend::Dynamo) {
        return Err(refused);
    }
    match prompt {
        Prompt::Text {
            text,
            add_special_tokens,
            media: None,
        } => Ok(Prompt::Truncated {
            text,
            add_special_tokens,
            truncation,
        }),
        Prompt::Tokens(tokens) => Ok(Prompt::Tokens(truncation.of_tokens(&tokens).to_vec())),
        // vLLM does not truncate what it renders in the Harmony format.
        pieces @ Prompt::Pieces(_) => Ok(pieces),
        // Placeholders are truncated before they become as many tokens as an image has.
        Prompt::Text { media: Some(_), .. } | Prompt::Truncated { .. } => Err(refused),
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
    "chat_template_args",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "input",
    "instructions",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tokens",
    "media_io_kwargs",
    "messages",
    "mm_processor_kwargs",
    "model",
    "nvext",
    "output_config",
    "padding",
    "previous_response_id",
    "previous_input_messages",
    "prompt",
    "prompt_embeds",
    "reasoning",
    "reasoning_effort",
    "stream",
    "suffix",
    "system",
    "thinking",
    "tool_choice",
    "tools",
    "truncate_prompt_tokens",
    "truncation",
    "truncation_side",
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
