//! Do workers make the same tokens of a prompt as we do? If not, every block hash after the first difference is wrong,
//! and nobody would notice but for missing hits. So workers are asked before a pool is routed exactly.
//!
//! [`probes`] are small requests of every shape. [`worker`] asks a worker for the ids it makes of them, [`compare`] sets
//! them against ours, [`task`] does that for one worker again and again. What comes of it is kept here, one [`PoolParity`]
//! for each pool; [`crate::fleet`] acts on it.

pub mod compare;
pub mod probes;
pub mod task;
pub mod vocabulary;
pub mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::admin::metrics::ParityMetrics;
use crate::config::ParityMode;
use compare::Difference;

/// What became of asking one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Verdict {
    /// Every probe that both sides could do has the same ids.
    Equal {
        /// How many those are.
        compared: usize,
        /// Of those, how many the worker rendered itself, as it does the requests that they stand for. (The others were
        /// asked of its `/tokenize`.)
        rendered: usize,
        /// The others.
        left_out: Vec<LeftOut>,
    },
    /// The worker makes other tokens.
    Unequal {
        /// The first one.
        difference: Box<Difference>,
    },
    /// The worker cannot be asked.
    Unverified {
        /// Why.
        because: String,
    },
}

/// A probe that was not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its name.
    pub probe: &'static str,
    /// What we or the worker said to it.
    pub because: String,
}

/// Where a pool stands: the sum of its workers' verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody is asked.
    Off,
    /// No worker has answered yet.
    Pending,
    /// At least one worker makes our tokens, and none makes others.
    Equal,
    /// At least one worker makes other tokens.
    Unequal,
    /// No worker can be asked, or none answered in time.
    Unverified,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Off, Self::Pending, Self::Equal, Self::Unequal, Self::Unverified];

    /// Label for metrics and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Pending => "pending",
            Self::Equal => "equal",
            Self::Unequal => "unequal",
            Self::Unverified => "unverified",
        }
    }
}

/// What is known of one pool's workers.
#[derive(Debug)]
pub struct PoolParity {
    pool: String,
    mode: ParityMode,
    known: Mutex<Known>,
    changed: Arc<Notify>,
    metrics: ParityMetrics,
}

#[derive(Debug)]
struct Known {
    grace_over: bool,
    workers: BTreeMap<SocketAddr, Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    /// The last one; it stands until there is another.
    verdict: Option<Verdict>,
    /// Why the last attempt to ask came to nothing.
    trouble: Option<String>,
}

impl PoolParity {
    /// Nothing is known yet. `changed` is notified whenever [`PoolParity::state`] may have changed.
    pub fn new(pool: &str, mode: ParityMode, changed: Arc<Notify>, metrics: ParityMetrics) -> Self {
        let known = Known {
            grace_over: false,
            workers: BTreeMap::new(),
        };
        let this = Self {
            pool: pool.to_owned(),
            mode,
            known: Mutex::new(known),
            changed,
            metrics,
        };
        this.metrics.show(this.state());
        this
    }

    /// A worker is there, and will be asked.
    pub fn admit(&self, worker: SocketAddr) {
        self.lock().workers.entry(worker).or_default();
        self.tell();
    }

    /// A worker is gone; what it was found to be no longer counts.
    pub fn dismiss(&self, worker: SocketAddr) {
        self.lock().workers.remove(&worker);
        self.tell();
    }

    /// A worker was asked.
    pub fn judge(&self, worker: SocketAddr, verdict: Verdict) {
        let (pool, endpoint) = (&self.pool, worker);
        let outcome = match &verdict {
            Verdict::Equal { .. } => State::Equal,
            Verdict::Unequal { .. } => State::Unequal,
            Verdict::Unverified { .. } => State::Unverified,
        };
        self.metrics.count_check(outcome.label());
        let mut known = self.lock();
        let Some(standing) = known.workers.get_mut(&worker) else {
            return;
        };
        if standing.verdict.as_ref() != Some(&verdict) {
            match &verdict {
                Verdict::Equal { compared, rendered, .. } => {
                    tracing::info!(pool, %endpoint, compared, rendered, "parity: equal tokens");
                }
                Verdict::Unequal { difference } => {
                    tracing::error!(pool, %endpoint, %difference, "parity: the worker makes other tokens than we do");
                }
                Verdict::Unverified { because } => {
                    tracing::warn!(pool, %endpoint, because, "parity: the worker cannot be asked for tokens");
                }
            }
        }
        *standing = Standing {
            verdict: Some(verdict),
            trouble: None,
        };
        drop(known);
        self.tell();
    }

    /// A worker did not answer, or not sensibly; what it was found to be before still stands.
    pub fn note_trouble(&self, worker: SocketAddr, why: String) {
        self.metrics.count_check("failed");
        tracing::debug!(pool = self.pool, endpoint = %worker, why, "parity: no answer");
        if let Some(standing) = self.lock().workers.get_mut(&worker) {
            standing.trouble = Some(why);
        }
    }

    /// Workers had their time to answer.
    pub fn end_grace(&self) {
        self.lock().grace_over = true;
        self.tell();
    }

    /// Where the pool stands.
    pub fn state(&self) -> State {
        if self.mode == ParityMode::Off {
            return State::Off;
        }
        let known = self.lock();
        let mut verdicts = known.workers.values().map(|standing| standing.verdict.as_ref());
        if verdicts
            .clone()
            .any(|verdict| matches!(verdict, Some(Verdict::Unequal { .. })))
        {
            State::Unequal
        } else if verdicts
            .clone()
            .any(|verdict| matches!(verdict, Some(Verdict::Equal { .. })))
        {
            State::Equal
        } else if known.grace_over || (!known.workers.is_empty() && verdicts.all(|verdict| verdict.is_some())) {
            State::Unverified
        } else {
            State::Pending
        }
    }

    /// Whether the pool is held back until a worker answers.
    pub fn is_awaited(&self) -> bool {
        self.mode == ParityMode::Enforce && self.state() == State::Pending
    }

    /// Why the pool must not be routed exactly; `None` if it may.
    pub fn inexact_because(&self) -> Option<String> {
        match (self.mode, self.state()) {
            (ParityMode::Enforce, State::Pending) => Some("parity: no worker has answered yet".to_owned()),
            (ParityMode::Enforce, State::Unequal) => first_difference(&self.lock())
                .map(|(endpoint, difference)| format!("parity: worker {endpoint}: {difference}")),
            _ => None,
        }
    }

    /// As [`PoolParity::inexact_because`], with what keeps the model itself from it.
    pub fn inexact_because_or(&self, model: Option<&str>) -> Option<String> {
        let reasons: Vec<_> = model
            .map(str::to_owned)
            .into_iter()
            .chain(self.inexact_because())
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// For `/v1/status`.
    pub fn to_json(&self) -> Value {
        let state = self.state().label();
        let known = self.lock();
        let worker = |(endpoint, standing): (&SocketAddr, &Standing)| {
            let mut shown = match &standing.verdict {
                Some(verdict) => json!(verdict),
                None => json!({"state": State::Pending.label()}),
            };
            shown["endpoint"] = endpoint.to_string().into();
            if let Some(trouble) = &standing.trouble {
                shown["trouble"] = trouble.as_str().into();
            }
            shown
        };
        let workers: Vec<_> = match self.mode {
            ParityMode::Off => Vec::new(),
            ParityMode::Enforce | ParityMode::Warn => known.workers.iter().map(worker).collect(),
        };
        json!({"mode": self.mode.label(), "state": state, "workers": workers})
    }

    fn tell(&self) {
        self.metrics.show(self.state());
        let known = self.lock();
        self.metrics.show_difference(first_difference(&known));
        drop(known);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The difference of the first worker that has one.
fn first_difference(known: &Known) -> Option<(SocketAddr, &Difference)> {
    known
        .workers
        .iter()
        .find_map(|(endpoint, standing)| match &standing.verdict {
            Some(Verdict::Unequal { difference }) => Some((*endpoint, &**difference)),
            _ => None,
        })
}
