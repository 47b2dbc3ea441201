//! Which VMs of an Envoy are alive. Pure rules over one small record in shared data; [`crate::gauges`] applies them.
//!
//! Every VM holds a numbered seat and says in each tick that it lives. A seat that was silent for [`SILENCE`] is
//! taken over by whoever notices first, cleared of what its VM left behind, and given up. A VM that was taken for dead
//! and lives finds that its seat has another owner, and takes a new one.

use router_core::Millis;
use serde::{Deserialize, Serialize};

/// After this long without a sign, in milliseconds, a VM counts as dead. Longer than any load of a tokenizer.
pub const SILENCE: u64 = 10_000;

/// Names one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmId(pub u64);

/// All seats that are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster(Vec<Seat>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seat {
    number: u32,
    owner: VmId,
    last_sign: u64,
}

impl Roster {
    /// Gives `vm` the lowest free number.
    pub fn join(&mut self, vm: VmId, now: Millis) -> u32 {
        let number = (0..).find(|number| self.seat(*number).is_none()).unwrap_or(u32::MAX);
        self.0.push(Seat {
            number,
            owner: vm,
            last_sign: now.0,
        });
        number
    }

    /// `vm` lives. False if the seat is not its own (any more).
    pub fn sign(&mut self, number: u32, vm: VmId, now: Millis) -> bool {
        match self.seat(number).filter(|seat| seat.owner == vm) {
            Some(seat) => {
                seat.last_sign = now.0;
                true
            }
            None => false,
        }
    }

    /// Takes over the seat of one VM that counts as dead.
    pub fn take_over(&mut self, vm: VmId, now: Millis) -> Option<u32> {
        let is_silent = |seat: &&mut Seat| now.since(Millis(seat.last_sign)) > SILENCE && seat.owner != vm;
        let seat = self.0.iter_mut().find(is_silent)?;
        seat.owner = vm;
        seat.last_sign = now.0;
        Some(seat.number)
    }

    /// Gives a seat up.
    pub fn leave(&mut self, number: u32, vm: VmId) {
        self.0.retain(|seat| seat.number != number || seat.owner != vm);
    }

    fn seat(&mut self, number: u32) -> Option<&mut Seat> {
        self.0.iter_mut().find(|seat| seat.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: VmId = VmId(0xA);
    const B: VmId = VmId(0xB);
    const C: VmId = VmId(0xC);

    #[test]
    fn numbers_are_given_again_after_they_were_given_up() {
        let mut roster = Roster::default();
        let now = Millis(1);
        assert_eq!([roster.join(A, now), roster.join(B, now)], [0, 1]);
        roster.leave(0, B);
        assert_eq!(roster.join(C, now), 2);
        roster.leave(0, A);
        assert_eq!(roster.join(A, now), 0);
    }

    #[test]
    fn the_silent_are_taken_over_once() {
        let mut roster = Roster::default();
        roster.join(A, Millis(0));
        roster.join(B, Millis(0));
        roster.join(C, Millis(0));
        assert!(roster.sign(1, B, Millis(SILENCE)) && roster.sign(2, C, Millis(SILENCE)));
        assert_eq!(roster.take_over(B, Millis(SILENCE)), None);
        assert_eq!(roster.take_over(B, Millis(SILENCE + 1)), Some(0));
        assert_eq!(roster.take_over(C, Millis(SILENCE + 1)), None);
        // A was only slow: it is told so.
        assert!(!roster.sign(0, A, Millis(SILENCE + 2)));
        assert_eq!(roster.join(A, Millis(SILENCE + 2)), 3);
    }

    #[test]
    fn a_seat_whose_clearing_was_cut_short_is_taken_over_again() {
        let mut roster = Roster::default();
        roster.join(A, Millis(0));
        roster.join(B, Millis(0));
        roster.join(C, Millis(20_000));
        assert_eq!(roster.take_over(B, Millis(20_000)), Some(0));
        assert_eq!(roster.take_over(C, Millis(40_000)), Some(0));
    }
}
