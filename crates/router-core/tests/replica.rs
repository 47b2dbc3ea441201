//! A replica whose memory is bounded, against one whose memory is not.

use proptest::prelude::*;
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::replica::{Delta, OutOfStep, Position, Replica, Run, Update};
use router_core::view::holding_checksum;
use std::collections::BTreeSet;

fn hash(n: u64) -> SequenceHash {
    SequenceHash((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn checksum(held: &BTreeSet<(u16, u64)>) -> u64 {
    let parts = held.iter().map(|&(slot, n)| holding_checksum(Slot(slot), hash(n)));
    parts.fold(0, u64::wrapping_add)
}

fn runs(holdings: impl Iterator<Item = (u16, u64)>) -> Vec<Run> {
    let run = |(slot, n)| Run {
        slot: Slot(slot),
        hashes: vec![hash(n)],
    };
    holdings.map(run).collect()
}

/// `blocks`: what it says that it has.
fn snapshot_of(version: u64, held: &BTreeSet<(u16, u64)>, blocks: u64) -> Vec<Update> {
    let parts = runs(held.iter().copied()).into_iter().map(Update::Part);
    let position = Position { epoch: 1, version };
    let begin = Update::Begin { position, blocks };
    let end = Update::End {
        checksum: checksum(held),
    };
    [begin].into_iter().chain(parts).chain([end]).collect()
}

fn snapshot(version: u64, held: &BTreeSet<(u16, u64)>) -> Vec<Update> {
    snapshot_of(version, held, 0)
}

proptest! {
    /// What does not fit never breaks the step, and never makes a view say what is not so.
    #[test]
    fn a_bounded_replica_stays_in_step(
        first in prop::collection::btree_set((0_u16..3, 0_u64..2_000), 0..2_000),
        batches in prop::collection::vec(prop::collection::btree_set((0_u16..70, 0_u64..3_000), 0..800), 0..8),
        // An empty view's tables fit, all blocks do not.
        limit in 0_usize..400_000,
        // True, or whatever a message may say.
        told in prop_oneof![Just(None), (0_u64..30_000).prop_map(Some), any::<u64>().prop_map(Some)],
    ) {
        let mut held = first;
        let mut replica = Replica::default();
        let blocks = held.iter().map(|(_, n)| n).collect::<BTreeSet<_>>().len() as u64;
        for update in snapshot_of(0, &held, told.unwrap_or(blocks)) {
            prop_assert_eq!(replica.apply_within(limit, update), Ok(()));
            prop_assert!(replica.bytes() <= limit);
        }
        for (version, toggled) in batches.into_iter().enumerate() {
            let (removed, stored): (BTreeSet<_>, _) = toggled.into_iter().partition(|one| held.contains(one));
            held.retain(|one| !removed.contains(one));
            held.extend(&stored);
            let delta = Delta {
                from: Position { epoch: 1, version: version as u64 },
                removed: runs(removed.into_iter()),
                stored: runs(stored.into_iter()),
                checksum: checksum(&held),
            };
            prop_assert_eq!(replica.apply_within(limit, Update::Delta(delta)), Ok(()));
            // A sum over what it has of what is so is the sum over all that it has: nothing else is in it.
            let kept = held.iter().copied().filter(|&(slot, n)| replica.view().holds(Slot(slot), hash(n)));
            let kept = kept.collect();
            prop_assert_eq!(replica.view().checksum(), checksum(&kept));
            prop_assert_eq!(held.len() - kept.len(), replica.refused() as usize);
        }
    }
}

#[test]
fn a_view_is_given_up_when_the_next_one_finds_no_room_beside_it() {
    let held: BTreeSet<_> = (0..30_000).map(|n| (1, n)).collect();
    let mut replica = Replica::default();
    // 600 kB; twice as much has no room.
    let limit = 900_000;
    for update in snapshot(1, &held) {
        replica.apply_within(limit, update).unwrap();
    }
    let whole = (replica.view().len(), replica.refused());
    assert_eq!(whole, (30_000, 0));
    let mut served = BTreeSet::new();
    for update in snapshot(2, &held) {
        replica.apply_within(limit, update).unwrap();
        served.insert((replica.position().map(|position| position.version), replica.in_step()));
        assert!(replica.bytes() <= limit);
    }
    assert_eq!(
        served,
        BTreeSet::from([(Some(1), true), (None, false), (Some(2), true)])
    );
    assert_eq!((replica.view().len(), replica.refused()), whole);
}

#[test]
fn a_bounded_replica_still_finds_differences() {
    let held: BTreeSet<_> = (0..30_000).map(|n| (1, n)).collect();
    let mut replica = Replica::default();
    let mut updates = snapshot(1, &held);
    updates.remove(77);
    let end = updates.pop().unwrap();
    for update in updates {
        replica.apply_within(300_000, update).unwrap();
    }
    assert_eq!(replica.apply_within(300_000, end), Err(OutOfStep::Checksum));
    assert!(!replica.in_step());
}
