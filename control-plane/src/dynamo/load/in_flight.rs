//! The requests that Dynamo's routers have in flight, as they tell one another: pure.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use xxhash_rust::xxh3::xxh3_128;

use super::wire::{SequenceChange, SequenceEvent};
use crate::dynamo::records::WorkerRank;

/// Requests beyond which the oldest are forgotten.
const MAX_REQUESTS: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();
/// When a request of which nobody tells an end has ended: its router may be gone.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// See the module.
#[derive(Debug)]
pub struct InFlight {
    /// By a hash of the request's id, which may be as long as a client likes; the oldest is the least recently used.
    requests: LruCache<u128, Request>,
    sums: BTreeMap<WorkerRank, Sum>,
}

/// What a rank has of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Requests.
    pub requests: u64,
    /// Tokens of their prompts that are not prefilled yet, and were not cached.
    pub prefill_tokens: u64,
}

#[derive(Debug)]
struct Request {
    worker: WorkerRank,
    since: Instant,
    prefill_tokens: u64,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            requests: LruCache::new(MAX_REQUESTS),
            sums: BTreeMap::new(),
        }
    }
}

impl InFlight {
    /// Takes what became of a request, and returns the ranks that have more or fewer of them now.
    pub fn take(&mut self, event: &SequenceEvent, now: Instant) -> Vec<WorkerRank> {
        let mut changed = self.expire(now);
        changed.push(event.worker);
        let key = xxh3_128(event.request_id.as_bytes());
        match &event.data {
            SequenceChange::AddRequest { prefill_load_hint, .. } => {
                let hint = prefill_load_hint.map_or(0, |hint| hint.initial_effective_prefill_tokens);
                let request = Request {
                    worker: event.worker,
                    since: now,
                    prefill_tokens: hint,
                };
                self.count(&request);
                if let Some((_, replaced)) = self.requests.push(key, request) {
                    self.discount(&replaced);
                    changed.push(replaced.worker);
                }
            }
            SequenceChange::MarkPrefillCompleted => {
                if let Some(request) = self.requests.peek_mut(&key) {
                    let prefilled = std::mem::take(&mut request.prefill_tokens);
                    let sum = self.sums.entry(request.worker).or_default();
                    sum.prefill_tokens = sum.prefill_tokens.saturating_sub(prefilled);
                }
            }
            SequenceChange::Free => {
                if let Some(request) = self.requests.pop(&key) {
                    self.discount(&request);
                }
            }
        }
        changed
    }

    /// What a rank has.
    pub fn sum(&self, worker: &WorkerRank) -> Sum {
        self.sums.get(worker).copied().unwrap_or_default()
    }

    fn expire(&mut self, now: Instant) -> Vec<WorkerRank> {
        let mut changed = Vec::new();
        while let Some((_, oldest)) = self.requests.peek_lru() {
            if now.saturating_duration_since(oldest.since) < LONGEST {
                break;
            }
            if let Some((_, request)) = self.requests.pop_lru() {
                self.discount(&request);
                changed.push(request.worker);
            }
        }
        changed
    }

    fn count(&mut self, request: &Request) {
        let sum = self.sums.entry(request.worker).or_default();
        sum.requests += 1;
        sum.prefill_tokens = sum.prefill_tokens.saturating_add(request.prefill_tokens);
    }

    fn discount(&mut self, request: &Request) {
        let Some(sum) = self.sums.get_mut(&request.worker) else {
            return;
        };
        sum.requests = sum.requests.saturating_sub(1);
        sum.prefill_tokens = sum.prefill_tokens.saturating_sub(request.prefill_tokens);
        if sum.requests == 0 {
            self.sums.remove(&request.worker);
        }
    }
}
