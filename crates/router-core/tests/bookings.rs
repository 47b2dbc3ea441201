//! Bookings against a naive account.

use proptest::prelude::*;
use router_core::bookings::{Booking, Bookings, LoadDelta, Seat};
use router_core::hash::SequenceHash;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Step {
    Book { seat: u16, path: Vec<u8>, tokens: u64 },
    PrefillDone(usize),
    Free(usize),
    Relocate(usize, u16),
}

/// Prompts part from one another at every depth.
fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![4 => Just(1_u8), 1 => Just(2)], 0..12)
}

/// A block for each step, which stands for all steps up to it.
fn blocks(path: &[u8]) -> Vec<SequenceHash> {
    let hashes = path.iter().scan(0_u64, |hash, step| {
        *hash = *hash * 3 + u64::from(*step);
        Some(SequenceHash(*hash))
    });
    hashes.collect()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u16..3, path(), 0_u64..500).prop_map(|(seat, path, tokens)| Step::Book { seat, path, tokens }),
        (0_usize..30).prop_map(Step::PrefillDone),
        (0_usize..30).prop_map(Step::Free),
        (0_usize..30, 0_u16..3).prop_map(|(place, seat)| Step::Relocate(place, seat)),
    ]
}

/// What one request should count for right now.
struct Naive {
    seat: u16,
    blocks: Vec<SequenceHash>,
    prefill_tokens: i64,
    in_flight: bool,
}

fn expected(naive: &[Naive], seat: u16) -> LoadDelta {
    let here = || naive.iter().filter(move |one| one.in_flight && one.seat == seat);
    let distinct: BTreeSet<SequenceHash> = here().flat_map(|one| one.blocks.iter().copied()).collect();
    LoadDelta {
        prefill_tokens: here().map(|one| one.prefill_tokens).sum(),
        decode_blocks: distinct.len() as i64,
        requests: here().count() as i64,
    }
}

/// How many leading blocks of a prompt a seat works with.
fn depth(naive: &[Naive], seat: u16, prompt: &[SequenceHash]) -> u32 {
    let here = naive.iter().filter(|one| one.in_flight && one.seat == seat);
    let common = here.map(|one| one.blocks.iter().zip(prompt).take_while(|(a, b)| a == b).count());
    common.max().unwrap_or(0) as u32
}

fn add(to: &mut LoadDelta, delta: LoadDelta) {
    to.prefill_tokens += delta.prefill_tokens;
    to.decode_blocks += delta.decode_blocks;
    to.requests += delta.requests;
}

proptest! {
    #[test]
    fn deltas_add_up_to_what_is_in_flight(steps in prop::collection::vec(step(), 0..60), asked in path()) {
        let asked = blocks(&asked);
        let mut bookings = Bookings::default();
        let mut booked: Vec<Booking> = Vec::new();
        let mut naive: Vec<Naive> = Vec::new();
        let mut loads = [LoadDelta::default(); 3];
        for step in steps {
            match step {
                Step::Book { seat, path, tokens } => {
                    let blocks = blocks(&path);
                    let (booking, delta) = bookings.book(Seat(seat), tokens, &blocks);
                    add(&mut loads[usize::from(seat)], delta);
                    booked.push(booking);
                    naive.push(Naive { seat, blocks, prefill_tokens: tokens as i64, in_flight: true });
                }
                Step::PrefillDone(place) => if let Some(booking) = booked.get_mut(place) {
                    add(&mut loads[usize::from(naive[place].seat)], bookings.prefill_done(booking));
                    naive[place].prefill_tokens = 0;
                },
                Step::Free(place) => if let Some(booking) = booked.get_mut(place) {
                    add(&mut loads[usize::from(naive[place].seat)], bookings.free(booking));
                    naive[place].in_flight = false;
                },
                Step::Relocate(place, seat) => if let Some(booking) = booked.get_mut(place) {
                    let one = &mut naive[place];
                    let (left, entered) = bookings.relocate(booking, Seat(seat), 7);
                    add(&mut loads[usize::from(one.seat)], left);
                    add(&mut loads[usize::from(seat)], entered);
                    if one.in_flight && one.seat != seat {
                        one.seat = seat;
                        one.prefill_tokens = if one.prefill_tokens > 0 { 7 } else { one.prefill_tokens };
                    }
                },
            }
            // A request of 0 uncached tokens that moves before its first token gets the new worker's share.
            for (one, booking) in naive.iter_mut().zip(&booked) {
                prop_assert_eq!(one.seat, booking.seat().0);
            }
            for seat in 0..3 {
                let (got, want) = (loads[usize::from(seat)], expected(&naive, seat));
                prop_assert_eq!(got.decode_blocks, want.decode_blocks);
                prop_assert_eq!(got.requests, want.requests);
                let depths = bookings.active_depths(&asked);
                prop_assert_eq!(depths.of(Seat(seat).as_slot()), depth(&naive, seat, &asked));
            }
        }
        for (booking, one) in booked.iter_mut().zip(&naive) {
            add(&mut loads[usize::from(one.seat)], bookings.free(booking));
        }
        prop_assert_eq!(loads, [LoadDelta::default(); 3]);
        prop_assert!(bookings.is_empty());
    }
}

proptest! {
    /// Hashes that collide, as a client might make them, confuse who shares what, but nothing stays booked.
    #[test]
    fn colliding_hashes_leave_nothing_behind(prompts in prop::collection::vec((0_u16..3, prop::collection::vec(0_u64..4, 0..8)), 0..20)) {
        let mut bookings = Bookings::default();
        let mut sum = LoadDelta::default();
        let mut booked = Vec::new();
        for (number, (seat, prompt)) in prompts.iter().enumerate() {
            let blocks: Vec<_> = prompt.iter().copied().map(SequenceHash).collect();
            let (booking, delta) = bookings.book(Seat(*seat), 1, &blocks);
            add(&mut sum, delta);
            booked.push(booking);
            if number % 3 == 0 {
                add(&mut sum, bookings.free(&mut booked.remove(0)));
            }
            bookings.active_depths(&blocks);
        }
        booked.iter_mut().for_each(|booking| add(&mut sum, bookings.free(booking)));
        prop_assert_eq!(sum, LoadDelta::default());
        prop_assert!(bookings.is_empty());
    }
}

#[test]
fn every_transition_happens_once() {
    let mut bookings = Bookings::default();
    let blocks = [SequenceHash(1), SequenceHash(2)];
    let (mut booking, booked) = bookings.book(Seat(5), 100, &blocks);
    assert_eq!(
        booked,
        LoadDelta {
            prefill_tokens: 100,
            decode_blocks: 2,
            requests: 1
        }
    );
    let done = LoadDelta {
        prefill_tokens: -100,
        ..LoadDelta::default()
    };
    assert_eq!(bookings.prefill_done(&mut booking), done);
    assert_eq!(bookings.prefill_done(&mut booking), LoadDelta::default());
    let freed = LoadDelta {
        decode_blocks: -2,
        requests: -1,
        ..LoadDelta::default()
    };
    assert_eq!(bookings.free(&mut booking), freed);
    assert_eq!(bookings.free(&mut booking), LoadDelta::default());
    assert_eq!(bookings.prefill_done(&mut booking), LoadDelta::default());
}

#[test]
fn a_request_that_ends_before_its_first_token_gives_its_prefill_back() {
    let mut bookings = Bookings::default();
    let (mut booking, _) = bookings.book(Seat(0), 64, &[SequenceHash(9)]);
    let freed = LoadDelta {
        prefill_tokens: -64,
        decode_blocks: -1,
        requests: -1,
    };
    assert_eq!(bookings.free(&mut booking), freed);
}

#[test]
fn shared_prefixes_count_once() {
    let mut bookings = Bookings::default();
    let prefix = [SequenceHash(1), SequenceHash(2)];
    let (_first, _) = bookings.book(Seat(0), 32, &prefix);
    let longer = [SequenceHash(1), SequenceHash(2), SequenceHash(3)];
    let (_second, delta) = bookings.book(Seat(0), 16, &longer);
    assert_eq!(delta.decode_blocks, 1);
    let depths = bookings.active_depths(&longer);
    assert_eq!((depths.of(Seat(0).as_slot()), depths.of(Seat(1).as_slot())), (3, 0));
}
