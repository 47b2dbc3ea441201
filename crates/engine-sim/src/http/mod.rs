//! The HTTP face of the engine.

mod call;
mod completions;
mod debug;
mod instant;
mod metrics;
mod reply;
mod respond;
mod tokenize;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::{any, get, post};

use crate::hash::{CacheKeys, Lora};
use crate::model::Model;
use crate::rank::RankHandle;

/// Everything the handlers share.
pub struct Engine {
    /// `None` in instant mode.
    pub model: Option<Arc<Model>>,
    /// Served names; the first is the model's own, the others are aliases.
    pub names: Vec<String>,
    /// LoRA adapters served beside it.
    pub loras: Vec<String>,
    /// One per data-parallel rank; none in instant mode.
    pub ranks: Vec<RankHandle>,
    /// `host:port` of this server, which tests use to see who answered.
    pub worker: String,
    /// Tokens per block.
    pub block_size: usize,
    /// Blocks per rank as configured.
    pub num_gpu_blocks: u32,
    /// Longest prompt plus answer.
    pub max_model_len: usize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Decides generated texts.
    pub seed: u64,
    /// When the engine started, for `created`.
    pub started: u64,
    /// Requests by outcome, per rank (one in instant mode).
    pub counters: Vec<Counters>,
    /// Numbers the requests.
    pub requests: AtomicU64,
}

/// Requests of one rank by outcome, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Accepted for computation.
    pub received: AtomicU64,
    /// Ended by themselves.
    pub stopped: AtomicU64,
    /// Ended at `max_tokens`.
    pub length: AtomicU64,
    /// Given up because the client went away.
    pub aborted: AtomicU64,
}

impl Engine {
    /// A number for the next request, unique within the process.
    fn next_id(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// The cache keys of a request for this model name (and the name to answer with); `None` if it is not served.
    fn resolve<'a>(&'a self, model: Option<&'a str>) -> Option<(&'a str, CacheKeys)> {
        let Some(model) = model else {
            return self.names.first().map(|name| (name.as_str(), CacheKeys::default()));
        };
        if self.names.iter().any(|name| name == model) {
            return Some((model, CacheKeys::default()));
        }
        let position = self.loras.iter().position(|name| name == model)?;
        let lora = Lora {
            id: position as u64 + 1,
            name: model.to_owned(),
        };
        Some((
            model,
            CacheKeys {
                lora: Some(lora),
                cache_salt: None,
                images: Vec::new(),
            },
        ))
    }
}

/// All routes. In instant mode completions are answered without looking at them.
pub fn router(engine: Arc<Engine>, instant: bool) -> Router {
    let completions = if instant {
        Router::new()
            .route("/v1/chat/completions", post(instant::chat_completions))
            .route("/v1/completions", post(instant::completions))
    } else {
        Router::new()
            .route("/v1/chat/completions", post(completions::chat_completions))
            .route("/v1/completions", post(completions::completions))
            .route("/tokenize", post(tokenize::tokenize))
    };
    completions
        .route("/v1/models", get(tokenize::models))
        .route("/health", get(|| async {}))
        .route("/metrics", get(metrics::metrics))
        .route("/reset_prefix_cache", post(debug::reset_prefix_cache))
        .route("/debug/cache", get(debug::cache))
        .route("/debug/requests", get(debug::requests))
        .route("/debug/echo", any(debug::echo))
        .route("/debug/echo/{*rest}", any(debug::echo))
        .with_state(engine)
}
