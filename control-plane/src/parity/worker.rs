//! Asks a worker for the tokens it makes, in the two ways that vLLM 0.32 has:
//!
//! - `POST /v1/chat/completions/render` and the like (`vllm/entrypoints/scale_out/render`): a request's prompt, made as for
//!   the request itself. Only workers with `--enable-scale-out` answer.
//! - `POST /tokenize` (`vllm/entrypoints/serve/tokenize/protocol.py`): a text or a chat, by itself.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prompt::Shape;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::compare::Tokens;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer, in bytes. Those to the probes have some 10 kB.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Characters of a refusal that are told.
const MAX_REFUSAL_CHARS: usize = 300;

/// What a worker said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its tokens.
    Tokens(Tokens),
    /// This request is not to its taste.
    Refused(String),
    /// It answers no such requests.
    CannotBeAsked(String),
}

/// A connection to one worker.
pub struct Worker {
    endpoint: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What is read of vLLM's `TokenizeResponse`.
#[derive(Deserialize)]
struct Tokenized {
    tokens: Vec<u32>,
    /// Newer versions, when asked.
    #[serde(default)]
    token_strs: Option<Vec<String>>,
}

/// What is read of vLLM's `GenerateRequest`: what its frontend would hand to its engine.
#[derive(Deserialize)]
struct Rendered {
    token_ids: Vec<u32>,
}

impl Worker {
    /// Connects when it is first asked.
    pub fn new(endpoint: SocketAddr) -> Self {
        Self {
            endpoint,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// The tokens of a request as the worker itself renders it.
    ///
    /// # Errors
    /// When there is no answer, or a failure that may pass.
    pub async fn render(&self, shape: Shape, body: &Map<String, Value>) -> Result<Answer, String> {
        let path = format!("{}/render", shape.path());
        self.ask(&path, body, |answer| read_rendered(shape, answer)).await
    }

    /// The tokens of a text or a chat.
    ///
    /// # Errors
    /// When there is no answer, or a failure that may pass.
    pub async fn tokenize(&self, body: &Map<String, Value>) -> Result<Answer, String> {
        let mut body = body.clone();
        body.insert("return_token_strs".to_owned(), true.into());
        self.ask("/tokenize", &body, read_tokenized).await
    }

    async fn ask(
        &self,
        path: &str,
        body: &Map<String, Value>,
        read: impl FnOnce(&[u8]) -> Result<Tokens, serde_json::Error>,
    ) -> Result<Answer, String> {
        let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        let request = hyper::Request::post(format!("http://{}{path}", self.endpoint))
            .header("content-type", "application/json")
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| told(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))?;
        understand(path, status, &body, read)
    }
}

fn read_rendered(shape: Shape, answer: &[u8]) -> Result<Tokens, serde_json::Error> {
    let Rendered { token_ids } = match shape {
        // One for each prompt of a batch.
        Shape::Completions => {
            let [only] = serde_json::from_slice(answer)?;
            only
        }
        _ => serde_json::from_slice(answer)?,
    };
    Ok(Tokens {
        ids: token_ids,
        texts: Vec::new(),
    })
}

fn read_tokenized(answer: &[u8]) -> Result<Tokens, serde_json::Error> {
    let Tokenized { tokens, token_strs } = serde_json::from_slice(answer)?;
    Ok(Tokens {
        texts: token_strs
            .filter(|texts| texts.len() == tokens.len())
            .unwrap_or_default(),
        ids: tokens,
    })
}

fn understand(
    path: &str,
    status: u16,
    body: &[u8],
    read: impl FnOnce(&[u8]) -> Result<Tokens, serde_json::Error>,
) -> Result<Answer, String> {
    let said = || {
        let text = String::from_utf8_lossy(body);
        let start: String = text.trim().chars().take(MAX_REFUSAL_CHARS).collect();
        format!("POST {path}: status {status}: {start}")
    };
    match status {
        200 => Ok(match read(body) {
            Ok(tokens) => Answer::Tokens(tokens),
            Err(error) => Answer::CannotBeAsked(format!("POST {path}: the answer is not vLLM's: {error}")),
        }),
        // 404 is also how vLLM says that it does not serve the model, 403 that it does not render.
        401 | 403 | 404 | 405 | 501 => Ok(Answer::CannotBeAsked(said())),
        408 | 425 | 429 => Err(said()),
        400..=499 => Ok(Answer::Refused(said())),
        _ => Err(said()),
    }
}

/// With its causes, which the outermost error does not name.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let understand = |status, body: &[u8]| understand("/tokenize", status, body, read_tokenized);
        let tokens = |texts: &[&str]| {
            Ok(Answer::Tokens(Tokens {
                ids: vec![1, 2],
                texts: texts.iter().map(|&text| text.to_owned()).collect(),
            }))
        };
        assert_eq!(
            understand(200, br#"{"count":2,"tokens":[1,2],"token_strs":null}"#),
            tokens(&[])
        );
        assert_eq!(
            understand(200, br#"{"tokens":[1,2],"token_strs":["a","b"]}"#),
            tokens(&["a", "b"])
        );
        assert_eq!(understand(200, br#"{"tokens":[1,2],"token_strs":["a"]}"#), tokens(&[]));
        for (status, body) in [(200, "[{\"id\":1}]"), (404, "no"), (405, ""), (501, "")] {
            let answer = understand(status, body.as_bytes());
            assert!(matches!(answer, Ok(Answer::CannotBeAsked(_))), "{status}: {answer:?}");
        }
        let refused = Answer::Refused("POST /tokenize: status 400: no system role".to_owned());
        assert_eq!(understand(400, b" no system role\n"), Ok(refused));
        for status in [429, 500, 503] {
            assert!(understand(status, b"").is_err());
        }
    }

    #[test]
    fn what_workers_render() {
        let read = |shape, answer: &str| read_rendered(shape, answer.as_bytes()).map(|tokens| tokens.ids).ok();
        let one = r#"{"request_id":"r","token_ids":[1,2],"features":null}"#;
        assert_eq!(read(Shape::Chat, one), Some(vec![1, 2]));
        assert_eq!(read(Shape::Completions, &format!("[{one}]")), Some(vec![1, 2]));
        assert_eq!(read(Shape::Completions, &format!("[{one},{one}]")), None);
        // Of an earlier version: the conversation and its prompts.
        assert_eq!(read(Shape::Chat, &format!("[[],[{one}]]")), None);
    }
}
