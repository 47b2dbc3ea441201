//! Sets of slots, stored once each: most blocks of a view share a few sets, so an entry holds a 4-byte id
//! and two entries with the same holders compare by id.

use crate::Slot;
use alloc::{boxed::Box, vec, vec::Vec};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// Id of an interned set. [`SetId::EMPTY`] is the empty set and always valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId(pub(crate) u32);

impl SetId {
    pub(crate) const EMPTY: Self = Self(0);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bit `s % 64` of word `s / 64` says that slot `s` is in; no trailing zero words.
#[derive(Debug, Default)]
struct Record {
    bits: Box<[u64]>,
    /// Entries that name this set.
    uses: u32,
}

#[derive(Debug)]
pub(crate) struct WorkerSets {
    records: Vec<Record>,
    by_bits: HashTable<SetId>,
    free: Vec<SetId>,
    scratch: Vec<u64>,
}

impl WorkerSets {
    pub(crate) fn new() -> Self {
        Self {
            records: vec![Record::default()],
            by_bits: HashTable::new(),
            free: Vec::new(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn contains(&self, id: SetId, slot: Slot) -> bool {
        self.bits(id)
            .get(word_of(slot))
            .is_some_and(|word| word & bit_of(slot) != 0)
    }

    /// Calls `visit` with each slot that is in `id` and not in `without`.
    pub(crate) fn for_each_difference(&self, id: SetId, without: SetId, mut visit: impl FnMut(Slot)) {
        let without = self.bits(without);
        for (number, &word) in self.bits(id).iter().enumerate() {
            let mut rest = word & !without.get(number).copied().unwrap_or(0);
            while rest != 0 {
                let slot = number.saturating_mul(64).saturating_add(rest.trailing_zeros() as usize);
                visit(Slot(u16::try_from(slot).unwrap_or(u16::MAX)));
                rest &= rest.wrapping_sub(1);
            }
        }
    }

    /// The set that differs from `id` in `slot` alone; one use moves from `id` to it.
    pub(crate) fn toggled(&mut self, id: SetId, slot: Slot) -> SetId {
        self.scratch.clear();
        let bits = self.records.get(id.index()).map_or(&[][..], |record| &record.bits);
        self.scratch.extend_from_slice(bits);
        let words = word_of(slot).saturating_add(1);
        if self.scratch.len() < words {
            self.scratch.resize(words, 0);
        }
        if let Some(word) = self.scratch.get_mut(word_of(slot)) {
            *word ^= bit_of(slot);
        }
        while self.scratch.last() == Some(&0) {
            self.scratch.pop();
        }
        let to = self.intern();
        self.release(id);
        to
    }

    /// Gives back one use of `id`.
    pub(crate) fn release(&mut self, id: SetId) {
        if id == SetId::EMPTY {
            return;
        }
        let Some(record) = self.records.get_mut(id.index()) else {
            return;
        };
        record.uses = record.uses.saturating_sub(1);
        if record.uses > 0 {
            return;
        }
        let hash = hash_of(&record.bits);
        record.bits = Box::default();
        if let Ok(entry) = self.by_bits.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.free.push(id);
    }

    /// Takes one use of the set in `scratch`.
    fn intern(&mut self) -> SetId {
        if self.scratch.is_empty() {
            return SetId::EMPTY;
        }
        let hash = hash_of(&self.scratch);
        let records = &mut self.records;
        let bits_of = |id: SetId| records.get(id.index()).map_or(&[][..], |record| &record.bits);
        if let Some(&id) = self.by_bits.find(hash, |&id| bits_of(id) == self.scratch) {
            if let Some(record) = records.get_mut(id.index()) {
                record.uses = record.uses.saturating_add(1);
            }
            return id;
        }
        let record = Record {
            bits: self.scratch.as_slice().into(),
            uses: 1,
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                records.push(Record::default());
                SetId(u32::try_from(records.len().saturating_sub(1)).unwrap_or(u32::MAX))
            }
        };
        if let Some(place) = records.get_mut(id.index()) {
            *place = record;
        }
        let rehash = |id: &SetId| hash_of(records.get(id.index()).map_or(&[][..], |record| &record.bits));
        self.by_bits.insert_unique(hash, id, rehash);
        id
    }

    fn bits(&self, id: SetId) -> &[u64] {
        self.records.get(id.index()).map_or(&[], |record| &record.bits)
    }
}

fn word_of(slot: Slot) -> usize {
    slot.index() >> 6
}

fn bit_of(slot: Slot) -> u64 {
    1 << (slot.0 & 63)
}

/// Most sets fit one word, which a multiplication spreads well enough; longer ones go through xxh3.
fn hash_of(bits: &[u64]) -> u64 {
    match bits {
        [word] => {
            let product = word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            product ^ (product >> 32)
        }
        words => {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            xxh3_64(&bytes)
        }
    }
}
