//! A decided request until it is over: its booking, who really serves it, and what its response tells.

use crate::gauges::Account;
use crate::metrics::Truth;
use crate::route::Routed;
use crate::state::State;
use prompt::Usage;
use router_core::Slot;
use router_core::bookings::Booking;
use router_core::fleet::Pool;
use router_core::levels::Overlap;
use std::rc::Rc;

/// One request in flight. [`Flight::finish`] must end it.
#[derive(Debug)]
pub struct Flight {
    booking: Booking,
    account: Rc<Account>,
    pool: String,
    /// The slots below have meaning in this epoch only.
    epoch: u64,
    /// Blocks of the prompt that each candidate holds, as far as any.
    overlaps: Vec<(Slot, Overlap)>,
    input_tokens: u64,
    block_size: u64,
    /// Tokens that the serving worker is expected to have cached; `None`: no statement.
    predicted: Option<u64>,
    /// The seed of the decision, which also draws the sample of responses to read.
    pub seed: u64,
}

impl Flight {
    /// Books a decided request on the pick. `None` if there is none.
    pub fn start(state: &mut State, routed: Routed) -> Option<Self> {
        let pick = routed.decision.ranked().next()?;
        let (candidate, overlap) = (pick.candidate, pick.overlap);
        let pool = state.router.pool(&routed.pool)?;
        let epoch = pool.epoch;
        let block_size = u64::from(pool.layout.block_size.get());
        let saved = pool.weights.cached_tokens(overlap, pool.layout.block_size.get());
        let prefill = routed.input_tokens.saturating_sub(saved);
        let account = state.load.of(&routed.pool, candidate)?;
        let (booking, delta) = state.router.book(&routed.pool, candidate, prefill, &routed.blocks)?;
        state.load.add(&account, delta);
        let held = routed
            .decision
            .scored
            .iter()
            .filter(|scored| scored.overlap.blocks() > 0);
        let mut flight = Self {
            booking,
            account,
            epoch,
            overlaps: held.map(|scored| (scored.slot, scored.overlap)).collect(),
            input_tokens: routed.input_tokens,
            block_size,
            predicted: None,
            seed: routed.decision.seed,
            pool: routed.pool,
        };
        flight.predicted = routed.comparable.then(|| flight.expected_hit(overlap));
        Some(flight)
    }

    /// The worker at `address` answers. Moves the booking if that is not the one that was picked. Dynamo's frontends
    /// pass the request on to the worker that its headers name, whichever frontend it is.
    pub fn served_by(&mut self, state: &mut State, address: &str) {
        let Some(pool) = state.router.pool(&self.pool) else {
            return;
        };
        let booked = |index: &usize| {
            let account = state.load.of(&self.pool, *index);
            account.is_some_and(|account| Rc::ptr_eq(&account, &self.account))
        };
        let serves = |index: &usize| {
            let one = pool.candidates.get(*index);
            one.is_some_and(|one| one.endpoint == address && one.instance_id.is_none())
        };
        let mut serving = (0..pool.candidates.len()).filter(serves);
        let Some(first) = serving.clone().next() else {
            return;
        };
        if serving.any(|index| booked(&index)) {
            return;
        }
        let overlap = self.overlap_of(pool, first);
        let saved = pool.weights.cached_tokens(overlap, pool.layout.block_size.get());
        let prefill = self.input_tokens.saturating_sub(saved);
        let Some(account) = state.load.of(&self.pool, first) else {
            return;
        };
        let moved = state.router.relocate(&self.pool, &mut self.booking, first, prefill);
        if let Some((left, entered)) = moved {
            state.load.add(&self.account, left);
            state.load.add(&account, entered);
            self.account = account;
            self.predicted = self.predicted.map(|_| self.expected_hit(overlap));
            state.metrics.add("relocated", 1);
        }
    }

    /// The first piece of the answer is there.
    pub fn prefill_done(&mut self, state: &mut State) {
        let delta = state.router.prefill_done(&mut self.booking);
        state.load.add(&self.account, delta);
    }

    /// The request is over, for whatever reason.
    pub fn finish(mut self, state: &mut State) {
        let delta = state.router.free(&mut self.booking);
        state.load.add(&self.account, delta);
    }

    /// The response said what it used.
    pub fn told(&self, state: &mut State, usage: Usage) {
        if let (Some(predicted_tokens), Some(cached_tokens)) = (self.predicted, usage.cached_tokens) {
            state.metrics.told(Truth {
                predicted_tokens,
                cached_tokens,
                our_prompt_tokens: self.input_tokens,
                prompt_tokens: usage.prompt_tokens,
            });
        }
    }

    /// Whether [`Flight::told`] can make anything of a usage.
    pub fn wants_usage(&self) -> bool {
        self.predicted.is_some()
    }

    fn overlap_of(&self, pool: &Pool, candidate: usize) -> Overlap {
        let slot = pool.candidates.get(candidate).map(|one| one.slot);
        let known = slot.filter(|_| pool.epoch == self.epoch);
        let held = known.and_then(|slot| self.overlaps.iter().find(|(held, _)| *held == slot));
        held.map(|(_, overlap)| *overlap).unwrap_or_default()
    }

    /// An engine computes at least the last token, so of a prompt that it holds entirely it reports whole blocks below
    /// that (vLLM, `kv_cache_manager.get_computed_blocks`).
    fn expected_hit(&self, overlap: Overlap) -> u64 {
        let most = self.input_tokens.saturating_sub(1);
        let whole = most.saturating_sub(most.checked_rem(self.block_size).unwrap_or(0));
        let held = u64::from(overlap.blocks()).saturating_mul(self.block_size);
        held.min(whole)
    }
}
