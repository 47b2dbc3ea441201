//! The process's metrics, served as Prometheus text at `/metrics`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::dynamo::load::Load;
use crate::index::Tally;
use crate::parity::State;
use crate::parity::compare::Difference;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RankLabels {
    pool: String,
    worker: String,
    rank: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RankReasonLabels {
    pool: String,
    worker: String,
    rank: u32,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolStateLabels {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolReasonLabels {
    pool: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DifferenceLabels {
    pool: String,
    worker: String,
    probe: &'static str,
    /// Both sides, as the log shows them.
    ours: String,
    theirs: String,
}

/// All metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    messages: Family<RankReasonLabels, Counter>,
    events: Family<RankReasonLabels, Counter>,
    rank_connected: Family<RankLabels, Gauge>,
    rank_degraded: Family<RankLabels, Gauge>,
    rank_blocks: Family<RankLabels, Gauge>,
    worker_load: [Family<RankLabels, Gauge>; 4],
    replays: Family<RankReasonLabels, Counter>,
    connections: Family<ReasonLabels, Counter>,
    blocks: Family<PoolReasonLabels, Counter>,
    dynamo: Family<PoolReasonLabels, Counter>,
    discovery_connected: Family<PoolLabels, Gauge>,
    pool_exact: Family<PoolLabels, Gauge>,
    parity: Family<PoolStateLabels, Gauge>,
    parity_difference: Family<DifferenceLabels, Gauge>,
    parity_checks: Family<PoolStateLabels, Counter>,
    snapshots: Family<PoolLabels, Counter>,
    deltas: Family<PoolLabels, Counter>,
    resyncs: Family<PoolReasonLabels, Counter>,
    /// Filters connected.
    pub filters: Gauge,
    /// Bytes sent to filters.
    pub sync_bytes: Counter,
    /// Streams given up as their filters took no messages.
    pub sync_stalled: Counter,
    view_blocks: Family<PoolLabels, Gauge>,
    view_bytes: Family<PoolLabels, Gauge>,
    view_hidden: Family<PoolLabels, Gauge>,
}

/// What one rank counts.
#[derive(Clone, Debug)]
pub struct RankMetrics {
    all: Metrics,
    labels: RankLabels,
    /// Reasons that were counted, so that nothing of a rank that is gone stays behind.
    reasons: Arc<Mutex<BTreeSet<&'static str>>>,
    /// 1 while its socket is connected.
    pub connected: Gauge,
    /// 1 while what is known of it may be incomplete.
    pub degraded: Gauge,
    /// Its blocks in the view.
    pub blocks: Gauge,
}

/// What one pool counts.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    all: Metrics,
    pool: String,
    /// Snapshots sent.
    pub snapshots: Counter,
    /// Deltas made.
    pub deltas: Counter,
}

/// What one pool counts of its workers' tokens.
#[derive(Clone, Debug)]
pub struct ParityMetrics {
    all: Metrics,
    pool: String,
    /// The difference that is shown.
    difference: Arc<Mutex<Option<DifferenceLabels>>>,
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("warmpath");
        let r = &mut registry;
        macro_rules! register {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                r.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        let mut metrics = Self {
            messages: register!("kv_messages", "Messages from workers by what became of them"),
            events: register!("kv_events_ignored", "KV events or block runs left out, by reason"),
            rank_connected: register!("rank_connected", "1 while the rank's event socket is connected"),
            rank_degraded: register!(
                "rank_degraded",
                "1 while what is known of the rank's cache may be incomplete"
            ),
            rank_blocks: register!("rank_blocks", "Blocks of the rank in the prefix view"),
            worker_load: [
                register!(
                    "worker_kv_used_blocks",
                    "Blocks of its cache that a Dynamo worker says requests hold"
                ),
                register!(
                    "worker_running_requests",
                    "Requests that a Dynamo worker says its engine runs"
                ),
                register!(
                    "worker_queued_requests",
                    "Requests that a Dynamo worker says wait in its engine"
                ),
                register!(
                    "dynamo_routers_requests",
                    "Requests that Dynamo's routers say they have in flight at the worker"
                ),
            ],
            connections: register!(
                "kv_connections",
                "Publishers that connected to events.listen, by what became of them"
            ),
            replays: register!("kv_replays", "Replays asked of workers, by outcome"),
            blocks: register!("kv_blocks", "Blocks in KV events by what the index did with them"),
            dynamo: register!(
                "dynamo_problems",
                "What of Dynamo's discovery service and event plane cannot be used or was lost, by reason"
            ),
            discovery_connected: register!(
                "discovery_connected",
                "1 while the pool's discovery service can be read; its workers stay as they were meanwhile"
            ),
            pool_exact: register!(
                "pool_exact",
                "1 if filters are told to route the pool exactly: its tokenizer and template work, and parity allows it"
            ),
            parity: register!(
                "parity",
                "Whether workers make our tokens: 1 for the state the pool is in"
            ),
            parity_difference: register!(
                "parity_difference_position",
                "Place of the first token in which a worker differs, both sides in the labels"
            ),
            parity_checks: register!("parity_checks", "Workers asked for their tokens, by outcome"),
            snapshots: register!("sync_snapshots", "Snapshots given to filters"),
            deltas: register!("sync_deltas", "Deltas made"),
            resyncs: register!("sync_resyncs", "Fresh snapshots given to a connected filter, by reason"),
            filters: register!("sync_filters", "Filters connected"),
            sync_bytes: register!("sync_bytes", "Bytes sent to filters"),
            sync_stalled: register!("sync_stalled", "Streams given up as their filters took no messages"),
            view_blocks: register!("view_blocks", "Blocks in the view that filters get"),
            view_bytes: register!("view_bytes", "Memory that the view takes in each VM"),
            view_hidden: register!(
                "view_hidden_blocks",
                "Blocks of ranks that were too old for a view of view.max_mib when that was last decided"
            ),
            registry: Arc::new(Registry::default()),
        };
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// The metrics of one rank.
    pub fn rank(&self, pool: &str, worker: &str, rank: u32) -> RankMetrics {
        let labels = RankLabels {
            pool: pool.to_owned(),
            worker: worker.to_owned(),
            rank,
        };
        RankMetrics {
            connected: self.rank_connected.get_or_create_owned(&labels),
            degraded: self.rank_degraded.get_or_create_owned(&labels),
            blocks: self.rank_blocks.get_or_create_owned(&labels),
            all: self.clone(),
            labels,
            reasons: Arc::default(),
        }
    }

    /// The metrics of one pool.
    pub fn pool(&self, pool: &str) -> PoolMetrics {
        let labels = PoolLabels { pool: pool.to_owned() };
        PoolMetrics {
            all: self.clone(),
            pool: pool.to_owned(),
            snapshots: self.snapshots.get_or_create_owned(&labels),
            deltas: self.deltas.get_or_create_owned(&labels),
        }
    }

    /// Whether a pool's discovery service can be read.
    pub fn discovery_connected(&self, pool: &str) -> Gauge {
        self.discovery_connected
            .get_or_create_owned(&PoolLabels { pool: pool.to_owned() })
    }

    /// The parity metrics of one pool.
    pub fn parity(&self, pool: &str) -> ParityMetrics {
        ParityMetrics {
            all: self.clone(),
            pool: pool.to_owned(),
            difference: Arc::default(),
        }
    }

    /// Whether a pool can be routed exactly.
    pub fn set_pool_exact(&self, pool: &str, exact: bool) {
        self.pool_exact
            .get_or_create(&PoolLabels { pool: pool.to_owned() })
            .set(exact.into());
    }

    /// A publisher connected to us.
    pub fn count_connection(&self, outcome: &str) {
        let labels = ReasonLabels {
            reason: outcome.to_owned(),
        };
        self.connections.get_or_create(&labels).inc();
    }

    /// A connected filter gets a fresh snapshot.
    pub fn count_resync(&self, pool: &str, reason: &'static str) {
        let labels = PoolReasonLabels {
            pool: pool.to_owned(),
            reason: reason.to_owned(),
        };
        self.resyncs.get_or_create(&labels).inc();
    }

    /// Prometheus text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl RankMetrics {
    /// A message came, and this became of it.
    pub fn count_message(&self, outcome: &'static str) {
        self.all.messages.get_or_create(&self.because(outcome)).inc();
    }

    /// A part of a message was left out.
    pub fn count_ignored(&self, reason: &'static str) {
        self.all.events.get_or_create(&self.because(reason)).inc();
    }

    /// A replay went this way.
    pub fn count_replay(&self, outcome: &'static str) {
        self.all.replays.get_or_create(&self.because(outcome)).inc();
    }

    /// What is said of its load; of what nobody says anything there is no series.
    pub fn show_load(&self, load: &Load) {
        let values = [
            load.kv_used_blocks,
            load.running_requests,
            load.queued_requests,
            Some(load.dynamo_routers_requests),
        ];
        for (gauge, value) in self.all.worker_load.iter().zip(values) {
            if let Some(value) = value {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                gauge.get_or_create(&self.labels).set(value);
            }
        }
    }

    /// The rank is gone, and with it its metrics.
    pub fn forget(&self) {
        let Metrics {
            messages,
            events,
            replays,
            rank_connected,
            rank_degraded,
            rank_blocks,
            worker_load,
            ..
        } = &self.all;
        for gauge in [rank_connected, rank_degraded, rank_blocks]
            .into_iter()
            .chain(worker_load)
        {
            gauge.remove(&self.labels);
        }
        let reasons = std::mem::take(&mut *self.reasons.lock().unwrap_or_else(PoisonError::into_inner));
        for reason in reasons {
            let labels = self.because(reason);
            for counter in [messages, events, replays] {
                counter.remove(&labels);
            }
        }
    }

    fn because(&self, reason: &'static str) -> RankReasonLabels {
        self.reasons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(reason);
        let RankLabels { pool, worker, rank } = self.labels.clone();
        RankReasonLabels {
            pool,
            worker,
            rank,
            reason: reason.to_owned(),
        }
    }
}

impl PoolMetrics {
    /// What the view takes.
    pub fn show_view(&self, entries: usize, bytes: usize) {
        set(&self.all.view_blocks, &self.pool, entries as u64);
        set(&self.all.view_bytes, &self.pool, bytes as u64);
    }

    /// What it does not show.
    pub fn show_hidden(&self, hidden: u64) {
        set(&self.all.view_hidden, &self.pool, hidden);
    }

    /// Something of Dynamo's discovery service or event plane cannot be used, or was lost.
    pub fn count_dynamo(&self, reason: &'static str, count: u64) {
        if count > 0 {
            let labels = PoolReasonLabels {
                pool: self.pool.clone(),
                reason: reason.to_owned(),
            };
            self.all.dynamo.get_or_create(&labels).inc_by(count);
        }
    }

    /// What the index did with an event's blocks.
    pub fn count_blocks(&self, tally: &Tally) {
        let Tally {
            stored,
            removed,
            unknown_parent,
            wrong_block_size,
            missing_tokens,
            over_limit,
            unshown_tier,
            unknown_removed,
        } = *tally;
        let counts = [
            ("stored", stored),
            ("removed", removed),
            ("unknown_parent", unknown_parent),
            ("wrong_block_size", wrong_block_size),
            ("missing_tokens", missing_tokens),
            ("over_limit", over_limit),
            ("unshown_tier", unshown_tier),
            ("unknown_removed", unknown_removed),
        ];
        for (reason, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let labels = PoolReasonLabels {
                pool: self.pool.clone(),
                reason: reason.to_owned(),
            };
            self.all.blocks.get_or_create(&labels).inc_by(count);
        }
    }
}

impl ParityMetrics {
    /// The state that the pool is in.
    pub fn show(&self, state: State) {
        for other in State::ALL {
            let gauge = self.all.parity.get_or_create_owned(&self.labels(other.label()));
            gauge.set((other == state).into());
        }
    }

    /// The difference that the pool is held back for, and the worker that makes it.
    pub fn show_difference(&self, difference: Option<(SocketAddr, &Difference)>) {
        let labels = difference.map(|(worker, difference)| DifferenceLabels {
            pool: self.pool.clone(),
            worker: worker.to_string(),
            probe: difference.probe,
            ours: difference.ours.to_string(),
            theirs: difference.worker.to_string(),
        });
        let mut shown = self.difference.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = shown.take().filter(|before| Some(before) != labels.as_ref()) {
            self.all.parity_difference.remove(&before);
        }
        if let (Some(labels), Some((_, difference))) = (&labels, difference) {
            let position = i64::try_from(difference.position).unwrap_or(i64::MAX);
            self.all.parity_difference.get_or_create(labels).set(position);
        }
        *shown = labels;
    }

    /// A worker was asked.
    pub fn count_check(&self, outcome: &'static str) {
        self.all.parity_checks.get_or_create(&self.labels(outcome)).inc();
    }

    fn labels(&self, state: &'static str) -> PoolStateLabels {
        PoolStateLabels {
            pool: self.pool.clone(),
            state,
        }
    }
}

fn set(gauges: &Family<PoolLabels, Gauge>, pool: &str, value: u64) {
    let gauge = gauges.get_or_create_owned(&PoolLabels { pool: pool.to_owned() });
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
