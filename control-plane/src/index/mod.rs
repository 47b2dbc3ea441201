//! What every rank of one pool holds, exactly: pure, and written by one task only.
//!
//! A rank's holdings form a forest; the prefix view gets the blocks that are reachable from a root. So removing a
//! block in the middle hides what stands below it, and storing it again shows that again, without a token in between.

mod content;
mod seeds;
mod slot;

use router_core::Slot;
use router_core::hash::{BlockLayout, SequenceHash};

use crate::events::{Event, Stored, Tier};
use slot::SlotIndex;

/// One change of the prefix view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose block.
    pub slot: Slot,
    /// Which.
    pub hash: SequenceHash,
    /// Whether it appeared; it is gone otherwise.
    pub stored: bool,
}

/// How an event was taken, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stored, known ones again included.
    pub stored: u64,
    /// Removed.
    pub removed: u64,
    /// Not stored, as what stands before them is not known.
    pub unknown_parent: u64,
    /// Not stored, as their block size or layout is not the pool's.
    pub wrong_block_size: u64,
    /// Not stored, as the event has too few tokens.
    pub missing_tokens: u64,
    /// Not stored and not removed, as they are not on the device.
    pub other_tier: u64,
    /// Removals of blocks that were not known.
    pub unknown_removed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    layout: BlockLayout,
    slots: Vec<SlotIndex>,
}

impl Index {
    /// An empty index of a pool whose workers cut prompts by `layout`.
    pub fn new(layout: BlockLayout) -> Self {
        Self {
            layout,
            slots: Vec::new(),
        }
    }

    /// Takes one event of one rank. Appends the changes of the view, in an order in which the view is prefix-closed
    /// after each of them.
    pub fn apply(&mut self, slot: Slot, event: &Event, changes: &mut Vec<Change>) -> Tally {
        let layout = self.layout;
        let index = self.slot_mut(slot);
        match event {
            Event::Stored(stored) if !content::fits(stored, layout) => Tally {
                wrong_block_size: stored.blocks.len() as u64,
                ..Tally::default()
            },
            Event::Stored(stored) if stored.tier == Tier::Device => index.store(stored, layout, changes),
            Event::Removed {
                tier: Tier::Device,
                blocks,
            } => index.remove(blocks, changes),
            Event::Stored(Stored { blocks, .. }) | Event::Removed { blocks, .. } => Tally {
                other_tier: blocks.len() as u64,
                ..Tally::default()
            },
            Event::Cleared => index.clear(changes),
        }
    }

    /// Drops all that one rank holds, in time proportional to it, and gives the memory back.
    pub fn clear(&mut self, slot: Slot, changes: &mut Vec<Change>) {
        self.slot_mut(slot).clear(changes);
    }

    /// Blocks of one rank that are in the view.
    pub fn visible(&self, slot: Slot) -> usize {
        self.slots.get(usize::from(slot.0)).map_or(0, SlotIndex::visible)
    }

    /// Every rank's blocks that are in the view.
    pub fn holdings(&self) -> impl Iterator<Item = (Slot, impl Iterator<Item = SequenceHash>)> {
        self.slots.iter().map(|index| (index.slot(), index.visible_hashes()))
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut SlotIndex {
        let index = usize::from(slot.0);
        while self.slots.len() <= index {
            let next = u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
            self.slots.push(SlotIndex::new(Slot(next)));
        }
        &mut self.slots[index]
    }
}

#[cfg(test)]
mod tests;
