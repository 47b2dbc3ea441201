//! `POST /tokenize` and `GET /v1/models`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};

use super::Engine;
use super::completions::{chat_prompt, encode, parse};
use super::respond::{ApiError, json_response, read_body};
use crate::openai::{ChatPrompt, TokenizeRequest};

/// Token ids of a text or of a chat, as the engine itself would compute them.
pub(super) async fn tokenize(State(engine): State<Arc<Engine>>, body: Body) -> Response {
    let body = match read_body(body, engine.max_body_bytes).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let tokenized = tokio::task::spawn_blocking(move || tokens(&engine, &body)).await;
    match tokenized {
        Ok(Ok(answer)) => json_response(StatusCode::OK, &answer),
        Ok(Err(error)) => error.into_response(),
        Err(error) => ApiError::internal(format!("tokenizing failed: {error}")).into_response(),
    }
}

fn tokens(engine: &Engine, body: &[u8]) -> Result<Json, ApiError> {
    let model = engine
        .model
        .as_ref()
        .ok_or_else(|| ApiError::internal("no model is loaded"))?;
    let request: TokenizeRequest = parse(body)?;
    if engine.resolve(request.model.as_deref()).is_none() {
        return Err(ApiError::unknown_model(request.model.as_deref().unwrap_or_default()));
    }
    let prompt = match request.prompt {
        Some(text) => encode(model, &text, request.add_special_tokens.unwrap_or(true))?,
        None => chat_prompt(model, parse::<ChatPrompt>(body)?)?,
    };
    Ok(json!({
        "count": prompt.ids.len(),
        "max_model_len": engine.max_model_len,
        "tokens": prompt.ids,
        "token_strs": null,
    }))
}

/// The served names and adapters.
pub(super) async fn models(State(engine): State<Arc<Engine>>) -> Response {
    let card = |id: &String, parent: Option<&String>, max_model_len: Option<usize>| {
        json!({
            "id": id,
            "object": "model",
            "created": engine.started,
            "owned_by": "vllm",
            "root": id,
            "parent": parent,
            "max_model_len": max_model_len,
            "permission": [],
        })
    };
    let base = engine.names.first();
    let names = engine
        .names
        .iter()
        .map(|name| card(name, None, Some(engine.max_model_len)));
    let loras = engine.loras.iter().map(|name| card(name, base, None));
    json_response(
        StatusCode::OK,
        &json!({"object": "list", "data": names.chain(loras).collect::<Vec<_>>()}),
    )
}
