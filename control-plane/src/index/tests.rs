//! The index against a naive model of it, and its changes against the view that the filters keep.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use router_core::hash::{BlockHasher, HashSeed, chain};
use router_core::view::{PrefixView, holding_checksum};

use super::*;
use crate::events::{Content, EngineHash, Stored};

const BLOCK_SIZE: u32 = 2;

/// What a test does to one rank. Blocks are paths: `[3, 1]` is block content 1 below root content 3.
#[derive(Clone, Debug)]
enum Step {
    Store {
        path: Vec<u8>,
        from: usize,
        tenant: bool,
        alias: bool,
    },
    Remove {
        path: Vec<u8>,
        tenant: bool,
        alias: bool,
    },
    Clear,
    Forget,
}

/// An engine names a block by tenant, path and, where it tells equal content apart, a variant.
fn engine_hash(path: &[u8], tenant: bool, alias: bool) -> EngineHash {
    let digits = path.iter().fold(1, |number, &content| number * 10 + u64::from(content));
    EngineHash(digits * 4 + u64::from(tenant) * 2 + u64::from(alias))
}

fn seed(tenant: bool) -> HashSeed {
    HashSeed::new(None, tenant.then_some("tenant"))
}

fn tokens(content: u8) -> [u32; BLOCK_SIZE as usize] {
    [content.into(), 7]
}

fn sequence_hash(path: &[u8], tenant: bool) -> SequenceHash {
    let mut hasher = BlockHasher::new(seed(tenant));
    let hash = path.iter().fold(None, |parent, &content| {
        Some(chain(parent, hasher.local(&tokens(content), &[])))
    });
    hash.unwrap()
}

fn event(step: &Step) -> Option<Event> {
    match step {
        Step::Store {
            path,
            from,
            tenant,
            alias,
        } => Some(Event::Stored(Stored {
            parent: (*from > 0).then(|| engine_hash(&path[..*from], *tenant, *alias)),
            blocks: (*from..path.len())
                .map(|end| engine_hash(&path[..=end], *tenant, *alias))
                .collect(),
            content: Content::text(path[*from..].iter().flat_map(|&content| tokens(content)).collect()),
            block_size: BLOCK_SIZE,
            namespace: tenant.then(|| "tenant".to_owned()),
            ..Stored::default()
        })),
        Step::Remove { path, tenant, alias } => Some(removed(&[engine_hash(path, *tenant, *alias).0])),
        Step::Clear => Some(Event::Cleared),
        Step::Forget => None,
    }
}

/// What an engine holds, block by block, and what is reachable of it.
#[derive(Default)]
struct Naive(BTreeMap<EngineHash, (Vec<u8>, bool)>);

impl Naive {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Store {
                path,
                from,
                tenant,
                alias,
            } => {
                if *from > 0 && !self.0.contains_key(&engine_hash(&path[..*from], *tenant, *alias)) {
                    return;
                }
                for end in *from..path.len() {
                    let path = path[..=end].to_vec();
                    self.0.insert(engine_hash(&path, *tenant, *alias), (path, *tenant));
                }
            }
            Step::Remove { path, tenant, alias } => drop(self.0.remove(&engine_hash(path, *tenant, *alias))),
            Step::Clear | Step::Forget => self.0.clear(),
        }
    }

    fn reachable(&self) -> BTreeSet<SequenceHash> {
        let held: BTreeSet<_> = self.0.values().cloned().collect();
        let is_reachable = |(path, tenant): &&(Vec<u8>, bool)| {
            (1..=path.len()).all(|end| held.contains(&(path[..end].to_vec(), *tenant)))
        };
        held.iter()
            .filter(is_reachable)
            .map(|(path, tenant)| sequence_hash(path, *tenant))
            .collect()
    }
}

fn a_step() -> impl Strategy<Value = (u16, Step)> {
    let path = || prop::collection::vec(0_u8..3, 1..6);
    let store = (
        path(),
        any::<prop::sample::Index>(),
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(path, from, tenant, alias)| Step::Store {
            from: from.index(path.len()),
            path,
            tenant,
            alias,
        });
    let remove = (path(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(path, tenant, alias)| Step::Remove {
        path,
        tenant,
        alias,
    });
    let step = prop_oneof![8 => store, 8 => remove, 1 => Just(Step::Clear), 1 => Just(Step::Forget)];
    (0_u16..3, step)
}

proptest! {
    #[test]
    fn the_view_is_what_is_reachable_and_prefix_closed_at_every_change(
        steps in prop::collection::vec(a_step(), 1..120),
    ) {
        let parents: BTreeMap<SequenceHash, SequenceHash> = all_paths()
            .flat_map(|path| [false, true].map(|tenant| (path.clone(), tenant)))
            .filter(|(path, _)| path.len() > 1)
            .map(|(path, tenant)| (sequence_hash(&path, tenant), sequence_hash(&path[..path.len() - 1], tenant)))
            .collect();
        let mut index = Index::new(layout());
        let mut naive: BTreeMap<u16, Naive> = BTreeMap::new();
        let mut view = PrefixView::new();
        for (slot, step) in steps {
            let mut changes = Vec::new();
            match event(&step) {
                Some(event) => drop(index.apply(Slot(slot), &event, &mut changes)),
                None => index.clear(Slot(slot), &mut changes),
            }
            naive.entry(slot).or_default().take(&step);
            for change in changes {
                let Change { slot, hash, stored } = change;
                let changed = if stored { view.insert(slot, hash) } else { view.remove(slot, hash) };
                prop_assert!(changed, "a change that changes nothing: {change:?}");
                let parent = parents.get(&hash);
                prop_assert!(!stored || parent.is_none_or(|parent| view.holds(slot, *parent)));
                let orphans = parents.iter().filter(|(_, parent)| **parent == hash);
                prop_assert!(stored || orphans.clone().all(|(child, _)| !view.holds(slot, *child)));
            }
            let expected: BTreeMap<Slot, BTreeSet<_>> =
                naive.iter().map(|(slot, naive)| (Slot(*slot), naive.reachable())).filter(|(_, set)| !set.is_empty()).collect();
            let found: BTreeMap<Slot, BTreeSet<_>> =
                index.holdings().map(|(slot, set)| (slot, set.collect())).filter(|(_, set): &(_, BTreeSet<_>)| !set.is_empty()).collect();
            prop_assert_eq!(&found, &expected);
            for (slot, set) in &expected {
                prop_assert_eq!(index.visible(*slot), set.len());
            }
            let holdings = expected.iter().flat_map(|(slot, set)| set.iter().map(|hash| holding_checksum(*slot, *hash)));
            prop_assert_eq!(view.checksum(), holdings.fold(0, u64::wrapping_add));
        }
    }
}

/// Every path that a test can name.
fn all_paths() -> impl Iterator<Item = Vec<u8>> {
    (1..6_u32).flat_map(|length| {
        (0..3_usize.pow(length)).map(move |mut number| {
            let digit = |_| {
                let digit = (number % 3) as u8;
                number /= 3;
                digit
            };
            (0..length).map(digit).collect()
        })
    })
}

fn layout() -> BlockLayout {
    BlockLayout::plain(BLOCK_SIZE).unwrap()
}

fn removed(blocks: &[u64]) -> Event {
    Event::Removed {
        tier: Tier::Device,
        blocks: blocks.iter().copied().map(EngineHash).collect(),
    }
}

fn stored(parent: Option<u64>, blocks: &[u64], tokens: &[u32]) -> Event {
    Event::Stored(Stored {
        parent: parent.map(EngineHash),
        blocks: blocks.iter().copied().map(EngineHash).collect(),
        content: Content::text(tokens.to_vec()),
        block_size: BLOCK_SIZE,
        ..Stored::default()
    })
}

#[test]
fn what_cannot_be_placed_is_counted_and_left_out() {
    let mut index = Index::new(layout());
    let mut changes = Vec::new();
    let mut apply = |event: Event| index.apply(Slot(0), &event, &mut changes);
    assert_eq!(
        apply(stored(Some(9), &[1, 2], &[1, 2, 3, 4])),
        Tally {
            unknown_parent: 2,
            ..Tally::default()
        }
    );
    assert_eq!(
        apply(stored(None, &[1, 2], &[1, 2, 3])),
        Tally {
            stored: 1,
            missing_tokens: 1,
            ..Tally::default()
        }
    );
    let wrong = Event::Stored(Stored {
        blocks: vec![EngineHash(5)],
        block_size: 3,
        content: Content::text(vec![1; 3]),
        ..Stored::default()
    });
    assert_eq!(
        apply(wrong),
        Tally {
            wrong_block_size: 1,
            ..Tally::default()
        }
    );
    let gone = removed(&[1, 7]);
    assert_eq!(
        apply(gone),
        Tally {
            removed: 1,
            unknown_removed: 1,
            ..Tally::default()
        }
    );
    assert_eq!(index.visible(Slot(0)), 0);
}

#[test]
fn an_event_that_repeats_its_own_hashes_ends() {
    let mut index = Index::new(layout());
    let mut changes = Vec::new();
    index.apply(Slot(0), &stored(None, &[1, 1, 1], &[1, 2, 3, 4, 5, 6]), &mut changes);
    index.apply(Slot(0), &stored(Some(1), &[2, 1], &[1, 2, 3, 4]), &mut changes);
    index.apply(Slot(0), &removed(&[1, 2]), &mut changes);
    assert_eq!(index.visible(Slot(0)), 0);
}

#[test]
fn a_long_chain_needs_no_stack() {
    let mut index = Index::new(layout());
    let mut changes = Vec::new();
    let blocks: Vec<u64> = (0..200_000).collect();
    let tokens: Vec<u32> = (0..400_000).collect();
    index.apply(Slot(0), &stored(None, &blocks, &tokens), &mut changes);
    assert_eq!(index.visible(Slot(0)), 200_000);
    index.apply(Slot(0), &removed(&[0]), &mut changes);
    assert_eq!(index.visible(Slot(0)), 0);
    index.apply(Slot(0), &stored(None, &[0], &[0, 1]), &mut changes);
    assert_eq!(index.visible(Slot(0)), 200_000);
}

/// The sequence hashes that an event's blocks get.
fn visible_after(layout: BlockLayout, event: &Event) -> Vec<SequenceHash> {
    let mut changes = Vec::new();
    Index::new(layout).apply(Slot(0), event, &mut changes);
    changes.iter().map(|change| change.hash).collect()
}

#[test]
fn hashes_of_the_publisher_are_those_of_the_tokens() {
    let text = stored(None, &[1, 2], &[1, 2, 3, 4]);
    let mut hasher = BlockHasher::new(HashSeed::new(None, None));
    let locals = [[1, 2], [3, 4]].map(|tokens| hasher.local(&tokens, &[]));
    let hashed = Event::Stored(Stored {
        blocks: vec![EngineHash(1), EngineHash(2)],
        block_size: BLOCK_SIZE,
        content: Content::Hashed(locals.to_vec()),
        ..Stored::default()
    });
    assert_eq!(visible_after(layout(), &hashed), visible_after(layout(), &text));
}

#[test]
fn media_and_bigrams_enter_the_hashes() {
    let event = |ids: &[u32], bigrams, media: &[&[u64]]| {
        Event::Stored(Stored {
            blocks: vec![EngineHash(1), EngineHash(2)],
            block_size: BLOCK_SIZE,
            content: Content::Tokens {
                ids: ids.to_vec(),
                bigrams,
                media: media.iter().map(|objects| objects.to_vec()).collect(),
            },
            ..Stored::default()
        })
    };
    let mut hasher = BlockHasher::new(HashSeed::new(None, None));
    let mut hashes = |blocks: [(&[u32], &[u64]); 2]| {
        router_core::hash::sequence_hashes(blocks.map(|(tokens, media)| hasher.local(tokens, media)))
    };
    let eagle = BlockLayout {
        eagle: true,
        ..layout()
    };
    let cases = [
        (
            layout(),
            event(&[1, 2, 3, 4], false, &[&[], &[9, 8]]),
            hashes([(&[1, 2], &[]), (&[3, 4], &[8, 9])]),
        ),
        (
            layout(),
            event(&[1, 2, 3, 4], false, &[&[9]]),
            hashes([(&[1, 2], &[9]), (&[3, 4], &[])]),
        ),
        (
            eagle,
            event(&[1, 2, 3, 4, 5], true, &[]),
            hashes([(&[1, 2, 3], &[]), (&[3, 4, 5], &[])]),
        ),
        (eagle, event(&[1, 2, 3, 4], false, &[]), Vec::new()),
        (layout(), event(&[1, 2, 3, 4, 5], true, &[]), Vec::new()),
    ];
    for (layout, event, expected) in cases {
        assert_eq!(visible_after(layout, &event), expected, "{event:?}");
    }
}
