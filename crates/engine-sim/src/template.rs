//! The model's chat template, rendered as Hugging Face `transformers` renders it (`utils/chat_template_utils.py`).

use std::path::Path;

use anyhow::Context;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value as Json};

use crate::images::Sent;
use crate::python_json;

const NAME: &str = "chat_template";
/// Steps of the template's virtual machine: far beyond any real prompt, short of running for minutes.
const FUEL: u64 = 10_000_000;
/// What `transformers` appends to the final message to find its end in the rendered text.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: Map<String, Json>,
}

/// What a template is rendered with.
#[derive(Clone, Debug, Default)]
pub struct RenderInput {
    /// The conversation.
    pub messages: Vec<Map<String, Json>>,
    /// Tool definitions.
    pub tools: Option<Vec<Json>>,
    /// Documents for retrieval templates.
    pub documents: Option<Json>,
    /// End with the header of a new assistant message.
    pub add_generation_prompt: bool,
    /// End inside the final message, for the model to go on with it.
    pub continue_final_message: bool,
    /// The request's `chat_template_kwargs`; the fields above win over them.
    pub kwargs: Map<String, Json>,
    /// Its images, in the order of their placeholders.
    pub images: Vec<Sent>,
}

impl ChatTemplate {
    /// The template of a model directory: `chat_template.jinja`, or else the one in `tokenizer_config.json`.
    /// `None` if the model has none.
    pub fn load(dir: &Path, tokenizer_config: &Map<String, Json>) -> anyhow::Result<Option<Self>> {
        let path = dir.join("chat_template.jinja");
        let source = if path.exists() {
            Some(std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?)
        } else {
            configured_template(tokenizer_config)
        };
        let Some(source) = source else { return Ok(None) };
        let template =
            Self::new(source, special_tokens(tokenizer_config)).context("cannot compile the chat template")?;
        Ok(Some(template))
    }

    /// Compiles a template. The special tokens (`bos_token`, ...) are variables in it.
    pub fn new(source: String, special_tokens: Map<String, Json>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| crate::clock::strftime_now(&format));
        environment.add_template_owned(NAME, source)?;
        Ok(Self {
            environment,
            special_tokens,
        })
    }

    /// The prompt text. Errors are the template's own (`raise_exception`) or what it stumbled over.
    pub fn render(&self, mut input: RenderInput) -> Result<String, Error> {
        if !input.continue_final_message {
            return self.render_context(input);
        }
        if input.add_generation_prompt {
            return Err(invalid(
                "continue_final_message and add_generation_prompt are not compatible",
            ));
        }
        let Some(Json::String(content)) = input.messages.last_mut().and_then(|message| message.get_mut("content"))
        else {
            return Err(invalid(
                "continue_final_message is set but the final message has no content to continue",
            ));
        };
        content.push_str(CONTINUE_TAG);
        let rendered = self.render_context(input)?;
        let Some(end) = rendered.rfind(CONTINUE_TAG.trim_end()) else {
            return Err(invalid(
                "continue_final_message is set but the final message does not appear in the prompt",
            ));
        };
        let (prompt, rest) = rendered.split_at(end);
        // A template that trims its messages has trimmed the tag too, so it would have trimmed the content.
        Ok(if rest.starts_with(CONTINUE_TAG) {
            prompt
        } else {
            prompt.trim_end()
        }
        .to_owned())
    }

    fn render_context(&self, input: RenderInput) -> Result<String, Error> {
        let RenderInput {
            messages,
            tools,
            documents,
            add_generation_prompt,
            continue_final_message,
            kwargs,
            // Their placeholders are in the messages.
            images: _,
        } = input;
        let mut context = self.special_tokens.clone();
        context.extend(kwargs);
        context.insert("messages".to_owned(), messages.into_iter().map(Json::Object).collect());
        context.insert("tools".to_owned(), tools.map_or(Json::Null, Json::Array));
        context.insert("documents".to_owned(), documents.unwrap_or(Json::Null));
        context.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        context.insert("continue_final_message".to_owned(), continue_final_message.into());
        self.environment.get_template(NAME)?.render(Value::from(Serde(context)))
    }
}

fn configured_template(tokenizer_config: &Map<String, Json>) -> Option<String> {
    match tokenizer_config.get("chat_template")? {
        Json::String(source) => Some(source.clone()),
        // Several named ones.
        Json::Array(templates) => templates
            .iter()
            .find(|template| template.get("name").and_then(Json::as_str) == Some("default"))
            .and_then(|template| template.get("template"))
            .and_then(Json::as_str)
            .map(str::to_owned),
        _ => None,
    }
}

/// The `*_token` settings: strings, or objects with the string under `content`.
fn special_tokens(tokenizer_config: &Map<String, Json>) -> Map<String, Json> {
    tokenizer_config
        .iter()
        .filter(|(key, _)| key.ends_with("_token"))
        .filter_map(|(key, value)| Some((key.clone(), token_text(value)?.into())))
        .collect()
}

/// Text of a token as `tokenizer_config.json` gives it.
pub fn token_text(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// `json.dumps` with the defaults that `transformers` gives the filter.
fn tojson(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let format = python_json::Format {
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent: kwargs.get::<Option<usize>>("indent")?,
        separators: kwargs
            .get::<Option<Vec<String>>>("separators")?
            .and_then(|pair| <[String; 2]>::try_from(pair).ok())
            .map(|[item, key]| (item, key)),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(&value).map_err(|error| invalid(error.to_string()))?;
    python_json::dumps(json, &format).map_err(|error| invalid(error.to_string()))
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests;
