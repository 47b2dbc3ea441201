//! The prefix view: which slots hold which block, for one pool.
//!
//! A view is fed only blocks that are reachable from the root, so a slot's holdings are prefix-closed: if it
//! holds the block at depth `d` of a prompt, it holds every earlier one. Depths are therefore found by
//! galloping and bisecting, not by walking.

use crate::Slot;
use crate::hash::SequenceHash;
use crate::worker_sets::{SetId, WorkerSets};
use alloc::{boxed::Box, vec, vec::Vec};

/// Shards grow one at a time, so that no single insertion moves more than 1/256 of the view.
const SHARDS: usize = 256;

/// Which slots hold which block. Memory: 12 bytes per entry at a load of 68 to 85 %, 14 to 18 bytes, plus each
/// distinct set of holders once.
#[derive(Debug)]
pub struct PrefixView {
    shards: Box<[Shard]>,
    sets: WorkerSets,
    entries: usize,
    checksum: u64,
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
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            sets: WorkerSets::new(),
            entries: 0,
            checksum: 0,
        }
    }

    /// Says that `slot` holds `hash`. False if it was known.
    pub fn insert(&mut self, slot: Slot, hash: SequenceHash) -> bool {
        let Some(shard) = self.shards.get_mut(shard_of(hash)) else {
            return false;
        };
        let place = shard.place_for(key_of(hash));
        let set = shard.set(place);
        if self.sets.contains(set, slot) {
            return false;
        }
        // Entries of the table always have holders, so an empty set tells a new one.
        self.entries = self.entries.saturating_add(usize::from(set == SetId::EMPTY));
        shard.replace_set(place, self.sets.toggled(set, slot));
        self.checksum = self.checksum.wrapping_add(holding_checksum(slot, hash));
        true
    }

    /// Says that `slot` no longer holds `hash`. False if it was not known to.
    pub fn remove(&mut self, slot: Slot, hash: SequenceHash) -> bool {
        let Some(shard) = self.shards.get_mut(shard_of(hash)) else {
            return false;
        };
        let Some(place) = shard.find(key_of(hash)) else {
            return false;
        };
        let set = shard.set(place);
        if !self.sets.contains(set, slot) {
            return false;
        }
        match self.sets.toggled(set, slot) {
            SetId::EMPTY => {
                shard.take_out(place);
                self.entries = self.entries.saturating_sub(1);
            }
            set => shard.replace_set(place, set),
        }
        self.checksum = self.checksum.wrapping_sub(holding_checksum(slot, hash));
        true
    }

    /// Whether `slot` holds `hash`.
    pub fn holds(&self, slot: Slot, hash: SequenceHash) -> bool {
        self.sets.contains(self.set_of(hash), slot)
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
        let mut depths = Depths::default();
        let at = |depth: usize| prompt.get(depth).map_or(SetId::EMPTY, |&hash| self.set_of(hash));
        let first = at(0);
        if first == SetId::EMPTY {
            return depths;
        }
        // Gallop to the first power of two that nobody reaches; depths lie in [low, high).
        let mut low = (0, first);
        let mut high = (prompt.len(), SetId::EMPTY);
        let mut pending = Vec::new();
        let mut reach = 1_usize;
        while reach < prompt.len() {
            let set = at(reach);
            if set == SetId::EMPTY {
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
                    .for_each_difference(low.1, high.1, |slot| depths.set(slot, high.0));
                continue;
            }
            let middle = low.0.midpoint(high.0);
            let middle = (middle, at(middle));
            pending.push((low, middle));
            pending.push((middle, high));
        }
        depths
    }

    /// Bytes of the table itself, without the interned sets.
    pub fn table_bytes(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.keys.len().saturating_mul(12))
            .fold(0, usize::saturating_add)
    }

    fn set_of(&self, hash: SequenceHash) -> SetId {
        let Some(shard) = self.shards.get(shard_of(hash)) else {
            return SetId::EMPTY;
        };
        shard.find(key_of(hash)).map_or(SetId::EMPTY, |place| shard.set(place))
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

/// The table marks free places with 0; the one hash that is 0 is stored as 1.
fn key_of(hash: SequenceHash) -> u64 {
    hash.0.max(1)
}

/// Open addressing with linear probing. Our own because of the budget: 8-byte keys and 4-byte sets in two arrays
/// that grow by a quarter cost at most 18 bytes an entry; a general map pads to 16 and doubles.
#[derive(Debug, Default)]
struct Shard {
    keys: Vec<u64>,
    sets: Vec<SetId>,
    used: usize,
}

impl Shard {
    fn find(&self, key: u64) -> Option<usize> {
        let mut place = self.home(key);
        for _ in 0..self.keys.len() {
            match self.keys.get(place) {
                Some(&found) if found == key => return Some(place),
                Some(0) | None => return None,
                Some(_) => place = self.after(place),
            }
        }
        None
    }

    /// Where `key` stands, with an empty set if it was not there.
    fn place_for(&mut self, key: u64) -> usize {
        if let Some(place) = self.find(key) {
            return place;
        }
        if self.used.saturating_add(1).saturating_mul(100) > self.keys.len().saturating_mul(85) {
            self.resize(self.keys.len().saturating_mul(5).div_ceil(4).max(16));
        }
        self.put(key, SetId::EMPTY)
    }

    fn put(&mut self, key: u64, set: SetId) -> usize {
        let mut place = self.home(key);
        while self.keys.get(place).is_some_and(|&found| found != 0) {
            place = self.after(place);
        }
        self.write(place, key, set);
        self.used = self.used.saturating_add(1);
        place
    }

    /// Frees `place` and closes the gap, so that probing may stop at the first free place.
    fn take_out(&mut self, mut place: usize) {
        self.used = self.used.saturating_sub(1);
        let mut next = self.after(place);
        for _ in 0..self.keys.len() {
            let key = self.keys.get(next).copied().unwrap_or(0);
            if key == 0 {
                break;
            }
            if self.distance(self.home(key), next) >= self.distance(place, next) {
                let set = self.set(next);
                self.write(place, key, set);
                place = next;
            }
            next = self.after(next);
        }
        self.write(place, 0, SetId::EMPTY);
        if self.keys.len() > 64 && self.used.saturating_mul(3) < self.keys.len() {
            self.resize(self.keys.len().div_ceil(2));
        }
    }

    fn resize(&mut self, capacity: usize) {
        let keys = core::mem::replace(&mut self.keys, vec![0; capacity]);
        let sets = core::mem::replace(&mut self.sets, vec![SetId::EMPTY; capacity]);
        self.used = 0;
        for (key, set) in keys.into_iter().zip(sets) {
            if key != 0 {
                self.put(key, set);
            }
        }
    }

    /// Where probing for `key` starts. The top byte chose the shard, so the next bits are scaled to the capacity.
    fn home(&self, key: u64) -> usize {
        let fraction = (key >> 24) & 0xFFFF_FFFF;
        let place = fraction.wrapping_mul(self.keys.len() as u64) >> 32;
        usize::try_from(place).unwrap_or(0)
    }

    fn after(&self, place: usize) -> usize {
        let next = place.saturating_add(1);
        if next >= self.keys.len() { 0 } else { next }
    }

    /// Steps of probing from `from` to `to`.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to.saturating_sub(from)
        } else {
            to.saturating_add(self.keys.len()).saturating_sub(from)
        }
    }

    fn write(&mut self, place: usize, key: u64, set: SetId) {
        if let (Some(old_key), Some(old_set)) = (self.keys.get_mut(place), self.sets.get_mut(place)) {
            *old_key = key;
            *old_set = set;
        }
    }

    fn set(&self, place: usize) -> SetId {
        self.sets.get(place).copied().unwrap_or(SetId::EMPTY)
    }

    fn replace_set(&mut self, place: usize, set: SetId) {
        if let Some(old) = self.sets.get_mut(place) {
            *old = set;
        }
    }
}
