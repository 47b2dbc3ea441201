//! The life of each request in flight, and the load that it puts on a worker.
//!
//! A booking goes `Prefill -> Decode -> Freed`, or ends at any point. Every transition happens once however often
//! it is asked for, and the load deltas of one booking always sum to zero.

use crate::Slot;
use crate::hash::SequenceHash;
use crate::view::{Depths, PrefixView};
use alloc::vec::Vec;
use core::hash::{BuildHasherDefault, Hasher};
use hashbrown::HashMap;

/// A worker as bookings know it: unlike a [`Slot`], it keeps its meaning when fleets and epochs change, for as
/// long as a request is booked on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(pub u16);

/// Change of a worker's load, to be added to whatever counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadDelta {
    /// Of [`crate::cost::SlotLoad::prefill_tokens`].
    pub prefill_tokens: i64,
    /// Of [`crate::cost::SlotLoad::decode_blocks`].
    pub decode_blocks: i64,
    /// Of [`crate::cost::SlotLoad::requests`].
    pub requests: i64,
}

/// One request in flight.
#[derive(Debug)]
pub struct Booking {
    seat: Seat,
    phase: Phase,
    blocks: Vec<SequenceHash>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prefill { tokens: u64 },
    Decode,
    Freed,
}

impl Booking {
    /// The worker it is booked on.
    pub fn seat(&self) -> Seat {
        self.seat
    }
}

/// Blocks of all requests in flight, each counted once per worker.
#[derive(Debug, Default)]
pub struct Bookings {
    uses: HashMap<(Seat, SequenceHash), u32, BuildHasherDefault<AlreadyHashed>>,
    /// The same blocks as a view: every booking holds a whole prefix, so holdings are prefix-closed here too.
    active: PrefixView,
}

impl Bookings {
    /// Books a request of `prefill_tokens` uncached tokens with these blocks on `seat`.
    pub fn book(&mut self, seat: Seat, prefill_tokens: u64, blocks: Vec<SequenceHash>) -> (Booking, LoadDelta) {
        let added = blocks.iter().filter(|&&hash| self.take(seat, hash)).count();
        let delta = LoadDelta {
            prefill_tokens: signed(prefill_tokens),
            decode_blocks: signed(added as u64),
            requests: 1,
        };
        (
            Booking {
                seat,
                phase: Phase::Prefill { tokens: prefill_tokens },
                blocks,
            },
            delta,
        )
    }

    /// The first token is there.
    pub fn prefill_done(&mut self, booking: &mut Booking) -> LoadDelta {
        let Phase::Prefill { tokens } = booking.phase else {
            return LoadDelta::default();
        };
        booking.phase = Phase::Decode;
        LoadDelta {
            prefill_tokens: signed(tokens).saturating_neg(),
            ..LoadDelta::default()
        }
    }

    /// The request is over, for whatever reason.
    pub fn free(&mut self, booking: &mut Booking) -> LoadDelta {
        if booking.phase == Phase::Freed {
            return LoadDelta::default();
        }
        let prefill = self.prefill_done(booking);
        booking.phase = Phase::Freed;
        let seat = booking.seat;
        // Children before parents, so that the active view stays prefix-closed all the while.
        let blocks = core::mem::take(&mut booking.blocks);
        let dropped = blocks.iter().rev().filter(|&&hash| self.give_back(seat, hash)).count();
        LoadDelta {
            decode_blocks: signed(dropped as u64).saturating_neg(),
            requests: -1,
            ..prefill
        }
    }

    /// Another worker than the booked one serves the request. Returns the load change of the old and of the new
    /// worker. Does nothing to a freed booking.
    pub fn relocate(&mut self, booking: &mut Booking, seat: Seat, prefill_tokens: u64) -> (LoadDelta, LoadDelta) {
        if booking.seat == seat || booking.phase == Phase::Freed {
            return Default::default();
        }
        let blocks = booking.blocks.clone();
        let was_decoding = booking.phase == Phase::Decode;
        let left = self.free(booking);
        let (mut moved, mut entered) = self.book(seat, prefill_tokens, blocks);
        if was_decoding {
            let done = self.prefill_done(&mut moved);
            entered.prefill_tokens = entered.prefill_tokens.saturating_add(done.prefill_tokens);
        }
        *booking = moved;
        (left, entered)
    }

    /// How many leading blocks of a prompt each worker is working with right now; index by [`Seat::as_slot`].
    pub fn active_depths(&self, prompt: &[SequenceHash]) -> Depths {
        self.active.depths(prompt)
    }

    /// Distinct (worker, block) pairs in use.
    pub fn len(&self) -> usize {
        self.uses.len()
    }

    /// Whether nothing is in flight that has blocks.
    pub fn is_empty(&self) -> bool {
        self.uses.is_empty()
    }

    /// True if nobody on `seat` used it before.
    fn take(&mut self, seat: Seat, hash: SequenceHash) -> bool {
        let uses = self.uses.entry((seat, hash)).or_insert(0);
        *uses = uses.saturating_add(1);
        *uses == 1 && self.active.insert(seat.as_slot(), hash)
    }

    /// True if nobody on `seat` uses it any more.
    fn give_back(&mut self, seat: Seat, hash: SequenceHash) -> bool {
        let Some(uses) = self.uses.get_mut(&(seat, hash)) else {
            return false;
        };
        *uses = uses.saturating_sub(1);
        if *uses > 0 {
            return false;
        }
        self.uses.remove(&(seat, hash));
        self.active.remove(seat.as_slot(), hash)
    }
}

impl Seat {
    /// The seat's place in [`Bookings::active_depths`].
    pub fn as_slot(self) -> Slot {
        Slot(self.0)
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Keys are xxh3 values already; what is left is to mix the seat in.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(29) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
