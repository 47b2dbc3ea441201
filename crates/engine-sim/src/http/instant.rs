//! `--instant`: an upstream that costs as little as possible, for measuring what stands before it. The body is read to
//! its end and, unless its digest is asked for, forgotten chunk by chunk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use xxhash_rust::xxh3::Xxh3Default;

use super::Engine;
use super::respond::{ApiError, tell_body, tell_worker};

const CHAT: &str = concat!(
    r#"{"id":"chatcmpl-instant","object":"chat.completion","created":0,"model":"instant","choices":[{"index":0,"#,
    r#""message":{"role":"assistant","content":"ok"},"logprobs":null,"finish_reason":"stop"}],"usage":"#,
    r#"{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":0}}}"#,
);
const TEXT: &str = concat!(
    r#"{"id":"cmpl-instant","object":"text_completion","created":0,"model":"instant","choices":[{"index":0,"#,
    r#""text":"ok","logprobs":null,"finish_reason":"stop"}],"usage":"#,
    r#"{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":0}}}"#,
);

pub(super) async fn chat_completions(engine: State<Arc<Engine>>, headers: HeaderMap, body: Body) -> Response {
    answer(&engine, &headers, body, CHAT).await
}

pub(super) async fn completions(engine: State<Arc<Engine>>, headers: HeaderMap, body: Body) -> Response {
    answer(&engine, &headers, body, TEXT).await
}

async fn answer(engine: &Engine, headers: &HeaderMap, mut body: Body, text: &'static str) -> Response {
    let Some(counters) = engine.counters.first() else {
        return ApiError::internal("no counters").into_response();
    };
    counters.received.fetch_add(1, Ordering::Relaxed);
    let mut digest = headers.contains_key("x-engine-sim-digest").then(Xxh3Default::new);
    let mut length: u64 = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            counters.aborted.fetch_add(1, Ordering::Relaxed);
            return ApiError::bad_request("the request body ended early").into_response();
        };
        if let Some(data) = frame.data_ref() {
            length += data.len() as u64;
            if let Some(digest) = &mut digest {
                digest.update(data);
            }
        }
    }
    counters.stopped.fetch_add(1, Ordering::Relaxed);
    let body = Bytes::from_static(text.as_bytes());
    let mut response = (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    tell_worker(&mut response, &engine.worker, headers);
    if let Some(digest) = digest {
        tell_body(&mut response, digest.digest(), length);
    }
    response
}
