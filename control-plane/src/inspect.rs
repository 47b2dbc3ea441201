//! `warmpath inspect`: what Warmpath sees in a request, to settle "why is this a miss?".

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};
use prompt::{Body, BodyError, Frontend, Shape};
use router_core::hash::{BlockHasher, BlockLayout, HashSeed, sequence_hashes};
use serde::Serialize;

use crate::config::{self, PromptsConfig};
use crate::model::{Model, PromptTokens};

/// Longest input that is read, in bytes.
const MAX_INPUT_BYTES: u64 = 256 << 20;

/// What to look into.
#[derive(Debug, clap::Args)]
pub struct Arguments {
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
    /// The request body; `-` reads standard input.
    pub file: PathBuf,
}

/// What Warmpath sees. Hashes are decimal texts, as JSON numbers end at 2^53.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The rendered prompt; `None` if the request has token ids.
    pub prompt: Option<String>,
    /// Whether that is all of it. Otherwise it, and all below, ends where the first image or the like that is not known may
    /// have a part in what follows.
    pub is_whole: bool,
    /// As the engine should make them.
    pub token_ids: Vec<u32>,
    /// Of every full block.
    pub local_block_hashes: Vec<String>,
    /// Of every full block.
    pub sequence_hashes: Vec<String>,
}

/// Reads the input and reports on it.
///
/// # Errors
/// With what is wrong with arguments, model or input.
pub fn run(arguments: &Arguments) -> anyhow::Result<Report> {
    let Arguments {
        model,
        block_size,
        lora,
        cache_namespace,
        tokens,
        path,
        frontend,
        chat_template,
        file,
    } = arguments;
    let input = read_input(file)?;
    if *tokens {
        let ids = serde_json::from_slice(&input).context("--tokens needs a JSON array of token ids")?;
        let tokens = PromptTokens {
            ids,
            text: None,
            is_whole: true,
            images: Vec::new(),
        };
        return report(tokens, *block_size, lora.as_deref(), cache_namespace.as_deref());
    }
    let model = model.as_ref().context("--model is needed, except with --tokens")?;
    let prompts = PromptsConfig {
        chat_template: chat_template.clone(),
        ..PromptsConfig::of(*frontend)
    };
    let model = Model::load(model, &prompts);
    model.template.set_now(SystemTime::now());
    let body = read_body(path.as_deref(), &input).with_context(|| file.display().to_string())?;
    let salt = body.cache_namespace(*frontend, None).map(str::to_owned);
    let tokens = prompt_tokens(&model, &body)?;
    let namespace = cache_namespace.as_deref().or(salt.as_deref());
    report(tokens, *block_size, lora.as_deref(), namespace)
}

fn frontend(name: &str) -> Result<Frontend, &'static str> {
    config::frontend(name).ok_or("must be vllm or dynamo")
}

fn read_body<'i>(path: Option<&str>, input: &'i [u8]) -> anyhow::Result<Body<'i>> {
    if let Some(path) = path {
        let shape = Shape::of_path(path).with_context(|| format!("--path {path}: no prompt is known to go there"))?;
        return Ok(Body::read(shape, input)?);
    }
    match Body::read(Shape::Chat, input) {
        Err(BodyError::NoPrompt(_)) => match Body::read(Shape::Completions, input) {
            Err(BodyError::NoPrompt(_)) => bail!("the body has neither `messages` nor `prompt`"),
            read => Ok(read?),
        },
        read => Ok(read?),
    }
}

fn prompt_tokens(model: &Model, body: &Body<'_>) -> anyhow::Result<PromptTokens> {
    if let (Some(why), true) = (&model.template.unusable_because, body.is_conversation()) {
        bail!("the chat template cannot be used: {why}");
    }
    let work = body.work();
    let prompt = body.prompt_within(Some(&model.template.compiled), &work)?;
    model.tokens(prompt, &work).map_err(|why| anyhow!(why))
}

fn report(
    tokens: PromptTokens,
    block_size: u32,
    lora: Option<&str>,
    namespace: Option<&str>,
) -> anyhow::Result<Report> {
    let layout = BlockLayout::plain(block_size).context("--block-size must be at least 1")?;
    let PromptTokens {
        ids,
        text,
        is_whole,
        images,
    } = tokens;
    let mut hasher = BlockHasher::new(HashSeed::new(lora, namespace));
    let local_hash = |(block, start)| {
        let end = start + layout.tokens_per_block();
        let reaches_in = |(range, _): &&(Range<usize>, u64)| range.start < end && start < range.end;
        let identities: Vec<_> = images
            .iter()
            .filter(reaches_in)
            .map(|(_, identity)| *identity)
            .collect();
        hasher.local(block, &identities)
    };
    let starts = (0..).step_by(layout.tokens_per_block());
    let locals: Vec<_> = layout.blocks(&ids).zip(starts).map(local_hash).collect();
    let sequence = sequence_hashes(locals.iter().copied());
    Ok(Report {
        prompt: text,
        is_whole,
        token_ids: ids,
        local_block_hashes: locals.iter().map(|hash| hash.0.to_string()).collect(),
        sequence_hashes: sequence.iter().map(|hash| hash.0.to_string()).collect(),
    })
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
