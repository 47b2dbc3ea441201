//! The prefix view: which slots hold which block, for one pool.
//!
//! A view is fed only blocks that are reachable from the root, so a slot's holdings are prefix-closed: if it
//! holds the block at depth `d` of a prompt, it holds every earlier one. Depths are therefore found by
//! galloping and bisecting, not by walking.

use crate::Slot;
use crate::hash::SequenceHash;
use crate::holders::{HolderSets, Holders, Sets};
use crate::shard::Shard;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// Shards grow one at a time, so that no single insertion moves more than 1/256 of the view.
const SHARDS: usize = 256;

/// The most that an entry takes, in bytes, in a view of some 10,000 entries or more that does not shrink.
pub const BYTES_PER_ENTRY: usize = 20;

/// Which slots hold which block. Memory: 17.8 to 20 bytes per entry whoever holds it, as long as all its holders are
/// below 64; besides those, each distinct set of holders takes up to 560 bytes, once.
#[derive(Debug)]
pub struct PrefixView {
    shards: Vec<Shard>,
    sets: HolderSets,
    entries: usize,
    table_bytes: usize,
    checksum: u64,
}

/// What became of a holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was there.
    Known,
    /// There is no room for it.
    Refused,
}

/// What is left of a view that nobody reads any more: freeing one of 50 million blocks at once takes too long.
#[derive(Debug, Default)]
pub struct Remains {
    shards: Vec<Shard>,
    sets: Vec<Sets>,
}

impl Remains {
    /// Frees a 64th. False once nothing is left.
    pub fn free_some(&mut self) -> bool {
        let kept = self.shards.len().saturating_sub(SHARDS / 64);
        self.shards.truncate(kept);
        self.sets.pop();
        !(self.shards.is_empty() && self.sets.is_empty())
    }
}

impl From<PrefixView> for Remains {
    fn from(view: PrefixView) -> Self {
        Self {
            shards: view.shards,
            sets: view.sets.into_tables(),
        }
    }
}

/// Leading blocks of one prompt that each slot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    by_slot: Vec<u32>,
}

impl Depths {
    /// Blocks held by `slot`, from the first on without a gap.
    pub fn of(&self, slot: Slot) -> u32 {
        self.by_slot.get(slot.index()).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, slot: Slot, depth: usize) {
        if self.by_slot.len() <= slot.index() {
            self.by_slot.resize(slot.index().saturating_add(1), 0);
        }
        if let Some(place) = self.by_slot.get_mut(slot.index()) {
            *place = u32::try_from(depth).unwrap_or(u32::MAX);
        }
    }
}

impl PrefixView {
    /// An empty view.
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(Shard::new).collect(),
            sets: HolderSets::new(),
            entries: 0,
            table_bytes: 0,
            checksum: 0,
        }
    }

    /// So many blocks are to come in all: from now on tables have room for their share at once, where that is within the
    /// limit of an insertion. 0: they grow as they fill.
    pub fn expect(&mut self, blocks: usize) {
        let share = blocks.div_ceil(SHARDS);
        self.shards.iter_mut().for_each(|shard| shard.expect(share));
    }

    /// Says that `slot` holds `hash`. False if it was known.
    pub fn insert(&mut self, slot: Slot, hash: SequenceHash) -> bool {
        self.insert_within(usize::MAX, slot, hash) == Stored::New
    }

    /// As [`PrefixView::insert`], unless the view would take more than `limit` bytes.
    pub fn insert_within(&mut self, limit: usize, slot: Slot, hash: SequenceHash) -> Stored {
        let room = limit.saturating_sub(self.bytes());
        let Some(shard) = self.shards.get_mut(shard_of(hash)) else {
            return Stored::Refused;
        };
        match shard.find(hash) {
            Ok(place) => {
                let holders = shard.holders(place);
                if self.sets.contains(holders, slot) {
                    return Stored::Known;
                }
                let Some(more) = self.sets.toggled(holders, slot, room) else {
                    return Stored::Refused;
                };
                shard.replace(place, more);
            }
            Err(place) => {
                let capacity = shard.capacity_for_one_more(room);
                let growth = shard.growth_to(capacity);
                if growth > room {
                    return Stored::Refused;
                }
                let Some(holders) = self.sets.toggled(Holders::NONE, slot, room.saturating_sub(growth)) else {
                    return Stored::Refused;
                };
                shard.add(place, capacity, hash, holders);
                self.table_bytes = self.table_bytes.saturating_add(growth);
                self.entries = self.entries.saturating_add(1);
            }
        }
        self.checksum = self.checksum.wrapping_add(holding_checksum(slot, hash));
        Stored::New
    }

    /// Says that `slot` no longer holds `hash`. False if it was not known to.
    pub fn remove(&mut self, slot: Slot, hash: SequenceHash) -> bool {
        let Some(shard) = self.shards.get_mut(shard_of(hash)) else {
            return false;
        };
        let Ok(place) = shard.find(hash) else {
            return false;
        };
        let holders = shard.holders(place);
        if !self.sets.contains(holders, slot) {
            return false;
        }
        // What remains may be a set that nobody else has, so a removal can take memory; it is never refused.
        match self.sets.toggled(holders, slot, usize::MAX) {
            Some(Holders::NONE) => {
                let before = shard.bytes();
                shard.take_out(place);
                let freed = before.saturating_sub(shard.bytes());
                self.table_bytes = self.table_bytes.saturating_sub(freed);
                self.entries = self.entries.saturating_sub(1);
            }
            Some(fewer) => shard.replace(place, fewer),
            None => return false,
        }
        self.checksum = self.checksum.wrapping_sub(holding_checksum(slot, hash));
        true
    }

    /// Whether `slot` holds `hash`.
    pub fn holds(&self, slot: Slot, hash: SequenceHash) -> bool {
        self.sets.contains(self.holders_of(hash), slot)
    }

    /// Blocks with at least one holder.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether no block has a holder.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Sum of [`holding_checksum`] over all (slot, block) pairs: equal views have equal sums, in whatever order
    /// they were built.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// How many leading blocks of a prompt each slot holds. `prompt`: sequence hashes from the root on.
    ///
    /// Costs about `log2(prompt.len())` probes for each distinct depth, not one for each block.
    pub fn depths(&self, prompt: &[SequenceHash]) -> Depths {
        self.depths_by(prompt, NonZeroU32::MIN)
    }

    /// As [`PrefixView::depths`] of a view that has every `stride`-th block of a prefix only: depths are rounded down
    /// to a multiple of it.
    pub fn depths_by(&self, prompt: &[SequenceHash], stride: NonZeroU32) -> Depths {
        let stride = stride.get() as usize;
        // Steps are numbered as blocks are without a stride: the first ends at depth `stride`.
        let steps = prompt.len().checked_div(stride).unwrap_or(0);
        let last_of = |step: usize| step.saturating_add(1).saturating_mul(stride).saturating_sub(1);
        let mut depths = Depths::default();
        let at = |step: usize| {
            let hash = prompt.get(last_of(step));
            hash.map_or(Holders::NONE, |&hash| self.holders_of(hash))
        };
        let first = at(0);
        if first == Holders::NONE {
            return depths;
        }
        // Gallop to the first power of two that nobody reaches; depths lie in [low, high).
        let mut low = (0, first);
        let mut high = (steps, Holders::NONE);
        let mut pending = Vec::new();
        let mut reach = 1_usize;
        while reach < steps {
            let set = at(reach);
            if set == Holders::NONE {
                high = (reach, set);
                break;
            }
            pending.push((low, (reach, set)));
            low = (reach, set);
            reach = reach.saturating_mul(2);
        }
        pending.push((low, high));
        // Slots in the set at `low` but not at `high` have their last block in between: bisect.
        while let Some((low, high)) = pending.pop() {
            if low.1 == high.1 {
                continue;
            }
            if high.0.saturating_sub(low.0) <= 1 {
                self.sets
                    .for_each_difference(low.1, high.1, |slot| depths.set(slot, high.0.saturating_mul(stride)));
                continue;
            }
            let middle = low.0.midpoint(high.0);
            let middle = (middle, at(middle));
            pending.push((low, middle));
            pending.push((middle, high));
        }
        depths
    }

    /// Memory that it takes, in bytes: the table, and the interned sets.
    pub fn bytes(&self) -> usize {
        self.table_bytes.saturating_add(self.sets.bytes())
    }

    /// Memory that a view of this content takes once it has settled, in bytes: tables that lost entries are slow to shrink.
    pub fn bytes_at_most(&self) -> usize {
        let entries = self.entries.saturating_mul(BYTES_PER_ENTRY);
        entries.saturating_add(self.sets.bytes())
    }

    fn holders_of(&self, hash: SequenceHash) -> Holders {
        let Some(shard) = self.shards.get(shard_of(hash)) else {
            return Holders::NONE;
        };
        shard.find(hash).map_or(Holders::NONE, |place| shard.holders(place))
    }
}

impl Default for PrefixView {
    fn default() -> Self {
        Self::new()
    }
}

/// One holding's part in [`PrefixView::checksum`]: the finalizer of MurmurHash3 over both numbers.
pub fn holding_checksum(slot: Slot, hash: SequenceHash) -> u64 {
    let mut x = hash.0 ^ u64::from(slot.0).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    x = (x ^ (x >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    x ^ (x >> 33)
}

fn shard_of(hash: SequenceHash) -> usize {
    usize::from(hash.0.to_be_bytes()[0])
}
