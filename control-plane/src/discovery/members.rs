//! The ranks that a pool has right now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use router_core::Slot;
use router_core::fleet::Candidate;
use router_core::levels::Levels;
use tokio::sync::Notify;

use super::Rank;
use crate::admin::metrics::Metrics;
use crate::admin::status::RankStatus;
use crate::sync::pool::{Input, PoolHandle};

/// One rank and what is known of it.
#[derive(Debug)]
pub struct Member {
    /// Who it is.
    pub rank: Rank,
    /// How it is.
    pub status: Arc<RankStatus>,
}

/// Shared by whoever changes it and whoever shows it.
#[derive(Debug)]
pub struct Members {
    pool: PoolHandle,
    metrics: Metrics,
    /// Notified when the fleet may have to be published anew.
    changed: Arc<Notify>,
    levels: Levels,
    list: Mutex<BTreeMap<Slot, Arc<Member>>>,
    refused: Mutex<BTreeMap<u64, String>>,
}

impl Members {
    /// None yet.
    pub fn new(pool: PoolHandle, metrics: Metrics, changed: Arc<Notify>, levels: Levels) -> Self {
        Self {
            pool,
            metrics,
            changed,
            levels,
            list: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// A rank is there. Its slot must be nobody else's.
    pub async fn join(&self, rank: Rank) -> Arc<RankStatus> {
        let metrics = self.metrics.rank(&self.pool.name, &rank.worker(), rank.dp_rank);
        let status = Arc::new(RankStatus::new(&rank, metrics));
        let slot = rank.slot;
        let member = Arc::new(Member {
            rank,
            status: status.clone(),
        });
        // The index knows it before anybody hears of it.
        self.pool.send(Input::Join(slot, status.clone())).await;
        self.lock().insert(slot, member);
        self.changed.notify_one();
        status
    }

    /// A rank is gone: nothing is sent to it any more, and its blocks are dropped. Whoever fed it must have stopped.
    pub async fn leave(&self, slot: Slot) {
        let Some(member) = self.lock().remove(&slot) else {
            return;
        };
        self.changed.notify_one();
        self.pool.send(Input::Leave(slot)).await;
        member.status.metrics().forget();
    }

    /// Where a rank publishes and how what was missed is repaired has become known, or is no longer so.
    pub fn set_source(&self, slot: Slot, events: Option<String>, replay: Option<String>) {
        if let Some(member) = self.lock().get(&slot) {
            member.status.set_source(events, replay);
            self.changed.notify_one();
        }
    }

    /// These workers are there and cannot be used.
    pub fn set_refused(&self, refused: BTreeMap<u64, String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// Workers that cannot be used, by Dynamo's id, and why.
    pub fn refused(&self) -> BTreeMap<u64, String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of them, by rising slot.
    pub fn list(&self) -> Vec<Arc<Member>> {
        self.lock().values().cloned().collect()
    }

    /// All of them as filters see them, by rising slot.
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |member: &Arc<Member>| member.rank.candidate(self.levels);
        self.lock().values().map(candidate).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Slot, Arc<Member>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
