//! What every rank of one pool holds, exactly: pure, and written by one task only.
//!
//! A rank's holdings form a forest; the prefix view gets the blocks that are reachable from a root. So removing a
//! block in the middle hides what stands below it, and storing it again shows that again, without a token in between.

mod seeds;
mod slot;

use router_core::Slot;
use router_core::hash::SequenceHash;

use crate::events::Event;
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
    /// Not stored, as their block size is not the pool's.
    pub wrong_block_size: u64,
    /// Not stored, as the event has too few tokens.
    pub missing_tokens: u64,
    /// Removals of blocks that were not known.
    pub unknown_removed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    block_size: u32,
    slots: Vec<SlotIndex>,
}

impl Index {
    /// An empty index of a pool whose blocks have `block_size` tokens.
    pub fn new(block_size: u32) -> Self {
        Self {
            block_size,
            slots: Vec::new(),
        }
    }

    /// Takes one event of one rank. Appends the changes of the view, in an order in which the view is prefix-closed
    /// after each of them.
    pub fn apply(&mut self, slot: Slot, event: &Event, changes: &mut Vec<Change>) -> Tally {
        let block_size = self.block_size;
        let index = self.slot_mut(slot);
        match event {
            Event::Stored(stored) if stored.block_size == block_size => index.store(stored, changes),
            Event::Stored(stored) => Tally {
                wrong_block_size: stored.blocks.len() as u64,
                ..Tally::default()
            },
            Event::Removed(blocks) => index.remove(blocks, changes),
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
