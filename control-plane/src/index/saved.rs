//! A rank's blocks as they are kept on disk, and back. Nothing read is trusted: it may be old, cut short or forged.

use router_core::Slot;
use router_core::hash::{HashSeed, SequenceHash};
use serde::{Deserialize, Serialize};

use super::Change;
use super::node::{MAX_DEPTH, NONE, Node, ROOT, Reach, Tiers};
use super::rank::RankIndex;
use super::seeds::MAX_SEEDS;
use super::window::Window;
use crate::events::EngineHash;

/// What a rank holds. Blocks are in an order in which each comes after its parent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedBlocks {
    /// Seeds in use.
    seeds: Vec<u64>,
    /// Of each block: sequence hash, number of its parent counted from 1 (0: none), number of its seed.
    blocks: Vec<(u64, u32, u32)>,
    /// Number of a block, the engine's name for it, bits of the tiers where it is under that name.
    names: Vec<(u32, u64, u8)>,
}

/// Why saved blocks are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBlocks {
    /// More than the index may have.
    #[error("more blocks than index.max_rank_blocks or index.max_pool_blocks allow")]
    TooMany,
    /// A number that names nothing, a block or a name that occurs twice, a block that nobody holds.
    #[error("the blocks contradict themselves: {0}")]
    Contradiction(&'static str),
}

impl RankIndex {
    /// What it holds, or `None` while that is not certain.
    pub(super) fn save(&self) -> Option<SavedBlocks> {
        if self.window.closed || self.is_draining() {
            return None;
        }
        let mut saved = SavedBlocks::default();
        let mut number_of_seed = std::collections::HashMap::new();
        for (at, parent) in self.root_first() {
            let node = &self.nodes[at];
            let seed = self.seeds.get(node.seed()).value();
            let seed = *number_of_seed.entry(seed).or_insert_with(|| {
                saved.seeds.push(seed);
                saved.seeds.len() as u32 - 1
            });
            let number = saved.blocks.len() as u32;
            saved.blocks.push((node.hash.0, parent, seed));
            let names = self.names.of(&self.nodes, at);
            saved
                .names
                .extend(names.map(|(name, tiers)| (number, name.0, tiers.bits())));
        }
        Some(saved)
    }

    /// A rank that holds what was saved, at most `room` blocks, and shows nothing of it until [`RankIndex::reveal`].
    pub(super) fn restored(window: Window, saved: &SavedBlocks, room: usize) -> Result<Self, NotBlocks> {
        let wrong = NotBlocks::Contradiction;
        if saved.blocks.len().max(saved.names.len()) > room || saved.seeds.len() >= MAX_SEEDS {
            return Err(NotBlocks::TooMany);
        }
        let mut rank = Self::new(Window { closed: true, ..window });
        let mut places = vec![ROOT];
        for &(hash, parent, seed) in &saved.blocks {
            let seed = saved.seeds.get(seed as usize).ok_or_else(|| wrong("no such seed"))?;
            let parent = *places.get(parent as usize).ok_or_else(|| wrong("no such parent"))?;
            if rank.find(SequenceHash(hash)).is_some() {
                return Err(wrong("a block twice"));
            }
            if rank.nodes[parent].depth() == MAX_DEPTH {
                return Err(NotBlocks::TooMany);
            }
            places.push(rank.add_node(SequenceHash(hash), parent, HashSeed::from_value(*seed)));
        }
        for &(block, name, tiers) in &saved.names {
            let at = *places.get(block as usize + 1).ok_or_else(|| wrong("no such block"))?;
            let tiers = Tiers::from_bits(tiers).ok_or_else(|| wrong("no such tier"))?;
            let name = EngineHash(name);
            if rank.names.find(&rank.nodes, name).is_some() {
                return Err(wrong("a name twice"));
            }
            rank.names.add(&mut rank.nodes, at, name, tiers);
        }
        for &at in &places[1..] {
            let node = &rank.nodes[at];
            if node.tiers().is_empty() && node.first_child == NONE {
                return Err(wrong("a block that nobody holds"));
            }
            rank.refresh(at, &mut Vec::new());
        }
        Ok(rank)
    }

    /// Shows what was restored: the engine still has it.
    pub(super) fn reveal(&mut self, changes: &mut Vec<Change>) {
        if std::mem::take(&mut self.window.closed) {
            for (at, _) in self.root_first() {
                let node: &Node = &self.nodes[at];
                self.window.change(node, Reach::NOWHERE, node.reach(), changes);
            }
        }
    }

    /// Every block after its parent, with the parent's number in this order counted from 1.
    fn root_first(&self) -> impl Iterator<Item = (u32, u32)> {
        let link = |at: u32| (at != NONE).then_some(at);
        let children = move |at: u32| {
            let first = link(self.nodes[at].first_child);
            std::iter::successors(first, move |&at| link(self.nodes[at].next_sibling))
        };
        let mut pending: Vec<(u32, u32)> = children(ROOT).map(|at| (at, 0)).collect();
        let mut number = 0;
        std::iter::from_fn(move || {
            let (at, parent) = pending.pop()?;
            number += 1;
            pending.extend(children(at).map(|child| (child, number)));
            Some((at, parent))
        })
    }
}

impl super::Index {
    /// What a rank holds, or `None` while that is not certain: it is being cleared, or was restored and not yet
    /// revealed.
    pub fn save(&self, rank: Slot) -> Option<SavedBlocks> {
        self.rank(rank)
            .map_or_else(|| Some(SavedBlocks::default()), RankIndex::save)
    }

    /// Lets a rank hold what was saved, and show nothing of it until [`super::Index::reveal`] or a clear. What it had must
    /// have been cleared.
    ///
    /// # Errors
    /// When that cannot be; then it holds nothing.
    pub fn restore(&mut self, rank: Slot, saved: &SavedBlocks) -> Result<(), NotBlocks> {
        let (room, window) = (self.room(rank), self.rank_mut(rank).window);
        let restored = RankIndex::restored(window, saved, room)?;
        self.replace(rank, restored);
        self.grow_older(saved.blocks.len());
        Ok(())
    }

    /// Shows what was restored.
    pub fn reveal(&mut self, rank: Slot, changes: &mut Vec<Change>) {
        self.rank_mut(rank).reveal(changes);
    }
}
