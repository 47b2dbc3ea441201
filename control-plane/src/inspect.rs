//! `warmpath inspect`: what Warmpath sees in a request, to settle "why is this a miss?". It is read as a filter reads it, within the
//! same limits, so what is too large or costs too much is reported as what it is counted as.

mod report;
mod setup;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use prompt::{Body, BodyError, Frontend, Shape};
use reading::DEFAULT_MAX_PROMPT_BYTES;
use router_core::hash::{local_hashes, sequence_hashes};
use router_core::ladder::Footing;
use work::{Limits, Work};

use crate::config;
use crate::model::{Manner, Model, PromptTokens};
pub use report::Report;
use setup::{Named, Setup};

/// Longest input that is read, in bytes.
const MAX_INPUT_BYTES: u64 = 256 << 20;

/// What to look into.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The control plane's configuration file: the request is read as its pool --pool reads it.
    #[arg(long, requires = "pool", conflicts_with_all = ["model", "block_size", "frontend", "chat_template"])]
    pub config: Option<PathBuf>,
    /// The pool of that name in the configuration file. The request's model says whether it is for a LoRA adapter.
    #[arg(long, requires = "config")]
    pub pool: Option<String>,
    /// Hugging Face model directory (tokenizer.json, tokenizer_config.json, chat_template.jinja where there is one).
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Tokens per KV block.
    #[arg(long, default_value_t = 16)]
    pub block_size: u32,
    /// Name of the LoRA adapter, which seeds the hashes.
    #[arg(long)]
    pub lora: Option<String>,
    /// Cache namespace, which seeds the hashes. Otherwise the body's cache salt is taken.
    #[arg(long)]
    pub cache_namespace: Option<String>,
    /// The input is a JSON array of token ids instead of a request body.
    #[arg(long)]
    pub tokens: bool,
    /// The path that the body is sent to: /v1/chat/completions, /v1/completions, /v1/responses, /v1/messages or
    /// /v1/embeddings. Without it, a body with `messages` is taken for a chat request and one with `prompt` for a text
    /// completion.
    #[arg(long)]
    pub path: Option<String>,
    /// Who makes the prompts: vllm or dynamo.
    #[arg(long, default_value = "vllm", value_parser = frontend)]
    pub frontend: Frontend,
    /// A chat template in place of the model's own.
    #[arg(long)]
    pub chat_template: Option<PathBuf>,
    /// The filter's `max_prompt_bytes`.
    #[arg(long, default_value_t = DEFAULT_MAX_PROMPT_BYTES as u64, value_parser = clap::value_parser!(u64).range(0..=8 << 20))]
    pub max_prompt_bytes: u64,
    /// The filter's `work_ms`.
    #[arg(long, default_value_t = Limits::DEFAULT.base / MILLISECOND, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    pub work_ms: u64,
    /// The filter's `work_ms_per_mb`.
    #[arg(long, default_value_t = Limits::DEFAULT.per_byte, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub work_ms_per_mb: u64,
    /// The request body; `-` reads standard input.
    pub file: PathBuf,
}

/// In nanoseconds.
const MILLISECOND: u64 = 1_000_000;

/// Reads the input and reports on it.
///
/// # Errors
/// With what is wrong with arguments, configuration or input. Of a request nothing is: the report says what becomes of it.
pub fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let setup = Setup::of(arguments)?;
    let input = read_input(&arguments.file)?;
    let pool = setup.pool.as_ref().map(|(pool, _)| &*pool.name);
    let report = Report {
        lora: arguments.lora.clone(),
        cache_namespace: arguments.cache_namespace.clone(),
        ..Report::new(pool, setup.layout)
    };
    match arguments.tokens {
        true => of_tokens(&setup, &input, report),
        false => of_body(arguments, &setup, &input, report).with_context(|| arguments.file.display().to_string()),
    }
}

fn of_tokens(setup: &Setup, input: &[u8], report: Report) -> anyhow::Result<Report> {
    let ids: Vec<u32> = serde_json::from_slice(input).context("--tokens needs a JSON array of token ids")?;
    let tokens = PromptTokens {
        blocks: sequence_hashes(local_hashes(&ids, setup.layout, report.seed())),
        ids,
        text: None,
        is_whole: true,
        images: Vec::new(),
    };
    Ok(report.of(tokens, setup.layout))
}

/// In the order in which a filter looks at a request.
fn of_body(arguments: &Arguments, setup: &Setup, input: &[u8], mut report: Report) -> anyhow::Result<Report> {
    let (length, most) = (input.len(), arguments.max_prompt_bytes);
    if length as u64 > most {
        let why = format!("the body has {length} bytes, more than the {most} of max_prompt_bytes");
        let model = Body::model_of(input);
        return not_read(setup, report, model.as_deref(), "prompt_too_large", why);
    }
    let body = match read_body(arguments.path.as_deref(), input)? {
        Ok(body) => body,
        Err(error) => return not_read(setup, report, None, error.reason(), error.to_string()),
    };
    report.is_batch = body.is_batch();
    match setup.find(body.model(), "no_model")? {
        Named::Base => {}
        Named::Lora(name) => report.lora = report.lora.or(Some(name)),
        Named::Nowhere(reason, why) => return Ok(report.at(Footing::pass(reason), Some(why))),
    }
    let salt = body
        .cache_namespace(setup.prompts.rules.frontend, None)
        .map(str::to_owned);
    report.cache_namespace = report.cache_namespace.or(salt);
    let limits = Limits {
        base: arguments.work_ms.saturating_mul(MILLISECOND),
        per_byte: arguments.work_ms_per_mb,
    };
    Ok(read_prompt(setup, &body, &Work::new(limits, length), report))
}

/// A body that is not read: its pool's load decides, if it is known which pool that is.
fn not_read(
    setup: &Setup,
    report: Report,
    model: Option<&str>,
    reason: &'static str,
    why: String,
) -> anyhow::Result<Report> {
    Ok(match setup.find(model, reason)? {
        Named::Base | Named::Lora(_) => report.at(Footing::load(reason), Some(why)),
        Named::Nowhere(reason, of_pool) => report.at(Footing::pass(reason), Some(format!("{why}; {of_pool}"))),
    })
}

fn read_prompt(setup: &Setup, body: &Body<'_>, work: &Work, report: Report) -> Report {
    let model = Model::load(&setup.model_dir, &setup.prompts);
    model.template.set_now(SystemTime::now());
    let manner = Manner {
        layout: setup.layout,
        seed: report.seed(),
        inject_tokens: setup.inject_tokens,
    };
    let read = model.read(body, manner, work);
    // A filter reads no prompt that it does not look up, except for workers that take token ids.
    let hides_the_rest = setup.has_no_events() && (read.is_ok() || !setup.inject_tokens);
    let report = match read {
        Ok(tokens) if tokens.is_whole => report.of(tokens, setup.layout),
        Ok(tokens) => {
            let report = report.of(tokens, setup.layout);
            report.at(Footing::exact("text_before_media"), None)
        }
        Err(unread) => {
            let report = report.at(Footing::load(unread.reason), Some(unread.why));
            Report {
                prompt: unread.text,
                ..report
            }
        }
    };
    if !hides_the_rest {
        return report;
    }
    let why = "no worker of the pool has kv_events".to_owned();
    report.at(Footing::load("no_kv_events"), Some(why))
}

fn frontend(name: &str) -> Result<Frontend, &'static str> {
    config::frontend(name).ok_or("must be vllm or dynamo")
}

/// The body, or what is wrong with it whatever it is.
fn read_body<'i>(path: Option<&str>, input: &'i [u8]) -> anyhow::Result<Result<Body<'i>, BodyError>> {
    if let Some(path) = path {
        let shape = Shape::of_path(path).with_context(|| format!("--path {path}: no prompt is known to go there"))?;
        return Ok(Body::read(shape, input));
    }
    match Body::read(Shape::Chat, input) {
        Err(BodyError::NoPrompt(_)) => match Body::read(Shape::Completions, input) {
            Err(BodyError::NoPrompt(_)) => {
                bail!("the body has neither `messages` nor `prompt`; --path says what it is for")
            }
            read => Ok(read),
        },
        read => Ok(read),
    }
}

fn read_input(file: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = || file.display().to_string();
    let mut input = Vec::new();
    if file == Path::new("-") {
        std::io::stdin()
            .take(MAX_INPUT_BYTES + 1)
            .read_to_end(&mut input)
            .context("standard input")?;
    } else {
        let file = std::fs::File::open(file).with_context(shown)?;
        file.take(MAX_INPUT_BYTES + 1)
            .read_to_end(&mut input)
            .with_context(shown)?;
    }
    if input.len() as u64 > MAX_INPUT_BYTES {
        bail!("{}: longer than the limit of {MAX_INPUT_BYTES} bytes", shown());
    }
    Ok(input)
}
