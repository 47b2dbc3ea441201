//! Deltas against the view that they are made of.

use std::collections::BTreeSet;

use control_plane::index::Change;
use control_plane::sync::codec::Encoded;
use control_plane::sync::publisher::Publisher;
use proptest::prelude::*;
use proto::view::PoolUpdate;
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::replica::{Replica, Update};
use router_core::view::PrefixView;

fn replica(epoch: u64) -> Replica {
    let mut replica = Replica::default();
    let position = Publisher::new(epoch).position();
    replica.apply(Update::Begin { position, blocks: 0 }).unwrap();
    replica.apply(Update::End { checksum: 0 }).unwrap();
    replica
}

/// Blocks are numbers, and `n / 2` stands before `n`: a heap-shaped tree from 1.
fn toggle(held: &mut BTreeSet<(u16, u64)>, slot: u16, block: u64) -> Option<Change> {
    let stored = !held.contains(&(slot, block));
    let fits = match stored {
        true => block == 1 || held.contains(&(slot, block / 2)),
        false => !held.contains(&(slot, block * 2)) && !held.contains(&(slot, block * 2 + 1)),
    };
    if !fits {
        return None;
    }
    if stored {
        held.insert((slot, block))
    } else {
        held.remove(&(slot, block))
    };
    Some(Change {
        slot: Slot(slot),
        hash: SequenceHash(block),
        stored,
    })
}

proptest! {
    #[test]
    fn deltas_give_the_view_and_keep_it_prefix_closed(
        batches in prop::collection::vec(prop::collection::vec((0_u16..3, 1_u64..16), 0..200), 1..8),
    ) {
        let mut publisher = Publisher::new(3);
        let mut replica = replica(3);
        let mut held = BTreeSet::new();
        let mut view = PrefixView::new();
        for batch in batches {
            let changes: Vec<_> = batch.into_iter().filter_map(|(slot, block)| toggle(&mut held, slot, block)).collect();
            for delta in publisher.publish(&changes) {
                for (runs, stored) in [(&delta.removed, false), (&delta.stored, true)] {
                    for run in runs {
                        for &hash in &run.hashes {
                            let changed = if stored { view.insert(run.slot, hash) } else { view.remove(run.slot, hash) };
                            prop_assert!(changed, "{hash:?} did not change");
                            let holds = |block| view.holds(run.slot, SequenceHash(block));
                            let closed = if stored { hash.0 == 1 || holds(hash.0 / 2) } else { !holds(hash.0 * 2) && !holds(hash.0 * 2 + 1) };
                            prop_assert!(closed, "{hash:?}");
                        }
                    }
                }
                prop_assert_eq!(replica.apply(Update::Delta(delta)), Ok(()));
            }
            for slot in 0..3 {
                for block in 1..16 {
                    prop_assert_eq!(replica.view().holds(Slot(slot), SequenceHash(block)), held.contains(&(slot, block)));
                }
            }
            prop_assert_eq!(replica.position(), Some(publisher.position()));
        }
    }
}

#[test]
fn large_batches_are_cut_into_messages_that_fit() {
    let mut publisher = Publisher::new(1);
    let mut replica = replica(1);
    // Many ranks with a few blocks each, and few with many.
    let many = (0..4096_u16).flat_map(|slot| (0..3).map(move |block| (slot, block)));
    let few = (0..2_u16).flat_map(|slot| (100..100_000).map(move |block| (slot, block)));
    let changes: Vec<_> = many
        .chain(few)
        .map(|(slot, block)| Change {
            slot: Slot(slot),
            hash: SequenceHash((block + 1_u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            stored: true,
        })
        .collect();
    let deltas = publisher.publish(&changes);
    assert!(deltas.len() > 6);
    for delta in deltas {
        let update = PoolUpdate {
            pool: "a pool with a name".to_owned(),
            update: Update::Delta(delta.clone()),
        };
        assert!(Encoded::new(update.to_message()).size() <= proto::MAX_MESSAGE_BYTES);
        replica.apply(Update::Delta(delta)).unwrap();
    }
    assert!(
        changes
            .iter()
            .all(|change| replica.view().holds(change.slot, change.hash))
    );
}
