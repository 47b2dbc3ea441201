//! The prefix view against a naive map of sets.

use proptest::prelude::*;
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::view::{PrefixView, Remains, Stored, holding_checksum};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

#[derive(Clone, Debug)]
enum Change {
    Insert(u16, u64),
    Remove(u16, u64),
}

fn change() -> impl Strategy<Value = Change> {
    // Few distinct values, so that removals hit; spread over all shards by a multiplication.
    let slot = prop_oneof![0_u16..4, 62_u16..66, Just(4095)];
    let hash = (0_u64..200).prop_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (slot, hash, any::<bool>()).prop_map(|(slot, hash, store)| {
        if store {
            Change::Insert(slot, hash)
        } else {
            Change::Remove(slot, hash)
        }
    })
}

proptest! {
    #[test]
    fn equals_a_map_of_sets(changes in prop::collection::vec(change(), 0..1500)) {
        let mut view = PrefixView::new();
        let mut naive: BTreeMap<u64, BTreeSet<u16>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Insert(slot, hash) => {
                    let is_new = naive.entry(hash).or_default().insert(slot);
                    prop_assert_eq!(view.insert(Slot(slot), SequenceHash(hash)), is_new);
                }
                Change::Remove(slot, hash) => {
                    let was_there = naive.get_mut(&hash).is_some_and(|slots| slots.remove(&slot));
                    naive.retain(|_, slots| !slots.is_empty());
                    prop_assert_eq!(view.remove(Slot(slot), SequenceHash(hash)), was_there);
                }
            }
        }
        prop_assert_eq!(view.len(), naive.len());
        let mut checksum = 0_u64;
        for n in 0..200_u64 {
            let hash = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            for slot in [0, 1, 2, 3, 62, 63, 64, 65, 4095] {
                let held = naive.get(&hash).is_some_and(|slots| slots.contains(&slot));
                prop_assert_eq!(view.holds(Slot(slot), SequenceHash(hash)), held);
                if held {
                    checksum = checksum.wrapping_add(holding_checksum(Slot(slot), SequenceHash(hash)));
                }
            }
        }
        prop_assert_eq!(view.checksum(), checksum);
    }

    #[test]
    fn depths_equal_a_walk(
        length in 0_usize..300,
        stride in 1_u32..9,
        held in prop::collection::btree_map(prop_oneof![0_u16..70, Just(4000)], 0_usize..320, 0..20),
    ) {
        let prompt: Vec<SequenceHash> =
            (1..=length as u64).map(|n| SequenceHash(n.wrapping_mul(0xD1B5_4A32_D192_ED03))).collect();
        let mut view = PrefixView::new();
        for (&slot, &depth) in &held {
            for hash in prompt.iter().take(depth).skip(stride as usize - 1).step_by(stride as usize) {
                view.insert(Slot(slot), *hash);
            }
        }
        let depths = view.depths_by(&prompt, NonZeroU32::new(stride).unwrap());
        for slot in (0..80).chain([4000]) {
            let walked = held.get(&slot).map_or(0, |&depth| depth.min(length) as u32);
            prop_assert_eq!(depths.of(Slot(slot)), walked / stride * stride, "slot {}", slot);
        }
    }
}

/// A shard that grows to several chunks and shrinks again.
#[test]
fn a_large_shard_equals_a_set() {
    // All in the last places of one shard, so that probing goes round its end.
    let hash = |n: u64| SequenceHash(7 << 56 | 0xFF << 48 | (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16);
    let mut view = PrefixView::new();
    let mut naive = BTreeSet::new();
    let mut random = 1_u64;
    for step in 0..12_000 {
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let n = (random >> 40) % 2_000;
        // Three stores for each removal, then the other way round.
        let stores = (random >> 20).is_multiple_of(4) != (step < 6_000);
        match stores {
            true => assert_eq!(view.insert(Slot(1), hash(n)), naive.insert(n)),
            false => assert_eq!(view.remove(Slot(1), hash(n)), naive.remove(&n)),
        }
        if step % 500 == 0 {
            (0..2_000).for_each(|n| assert_eq!(view.holds(Slot(1), hash(n)), naive.contains(&n), "{n} at {step}"));
        }
    }
    assert_eq!(view.len(), naive.len());
}

/// Sets on either side of every form: bits, a list, longer than a list.
#[test]
fn large_sets_equal_sets() {
    let (hash, other) = (SequenceHash(7), SequenceHash(8));
    let mut view = PrefixView::new();
    let mut naive = BTreeSet::new();
    let mut random = 1_u64;
    for step in 0..12_000 {
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        // Grows to some 3,000 slots, then shrinks to none.
        let slot = (random >> 40) as u16 % 4096;
        let stores = step < 6_000;
        let changed = if stores {
            naive.insert(slot)
        } else {
            naive.remove(&slot)
        };
        assert_eq!(
            if stores {
                view.insert(Slot(slot), hash)
            } else {
                view.remove(Slot(slot), hash)
            },
            changed
        );
        if step % 500 == 0 {
            (0..4096).for_each(|slot| assert_eq!(view.holds(Slot(slot), hash), naive.contains(&slot), "{slot}"));
        }
        if step == 5_999 {
            // The same set, made in another order, is stored once.
            let before = view.bytes();
            naive
                .iter()
                .rev()
                .for_each(|&slot| assert!(view.insert(Slot(slot), other)));
            assert_eq!(view.depths(&[hash, other]).of(Slot(*naive.first().unwrap())), 2);
            assert!(view.bytes() - before <= 2 * 1024, "{}", view.bytes() - before);
            naive.iter().for_each(|&slot| assert!(view.remove(Slot(slot), other)));
        }
    }
    naive.iter().for_each(|&slot| assert!(view.remove(Slot(slot), hash)));
    assert!(view.is_empty() && view.bytes() <= 256 * 27 * 16, "{}", view.bytes());
}

#[test]
fn at_most_20_bytes_per_entry_whoever_holds_it() {
    let mut view = PrefixView::new();
    for n in 0..100_000_u64 {
        let hash = SequenceHash((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // A random half of 64 slots: no two blocks have the same holders.
        for slot in (0..64).filter(|slot| (hash.0.wrapping_mul(hash.0) >> slot) & 1 == 1) {
            view.insert(Slot(slot), hash);
        }
        view.insert(Slot(63), hash);
        if n >= 10_000 && n % 1_000 == 0 {
            let bytes_per_entry = view.bytes() as f64 / view.len() as f64;
            assert!(bytes_per_entry <= 20.0, "{bytes_per_entry} at {n}");
        }
    }
}

#[test]
fn a_limit_holds_and_refuses() {
    let hash = |n: u64| SequenceHash((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut view = PrefixView::new();
    let limit = 1 << 20;
    let mut stored = 0;
    for n in 0..100_000 {
        // Every second block gets a set of its own.
        let slots = if n % 2 == 0 {
            [1, 1]
        } else {
            [100 + (n % 3_000) as u16, 3_200]
        };
        for slot in slots {
            stored += usize::from(view.insert_within(limit, Slot(slot), hash(n)) == Stored::New);
        }
        assert!(view.bytes() <= limit);
    }
    assert!(
        (20_000..60_000).contains(&view.len()) && stored > view.len(),
        "{} {stored}",
        view.len()
    );
    assert_eq!(view.insert_within(limit, Slot(9), hash(200_000)), Stored::Refused);
    assert_eq!(view.insert_within(limit, Slot(1), hash(0)), Stored::Known);
    let mut remains = Remains::from(view);
    assert_eq!((0..).take_while(|_| remains.free_some()).count(), 63);
}

#[test]
fn memory_stays_within_the_budget_and_is_given_back() {
    let hash = |n: u64| SequenceHash((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut view = PrefixView::new();
    for n in 0..100_000 {
        view.insert(Slot((n % 64) as u16), hash(n));
        if n % 10_000 == 9_999 {
            let bytes_per_entry = view.bytes() as f64 / view.len() as f64;
            assert!(bytes_per_entry <= 20.0, "{bytes_per_entry} at {n}");
        }
    }
    for n in 0..100_000 {
        view.remove(Slot((n % 64) as u16), hash(n));
    }
    assert!(view.is_empty());
    assert!(view.bytes() <= 256 * 27 * 16, "{}", view.bytes());
}

#[test]
fn what_is_expected_has_room_at_once() {
    let hash = |n: u64| SequenceHash((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let filled = |expected: usize, limit: usize| {
        let mut view = PrefixView::new();
        view.expect(expected);
        let mut sizes = Vec::new();
        for n in 0..100_000 {
            view.insert_within(limit, Slot(1), hash(n));
            sizes.push(view.bytes());
        }
        sizes.dedup();
        (view, sizes.len())
    };
    let (told, sizes) = filled(100_000, usize::MAX);
    // Each shard has its table, and hardly any gets so much more than its share that it needs another.
    assert!((256..300).contains(&sizes), "{sizes}");
    assert!(told.bytes() <= 20 * 100_000, "{}", told.bytes());
    // Where there is no room for what is said to come, it is as if nothing were said.
    for limit in [1 << 20, 3 << 20] {
        let (told, _) = filled(usize::MAX, limit);
        let (untold, _) = filled(0, limit);
        assert_eq!((told.len(), told.bytes()), (untold.len(), untold.bytes()));
    }
    // Nor does it keep memory from being given back.
    let (mut told, _) = filled(100_000, usize::MAX);
    told.expect(0);
    for n in 0..100_000 {
        told.remove(Slot(1), hash(n));
    }
    assert!(told.bytes() <= 256 * 27 * 16, "{}", told.bytes());
    assert!(told.insert(Slot(1), hash(0)) && told.bytes() <= 256 * 27 * 16);
}

#[test]
fn a_hash_of_zero_is_a_block_like_any_other() {
    let mut view = PrefixView::new();
    assert!(view.insert(Slot(3), SequenceHash(0)));
    assert!(view.holds(Slot(3), SequenceHash(0)));
    assert!(view.remove(Slot(3), SequenceHash(0)));
    assert!(view.is_empty());
}
