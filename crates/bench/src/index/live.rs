//! Everything real, from the engine's socket to the filter's decision: publishers that speak like vLLM, the control plane,
//! Envoy, instant workers.
//!
//! Whether the filter's view has a prompt's blocks is asked of the filter itself: a request with that prompt raises
//! `warmpath.truth.predicted_tokens` if and only if it has.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use engine_sim::cli::EventFormat;
use engine_sim::events::publish::Sockets;
use engine_sim::events::{BlockStored, KvEvent};
use kv_trace::BLOCK_SIZE;
use serde_json::json;
use testbed::{Client, ControlPlaneOptions, EngineOptions, Envoy, MODEL, Payload, Request, Testbed};
use tokio::sync::mpsc;

/// Workers, each with a publisher.
pub(crate) const WORKERS: usize = 4;
/// Blocks of each prompt here.
pub(crate) const PROMPT_BLOCKS: usize = 64;
/// Batches that a publisher keeps for replay.
const REPLAY_BUFFER: usize = 10_000;

/// One worker's event sockets.
pub(crate) struct Publisher {
    events: String,
    replay: String,
    batches: mpsc::UnboundedSender<Vec<KvEvent>>,
}

impl Publisher {
    async fn start() -> Result<Self> {
        let sockets = Sockets::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0, 0).await?;
        let (events, replay) = (sockets.events_endpoint.clone(), sockets.replay_endpoint.clone());
        let (batches, received) = mpsc::unbounded_channel();
        tokio::spawn(sockets.run(received, EventFormat::Mixed, 0, REPLAY_BUFFER));
        Ok(Self {
            events,
            replay,
            batches,
        })
    }

    /// Publishes one batch.
    pub(crate) fn publish(&self, events: Vec<KvEvent>) -> Result<()> {
        self.batches.send(events).ok().context("the publisher has ended")
    }
}

/// [`PROMPT_BLOCKS`] full blocks like no others, as token ids.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prompt(pub(crate) u32);

impl Prompt {
    fn tokens(self) -> impl Iterator<Item = u32> {
        let count = (PROMPT_BLOCKS * BLOCK_SIZE) as u32;
        // The number twice, so that no two prompts begin with the same block.
        [self.0 & 0xffff, self.0 >> 16].into_iter().chain(0..count - 2)
    }

    fn hashes(self) -> Vec<u64> {
        (0..PROMPT_BLOCKS as u64)
            .map(|block| u64::from(self.0) << 16 | block | 1 << 60)
            .collect()
    }

    pub(crate) fn stored(self) -> KvEvent {
        KvEvent::BlockStored(BlockStored {
            block_hashes: self.hashes(),
            parent_block_hash: None,
            token_ids: self.tokens().collect(),
            block_size: BLOCK_SIZE,
            lora_id: None,
            lora_name: None,
            extra_keys: vec![None; PROMPT_BLOCKS],
        })
    }

    pub(crate) fn removed(self) -> KvEvent {
        KvEvent::BlockRemoved {
            block_hashes: self.hashes().into_iter().rev().collect(),
        }
    }

    /// A request for it; a token more, as the last one is always computed.
    pub(crate) fn body(self) -> Bytes {
        let tokens: Vec<u32> = self.tokens().chain([1]).collect();
        json!({"model": MODEL, "prompt": tokens, "max_tokens": 1})
            .to_string()
            .into()
    }
}

/// The processes.
pub(crate) struct Live {
    pub(crate) bed: Testbed,
    pub(crate) publishers: Vec<Publisher>,
}

impl Live {
    /// Workers, publishers and control plane; no Envoy yet.
    pub(crate) async fn start(name: &str) -> Result<Self> {
        let worker = EngineOptions {
            instant: true,
            kv_events: false,
            ..EngineOptions::default()
        };
        let mut bed = Testbed::builder(name).engines(WORKERS, worker).start().await?;
        let mut publishers = Vec::new();
        for _ in &bed.engines {
            publishers.push(Publisher::start().await?);
        }
        let workers = bed.engines.iter().zip(&publishers);
        let workers: Vec<_> = workers
            .map(|(engine, publisher)| {
                json!({"endpoint": engine.endpoint(), "kv_events": publisher.events, "replay": publisher.replay})
            })
            .collect();
        bed.start_control_plane(ControlPlaneOptions::default().set("/pools/0/workers", workers))
            .await?;
        Ok(Self { bed, publishers })
    }

    pub(crate) fn envoy(&self) -> Result<&Envoy> {
        self.bed.envoys.first().context("no Envoy")
    }
}

/// Asks the filter.
#[derive(Clone)]
pub(crate) struct Asker {
    client: Client,
    completions: String,
    stats: String,
}

impl Asker {
    pub(crate) fn of(envoy: &Envoy, client: &Client) -> Self {
        Self {
            client: client.clone(),
            completions: envoy.url("/v1/completions"),
            stats: envoy.admin_url("/stats?filter=warmpath.truth.predicted_tokens"),
        }
    }

    /// Sends a request; returns how long it took.
    pub(crate) async fn send(&self, prompt: Prompt) -> Result<Duration> {
        let request = Request::post(&self.completions, Payload::Whole(prompt.body()));
        let start = Instant::now();
        self.client.send(request).await?.json()?;
        Ok(start.elapsed())
    }

    /// Tokens that requests were expected to find cached, in all.
    pub(crate) async fn predicted(&self) -> Result<u64> {
        let answer = self.client.get(&self.stats).await?;
        let text = answer.text();
        let values = text
            .lines()
            .filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok());
        Ok(values.sum())
    }

    /// Waits until the filter's view has a prompt's blocks; returns when it was first seen to.
    pub(crate) async fn await_visible(&self, prompt: Prompt) -> Result<Instant> {
        let end = Instant::now() + testbed::DEADLINE;
        loop {
            let before = self.predicted().await?;
            self.send(prompt).await?;
            let decided = Instant::now();
            if self.predicted().await? > before {
                return Ok(decided);
            }
            anyhow::ensure!(decided < end, "{prompt:?} does not become visible");
        }
    }
}
