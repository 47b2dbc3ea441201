//! What several targets use.

use std::collections::BTreeSet;

use control_plane::events::Event;
use control_plane::index::{Change, Grid, Index, Shape};
use router_core::Slot;
use router_core::hash::{BlockLayout, SequenceHash};
use router_core::levels::Levels;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Small models of every kind; the tests of hostile artefacts have the same.
#[path = "../../crates/tokenizer/tests/models/small.rs"]
pub mod models;

/// Tokens per block of the recorded events.
pub const BLOCK_SIZE: u32 = 16;

/// Whether `bytes` are one MessagePack value and nothing else.
pub fn is_one_value(bytes: &[u8]) -> bool {
    let mut reader = rmp_serde::Deserializer::new(bytes);
    IgnoredAny::deserialize(&mut reader).is_ok() && reader.get_ref().is_empty()
}

/// An empty index that shows all tiers and soon has enough.
pub fn index() -> Index {
    Index::new(Shape {
        layout: BlockLayout::plain(BLOCK_SIZE).expect("not 0"),
        levels: Levels { host: true, disk: true },
        grid: Grid::default(),
        generation_blocks: 100,
        max_rank_blocks: 1_000,
        max_pool_blocks: 1_500,
    })
}

/// A view that is kept by the changes alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View(BTreeSet<(Slot, SequenceHash)>);

impl View {
    /// What an index shows.
    pub fn of(index: &Index) -> Self {
        let holdings = index.holdings();
        Self(
            holdings
                .flat_map(|(slot, blocks)| blocks.map(move |(_, hash)| (slot, hash)))
                .collect(),
        )
    }

    /// Makes the changes: each appears that was not there, and goes that was.
    pub fn change(&mut self, changes: &[Change]) {
        for &Change { slot, hash, stored } in changes {
            let changed = if stored {
                self.0.insert((slot, hash))
            } else {
                self.0.remove(&(slot, hash))
            };
            assert!(changed, "{hash:?} of {slot:?} was so already: stored {stored}");
        }
    }
}

/// Takes the events into an index. What it says of its view is what it shows.
pub fn check_index<'a>(events: impl IntoIterator<Item = &'a Event>) {
    let (mut index, mut view, mut changes) = (index(), View::default(), Vec::new());
    for (number, event) in events.into_iter().enumerate() {
        // Two ranks in turn.
        let rank = Slot(u16::from(number % 2 == 1));
        index.apply(rank, event, &mut changes);
        if *event == Event::Cleared {
            index.drain(rank, usize::MAX, &mut changes);
        }
    }
    view.change(&changes);
    assert_eq!(view, View::of(&index));
}
