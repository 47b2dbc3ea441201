//! The whole decision: fleet, views and bookings together.

use crate::bookings::{Booking, Bookings, LoadDelta, Seat};
use crate::cost::{Cost, Demand, SlotLoad};
use crate::fleet::{Candidate, Fleet, Pool};
use crate::hash::SequenceHash;
use crate::ladder::{Footing, Rung};
use crate::levels::Overlap;
use crate::pick::rank;
use crate::replica::{OutOfStep, Position, Replica, Update};
use crate::view::Depths;
use crate::{Millis, Slot};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// The state of one gateway thread: what it knows of fleet, caches and its own requests.
#[derive(Debug)]
pub struct Router {
    pools: Vec<PoolState>,
    bookings: Bookings,
    seats: Vec<SeatOwner>,
    link: Link,
    max_staleness_ms: u64,
    view_limit: usize,
}

/// A prompt as far as it could be understood.
#[derive(Clone, Copy, Debug)]
pub enum Prompt<'a> {
    /// Its blocks are known exactly.
    Known {
        /// Length in tokens.
        input_tokens: u64,
        /// Of the full blocks, from the root on.
        blocks: &'a [SequenceHash],
    },
    /// Its first blocks are known exactly, and nothing of the others.
    Start {
        /// Why no more is known, as a metric label.
        reason: &'static str,
        /// A guess at its length in tokens.
        input_tokens: u64,
        /// Of the blocks that are known, from the root on.
        blocks: &'a [SequenceHash],
    },
    /// It could not be read, rendered or tokenized; the pick rests on load.
    Unknown {
        /// Why, as a metric label.
        reason: &'static str,
        /// A guess at its length in tokens, so that it still counts as load.
        input_tokens: u64,
    },
}

/// What was decided and everything it rests on: enough to explain it, and to make it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Rung and reason.
    pub footing: Footing,
    /// Every candidate with its cost, in their order in the pool. Empty on [`Rung::Pass`].
    pub scored: Vec<Scored>,
    /// Their places in `scored`: the pick first, then the next best, [`crate::pick::RANKED`] at most.
    pub order: Vec<usize>,
    /// The version of the view that was read.
    pub view: Option<Position>,
    /// The seed that broke ties.
    pub seed: u64,
}

/// A candidate with its cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Its place in [`Pool::candidates`].
    pub candidate: usize,
    /// Its slot.
    pub slot: Slot,
    /// Leading blocks of the prompt in its cache, by the view.
    pub overlap: Overlap,
    /// Its load before this request.
    pub load: SlotLoad,
    /// Its cost.
    pub cost: Cost,
}

impl Decision {
    /// The pick first, then the next best.
    pub fn ranked(&self) -> impl Iterator<Item = &Scored> {
        self.order.iter().filter_map(|&place| self.scored.get(place))
    }
}

#[derive(Debug)]
struct PoolState {
    pool: Pool,
    /// Seat of each candidate, in their order.
    seats: Vec<Seat>,
    /// Definition of a new epoch, which takes over with that epoch's first snapshot.
    next: Option<Pool>,
    replica: Replica,
}

/// Pool, endpoint, dp rank and instance id.
type SeatKey = (String, String, Option<u32>, Option<u64>);

#[derive(Debug, PartialEq, Eq)]
struct SeatOwner {
    key: SeatKey,
    in_fleet: bool,
    requests: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Never,
    Up,
    DownSince(Millis),
}

impl Router {
    /// A router that knows nothing yet. `max_staleness_ms`: for how long after the control plane was lost its last
    /// view is still worth reading.
    pub fn new(max_staleness_ms: u64) -> Self {
        Self {
            pools: Vec::new(),
            bookings: Bookings::default(),
            seats: Vec::new(),
            link: Link::Never,
            max_staleness_ms,
            view_limit: usize::MAX,
        }
    }

    /// Bounds the memory of all views together, in bytes.
    pub fn set_view_limit(&mut self, bytes: usize) {
        self.view_limit = bytes;
    }

    /// Changes `max_staleness_ms`.
    pub fn set_max_staleness(&mut self, max_staleness_ms: u64) {
        self.max_staleness_ms = max_staleness_ms;
    }

    /// The control plane speaks to us.
    pub fn link_up(&mut self) {
        self.link = Link::Up;
    }

    /// The control plane is out of reach as of `now`; repeated calls keep the first moment.
    pub fn link_down(&mut self, now: Millis) {
        if self.link == Link::Up {
            self.link = Link::DownSince(now);
        }
    }

    /// Replaces the fleet. Pools keep their view while their epoch is the same; a new epoch takes over together
    /// with its first snapshot, so that old slots are never read with new meanings.
    pub fn set_fleet(&mut self, fleet: Fleet) {
        let mut old = core::mem::take(&mut self.pools);
        for pool in fleet.pools {
            let known = old
                .iter()
                .position(|state| state.pool.name == pool.name)
                .map(|place| old.swap_remove(place));
            let state = match known {
                Some(mut state) if state.replica.position().is_some() && state.pool.epoch != pool.epoch => {
                    state.next = Some(pool);
                    state
                }
                Some(state) => PoolState {
                    pool,
                    seats: Vec::new(),
                    next: None,
                    replica: state.replica,
                },
                None => PoolState {
                    pool,
                    seats: Vec::new(),
                    next: None,
                    replica: Replica::default(),
                },
            };
            self.pools.push(state);
        }
        self.assign_seats();
    }

    /// Applies an update of one pool's view. Updates of pools that left the fleet are ignored.
    ///
    /// # Errors
    /// When the view needs a new snapshot.
    pub fn apply(&mut self, pool: &str, update: Update) -> Result<(), OutOfStep> {
        let others = self.pools.iter().filter(|state| state.pool.name != pool);
        let taken = others.fold(0_usize, |sum, state| sum.saturating_add(state.replica.bytes()));
        let limit = self.view_limit.saturating_sub(taken);
        let Some(state) = self.pools.iter_mut().find(|state| state.pool.name == pool) else {
            return Ok(());
        };
        state.replica.apply_within(limit, update)?;
        let epoch = state.replica.position().map(|position| position.epoch);
        if let Some(next) = state.next.take_if(|next| Some(next.epoch) == epoch) {
            state.pool = next;
            self.assign_seats();
        }
        Ok(())
    }

    /// Frees some of the views that are no longer read; to be called every now and then.
    pub fn free_some(&mut self) {
        for state in &mut self.pools {
            state.replica.free_some();
        }
    }

    /// Every pool that requests are routed to.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().map(|state| &state.pool)
    }

    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.state(name).map(|state| &state.pool)
    }

    /// The replica of a pool's view.
    pub fn replica(&self, pool: &str) -> Option<&Replica> {
        self.state(pool).map(|state| &state.replica)
    }

    /// The pool that serves `model`, and the adapter that the name stands for.
    pub fn pool_of_model(&self, model: &str) -> Option<(&Pool, Option<&str>)> {
        self.pools().find_map(|pool| {
            let found = pool.models.iter().find(|known| known.name == model)?;
            Some((pool, found.lora.as_deref()))
        })
    }

    /// Whether the pool's prompts are worth tokenizing at `now`, or why not.
    ///
    /// # Errors
    /// The reason why only load counts.
    pub fn exactness(&self, pool: &str, now: Millis) -> Result<Rung, &'static str> {
        let state = self.state(pool).ok_or("unknown_pool")?;
        if !state.pool.kv_events {
            return Err("no_kv_events");
        }
        if state.pool.tokenizer.is_none() {
            return Err("no_tokenizer");
        }
        if state.replica.position().is_none() {
            return Err("no_view");
        }
        match self.link {
            Link::Up if state.replica.in_step() && state.next.is_none() => Ok(Rung::Exact),
            Link::Up => Ok(Rung::Stale),
            Link::DownSince(moment) if now.since(moment) <= self.max_staleness_ms => Ok(Rung::Stale),
            Link::DownSince(_) | Link::Never => Err("view_too_old"),
        }
    }

    /// Ranks the candidates of `pool` for a prompt.
    ///
    /// `loads`: of [`Pool::candidates`], in their order; missing ones count as idle.
    pub fn decide(&self, pool: &str, prompt: Prompt<'_>, loads: &[SlotLoad], now: Millis, seed: u64) -> Decision {
        let Some(state) = self.state(pool).filter(|state| !state.pool.candidates.is_empty()) else {
            return Decision {
                footing: Footing::pass("no_workers"),
                scored: Vec::new(),
                order: Vec::new(),
                view: None,
                seed,
            };
        };
        let (footing, blocks, input_tokens) = match prompt {
            Prompt::Known { input_tokens, blocks } => (self.footing(pool, now, Footing::EXACT), blocks, input_tokens),
            Prompt::Start {
                reason,
                input_tokens,
                blocks,
            } => (self.footing(pool, now, Footing::exact(reason)), blocks, input_tokens),
            Prompt::Unknown { reason, input_tokens } => (Footing::load(reason), &[][..], input_tokens),
        };
        let reads_view = matches!(footing.rung, Rung::Exact | Rung::Stale);
        let overlaps = if reads_view {
            state.replica.view().depths_by(blocks, state.pool.stride)
        } else {
            Depths::default()
        };
        let scored = self.score(state, blocks, input_tokens, &overlaps, loads);
        let costs: Vec<f64> = scored.iter().map(|scored| scored.cost.total).collect();
        Decision {
            footing,
            scored,
            order: rank(&costs, state.pool.temperature, seed),
            view: state.replica.position().filter(|_| reads_view),
            seed,
        }
    }

    /// Where a prompt lands whose blocks are known as far as `best` says.
    fn footing(&self, pool: &str, now: Millis, best: Footing) -> Footing {
        match self.exactness(pool, now) {
            Ok(Rung::Exact) => best,
            Ok(rung) => Footing {
                rung,
                reason: self.stale_reason(),
            },
            Err(reason) => Footing::load(reason),
        }
    }

    /// Books a decided request on a candidate. `None` if the candidate is gone.
    pub fn book(
        &mut self,
        pool: &str,
        candidate: usize,
        prefill_tokens: u64,
        blocks: &[SequenceHash],
    ) -> Option<(Booking, LoadDelta)> {
        let seat = *self.state(pool)?.seats.get(candidate)?;
        let owner = self.seats.get_mut(usize::from(seat.0))?;
        owner.requests = owner.requests.saturating_add(1);
        Some(self.bookings.book(seat, prefill_tokens, blocks))
    }

    /// The first token of a booked request is there.
    pub fn prefill_done(&mut self, booking: &mut Booking) -> LoadDelta {
        self.bookings.prefill_done(booking)
    }

    /// A booked request is over.
    pub fn free(&mut self, booking: &mut Booking) -> LoadDelta {
        let delta = self.bookings.free(booking);
        if delta.requests != 0 {
            self.leave(booking.seat());
        }
        delta
    }

    /// A booked request is served by another candidate than the one that was picked (retry or fallback). Returns
    /// the load changes of the old and the new worker; `None` if nothing moved.
    pub fn relocate(
        &mut self,
        pool: &str,
        booking: &mut Booking,
        candidate: usize,
        prefill_tokens: u64,
    ) -> Option<(LoadDelta, LoadDelta)> {
        let seat = *self.state(pool)?.seats.get(candidate)?;
        let from = booking.seat();
        let (left, entered) = self.bookings.relocate(booking, seat, prefill_tokens);
        if entered.requests == 0 {
            return None;
        }
        if let Some(owner) = self.seats.get_mut(usize::from(seat.0)) {
            owner.requests = owner.requests.saturating_add(1);
        }
        self.leave(from);
        Some((left, entered))
    }

    fn score(
        &self,
        state: &PoolState,
        blocks: &[SequenceHash],
        input_tokens: u64,
        overlaps: &Depths,
        loads: &[SlotLoad],
    ) -> Vec<Scored> {
        let pool = &state.pool;
        let load_of = |candidate: usize| loads.get(candidate).copied().unwrap_or_default();
        let demand = Demand {
            block_size: pool.layout.block_size.get(),
            input_tokens,
            min_prefill_tokens: (0..pool.candidates.len())
                .map(|n| load_of(n).prefill_tokens)
                .min()
                .unwrap_or(0),
        };
        let active = self.bookings.active_depths(blocks);
        let scored = (0..).zip(&pool.candidates).map(|(candidate, Candidate { slot, .. })| {
            let overlap = pool.levels.overlap(*slot, overlaps);
            let seat = state.seats.get(candidate).copied();
            let shared = seat.map_or(0, |seat| active.of(seat.as_slot()));
            let new_blocks = (blocks.len() as u64).saturating_sub(u64::from(shared));
            let load = load_of(candidate);
            let cost = pool.weights.cost(demand, load, overlap, new_blocks);
            Scored {
                candidate,
                slot: *slot,
                overlap,
                load,
                cost,
            }
        });
        scored.collect()
    }

    fn stale_reason(&self) -> &'static str {
        if self.link == Link::Up {
            "resyncing"
        } else {
            "control_plane_lost"
        }
    }

    fn state(&self, pool: &str) -> Option<&PoolState> {
        self.pools.iter().find(|state| state.pool.name == pool)
    }

    fn leave(&mut self, seat: Seat) {
        if let Some(owner) = self.seats.get_mut(usize::from(seat.0)) {
            owner.requests = owner.requests.saturating_sub(1);
        }
    }

    /// Gives every candidate a seat: the one it had, else one that nobody needs any more, else a new one.
    fn assign_seats(&mut self) {
        let mut known: BTreeMap<SeatKey, usize> = BTreeMap::new();
        for (place, owner) in self.seats.iter_mut().enumerate() {
            owner.in_fleet = false;
            known.insert(owner.key.clone(), place);
        }
        // Seats that keep their owner first, so that none of them is given away.
        let fleet = self
            .pools
            .iter()
            .flat_map(|state| state.pool.candidates.iter().map(|one| key_of(&state.pool, one)));
        let keys: Vec<SeatKey> = fleet.collect();
        for key in &keys {
            if let Some(owner) = known.get(key).and_then(|&place| self.seats.get_mut(place)) {
                owner.in_fleet = true;
            }
        }
        let is_vacant = |(_, owner): &(usize, &SeatOwner)| !owner.in_fleet && owner.requests == 0;
        let vacant: Vec<usize> = self
            .seats
            .iter()
            .enumerate()
            .filter(is_vacant)
            .map(|(place, _)| place)
            .collect();
        let mut vacant = vacant.into_iter();
        for key in keys {
            if self
                .seats
                .get(known.get(&key).copied().unwrap_or(usize::MAX))
                .is_some_and(|owner| owner.in_fleet)
            {
                continue;
            }
            let place = vacant.next().unwrap_or(self.seats.len());
            known.insert(key.clone(), place);
            let owner = SeatOwner {
                key,
                in_fleet: true,
                requests: 0,
            };
            match self.seats.get_mut(place) {
                Some(seat) => *seat = owner,
                None => self.seats.push(owner),
            }
        }
        for state in &mut self.pools {
            let place_of = |one: &Candidate| known.get(&key_of(&state.pool, one)).copied().unwrap_or(usize::MAX);
            let seat_of = |one: &Candidate| Seat(u16::try_from(place_of(one)).unwrap_or(u16::MAX));
            state.seats = state.pool.candidates.iter().map(seat_of).collect();
        }
    }
}

fn key_of(pool: &Pool, candidate: &Candidate) -> SeatKey {
    let Candidate {
        slot: _,
        endpoint,
        dp_rank,
        instance_id,
    } = candidate;
    (pool.name.clone(), endpoint.clone(), *dp_rank, *instance_id)
}
