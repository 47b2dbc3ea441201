//! What a candidate costs, in blocks; lower is better.
//!
//! Formula: Dynamo 1.6.1, `lib/kv-router/src/scheduling/selector/reference.rs`, without its shared cache:
//!
//! ```text
//! cached      = round(B * (device + H * host + F * disk))
//! raw_prefill = active_prefill_tokens + max(isl, cached)
//! decay       = 1 / (1 + D * ((active_prefill - min_active_prefill) / B) / max(ceil(isl / B), 1))
//! credit      = C * decay * device + H * host + F * disk
//! cost        = prefill_load_scale * max(raw_prefill / B - credit, 0)
//!             + potential_decode_blocks + W * active_requests
//! ```
//!
//! External storage counts as disk, in `credit` too, where Dynamo leaves it to a shared cache.

use crate::levels::Overlap;

/// Weights of the cost. Defaults are Dynamo's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostWeights {
    /// `C`: blocks of prefill that one overlapping block saves. 1.
    pub overlap_credit: f64,
    /// `D`: how fast the credit fades on workers with more queued prefill than the least busy. 0.
    pub overlap_credit_decay: f64,
    /// `H`: blocks of prefill that one block in the host's memory saves. 0.75.
    pub host_cache_hit_weight: f64,
    /// `F`: blocks of prefill that one block on disk or external storage saves. 0.25.
    pub disk_cache_hit_weight: f64,
    /// Weight of prefill against decode. 1; 0 ignores prefill and overlap.
    pub prefill_load_scale: f64,
    /// `W`: cost of each request in flight. 0.
    pub active_request_weight: f64,
}

impl Default for CostWeights {
    fn default() -> Self {
        Self {
            overlap_credit: 1.0,
            overlap_credit_decay: 0.0,
            host_cache_hit_weight: 0.75,
            disk_cache_hit_weight: 0.25,
            prefill_load_scale: 1.0,
            active_request_weight: 0.0,
        }
    }
}

/// The work that a slot has in hand, in all: other threads' and gateways' bookings included where known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotLoad {
    /// Prompt tokens booked and not yet prefilled.
    pub prefill_tokens: u64,
    /// Distinct KV blocks of requests in flight.
    pub decode_blocks: u64,
    /// Requests in flight.
    pub requests: u64,
}

/// One request as the cost sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Tokens per block, at least 1.
    pub block_size: u32,
    /// Prompt length in tokens.
    pub input_tokens: u64,
    /// Smallest `prefill_tokens` among the candidates.
    pub min_prefill_tokens: u64,
}

/// A candidate's cost, term by term.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Prefill to be done before this request can answer, in blocks, without credit.
    pub prefill_blocks: f64,
    /// Credit for cached blocks.
    pub credit_blocks: f64,
    /// Blocks in use once the request runs there.
    pub decode_blocks: f64,
    /// What is compared.
    pub total: f64,
}

impl CostWeights {
    /// Prompt tokens that `overlap` saves the prefill of, those on farther tiers by their weight.
    pub fn cached_tokens(&self, overlap: Overlap, block_size: u32) -> u64 {
        let device = u64::from(overlap.device).saturating_mul(u64::from(block_size));
        let farther = self.farther(overlap) * f64::from(block_size);
        // To the nearest; not negative, as weights are not.
        device.saturating_add((farther + 0.5) as u64)
    }

    /// Cost of a rank with `load` that has `overlap` of the request and would use `new_blocks` more than it does now.
    pub fn cost(&self, demand: Demand, load: SlotLoad, overlap: Overlap, new_blocks: u64) -> Cost {
        let block = f64::from(demand.block_size.max(1));
        let cached = self.cached_tokens(overlap, demand.block_size);
        let raw_prefill = load.prefill_tokens.saturating_add(demand.input_tokens.max(cached));
        let prefill_blocks = raw_prefill as f64 / block;
        let credit_blocks =
            self.overlap_credit * self.decay(demand, load) * f64::from(overlap.device) + self.farther(overlap);
        let decode_blocks = load.decode_blocks.saturating_add(new_blocks) as f64;
        let total = self.prefill_load_scale * (prefill_blocks - credit_blocks).max(0.0)
            + decode_blocks
            + self.active_request_weight * load.requests as f64;
        Cost {
            prefill_blocks,
            credit_blocks,
            decode_blocks,
            total,
        }
    }

    fn farther(&self, overlap: Overlap) -> f64 {
        self.host_cache_hit_weight * f64::from(overlap.host) + self.disk_cache_hit_weight * f64::from(overlap.disk)
    }

    fn decay(&self, demand: Demand, load: SlotLoad) -> f64 {
        if self.overlap_credit_decay <= 0.0 {
            return 1.0;
        }
        let block = u64::from(demand.block_size.max(1));
        let excess = load.prefill_tokens.saturating_sub(demand.min_prefill_tokens) as f64 / block as f64;
        let request_blocks = demand.input_tokens.div_ceil(block).max(1) as f64;
        1.0 / (1.0 + self.overlap_credit_decay * excess / request_blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        block_size: 16,
        input_tokens: 160,
        min_prefill_tokens: 0,
    };

    #[test]
    fn idle_worker_pays_what_is_not_cached_and_the_blocks_it_adds() {
        let cost = CostWeights::default().cost(DEMAND, SlotLoad::default(), Overlap::device(4), 10);
        let expected = Cost {
            prefill_blocks: 10.0,
            credit_blocks: 4.0,
            decode_blocks: 10.0,
            total: 16.0,
        };
        assert_eq!(cost, expected);
    }

    #[test]
    fn queued_prefill_weighs_against_overlap() {
        let weights = CostWeights::default();
        let busy = SlotLoad {
            prefill_tokens: 16 * 20,
            ..SlotLoad::default()
        };
        let warm_but_busy = weights.cost(DEMAND, busy, Overlap::device(10), 10).total;
        let cold_and_idle = weights.cost(DEMAND, SlotLoad::default(), Overlap::default(), 10).total;
        assert_eq!((warm_but_busy, cold_and_idle), (30.0, 20.0));
    }

    #[test]
    fn decay_halves_the_credit_one_request_ahead() {
        let weights = CostWeights {
            overlap_credit_decay: 1.0,
            ..CostWeights::default()
        };
        let ahead = SlotLoad {
            prefill_tokens: 160,
            ..SlotLoad::default()
        };
        assert_eq!(weights.cost(DEMAND, ahead, Overlap::device(8), 0).credit_blocks, 4.0);
    }

    #[test]
    fn farther_tiers_are_credited_by_their_weights_and_do_not_fade() {
        let weights = CostWeights {
            overlap_credit_decay: 1.0,
            ..CostWeights::default()
        };
        let ahead = SlotLoad {
            prefill_tokens: 160,
            ..SlotLoad::default()
        };
        let overlap = Overlap {
            device: 4,
            host: 2,
            disk: 3,
        };
        assert_eq!(weights.cost(DEMAND, ahead, overlap, 0).credit_blocks, 2.0 + 1.5 + 0.75);
        assert_eq!(weights.cached_tokens(overlap, 16), 64 + 24 + 12);
    }

    #[test]
    fn active_requests_count_by_their_weight() {
        let weights = CostWeights {
            active_request_weight: 2.5,
            prefill_load_scale: 0.0,
            ..CostWeights::default()
        };
        let load = SlotLoad {
            requests: 4,
            decode_blocks: 3,
            prefill_tokens: 0,
        };
        assert_eq!(weights.cost(DEMAND, load, Overlap::default(), 1).total, 14.0);
    }
}
