//! Numbers for ranks: pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use router_core::Slot;

/// How long a number rests before it is given again. Longer than any filter can lag behind (a connection that does not
/// take messages is closed after some 20 s), so that nobody reads the blocks of its last owner as those of the next.
const REST: Duration = Duration::from_secs(600);

/// Gives out the slot numbers of one pool and epoch.
#[derive(Debug)]
pub struct Slots {
    limit: u16,
    /// How many were ever given out.
    used: u16,
    /// Given back, the longest ago first.
    resting: VecDeque<(Instant, Slot)>,
}

impl Slots {
    /// All numbers below `limit` are free.
    pub fn new(limit: u16) -> Self {
        Self {
            limit,
            used: 0,
            resting: VecDeque::new(),
        }
    }

    /// A number that nobody has: one that has rested, which keeps numbers small, or else a new one. `None`: all are taken
    /// or rest.
    pub fn give(&mut self, now: Instant) -> Option<Slot> {
        let rested = |(since, _): &mut (Instant, Slot)| now.saturating_duration_since(*since) >= REST;
        if let Some((_, slot)) = self.resting.pop_front_if(rested) {
            return Some(slot);
        }
        let next = self.used;
        (next < self.limit).then(|| {
            self.used += 1;
            Slot(next)
        })
    }

    /// Its owner is gone.
    pub fn take_back(&mut self, slot: Slot, now: Instant) {
        self.resting.push_back((now, slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_it_is_given_again() {
        let mut slots = Slots::new(Slot::LIMIT);
        let start = Instant::now();
        let given: Vec<_> = (0..3).map(|_| slots.give(start).unwrap().0).collect();
        assert_eq!(given, [0, 1, 2]);
        slots.take_back(Slot(1), start);
        slots.take_back(Slot(0), start + REST);
        assert_eq!(slots.give(start + REST / 2), Some(Slot(3)));
        assert_eq!(slots.give(start + REST), Some(Slot(1)));
        assert_eq!(slots.give(start + REST), Some(Slot(4)));
        assert_eq!(slots.give(start + REST * 2), Some(Slot(0)));
    }

    #[test]
    fn numbers_end_at_the_limit() {
        let mut slots = Slots::new(9);
        let now = Instant::now();
        let given = std::iter::from_fn(|| slots.give(now)).count();
        assert_eq!(given, 9);
        slots.take_back(Slot(7), now);
        assert_eq!(slots.give(now), None);
        assert_eq!(slots.give(now + REST), Some(Slot(7)));
    }
}
