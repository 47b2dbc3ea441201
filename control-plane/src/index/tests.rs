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
        kind: Kind,
    },
    Copy {
        path: Vec<u8>,
        kind: Kind,
    },
    Remove {
        path: Vec<u8>,
        kind: Kind,
    },
    Clear,
    Forget,
    /// Takes a few blocks of a cleared rank out.
    Drain(usize),
    /// Shows every how many-th block, and how many generations before this one.
    Grid {
        stride: u32,
        generations: u8,
    },
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    tenant: bool,
    /// The engine has another name for the same content.
    alias: bool,
    tier: Tier,
}

/// An engine names a block by tenant, path and, where it tells equal content apart, a variant.
fn engine_hash(path: &[u8], kind: Kind) -> EngineHash {
    let digits = path.iter().fold(1, |number, &content| number * 10 + u64::from(content));
    EngineHash(digits * 4 + u64::from(kind.tenant) * 2 + u64::from(kind.alias))
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
        Step::Store { path, from, kind } => Some(Event::Stored(Stored {
            tier: kind.tier,
            parent: (*from > 0).then(|| engine_hash(&path[..*from], *kind)),
            blocks: (*from..path.len())
                .map(|end| engine_hash(&path[..=end], *kind))
                .collect(),
            content: Content::text(path[*from..].iter().flat_map(|&content| tokens(content)).collect()),
            block_size: BLOCK_SIZE,
            namespace: kind.tenant.then(|| "tenant".to_owned()),
            ..Stored::default()
        })),
        Step::Copy { path, kind } => Some(Event::Stored(Stored {
            tier: kind.tier,
            blocks: vec![engine_hash(path, *kind)],
            ..Stored::default()
        })),
        Step::Remove { path, kind } => Some(Event::Removed {
            tier: kind.tier,
            blocks: vec![engine_hash(path, *kind)],
        }),
        Step::Clear => Some(Event::Cleared),
        Step::Forget | Step::Drain(_) | Step::Grid { .. } => None,
    }
}

type Path = (Vec<u8>, bool);

/// What an engine holds, block by block, and what is reachable of it.
#[derive(Default)]
struct Naive {
    held: BTreeMap<EngineHash, (Path, BTreeSet<Tier>)>,
    /// The generation in which something was last stored at or below a block.
    stored: BTreeMap<Path, u8>,
    /// Whether all is to go, and nothing else came since.
    cleared: bool,
}

impl Naive {
    /// `generation`: in which the step is taken.
    fn take(&mut self, step: &Step, generation: u8) {
        let held = &mut self.held;
        self.cleared = matches!(step, Step::Clear | Step::Forget) || (self.cleared && event(step).is_none());
        match step {
            Step::Store { path, from, kind } => {
                if *from > 0 && !held.contains_key(&engine_hash(&path[..*from], *kind)) {
                    return;
                }
                for end in 0..path.len() {
                    self.stored.insert((path[..=end].to_vec(), kind.tenant), generation);
                }
                for end in *from..path.len() {
                    let path = path[..=end].to_vec();
                    let block = held.entry(engine_hash(&path, *kind)).or_default();
                    block.0 = (path, kind.tenant);
                    block.1.insert(kind.tier);
                }
            }
            Step::Copy { path, kind } => {
                if let Some((_, tiers)) = held.get_mut(&engine_hash(path, *kind))
                    && kind.tier != Tier::Device
                {
                    tiers.insert(kind.tier);
                }
            }
            Step::Remove { path, kind } => {
                if let Some((_, tiers)) = held.get_mut(&engine_hash(path, *kind)) {
                    tiers.remove(&kind.tier);
                }
                held.retain(|_, (_, tiers)| !tiers.is_empty());
            }
            Step::Clear | Step::Forget => held.clear(),
            Step::Drain(_) | Step::Grid { .. } => {}
        }
    }

    /// What can be reached through tiers up to `farthest`, with its depth and generation.
    fn reachable(&self, farthest: Tier) -> BTreeMap<SequenceHash, (u32, u8)> {
        let is_near =
            |(path, tiers): &(Path, BTreeSet<Tier>)| tiers.iter().any(|tier| *tier <= farthest).then(|| path.clone());
        let held: BTreeSet<_> = self.held.values().filter_map(is_near).collect();
        let is_reachable =
            |(path, tenant): &&Path| (1..=path.len()).all(|end| held.contains(&(path[..end].to_vec(), *tenant)));
        held.iter()
            .filter(is_reachable)
            .map(|path| {
                let (depth, stored) = (path.0.len() as u32, self.stored[path]);
                (sequence_hash(&path.0, path.1), (depth, stored))
            })
            .collect()
    }
}

impl Naive {
    fn rows(&self, view: &BTreeMap<Slot, BTreeSet<SequenceHash>>, slots: &[Slot]) -> Vec<Block> {
        let rows = self.held.iter().flat_map(|(&engine, ((path, tenant), tiers))| {
            let hash = sequence_hash(path, *tenant);
            let row = move |&tier| Block {
                hash,
                parent: (path.len() > 1).then(|| sequence_hash(&path[..path.len() - 1], *tenant)),
                engine,
                tier,
                depth: path.len() as u32,
                visible: slots
                    .iter()
                    .any(|slot| view.get(slot).is_some_and(|blocks| blocks.contains(&hash))),
            };
            tiers.iter().map(row)
        });
        rows.collect()
    }
}

fn a_step() -> impl Strategy<Value = (u16, Step)> {
    let path = || prop::collection::vec(0_u8..3, 1..6);
    let tier = prop::sample::select(vec![
        Tier::Device,
        Tier::Device,
        Tier::HostPinned,
        Tier::Disk,
        Tier::External,
    ]);
    let kind = (any::<bool>(), prop::bool::weighted(0.2), tier);
    let kind = kind.prop_map(|(tenant, alias, tier)| Kind { tenant, alias, tier });
    let store = (path(), any::<prop::sample::Index>(), kind.clone()).prop_map(|(path, from, kind)| Step::Store {
        from: from.index(path.len()),
        path,
        kind,
    });
    let grid = (1_u32..4, 0_u8..30).prop_map(|(stride, generations)| Step::Grid { stride, generations });
    let step = prop_oneof![
        12 => store,
        3 => (path(), kind.clone()).prop_map(|(path, kind)| Step::Copy { path, kind }),
        12 => (path(), kind).prop_map(|(path, kind)| Step::Remove { path, kind }),
        1 => Just(Step::Clear),
        1 => Just(Step::Forget),
        2 => (0_usize..5).prop_map(Step::Drain),
        2 => grid,
    ];
    (0_u16..3, step)
}

fn some_levels() -> impl Strategy<Value = Levels> {
    any::<(bool, bool)>().prop_map(|(host, disk)| Levels { host, disk })
}

/// The nearest ancestor of each block that this stride shows.
fn shown_parents(stride: u32) -> BTreeMap<SequenceHash, SequenceHash> {
    let paths = all_paths().flat_map(|path| [false, true].map(|tenant| (path.clone(), tenant)));
    let parent_of = |(path, tenant): Path| {
        let above = (1..path.len()).rev().find(|&end| (end as u32).is_multiple_of(stride))?;
        Some((sequence_hash(&path, tenant), sequence_hash(&path[..above], tenant)))
    };
    paths.filter_map(parent_of).collect()
}

/// What the view must have.
fn expected_view(naive: &BTreeMap<u16, Naive>, levels: Levels, grid: Grid) -> BTreeMap<Slot, BTreeSet<SequenceHash>> {
    let mut expected = BTreeMap::new();
    for (&rank, naive) in naive {
        let farthest = [Tier::Device, Tier::HostPinned, Tier::External];
        for (level, farthest) in Level::ALL.into_iter().zip(farthest) {
            let Some(slot) = levels.slot(levels.first_slot(rank), level) else {
                continue;
            };
            let blocks = naive.reachable(farthest).into_iter();
            let blocks: BTreeSet<_> = blocks
                .filter(|(_, (depth, stored))| grid.shows(*depth, *stored))
                .map(|(hash, _)| hash)
                .collect();
            if !blocks.is_empty() {
                expected.insert(slot, blocks);
            }
        }
    }
    expected
}

fn found_view(index: &Index) -> BTreeMap<Slot, BTreeSet<SequenceHash>> {
    let found = index
        .holdings()
        .map(|(slot, set)| (slot, set.map(|(_, hash)| hash).collect()));
    found.filter(|(_, set): &(_, BTreeSet<_>)| !set.is_empty()).collect()
}

proptest! {
    #[test]
    fn the_view_is_what_is_reachable_and_prefix_closed_at_every_change(
        levels in some_levels(),
        steps in prop::collection::vec(a_step(), 1..120),
    ) {
        let mut index = Index::new(Shape { levels, generation_blocks: 3, ..Shape::plain(layout()) });
        let mut naive: BTreeMap<u16, Naive> = BTreeMap::new();
        let mut view = PrefixView::new();
        let mut grid = Grid::default();
        let mut stride = grid.stride;
        let mut parents = shown_parents(stride);
        for (rank, step) in steps {
            let mut changes = Vec::new();
            let generation = index.generation;
            let was_cleared = naive.get(&rank).is_some_and(|naive| naive.cleared);
            match &step {
                Step::Forget => index.clear(Slot(rank)),
                Step::Drain(count) if was_cleared => drop(index.drain(Slot(rank), *count, &mut changes)),
                Step::Drain(_) => {}
                Step::Grid { stride, generations } => {
                    grid = Grid { stride: *stride, since: index.generation.saturating_sub(*generations) };
                    index.set_grid(grid);
                    while !index.regrid(&mut changes) {}
                }
                step => drop(index.apply(Slot(rank), &event(step).unwrap(), &mut changes)),
            }
            naive.entry(rank).or_default().take(&step, generation);
            // While the stride changes, the view is on neither grid.
            let strides = matches!(step, Step::Grid { .. }) && grid.stride != stride;
            for change in changes {
                let Change { slot, hash, stored } = change;
                let changed = if stored { view.insert(slot, hash) } else { view.remove(slot, hash) };
                prop_assert!(changed, "a change that changes nothing: {change:?}");
                let parent = parents.get(&hash);
                prop_assert!(strides || !stored || parent.is_none_or(|parent| view.holds(slot, *parent)));
                let mut orphans = parents.iter().filter(|(_, parent)| **parent == hash);
                prop_assert!(strides || stored || orphans.all(|(child, _)| !view.holds(slot, *child)));
            }
            if strides {
                stride = grid.stride;
                parents = shown_parents(stride);
            }
            let found = found_view(&index);
            let holdings = found.iter().flat_map(|(slot, set)| set.iter().map(|hash| holding_checksum(*slot, *hash)));
            prop_assert_eq!(view.checksum(), holdings.fold(0, u64::wrapping_add));
            let mut expected = expected_view(&naive, levels, grid);
            // What is being taken out may still be there, and nothing else.
            for (&rank, _) in naive.iter().filter(|(_, naive)| naive.cleared) {
                for level in Level::ALL {
                    if let Some(slot) = levels.slot(levels.first_slot(rank), level)
                        && let Some(rest) = found.get(&slot)
                    {
                        expected.insert(slot, rest.clone());
                    }
                }
            }
            prop_assert_eq!(&found, &expected);
            for (rank, naive) in naive.iter().filter(|(_, naive)| !naive.cleared) {
                prop_assert_eq!(index.reachable(Slot(*rank), Level::Device), naive.reachable(Tier::Device).len());
                prop_assert_eq!(index.reachable(Slot(*rank), Level::Disk), naive.reachable(Tier::External).len());
            }
        }
        // What comes back is young.
        let grid = Grid { since: 0, ..grid };
        index.set_grid(grid);
        while !index.regrid(&mut Vec::new()) {}
        let mut restored = Index::new(Shape { levels, grid, ..Shape::plain(layout()) });
        let mut revealed = PrefixView::new();
        for (&rank, naive) in &naive {
            let saved = index.save(Slot(rank));
prop_assert!(saved.is_some() || naive.cleared);
            let Some(saved) = saved else { continue };
            prop_assert_eq!(restored.restore(Slot(rank), &saved), Ok(()));
            prop_assert_eq!(restored.save(Slot(rank)), None);
            let before = found_view(&restored);
            let mut changes = Vec::new();
            restored.reveal(Slot(rank), &mut changes);
            for change in changes {
                prop_assert!(change.stored && revealed.insert(change.slot, change.hash));
                let parent = parents.get(&change.hash);
                prop_assert!(parent.is_none_or(|parent| revealed.holds(change.slot, *parent)));
            }
            let (was, is) = (found_view(&index), found_view(&restored));
            for level in Level::ALL {
                let Some(slot) = levels.slot(levels.first_slot(rank), level) else { continue };
                prop_assert_eq!(before.get(&slot), None);
                prop_assert_eq!(is.get(&slot), was.get(&slot));
            }
            let all = |index: &Index| {
                let mut rows = index.blocks(Slot(rank), 0, u32::MAX).0;
                rows.sort_unstable();
                rows
            };
            prop_assert_eq!(all(&restored), all(&index));
        }
        for (&rank, naive) in naive.iter().filter(|(_, naive)| !naive.cleared) {
            let first = levels.first_slot(rank);
            let slots: Vec<_> = Level::ALL.iter().filter_map(|level| levels.slot(first, *level)).collect();
            let (mut rows, mut from) = (Vec::new(), Some(0));
            while let Some(at) = from {
                let (page, next) = index.blocks(Slot(rank), at, 3);
                rows.extend(page);
                from = next;
            }
            let mut expected = naive.rows(&found_view(&index), &slots);
            rows.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(rows, expected);
        }
        let mut changes = Vec::new();
        for rank in 0..3 {
            index.clear(Slot(rank));
            prop_assert!(index.drain(Slot(rank), usize::MAX, &mut changes));
        }
        prop_assert!(index.is_empty() && found_view(&index).is_empty());
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
    let mut index = Index::new(Shape::plain(layout()));
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
    assert_eq!(index.reachable(Slot(0), Level::Device), 0);
}

#[test]
fn an_event_that_repeats_its_own_hashes_ends() {
    let mut index = Index::new(Shape::plain(layout()));
    let mut changes = Vec::new();
    index.apply(Slot(0), &stored(None, &[1, 1, 1], &[1, 2, 3, 4, 5, 6]), &mut changes);
    index.apply(Slot(0), &stored(Some(1), &[2, 1], &[1, 2, 3, 4]), &mut changes);
    index.apply(Slot(0), &removed(&[1, 2]), &mut changes);
    assert_eq!(index.reachable(Slot(0), Level::Device), 0);
}

#[test]
fn a_long_chain_needs_no_stack() {
    let mut index = Index::new(Shape::plain(layout()));
    let mut changes = Vec::new();
    let blocks: Vec<u64> = (0..200_000).collect();
    let tokens: Vec<u32> = (0..400_000).collect();
    index.apply(Slot(0), &stored(None, &blocks, &tokens), &mut changes);
    assert_eq!(index.reachable(Slot(0), Level::Device), 200_000);
    index.apply(Slot(0), &removed(&[0]), &mut changes);
    assert_eq!(index.reachable(Slot(0), Level::Device), 0);
    index.apply(Slot(0), &stored(None, &[0], &[0, 1]), &mut changes);
    assert_eq!(index.reachable(Slot(0), Level::Device), 200_000);
}

/// The sequence hashes that an event's blocks get.
fn visible_after(layout: BlockLayout, event: &Event) -> Vec<SequenceHash> {
    let mut changes = Vec::new();
    Index::new(Shape::plain(layout)).apply(Slot(0), event, &mut changes);
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

#[test]
fn what_is_over_the_limit_is_counted_and_given_back_room_is_used() {
    let mut index = Index::new(Shape {
        max_rank_blocks: 3,
        max_pool_blocks: 4,
        ..Shape::plain(layout())
    });
    let mut changes = Vec::new();
    let mut apply = |rank, event: Event| {
        let tally = index.apply(Slot(rank), &event, &mut changes);
        (tally.stored, tally.over_limit, index.len())
    };
    let tokens = [1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(apply(0, stored(None, &[1, 2, 3, 4], &tokens)), (3, 1, 3));
    assert_eq!(apply(1, stored(None, &[1, 2, 3, 4], &tokens)), (1, 3, 4));
    assert_eq!(apply(0, removed(&[3])), (0, 0, 3));
    assert_eq!(apply(1, stored(None, &[1, 2, 3, 4], &tokens)), (2, 2, 4));
    // A further name for a block takes room, too.
    assert_eq!(apply(0, stored(None, &[9], &tokens)), (0, 1, 4));
}

/// Far more generations than are told apart.
#[test]
fn what_is_old_stays_hidden_until_something_is_stored_below_it() {
    let mut index = Index::new(Shape {
        generation_blocks: 1,
        ..Shape::plain(layout())
    });
    let mut shown = BTreeSet::new();
    let mut follow = |index: &mut Index, change: &mut dyn FnMut(&mut Index, &mut Vec<Change>)| {
        let mut changes = Vec::new();
        change(index, &mut changes);
        for Change { hash, stored, .. } in changes {
            assert!(if stored {
                shown.insert(hash)
            } else {
                shown.remove(&hash)
            });
        }
        let holdings: BTreeSet<_> = index
            .holdings()
            .flat_map(|(_, blocks)| blocks.map(|(_, hash)| hash))
            .collect();
        assert_eq!(holdings, shown);
        shown.len()
    };
    let first = |number: u32| stored(None, &[number.into()], &[number, 0]);
    let store = |event: Event| {
        move |index: &mut Index, changes: &mut Vec<_>| {
            index.apply(Slot(0), &event, changes);
        }
    };
    let show_since = |since| {
        move |index: &mut Index, changes: &mut Vec<_>| {
            index.show_since(since);
            assert!(index.regrid(changes), "one rank");
        }
    };
    for number in 0..100 {
        follow(&mut index, &mut store(first(number)));
    }
    assert_eq!(follow(&mut index, &mut show_since(60)), 40);
    for number in 100..1_000 {
        let count = follow(&mut index, &mut store(first(number)));
        assert_eq!(count, number as usize + 1 - 60);
    }
    let by_generation = index.reachable_by_generation();
    let hidden: u64 = by_generation.iter().take(index.since().into()).sum();
    assert_eq!((hidden, by_generation.iter().sum()), (60, 1_000_u64));
    let below = stored(Some(5), &[2_000], &[7, 7]);
    assert_eq!(follow(&mut index, &mut store(below)), 942);
    assert_eq!(follow(&mut index, &mut show_since(0)), 1_001);
}

#[test]
fn another_grid_is_for_one_rank_after_the_other() {
    let mut index = Index::new(Shape::plain(layout()));
    let mut changes = Vec::new();
    for rank in [0, 1, 2] {
        index.apply(Slot(rank), &stored(None, &[1, 2, 3], &[1, 2, 3, 4, 5, 6]), &mut changes);
    }
    index.set_grid(Grid { stride: 2, since: 0 });
    let mut steps = Vec::new();
    loop {
        changes.clear();
        let done = index.regrid(&mut changes);
        steps.push((
            done,
            changes
                .iter()
                .map(|change| (change.slot.0, change.stored))
                .collect::<Vec<_>>(),
        ));
        if done {
            break;
        }
    }
    let hides = |rank, count| vec![(rank, false); count];
    assert_eq!(steps, [(false, hides(0, 2)), (false, hides(1, 2)), (true, hides(2, 2))]);
    assert!(index.is_regridded());
}

#[test]
fn a_rank_of_millions_is_taken_out_piece_by_piece() {
    let mut index = Index::new(Shape::plain(layout()));
    let mut changes = Vec::new();
    for root in 0..100_u32 {
        let blocks: Vec<u64> = (0..100).map(|block| u64::from(root) * 100 + block).collect();
        index.apply(Slot(0), &stored(None, &blocks, &[root; 200]), &mut changes);
    }
    index.clear(Slot(0));
    let mut pieces = Vec::new();
    loop {
        changes.clear();
        let done = index.drain(Slot(0), 3_000, &mut changes);
        pieces.push((changes.len(), index.reachable(Slot(0), Level::Device)));
        if done {
            break;
        }
    }
    assert_eq!(pieces, [(3_000, 7_000), (3_000, 4_000), (3_000, 1_000), (1_000, 0)]);
    assert!(index.is_empty());
}

#[test]
fn saved_blocks_that_contradict_themselves_are_refused() {
    let shape = Shape {
        max_rank_blocks: 3,
        ..Shape::plain(layout())
    };
    let mut index = Index::new(shape);
    let mut changes = Vec::new();
    index.apply(Slot(0), &stored(None, &[1, 2, 3], &[1, 2, 3, 4, 5, 6]), &mut changes);
    let good = serde_json::to_value(index.save(Slot(0))).unwrap();
    let cases = [
        (
            "/blocks/1/0",
            good["blocks"][0][0].clone(),
            NotBlocks::Contradiction("a block twice"),
        ),
        ("/blocks/1/1", 2.into(), NotBlocks::Contradiction("no such parent")),
        ("/blocks/1/2", 1.into(), NotBlocks::Contradiction("no such seed")),
        ("/names/2/0", 3.into(), NotBlocks::Contradiction("no such block")),
        ("/names/2/0", u32::MAX.into(), NotBlocks::Contradiction("no such block")),
        (
            "/names/2/0",
            0.into(),
            NotBlocks::Contradiction("a block that nobody holds"),
        ),
        ("/names/2/1", 1.into(), NotBlocks::Contradiction("a name twice")),
        ("/names/2/2", 0.into(), NotBlocks::Contradiction("no such tier")),
        ("/names/2/2", 16.into(), NotBlocks::Contradiction("no such tier")),
        ("/names", vec![vec![0, 7, 1]; 4].into(), NotBlocks::TooMany),
    ];
    for (place, value, expected) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        let bad: SavedBlocks = serde_json::from_value(bad).unwrap();
        let mut index = Index::new(shape);
        assert_eq!(index.restore(Slot(0), &bad), Err(expected), "{place}");
        assert!(index.is_empty());
    }
}
