//! Asks a worker for the tokens it makes: vLLM's `POST /tokenize` (`vllm/entrypoints/openai/protocol.py`,
//! `TokenizeCompletionRequest` and `TokenizeChatRequest`).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

use super::compare::Tokens;
use super::probes::Probe;

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

#[derive(Deserialize)]
struct TokenizeAnswer {
    tokens: Vec<u32>,
    /// Newer versions, when asked.
    #[serde(default)]
    token_strs: Option<Vec<String>>,
}

impl Worker {
    /// Connects when it is first asked.
    pub fn new(endpoint: SocketAddr) -> Self {
        Self {
            endpoint,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// The tokens it makes of a probe.
    ///
    /// # Errors
    /// When there is no answer, or a failure that may pass.
    pub async fn ask(&self, probe: &Probe) -> Result<Answer, String> {
        let mut body = probe.body.clone();
        body.insert("return_token_strs".to_owned(), true.into());
        let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
        let request = hyper::Request::post(format!("http://{}/tokenize", self.endpoint))
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
        understand(status, &body)
    }
}

fn understand(status: u16, body: &[u8]) -> Result<Answer, String> {
    let said = || {
        let text = String::from_utf8_lossy(body);
        let start: String = text.trim().chars().take(MAX_REFUSAL_CHARS).collect();
        format!("POST /tokenize: status {status}: {start}")
    };
    match status {
        200 => Ok(match serde_json::from_slice(body) {
            Ok(TokenizeAnswer { tokens, token_strs }) => Answer::Tokens(Tokens {
                texts: token_strs
                    .filter(|texts| texts.len() == tokens.len())
                    .unwrap_or_default(),
                ids: tokens,
            }),
            Err(error) => Answer::CannotBeAsked(format!("POST /tokenize: the answer is not vLLM's: {error}")),
        }),
        // 404 is also how vLLM says that it does not serve the model.
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
}
