//! How loaded Dynamo's workers are: as they say themselves ([`wire`]: what requests hold of their caches, what runs and what
//! waits), and as Dynamo's own routers do, where some send requests to the same workers ([`in_flight`]). It is shown, and
//! nothing is routed by it: a gateway counts what it has sent itself, at once.

pub mod in_flight;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lru::LruCache;
use serde::Serialize;
use tokio::time::sleep;

use self::in_flight::InFlight;
use self::wire::{ACTIVE_SEQUENCES, FORWARD_PASS, KV_METRICS, Said, said};
use super::connect::{PAUSE, connect};
use super::direct::frames;
use super::records::WorkerRank;
use super::wire::{Envelope, WireError, envelope, envelope_of_frames};
use crate::admin::metrics::PoolMetrics;
use crate::admin::status::RankStatus;
use crate::events::zmtp::{Part, Role};

/// Under what something is said of load.
pub const TOPICS: [&str; 3] = [KV_METRICS, FORWARD_PASS, ACTIVE_SEQUENCES];
/// Publishers of which it is remembered what they said last.
const MAX_PUBLISHERS: NonZeroUsize = NonZeroUsize::new(1 << 14).unwrap();

/// What is known of a rank's load; `None`: nobody has said it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Blocks of its cache that requests hold; what is only cached is free.
    pub kv_used_blocks: Option<u64>,
    /// Blocks of sequences that run.
    pub active_decode_blocks: Option<u64>,
    /// Tokens of prompts that are not prefilled yet.
    pub active_prefill_tokens: Option<u64>,
    /// Requests that its engine runs.
    pub running_requests: Option<u64>,
    /// Requests that wait in its engine.
    pub queued_requests: Option<u64>,
    /// Requests that Dynamo's routers have in flight there.
    pub dynamo_routers_requests: u64,
    /// Tokens of their prompts that are not prefilled yet, and were not cached.
    pub dynamo_routers_prefill_tokens: u64,
}

/// The ranks of one pool; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Loads(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    ranks: BTreeMap<WorkerRank, Known>,
    in_flight: InFlight,
    /// Each publisher's number for its last message: another connection may bring it once more, and late.
    heard: LruCache<u64, u64>,
}

#[derive(Debug)]
struct Known {
    load: Load,
    status: Arc<RankStatus>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            ranks: BTreeMap::new(),
            in_flight: InFlight::default(),
            heard: LruCache::new(MAX_PUBLISHERS),
        }
    }
}

impl Loads {
    /// A rank is there, and shows its load in `status`.
    pub fn join(&self, worker: WorkerRank, status: Arc<RankStatus>) {
        let load = Load::default();
        let mut state = self.lock();
        state.ranks.insert(worker, Known { load, status });
        state.show_in_flight(worker);
    }

    /// A rank is gone.
    pub fn leave(&self, worker: &WorkerRank) {
        self.lock().ranks.remove(worker);
    }

    /// Takes a message, if it is about load, and says whether it was.
    ///
    /// # Errors
    /// When it is, and cannot be read.
    pub fn take(&self, message: &Envelope<'_>, now: Instant) -> Result<bool, WireError> {
        let Some(said) = said(message)? else {
            return Ok(false);
        };
        let mut state = self.lock();
        let last = state.heard.get(&message.publisher_id).copied();
        if last >= Some(message.sequence) {
            return Ok(true);
        }
        state.heard.put(message.publisher_id, message.sequence);
        match said {
            Said::Cache(cache) => state.change(cache.worker, |load| {
                load.kv_used_blocks = cache.kv_used_blocks.or(load.kv_used_blocks);
                load.active_decode_blocks = cache.active_decode_blocks.or(load.active_decode_blocks);
                load.active_prefill_tokens = cache.active_prefill_tokens.or(load.active_prefill_tokens);
            }),
            Said::Engine(engine) => state.change(engine.worker, |load| {
                load.running_requests = Some(engine.scheduled.count());
                load.queued_requests = Some(engine.queued.count());
            }),
            Said::Sequences(events) => {
                let mut changed = BTreeSet::new();
                for event in events {
                    changed.extend(state.in_flight.take(&event, now));
                }
                for worker in changed {
                    state.show_in_flight(worker);
                }
            }
        }
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Shows what a rank has of the requests that routers have in flight.
    fn show_in_flight(&mut self, worker: WorkerRank) {
        let sum = self.in_flight.sum(&worker);
        self.change(worker, |load| {
            load.dynamo_routers_requests = sum.requests;
            load.dynamo_routers_prefill_tokens = sum.prefill_tokens;
        });
    }

    /// Nothing, if the rank is not of this pool.
    fn change(&mut self, worker: WorkerRank, change: impl FnOnce(&mut Load)) {
        let Some(Known { load, status }) = self.ranks.get_mut(&worker) else {
            return;
        };
        let before = *load;
        change(load);
        if *load != before {
            status.set_load(*load);
        }
    }
}

/// Takes what a publisher of load says at its own socket, for ever.
pub(super) async fn listen(endpoint: String, loads: Loads, metrics: PoolMetrics) {
    loop {
        let mut connection = connect(&endpoint, Role::HEAR_ALL).await;
        tracing::debug!(endpoint, "subscribed to what is said of load");
        while let Ok(message) = connection.recv().await {
            if let Err(error) = take_parts(&message, &loads) {
                tracing::warn!(endpoint, %error, "message left out");
                metrics.count_dynamo("unreadable_message", 1);
            }
        }
        sleep(PAUSE).await;
    }
}

fn take_parts(message: &[Part], loads: &Loads) -> Result<(), WireError> {
    let frames = frames(message)?;
    loads.take(&envelope(envelope_of_frames(&frames)?)?, Instant::now())?;
    Ok(())
}
