//! What is said of load on Dynamo's event plane: pure. Formats of Dynamo 1.6.1, `dynamo-kv-router` (`protocols.rs`) and
//! `dynamo.common.forward_pass_metrics`, all MessagePack with named fields.

use serde::{Deserialize, Deserializer};

use crate::dynamo::records::WorkerRank;
use crate::dynamo::wire::{Envelope, WireError, read};

/// Of workers: what requests hold of their caches.
pub const KV_METRICS: &str = "kv_metrics";
/// Of engines: what runs and what waits.
pub const FORWARD_PASS: &str = "forward-pass-metrics";
/// Of routers: the requests that they have in flight.
pub const ACTIVE_SEQUENCES: &str = "active_sequences_events";

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Under [`KV_METRICS`].
    Cache(CacheLoad),
    /// Under [`FORWARD_PASS`].
    Engine(EngineLoad),
    /// Under [`ACTIVE_SEQUENCES`].
    Sequences(Vec<SequenceEvent>),
}

/// What requests hold of a rank's cache; what it does not say is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CacheLoad {
    /// Whose.
    #[serde(flatten)]
    pub worker: WorkerRank,
    /// Blocks of sequences that run.
    #[serde(default)]
    pub active_decode_blocks: Option<u64>,
    /// Tokens of prompts that are not prefilled yet.
    #[serde(default)]
    pub active_prefill_tokens: Option<u64>,
    /// Blocks that requests hold.
    #[serde(default)]
    pub kv_used_blocks: Option<u64>,
}

/// What an engine's last step ran, and what waited for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLoad {
    /// Whose.
    pub worker: WorkerRank,
    /// What ran.
    pub scheduled: Requests,
    /// What waited.
    pub queued: Requests,
}

/// Requests of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Requests {
    /// Those whose prompts are not prefilled.
    #[serde(rename = "num_prefill_requests")]
    pub prefill: u64,
    /// Those that have begun to answer.
    #[serde(rename = "num_decode_requests")]
    pub decode: u64,
    /// Tokens of prompts that are prefilled.
    #[serde(rename = "sum_prefill_tokens")]
    pub prefill_tokens: u64,
    /// Tokens that the others hold.
    #[serde(rename = "sum_decode_kv_tokens")]
    pub decode_tokens: u64,
}

impl Requests {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.prefill.saturating_add(self.decode)
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SequenceEvent {
    /// Of the request.
    pub request_id: String,
    /// Where it went.
    pub worker: WorkerRank,
    /// What became of it.
    pub data: SequenceChange,
    /// Who says so: a router, or the worker itself under its own id.
    pub router_id: u64,
}

/// See [`SequenceEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum SequenceChange {
    /// It was sent.
    AddRequest {
        /// Sequence hashes of the prompt's full blocks.
        #[serde(default)]
        token_sequence: Option<Vec<u64>>,
        /// How much prefill that costs.
        #[serde(default)]
        prefill_load_hint: Option<PrefillHint>,
    },
    /// It has begun to answer.
    MarkPrefillCompleted,
    /// It has ended.
    Free,
}

/// How much prefill a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PrefillHint {
    /// Tokens that were not cached.
    pub initial_effective_prefill_tokens: u64,
}

/// Reads a message; `None`: it is about something else.
///
/// # Errors
/// When it is not of its topic's form.
pub fn said(envelope: &Envelope<'_>) -> Result<Option<Said>, WireError> {
    let payload = envelope.payload;
    Ok(Some(match envelope.topic {
        KV_METRICS => Said::Cache(read("kv_metrics", payload)?),
        FORWARD_PASS => {
            let WireEngineLoad {
                worker_id,
                dp_rank,
                scheduled_requests: scheduled,
                queued_requests: queued,
            } = read("forward-pass-metrics", payload)?;
            let worker = WorkerRank { worker_id, dp_rank };
            Said::Engine(EngineLoad {
                worker,
                scheduled,
                queued,
            })
        }
        ACTIVE_SEQUENCES => {
            let WireSequenceEvents { events } = read("active_sequences_events", payload)?;
            Said::Sequences(events)
        }
        _ => return Ok(None),
    }))
}

#[derive(Debug, Deserialize)]
struct WireEngineLoad {
    /// In decimal.
    #[serde(deserialize_with = "decimal")]
    worker_id: u64,
    #[serde(default)]
    dp_rank: u32,
    #[serde(default)]
    scheduled_requests: Requests,
    #[serde(default)]
    queued_requests: Requests,
}

#[derive(Debug, Deserialize)]
struct WireSequenceEvents {
    events: Vec<SequenceEvent>,
}

fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let why = |_| serde::de::Error::custom("worker_id is no number in decimal");
    text.parse().map_err(why)
}
