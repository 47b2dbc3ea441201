//! What the process knows, for people: `/v1/status`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use tokio::sync::Notify;

use super::metrics::RankMetrics;
use crate::dynamo::load::Load;

/// One rank's state; shared by whoever feeds it and whoever shows it.
#[derive(Debug)]
pub struct RankStatus {
    metrics: RankMetrics,
    state: Mutex<RankState>,
}

/// As shown.
#[derive(Clone, Debug, Serialize)]
pub struct RankState {
    endpoint: String,
    dp_rank: u32,
    /// Dynamo's id of the worker, in decimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<String>,
    slot: u16,
    kv_events: Option<String>,
    replay: Option<String>,
    /// How a lost message is made good: `replay`, `recovery_query` (Dynamo), or `none`, and then the rank's view is
    /// emptied.
    repair: &'static str,
    connected: bool,
    last_sequence: Option<u64>,
    blocks: usize,
    /// What is known may be incomplete: messages are missing.
    degraded: Option<String>,
    /// What is known may be incomplete: messages made no sense.
    trouble: Option<String>,
    /// It has blocks that are not routed by, as the pool's view does not have their tier.
    has_unshown_tier: bool,
    /// What it and Dynamo's routers said of its load.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<Load>,
}

impl RankStatus {
    /// A rank that was never heard of.
    pub fn new(rank: &crate::discovery::Rank, metrics: RankMetrics) -> Self {
        let state = RankState {
            endpoint: rank.endpoint.to_string(),
            dp_rank: rank.dp_rank,
            instance_id: rank.instance_id.map(|instance| instance.to_string()),
            slot: rank.slot.0,
            kv_events: rank.events.clone(),
            replay: rank.replay.clone(),
            repair: repair(rank.instance_id.is_some(), rank.replay.is_some()),
            connected: false,
            last_sequence: None,
            blocks: 0,
            degraded: None,
            trouble: None,
            has_unshown_tier: false,
            load: None,
        };
        Self {
            metrics,
            state: Mutex::new(state),
        }
    }

    /// Its counters.
    pub fn metrics(&self) -> &RankMetrics {
        &self.metrics
    }

    /// As it is now.
    pub fn state(&self) -> RankState {
        self.lock().clone()
    }

    /// Whether it is known where it publishes.
    pub fn publishes(&self) -> bool {
        self.lock().kv_events.is_some()
    }

    /// Where it publishes and replays.
    pub fn set_source(&self, events: Option<String>, replay: Option<String>) {
        let mut state = self.lock();
        state.kv_events = events;
        state.repair = repair(state.instance_id.is_some(), replay.is_some());
        state.replay = replay;
    }

    /// What it published that cannot be used.
    pub fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// Whether its event socket is connected.
    pub fn set_connected(&self, connected: bool) {
        self.lock().connected = connected;
        self.metrics.connected.set(connected.into());
    }

    /// Number of the last message taken.
    pub fn set_last_sequence(&self, sequence: Option<u64>) {
        self.lock().last_sequence = sequence;
    }

    /// Blocks in the view.
    pub fn set_blocks(&self, blocks: usize) {
        self.lock().blocks = blocks;
        self.metrics.blocks.set(i64::try_from(blocks).unwrap_or(i64::MAX));
    }

    /// Messages of it are missing. Logged when the reason is new.
    pub fn degrade(&self, reason: &str) {
        let mut state = self.lock();
        if state.degraded.as_deref() != Some(reason) {
            tracing::warn!(
                endpoint = state.endpoint,
                dp_rank = state.dp_rank,
                reason,
                "rank degraded"
            );
            state.degraded = Some(reason.to_owned());
        }
        self.metrics.degraded.set(1);
    }

    /// Messages of it made no sense; said until the process ends. Logged when the reason is new.
    pub fn report_trouble(&self, reason: &str) {
        let mut state = self.lock();
        if state.trouble.as_deref() != Some(reason) {
            tracing::error!(
                endpoint = state.endpoint,
                dp_rank = state.dp_rank,
                reason,
                "rank publishes what cannot be used"
            );
            state.trouble = Some(reason.to_owned());
        }
        self.metrics.degraded.set(1);
    }

    /// It has blocks on a tier that `index.tiers` does not list. Logged once: the host's cache may be left out on purpose.
    pub fn note_unshown_tier(&self) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.has_unshown_tier, true) {
            tracing::warn!(
                endpoint = state.endpoint,
                dp_rank = state.dp_rank,
                "rank tells of blocks on a tier that index.tiers does not list: they are not routed by"
            );
        }
    }

    /// How loaded it is said to be.
    pub fn set_load(&self, load: Load) {
        self.lock().load = Some(load);
        self.metrics.show_load(&load);
    }

    /// No message of it is missing.
    pub fn restore(&self) {
        let mut state = self.lock();
        if state.degraded.take().is_some() {
            tracing::info!(
                endpoint = state.endpoint,
                dp_rank = state.dp_rank,
                "rank is whole again"
            );
        }
        self.metrics.degraded.set(state.trouble.is_some().into());
    }

    fn lock(&self) -> MutexGuard<'_, RankState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a lost message leads to.
fn repair(is_dynamo: bool, is_answered: bool) -> &'static str {
    match (is_dynamo, is_answered) {
        (false, true) => "replay",
        (true, true) => "recovery_query",
        (_, false) => "none",
    }
}

/// A pool's discovery service; shared by whoever reads it and whoever shows it.
#[derive(Debug)]
pub struct DiscoveryStatus {
    pool: String,
    /// 1 while it can be read.
    connected: Gauge,
    /// Notified when it has been read for the first time.
    changed: Arc<Notify>,
    state: Mutex<DiscoveryState>,
}

/// As shown.
#[derive(Clone, Debug, Serialize)]
pub struct DiscoveryState {
    backend: &'static str,
    connected: bool,
    /// Why it cannot be read now; workers stay as it told of them last.
    lost_because: Option<String>,
    /// How many it has; `None` before they were read.
    records: Option<usize>,
}

impl DiscoveryStatus {
    /// One that was not read yet.
    pub fn new(pool: &str, backend: &'static str, connected: Gauge, changed: Arc<Notify>) -> Self {
        connected.set(0);
        Self {
            pool: pool.to_owned(),
            connected,
            changed,
            state: Mutex::new(DiscoveryState {
                backend,
                connected: false,
                lost_because: None,
                records: None,
            }),
        }
    }

    /// It was read: the pool's workers are those that it tells of.
    pub fn read(&self, records: usize) {
        let mut state = self.lock();
        if !state.connected {
            tracing::info!(
                pool = self.pool,
                backend = state.backend,
                records,
                "discovery service is read"
            );
        }
        state.connected = true;
        state.lost_because = None;
        if state.records.replace(records).is_none() {
            self.changed.notify_one();
        }
        self.connected.set(1);
    }

    /// It cannot be read. Logged when the reason is new.
    pub fn lost(&self, because: String) {
        let mut state = self.lock();
        if state.lost_because.as_ref() != Some(&because) {
            tracing::error!(
                pool = self.pool,
                backend = state.backend,
                because,
                "discovery service cannot be read: workers stay as they were"
            );
        }
        state.connected = false;
        state.lost_because = Some(because);
        self.connected.set(0);
    }

    /// Whether it was never read.
    pub fn is_awaited(&self) -> bool {
        self.lock().records.is_none()
    }

    /// As it is now.
    pub fn state(&self) -> DiscoveryState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, DiscoveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
