//! The model's chat template, rendered as `transformers` renders it.
//!
//! The reference is `apply_chat_template` (`transformers/utils/chat_template_utils.py`): Jinja2's
//! `ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)` with the `loopcontrols` extension, its own
//! `tojson`, `raise_exception` and `strftime_now`, and the `generation` tag, which changes nothing in the text.

mod content_format;
pub(crate) mod continued;
mod habits;
mod output;
mod requested;
mod source;

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Map;
use work::Work;

use crate::body::Media;
use crate::dynamo::{self, Habits};
use crate::error::PromptError;
use crate::images::{ImageProcessor, Images};
use crate::json::Json;
use crate::media::{self, StandIn};
pub use crate::messages::ContentFormat;
use crate::messages::{self, KeyOrder};
use crate::model_text::ModelText;
use crate::rules::{Frontend, Rules};
use output::BoundedText;
use requested::Requested;

/// What a unit of minijinja's fuel costs, in nanoseconds (see [`work`]): an instruction costs one, and so do 64 bytes of
/// data, so it bounds memory too. The templates of Qwen3, DeepSeek V3 and Gemma 3 spend 0.06 for each byte of a body of long
/// messages and 57 for each message.
const FUEL: u64 = 32;
/// What minijinja can count.
const MOST_FUEL: u64 = i64::MAX as u64 / 64;

/// Text that one render may write. A template repeats little of a body (an escaped JSON text at most sixfold), and writes
/// text of its own: instructions for tools, a default system prompt.
const OUTPUT_BASE: usize = 64 << 10;
const OUTPUT_PER_BODY_BYTE: usize = 8;

/// Bytes that a template may write for a body of that length.
pub fn output_limit(body_len: usize) -> usize {
    OUTPUT_BASE.saturating_add(OUTPUT_PER_BODY_BYTE.saturating_mul(body_len))
}

/// What `chat_template_kwargs` may not name: vLLM refuses such requests, or `transformers` fails on them.
pub const RESERVED_KWARGS: [&str; 5] = ["chat_template", "tokenize", "messages", "conversation", "tools"];

/// `strftime_now` before anybody told the time.
const NO_TIME: i64 = i64::MIN;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template `{name}` does not compile: {message}")]
    Syntax { name: &'static str, message: String },
    #[error("the default of the template variable `{name}` cannot be used: {message}")]
    Kwargs { name: String, message: String },
}

/// A compiled chat template. `Send + Sync`.
#[derive(Debug)]
pub struct ChatTemplate {
    /// `None`: of a model without, which reads no conversations (but for gpt-oss, whose prompts can do without), or only those
    /// with tools.
    default: Option<Compiled>,
    tool_use: Option<Compiled>,
    requested: Requested,
    rules: Rules,
    images: Option<ImageProcessor>,
    default_kwargs: Vec<(String, Value)>,
    special_tokens: Vec<(String, Value)>,
    wants_system_first: bool,
    effort_of_no_thinking: OnceLock<&'static str>,
    /// For Dynamo's frontend only.
    dynamo_habits: Option<Habits>,
    now: Arc<AtomicI64>,
}

/// A template that can be rendered.
#[derive(Debug)]
pub(crate) struct Compiled {
    environment: Environment<'static>,
    format: ContentFormat,
}

/// What a chat request gives to its template.
pub(crate) struct Request<'r, 'a> {
    /// The source of a template of its own.
    pub(crate) template: Option<&'r str>,
    pub(crate) messages: &'r [Json<'a>],
    pub(crate) key_order: KeyOrder,
    pub(crate) tools: Option<Value>,
    pub(crate) documents: Option<&'r Json<'a>>,
    pub(crate) reasoning_effort: Option<&'r Json<'a>>,
    pub(crate) kwargs: &'r [(Cow<'a, str>, Json<'a>)],
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
    /// What is known of the images in the messages.
    pub(crate) images: Images<'r>,
}

/// What a template wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// `None`: there are none in the conversation.
    pub(crate) media: Option<Media>,
}

impl ChatTemplate {
    /// Compiles a model's templates, if it has any.
    pub fn compile(text: &ModelText) -> Result<Self, TemplateError> {
        // While templates are tried out any time will do.
        let now = Arc::new(AtomicI64::new(0));
        let source = text.chat_template.as_deref();
        let tool_use = text.tool_use_template.as_deref();
        let mut special_tokens: Vec<_> = text
            .special_tokens
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
            .collect();
        if !text.additional_special_tokens.is_empty() {
            let tokens = text
                .additional_special_tokens
                .iter()
                .map(|token| Value::from(token.as_str()))
                .collect();
            special_tokens.push(("additional_special_tokens".to_owned(), tokens));
        }
        let frontend = text.rules.frontend;
        let compiled = |name, source: Option<&str>| source.map(|source| Compiled::new(name, source, &now, frontend));
        let default = compiled("chat", source).transpose()?;
        let tried_out = default.as_ref().filter(|_| frontend == Frontend::Dynamo);
        let dynamo_habits = tried_out.map(|template| Habits::of(template, |name| token(&special_tokens, name)));
        now.store(NO_TIME, Ordering::Relaxed);
        Ok(Self {
            default,
            tool_use: compiled("tool_use", tool_use).transpose()?,
            special_tokens,
            images: text.images.clone(),
            default_kwargs: variables(&text.rules.default_chat_template_kwargs)?,
            wants_system_first: (source.is_none() && text.rules.harmony)
                || [source, tool_use].into_iter().flatten().any(habits::wants_system_first),
            dynamo_habits,
            now,
            ..Self::without_source(text.rules.clone())
        })
    }

    /// Of a model whose template cannot be used, or that has none: conversations get no prompt, texts are read by the rules.
    pub fn without_source(rules: Rules) -> Self {
        Self {
            default: None,
            tool_use: None,
            requested: Requested::default(),
            rules,
            default_kwargs: Vec::new(),
            special_tokens: Vec::new(),
            images: None,
            wants_system_first: false,
            effort_of_no_thinking: OnceLock::new(),
            dynamo_habits: None,
            now: Arc::new(AtomicI64::new(NO_TIME)),
        }
    }

    /// Tells the time, in seconds since 1970-01-01 UTC, for templates that write today's date with `strftime_now`; they
    /// fail until it is set. The engine writes its own local date: its clock must run in UTC for prompts to be equal.
    pub fn set_now(&self, unix_seconds: i64) {
        self.now.store(unix_seconds, Ordering::Relaxed);
    }

    /// The time that was told, as in [`ChatTemplate::set_now`].
    pub(crate) fn now(&self) -> Option<i64> {
        Some(self.now.load(Ordering::Relaxed)).filter(|now| *now != NO_TIME)
    }

    /// How workers make prompts.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How many tokens the model has for an image, if that is known.
    pub(crate) fn images(&self) -> Option<&ImageProcessor> {
        self.images.as_ref()
    }

    /// How messages reach the template, for requests without tools.
    pub fn content_format(&self) -> ContentFormat {
        self.default
            .as_ref()
            .map_or(ContentFormat::Text, |default| default.format)
    }

    /// Renders a conversation, twice if there are media in it. `work` is that of the request.
    pub(crate) fn render(&self, mut request: Request<'_, '_>, work: &Work) -> Result<Rendered, PromptError> {
        let requested;
        let compiled = match (request.template, &self.tool_use, &self.default) {
            (Some(source), ..) => {
                requested = self.requested.get(source, &self.now, work)?;
                &*requested
            }
            (_, Some(tool_use), _) if request.tools.is_some() => tool_use,
            (.., Some(default)) => default,
            (.., None) => return Err(PromptError::NoTemplate),
        };
        let images = std::mem::take(&mut request.images);
        media::located(&self.rules, compiled.format, images, |stand_in| {
            self.render_with(stand_in, &request, compiled, work)
        })
    }

    /// Renders variables of Dynamo's frontend.
    pub(crate) fn render_variables(&self, variables: Value, work: &Work) -> Result<String, PromptError> {
        self.default
            .as_ref()
            .ok_or(PromptError::NoTemplate)?
            .render(variables, work)
    }

    /// What Dynamo's frontend knows of the template, in pools behind one.
    pub(crate) fn dynamo_habits(&self) -> Option<&Habits> {
        self.dynamo_habits.as_ref()
    }

    /// Variables of the template, where a request does not set them.
    pub(crate) fn default_kwargs(&self) -> &[(String, Value)] {
        &self.default_kwargs
    }

    /// A special token by its name in a template; `none` if there is none.
    pub(crate) fn special_token(&self, name: &str) -> Value {
        token(&self.special_tokens, name)
    }

    /// Renders a conversation with something in place of its media; returns how many those are, too.
    fn render_with(
        &self,
        stand_in: StandIn,
        request: &Request<'_, '_>,
        compiled: &Compiled,
        work: &Work,
    ) -> Result<(String, usize), PromptError> {
        let mut messages =
            messages::conversation(request.messages, compiled.format, request.key_order, stand_in, work)?;
        let media = messages.iter().map(|message| message.media).sum();
        let continued = request
            .continue_final_message
            .then(|| continued::tag(request, &mut messages))
            .transpose()?;
        let variables = self.variables(
            request,
            messages.into_iter().map(messages::Message::into_value).collect(),
        )?;
        let text = compiled.render(variables, work)?;
        match continued {
            None => Ok((text, media)),
            Some(final_text) if text.contains(jinja::strip(&final_text)) => Ok((continued::cut_at_tag(text)?, media)),
            Some(_) => Err(continued::not_found()),
        }
    }

    /// The template's variables. Later ones win: the model's special tokens, the request's `chat_template_kwargs`, the
    /// request's own fields where they are set.
    fn variables(&self, request: &Request<'_, '_>, messages: Value) -> Result<Value, PromptError> {
        let mut variables = self.special_tokens.clone();
        let mut set = |name: &str, value: Value| variables.push((name.to_owned(), value));
        set("documents", Value::from(()));
        for (name, value) in &self.default_kwargs {
            set(name, value.clone());
        }
        for (name, value) in request.kwargs {
            match &**name {
                name if RESERVED_KWARGS.contains(&name) => {
                    return Err(PromptError::UnsupportedField("chat_template_kwargs"));
                }
                name => set(name, messages::value(value)?),
            }
        }
        if let Some(documents) = request.documents {
            set("documents", messages::value(documents)?);
        }
        if let Some(effort) = request.reasoning_effort {
            set("reasoning_effort", messages::value(effort)?);
            if !request.kwargs.iter().any(|(name, _)| name == "enable_thinking") {
                set("enable_thinking", Value::from(effort.as_str() != Some("none")));
            }
        }
        set("add_generation_prompt", Value::from(request.add_generation_prompt));
        set("tools", request.tools.clone().unwrap_or_else(|| Value::from(())));
        set("messages", messages);
        Ok(Value::from_pairs(variables))
    }
}

impl Compiled {
    fn new(name: &'static str, source: &str, now: &Arc<AtomicI64>, frontend: Frontend) -> Result<Self, TemplateError> {
        let syntax_error = |error: minijinja::Error| TemplateError::Syntax {
            name,
            message: format!("{error:#}"),
        };
        let syntax = syntax().map_err(syntax_error)?;
        let source = source::prepare(source, frontend);
        let rewrite = frontend == Frontend::Vllm;
        let rewritten = jinja::expressions::rewritten(&source, &syntax, rewrite).map_err(syntax_error)?;
        let format = content_format::detect(&rewritten, syntax.clone()).map_err(syntax_error)?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax);
        match frontend {
            Frontend::Vllm => jinja::install(&mut environment, now.clone(), NO_TIME),
            Frontend::Dynamo => dynamo::environment::install(&mut environment, now.clone(), NO_TIME),
        }
        environment
            .add_template_owned(TEMPLATE, rewritten)
            .map_err(syntax_error)?;
        Ok(Self { environment, format })
    }

    pub(crate) fn source(&self) -> String {
        let template = self.environment.get_template(TEMPLATE);
        template
            .map(|template| template.source().to_owned())
            .unwrap_or_default()
    }

    pub(crate) fn render(&self, variables: Value, work: &Work) -> Result<String, PromptError> {
        // A clone is a handful of reference counts, and the only way to set the fuel of one render.
        let mut environment = self.environment.clone();
        let fuel = (work.left() / FUEL).min(MOST_FUEL);
        environment.set_fuel(Some(fuel));
        let mut output = BoundedText::new(output_limit(work.body_len()), work.body_len());
        let rendered = environment
            .get_template(TEMPLATE)
            .and_then(|template| template.render_captured_to(variables, &mut output));
        match rendered {
            Ok(rendered) => {
                let (burned, _) = rendered.state().fuel_levels().unwrap_or((fuel, 0));
                work.take(usize::try_from(burned).unwrap_or(usize::MAX), FUEL)?;
                output
                    .into_text()
                    .ok_or_else(|| PromptError::Template("wrote no valid UTF-8".to_owned()))
            }
            Err(_) if output.is_full() => Err(PromptError::LimitExceeded("output")),
            Err(error) => Err(render_error(&error)),
        }
    }
}

fn token(tokens: &[(String, Value)], name: &str) -> Value {
    let token = tokens.iter().find(|(known, _)| known == name);
    token.map_or_else(|| Value::from(()), |(_, token)| token.clone())
}

/// Settings as a template sees what a request says.
fn variables(settings: &Map<String, serde_json::Value>) -> Result<Vec<(String, Value)>, TemplateError> {
    let variable = |(name, setting): (&String, &serde_json::Value)| {
        let text = setting.to_string();
        let read = serde_json::from_str::<Json<'_>>(&text).map_err(|error| error.to_string());
        let value = read.and_then(|json| messages::value(&json).map_err(|error| error.to_string()));
        match value {
            Ok(value) => Ok((name.clone(), value)),
            Err(message) => Err(TemplateError::Kwargs {
                name: name.clone(),
                message,
            }),
        }
    };
    settings.iter().map(variable).collect()
}

fn syntax() -> Result<SyntaxConfig, minijinja::Error> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()
}

/// The name of the only template in an environment; no extension, hence no escaping.
const TEMPLATE: &str = "chat";

fn render_error(error: &minijinja::Error) -> PromptError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(jinja::Raised(message)) = current.downcast_ref::<jinja::Raised>() {
            return PromptError::Refused(message.clone());
        }
        if current
            .downcast_ref::<minijinja::Error>()
            .is_some_and(|error| error.kind() == ErrorKind::OutOfFuel)
        {
            return PromptError::LimitExceeded("work");
        }
        cause = current.source();
    }
    PromptError::Template(format!("{error:#}"))
}
