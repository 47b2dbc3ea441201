//! What tests look at: the true cache, the request counts, a body echoed back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value as Json, json};

use super::respond::{ApiError, digest, json_response, read_body, tell_worker};
use super::{Counters, Engine};

/// `GET /debug/cache`: what each rank's prefix cache holds. Hashes are decimal strings, for JSON's sake.
pub(super) async fn cache(State(engine): State<Arc<Engine>>) -> Response {
    let mut ranks = Vec::with_capacity(engine.ranks.len());
    for (rank, handle) in engine.ranks.iter().enumerate() {
        let Some(contents) = handle.cache_contents().await else {
            return gone();
        };
        let blocks: Vec<_> = contents
            .into_iter()
            .map(|block| {
                let parent = block.parent.map(|hash| hash.to_string());
                json!({"hash": block.hash.to_string(), "parent": parent, "token_ids": block.token_ids})
            })
            .collect();
        ranks.push(json!({"rank": rank, "blocks": blocks}));
    }
    json_response(StatusCode::OK, &json!({"ranks": ranks}))
}

/// `POST /reset_prefix_cache`. Unlike vLLM, which answers 200 in any case, it says when a rank was busy (409).
pub(super) async fn reset_prefix_cache(State(engine): State<Arc<Engine>>) -> Response {
    let mut busy = Vec::new();
    for (rank, handle) in engine.ranks.iter().enumerate() {
        match handle.reset_prefix_cache().await {
            Some(true) => {}
            Some(false) => busy.push(rank),
            None => return gone(),
        }
    }
    let status = if busy.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::CONFLICT
    };
    json_response(status, &json!({"busy_ranks": busy}))
}

/// `GET /debug/requests`.
pub(super) async fn requests(State(engine): State<Arc<Engine>>) -> Response {
    let sum = |read: fn(&Counters) -> &AtomicU64| -> u64 {
        engine
            .counters
            .iter()
            .map(|counters| read(counters).load(Ordering::Relaxed))
            .sum()
    };
    let completed = sum(|c| &c.stopped) + sum(|c| &c.length);
    let aborted = sum(|c| &c.aborted);
    let received = sum(|c| &c.received);
    let running = received.saturating_sub(completed + aborted);
    let counts = json!({"received": received, "completed": completed, "aborted": aborted, "running": running});
    json_response(StatusCode::OK, &counts)
}

/// `/debug/echo` and below: length and hash of the body as it arrived, and the headers.
pub(super) async fn echo(
    State(engine): State<Arc<Engine>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = match read_body(body, engine.max_body_bytes).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let mut shown = Map::new();
    for (name, value) in &headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match shown.entry(name.as_str()).or_insert(Json::Null) {
            Json::String(before) => *before = format!("{before}, {value}"),
            first => *first = value.into(),
        }
    }
    let echo = json!({
        "method": method.as_str(),
        "path": uri.path(),
        "length": body.len(),
        "xxh3": digest(&body).to_string(),
        "headers": shown,
    });
    let mut response = json_response(StatusCode::OK, &echo);
    tell_worker(&mut response, &engine.worker, &headers);
    response
}

fn gone() -> Response {
    ApiError::internal("the rank has stopped").into_response()
}
