//! The prefix view against a naive map of sets.

use proptest::prelude::*;
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::view::{PrefixView, holding_checksum};
use std::collections::{BTreeMap, BTreeSet};

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
        held in prop::collection::btree_map(prop_oneof![0_u16..70, Just(4000)], 0_usize..320, 0..20),
    ) {
        let prompt: Vec<SequenceHash> =
            (1..=length as u64).map(|n| SequenceHash(n.wrapping_mul(0xD1B5_4A32_D192_ED03))).collect();
        let mut view = PrefixView::new();
        for (&slot, &depth) in &held {
            for &hash in prompt.iter().take(depth) {
                view.insert(Slot(slot), hash);
            }
        }
        let depths = view.depths(&prompt);
        for slot in (0..80).chain([4000]) {
            let walked = prompt.iter().take_while(|&&hash| view.holds(Slot(slot), hash)).count();
            prop_assert_eq!(depths.of(Slot(slot)) as usize, walked, "slot {}", slot);
        }
    }
}

#[test]
fn memory_stays_within_the_budget_and_is_given_back() {
    let hash = |n: u64| SequenceHash((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut view = PrefixView::new();
    for n in 0..100_000 {
        view.insert(Slot((n % 64) as u16), hash(n));
        if n % 10_000 == 9_999 {
            let bytes_per_entry = view.table_bytes() as f64 / view.len() as f64;
            assert!(bytes_per_entry <= 20.0, "{bytes_per_entry} at {n}");
        }
    }
    for n in 0..100_000 {
        view.remove(Slot((n % 64) as u16), hash(n));
    }
    assert!(view.is_empty());
    assert!(view.table_bytes() <= 256 * 64 * 12, "{}", view.table_bytes());
}

#[test]
fn a_hash_of_zero_is_a_block_like_any_other() {
    let mut view = PrefixView::new();
    assert!(view.insert(Slot(3), SequenceHash(0)));
    assert!(view.holds(Slot(3), SequenceHash(0)));
    assert!(view.remove(Slot(3), SequenceHash(0)));
    assert!(view.is_empty());
}
