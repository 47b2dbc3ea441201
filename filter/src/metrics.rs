//! Counters, all of which `docs/metrics.md` explains. Envoy prefixes their names with `wasmcustom.`.

use crate::host::{self, MetricId};
use router_core::ladder::Footing;
use std::collections::BTreeMap;

/// Counters by name and label, defined when first used. Both come from fixed sets: none holds anything a client said.
#[derive(Debug, Default)]
pub struct Metrics {
    decisions: BTreeMap<(&'static str, &'static str), MetricId>,
    counters: BTreeMap<(&'static str, &'static str), MetricId>,
}

/// What a response told about a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    /// Tokens that we expected the worker to find in its cache.
    pub predicted_tokens: u64,
    /// Tokens that it found.
    pub cached_tokens: u64,
    /// Length of the prompt, by us.
    pub our_prompt_tokens: u64,
    /// Length of the prompt, by the worker.
    pub prompt_tokens: u64,
}

impl Truth {
    /// Whether the prompt was read otherwise than the worker reads it, or the worker had less than we thought. More
    /// is normal: what was in flight when we decided has arrived since.
    pub fn is_mismatch(self) -> bool {
        self.our_prompt_tokens != self.prompt_tokens || self.cached_tokens < self.predicted_tokens
    }
}

impl Metrics {
    /// Counts a decision in `warmpath.decisions.<rung>.<reason>`.
    pub fn decided(&mut self, footing: Footing) {
        let key = (footing.rung.name(), footing.reason);
        let name = || format!("warmpath.decisions.{}.{}", key.0, key.1);
        count(&mut self.decisions, key, name, 1);
    }

    /// Adds to `warmpath.<name>`.
    pub fn add(&mut self, name: &'static str, amount: u64) {
        count(&mut self.counters, (name, ""), || format!("warmpath.{name}"), amount);
    }

    /// Adds 1 to `warmpath.<name>.<label>`.
    pub fn count_by(&mut self, name: &'static str, label: &'static str) {
        count(
            &mut self.counters,
            (name, label),
            || format!("warmpath.{name}.{label}"),
            1,
        );
    }

    /// Counts what a response told.
    pub fn told(&mut self, truth: Truth) {
        self.add("truth.responses", 1);
        self.add("truth.predicted_tokens", truth.predicted_tokens);
        self.add("truth.cached_tokens", truth.cached_tokens);
        self.add("truth.prompt_tokens", truth.prompt_tokens);
        if truth.is_mismatch() {
            self.add("truth.mismatches", 1);
        }
    }
}

fn count(
    counters: &mut BTreeMap<(&'static str, &'static str), MetricId>,
    key: (&'static str, &'static str),
    name: impl FnOnce() -> String,
    amount: u64,
) {
    if amount == 0 {
        return;
    }
    let id = counters.get(&key).copied().or_else(|| {
        let id = host::counter(&name())?;
        counters.insert(key, id);
        Some(id)
    });
    if let Some(id) = id {
        host::count(id, amount);
    }
}
