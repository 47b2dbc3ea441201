//! The life of each request in flight, and the load that it puts on a worker.
//!
//! A booking goes `Prefill -> Decode -> Freed`, or ends at any point. Every transition happens once however often
//! it is asked for, and the load deltas of one booking always sum to zero.

use crate::Slot;
use crate::hash::SequenceHash;
use crate::uses::{RunId, Uses};
use crate::view::Depths;

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
    /// Where its blocks end.
    last: Option<RunId>,
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
    uses: Uses,
}

impl Bookings {
    /// Books a request of `prefill_tokens` uncached tokens with these blocks, from the root on, on `seat`.
    pub fn book(&mut self, seat: Seat, prefill_tokens: u64, blocks: &[SequenceHash]) -> (Booking, LoadDelta) {
        let (last, added) = self.uses.add(seat, blocks);
        booked(seat, prefill_tokens, last, added)
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
        let dropped = self.uses.remove(booking.seat, booking.last.take());
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
        let was_decoding = booking.phase == Phase::Decode;
        // First there, then away: in between nobody might use the blocks, and they would be forgotten.
        let last = booking.last;
        let added = self.uses.add_again(seat, last);
        let left = self.free(booking);
        let (mut moved, mut entered) = booked(seat, prefill_tokens, last, added);
        if was_decoding {
            let done = self.prefill_done(&mut moved);
            entered.prefill_tokens = entered.prefill_tokens.saturating_add(done.prefill_tokens);
        }
        *booking = moved;
        (left, entered)
    }

    /// How many leading blocks of a prompt each worker is working with right now; index by [`Seat::as_slot`].
    pub fn active_depths(&self, prompt: &[SequenceHash]) -> Depths {
        self.uses.depths(prompt)
    }

    /// Whether nothing is in flight that has blocks.
    pub fn is_empty(&self) -> bool {
        self.uses.is_empty()
    }
}

fn booked(seat: Seat, prefill_tokens: u64, last: Option<RunId>, added: usize) -> (Booking, LoadDelta) {
    let booking = Booking {
        seat,
        phase: Phase::Prefill { tokens: prefill_tokens },
        last,
    };
    let delta = LoadDelta {
        prefill_tokens: signed(prefill_tokens),
        decode_blocks: signed(added as u64),
        requests: 1,
    };
    (booking, delta)
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
