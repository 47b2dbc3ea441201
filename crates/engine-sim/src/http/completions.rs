//! `POST /v1/chat/completions` and `POST /v1/completions`: from the body to a request of a rank.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::Engine;
use super::call::Call;
use super::reply::{Api, Reply};
use super::respond::{ApiError, digest, insert, read_body, tell_body, tell_worker};
use crate::chat::render_input;
use crate::clock::unix_seconds;
use crate::generate;
use crate::hash::CacheKeys;
use crate::images::{Image, PAD, fill};
use crate::model::Model;
use crate::openai::{ChatPrompt, ChatRequest, CompletionRequest, Prompt, Sampling};

const RANK_HEADER: &str = "x-data-parallel-rank";

pub(super) async fn chat_completions(engine: State<Arc<Engine>>, headers: HeaderMap, body: Body) -> Response {
    serve(engine.0, headers, body, Api::Chat).await
}

pub(super) async fn completions(engine: State<Arc<Engine>>, headers: HeaderMap, body: Body) -> Response {
    serve(engine.0, headers, body, Api::Text).await
}

async fn serve(engine: Arc<Engine>, headers: HeaderMap, body: Body, api: Api) -> Response {
    let body = match read_body(body, engine.max_body_bytes).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let answered = answer(&engine, &headers, body.clone(), api).await;
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    tell_body(&mut response, digest(&body), body.len() as u64);
    tell_worker(&mut response, &engine.worker, &headers);
    response
}

async fn answer(engine: &Arc<Engine>, headers: &HeaderMap, body: Bytes, api: Api) -> Result<Response, ApiError> {
    let wanted_rank = wanted_rank(engine, headers)?;
    let job = {
        let engine = engine.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&engine, &body, api)).await;
        prepared.map_err(|error| ApiError::internal(format!("preparing the request failed: {error}")))??
    };
    let rank = wanted_rank.unwrap_or_else(|| least_loaded(engine));
    let handle = engine
        .ranks
        .get(rank)
        .ok_or_else(|| ApiError::internal("no such rank"))?;
    let number = engine.next_id();
    let reply = Reply {
        api,
        id: format!("{}-{number:032x}", api.id_prefix()),
        created: unix_seconds(),
        model: job.model,
        prompt_tokens: job.prompt.len(),
        answer: job.answer,
    };
    let in_flight = handle
        .submit(number, job.prompt, reply.answer.ids.clone(), job.keys)
        .ok_or_else(|| ApiError::internal("the rank has stopped"))?;
    let call = Call::new(engine.clone(), rank, reply, in_flight);
    let mut response = if job.stream {
        call.stream(job.include_usage)
    } else {
        call.collect().await?
    };
    insert(&mut response, "x-engine-sim-rank", &rank.to_string());
    Ok(response)
}

/// A request that is ready to be computed.
struct Job {
    model: String,
    keys: CacheKeys,
    prompt: Vec<u32>,
    answer: generate::Answer,
    stream: bool,
    include_usage: bool,
}

enum Unrendered {
    Chat(ChatPrompt),
    Text(Prompt, bool),
}

/// Reads, renders and tokenizes; takes its time, so it runs on a thread of its own.
fn prepare(engine: &Engine, body: &[u8], api: Api) -> Result<Job, ApiError> {
    let model = engine
        .model
        .as_ref()
        .ok_or_else(|| ApiError::internal("no model is loaded"))?;
    let (sampling, prompt) = match api {
        Api::Chat => {
            let ChatRequest { sampling, prompt } = parse(body)?;
            (sampling, Unrendered::Chat(prompt))
        }
        Api::Text => {
            let CompletionRequest {
                sampling,
                prompt,
                add_special_tokens,
            } = parse(body)?;
            (sampling, Unrendered::Text(prompt, add_special_tokens.unwrap_or(true)))
        }
    };
    let (name, mut keys) = engine
        .resolve(sampling.model.as_deref())
        .ok_or_else(|| ApiError::unknown_model(sampling.model.as_deref().unwrap_or_default()))?;
    let prompt = match prompt {
        Unrendered::Chat(prompt) => chat_prompt(model, prompt)?,
        Unrendered::Text(prompt, add_special_tokens) => text_prompt(model, prompt, add_special_tokens)?,
    };
    keys.cache_salt = check_salt(&sampling)?;
    keys.images = prompt.images;
    let max_tokens = check_lengths(engine, &sampling, prompt.ids.len())?;
    let request = generate::Request {
        prompt: &prompt.ids,
        starts_line: prompt.starts_line,
        max_tokens,
        ignore_eos: sampling.ignore_eos.unwrap_or(false),
        seed: engine.seed ^ sampling.seed.unwrap_or(0).cast_unsigned(),
    };
    let answer = generate::answer(model, request).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(Job {
        model: name.to_owned(),
        keys,
        answer,
        prompt: prompt.ids,
        stream: sampling.stream.unwrap_or(false),
        include_usage: sampling.include_usage(),
    })
}

/// Reads a JSON body into a request.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("invalid request body: {error}")))
}

/// A prompt as token ids.
pub(super) struct PromptTokens {
    pub(super) ids: Vec<u32>,
    /// Whether what follows starts a line or a message.
    starts_line: bool,
    images: Vec<Image>,
}

/// Renders and tokenizes a chat.
pub(super) fn chat_prompt(model: &Model, prompt: ChatPrompt) -> Result<PromptTokens, ApiError> {
    let add_special_tokens = prompt.add_special_tokens.unwrap_or(false);
    let input = render_input(prompt, model.images.as_ref());
    let mut input = input.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let images = std::mem::take(&mut input.images);
    let template = model
        .template
        .as_ref()
        .ok_or_else(|| ApiError::bad_request("the model has no chat template"))?;
    let text = template
        .render(input)
        .map_err(|error| ApiError::bad_request(format!("chat template: {error:#}")))?;
    let mut prompt = encode(model, &text, add_special_tokens)?;
    if !images.is_empty() {
        let pad = encode(model, PAD, false)?.ids.first().copied();
        (prompt.ids, prompt.images) = fill(prompt.ids, pad, images);
    }
    Ok(prompt)
}

fn text_prompt(model: &Model, prompt: Prompt, add_special_tokens: bool) -> Result<PromptTokens, ApiError> {
    let empty_batch = || ApiError::bad_request("`prompt` is an empty list");
    match prompt {
        Prompt::Text(text) => encode(model, &text, add_special_tokens),
        Prompt::Texts(texts) => {
            let text = texts.into_iter().next().ok_or_else(empty_batch)?;
            encode(model, &text, add_special_tokens)
        }
        Prompt::Tokens(ids) => check_ids(model, ids),
        Prompt::TokenLists(lists) => check_ids(model, lists.into_iter().next().ok_or_else(empty_batch)?),
    }
}

/// Tokenizes a text.
pub(super) fn encode(model: &Model, text: &str, add_special_tokens: bool) -> Result<PromptTokens, ApiError> {
    let ids = model
        .encode(text, add_special_tokens)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(PromptTokens {
        ids,
        starts_line: text.ends_with(char::is_whitespace),
        images: Vec::new(),
    })
}

fn check_ids(model: &Model, ids: Vec<u32>) -> Result<PromptTokens, ApiError> {
    match ids.iter().find(|&&id| id as usize >= model.vocabulary_len()) {
        Some(id) => Err(ApiError::bad_request(format!("Token id {id} is out of vocabulary"))),
        None => Ok(PromptTokens {
            ids,
            starts_line: false,
            images: Vec::new(),
        }),
    }
}

fn check_salt(sampling: &Sampling) -> Result<Option<String>, ApiError> {
    match sampling.cache_salt.as_deref() {
        Some("") => Err(ApiError::bad_request(
            "Parameter 'cache_salt' must be a non-empty string if provided.",
        )),
        salt => Ok(salt.map(str::to_owned)),
    }
}

/// `max_tokens`, if prompt and answer fit.
fn check_lengths(engine: &Engine, sampling: &Sampling, prompt_len: usize) -> Result<usize, ApiError> {
    if prompt_len == 0 {
        return Err(ApiError::bad_request("The decoder prompt cannot be empty"));
    }
    if sampling.n.unwrap_or(1) != 1 {
        return Err(ApiError::bad_request("`n` other than 1 is not simulated"));
    }
    let max_tokens = sampling.max_tokens();
    if max_tokens == 0 {
        return Err(ApiError::bad_request("max_tokens must be at least 1, got 0."));
    }
    let total = usize::try_from(max_tokens)
        .ok()
        .and_then(|answer_len| answer_len.checked_add(prompt_len));
    match total {
        Some(total) if total <= engine.max_model_len => Ok(total - prompt_len),
        _ => Err(ApiError::bad_request(format!(
            "This model's maximum context length is {} tokens. However, you requested {max_tokens} output tokens and \
             your prompt contains {prompt_len} input tokens.",
            engine.max_model_len
        ))),
    }
}

fn wanted_rank(engine: &Engine, headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(RANK_HEADER) else {
        return Ok(None);
    };
    let rank = value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|&rank| rank < engine.ranks.len());
    match rank {
        Some(rank) => Ok(Some(rank)),
        None => Err(ApiError::bad_request(format!(
            "{RANK_HEADER}: {value:?} is no rank; there are {}, from 0",
            engine.ranks.len()
        ))),
    }
}

fn least_loaded(engine: &Engine) -> usize {
    let load = |rank: &usize| {
        engine.ranks.get(*rank).map_or(usize::MAX, |handle| {
            let stats = handle.stats();
            stats.running + stats.waiting
        })
    };
    (0..engine.ranks.len()).min_by_key(load).unwrap_or(0)
}
