//! Which of a rank's reachable blocks go into the view, and under which slots.

use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::levels::Level;

use super::Change;
use super::node::{Node, Reach};

/// How finely a view shows what is held, and how old that may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Every how many-th block of a sequence is shown: those whose depth, counted from 1, it divides. So a slot that has
    /// `n` of a prompt's shown blocks holds at least `n * stride` blocks. At least 1.
    pub stride: u32,
    /// The oldest generation that is shown: blocks with nothing stored at or below them since are not. As storing a block
    /// makes all before it young, a view without the old is prefix-closed.
    pub since: u8,
}

impl Default for Grid {
    /// Everything.
    fn default() -> Self {
        Self { stride: 1, since: 0 }
    }
}

impl Grid {
    /// Whether blocks at `depth` are shown that were `stored` in this generation.
    pub(super) fn shows(self, depth: u32, stored: u8) -> bool {
        stored >= self.since && self.is_on(depth)
    }

    /// What `since` becomes when all generations are made older by so many. It still hides some if it did.
    pub(super) fn since_before(self, by: u8) -> u8 {
        match self.since {
            0 => 0,
            since => since.saturating_sub(by).max(1),
        }
    }

    /// Whether blocks at `depth` are shown if they are young enough.
    pub(super) fn is_on(self, depth: u32) -> bool {
        self.stride <= 1 || depth.is_multiple_of(self.stride)
    }
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// By level; `None` where the view does not have it.
    pub(super) slots: [Option<Slot>; Level::ALL.len()],
    pub(super) grid: Grid,
    /// Nothing is shown.
    pub(super) closed: bool,
    /// What is stored now is of this one.
    pub(super) generation: u8,
}

impl Window {
    /// What it means for the view that a node's reach goes from one to another.
    pub(super) fn change(&self, node: &Node, from: Reach, to: Reach, changes: &mut Vec<Change>) {
        if self.closed || !self.grid.shows(node.depth(), node.stored) {
            return;
        }
        let levels = from.index().min(to.index())..from.index().max(to.index());
        for slot in self.slots[levels].iter().flatten() {
            changes.push(Change {
                slot: *slot,
                hash: node.hash,
                stored: to < from,
            });
        }
    }

    /// Whether the view has the block under any slot.
    pub(super) fn shows(&self, node: &Node) -> bool {
        let levels = self.slots.get(node.reach().index()..).unwrap_or_default();
        !self.closed && self.grid.shows(node.depth(), node.stored) && levels.iter().any(Option::is_some)
    }

    /// The blocks of `nodes` that are shown, by slot: depth and hash.
    pub(super) fn shown<'n, I: Iterator<Item = &'n Node> + Clone>(
        &self,
        nodes: I,
    ) -> impl Iterator<Item = (Slot, impl Iterator<Item = (u32, SequenceHash)> + use<'n, I>)> + use<'n, I> {
        let window = *self;
        let slots = (0..Level::ALL.len()).filter_map(move |level| Some((level, window.slots[level]?)));
        slots.map(move |(level, slot)| {
            let is_shown = move |node: &&Node| {
                !window.closed && node.reach().index() <= level && window.grid.shows(node.depth(), node.stored)
            };
            (
                slot,
                nodes.clone().filter(is_shown).map(|node| (node.depth(), node.hash)),
            )
        })
    }
}
