//! What every handler needs: reading a body within bounds, vLLM's error shape, and the headers by which tests see who
//! answered and what arrived.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

/// Routing headers that are reported back in `x-engine-sim-saw`, besides all of `x-dynamo-*`.
const ROUTING_HEADERS: [&str; 6] = [
    "x-gateway-destination-endpoint",
    "x-worker-instance-id",
    "x-prefill-instance-id",
    "x-prefiller-host-port",
    "x-data-parallel-rank",
    "x-dp-rank",
];

/// An error in vLLM's shape (`ErrorResponse` in `vllm/entrypoints/openai/engine/protocol.py`).
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<&'static str>,
}

impl ApiError {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestError",
            message: message.into(),
            param: None,
        }
    }

    pub(super) fn unknown_model(model: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            message: format!("The model `{model}` does not exist."),
            param: Some("model"),
        }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self {
            status,
            kind: "InternalServerError",
            message: message.into(),
            param: None,
        }
    }

    fn too_large(limit: usize) -> Self {
        let message = format!("the request body exceeds {limit} bytes (--max-body-bytes)");
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            kind: "BadRequestError",
            message,
            param: None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self {
            status,
            kind,
            message,
            param,
        } = self;
        let error = json!({"message": message, "type": kind, "param": param, "code": status.as_u16()});
        json_response(status, &json!({"error": error}))
    }
}

/// A JSON response.
pub(super) fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The whole body, up to the limit.
pub(super) async fn read_body(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        if std::error::Error::source(&error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
            ApiError::too_large(limit)
        } else {
            ApiError::bad_request(format!("cannot read the request body: {error}"))
        }
    })
}

/// Adds the headers that tell what arrived.
pub(super) fn tell_body(response: &mut Response, digest: u64, length: u64) {
    insert(response, "x-engine-sim-body-xxh3", &digest.to_string());
    insert(response, "x-engine-sim-body-length", &length.to_string());
}

/// Hash of a body as the headers and `/debug/echo` give it.
pub(super) fn digest(body: &[u8]) -> u64 {
    xxh3_64(body)
}

/// Adds the headers that tell who answered and which routing headers came.
pub(super) fn tell_worker(response: &mut Response, worker: &str, request_headers: &HeaderMap) {
    insert(response, "x-engine-sim-worker", worker);
    let saw: Vec<_> = request_headers
        .keys()
        .map(|name| name.as_str())
        .filter(|name| ROUTING_HEADERS.contains(name) || name.starts_with("x-dynamo-"))
        .collect();
    insert(response, "x-engine-sim-saw", &saw.join(","));
}

/// Adds one header; a value that no header can hold is left out.
pub(super) fn insert(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
