//! One part of a view's table: from block to holders.

use crate::hash::SequenceHash;
use crate::holders::Holders;
use alloc::{vec, vec::Vec};

/// A shard grows when it is fuller than this, in percent,
const FULLEST: usize = 90;
/// by an eighth, after which it is 80 % full: 17.8 to 20 bytes an entry.
const GROWTH: (usize, usize) = (9, 8);
/// It shrinks to 80 % when it is emptier than this, in percent: 23 bytes an entry.
const EMPTIEST: usize = 70;
/// Capacity of a shard's first table; one in four adds 0, 1, 2 or 3 to it, so that they do not grow all at once and the
/// view as a whole is some 85 % full at any size.
const FIRST_CAPACITY: usize = 24;
/// Bytes that a place of the table takes.
const PLACE: usize = 16;

/// Open addressing with linear probing. Our own because of the budget: a general map of 16-byte entries doubles, and
/// so takes up to 37 bytes for each.
///
/// A key is the block's hash with its top byte, which has chosen the shard, replaced by a tag: what the second word
/// means, or that the place is free.
#[derive(Debug)]
pub(crate) struct Shard {
    keys: Vec<u64>,
    holders: Vec<u64>,
    used: usize,
    first_capacity: usize,
}

const FREE: u64 = 0;
const BITS: u64 = 1;
const INTERNED: u64 = 2;
const LIST: u64 = 3;
const TAG_SHIFT: u32 = 56;
const HASH_MASK: u64 = (1 << TAG_SHIFT) - 1;

impl Shard {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            keys: Vec::new(),
            holders: Vec::new(),
            used: 0,
            first_capacity: FIRST_CAPACITY.saturating_add(number & 3),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.keys.len().saturating_mul(PLACE)
    }

    /// Where the block stands.
    pub(crate) fn find(&self, hash: SequenceHash) -> Option<usize> {
        let key = hash.0 & HASH_MASK;
        let mut place = self.home(key);
        for _ in 0..self.keys.len() {
            let found = self.keys.get(place).copied()?;
            if found >> TAG_SHIFT == FREE {
                return None;
            }
            if found & HASH_MASK == key {
                return Some(place);
            }
            place = self.after(place);
        }
        None
    }

    /// How many more bytes the table will take for one more entry.
    pub(crate) fn growth(&self) -> usize {
        self.grown_capacity()
            .saturating_sub(self.keys.len())
            .saturating_mul(PLACE)
    }

    /// Adds a block that is not there.
    pub(crate) fn add(&mut self, hash: SequenceHash, holders: Holders) {
        let capacity = self.grown_capacity();
        if capacity > self.keys.len() {
            self.resize(capacity);
        }
        let (tag, word) = encode(holders);
        self.put(hash.0 & HASH_MASK | tag << TAG_SHIFT, word);
        self.used = self.used.saturating_add(1);
    }

    pub(crate) fn holders(&self, place: usize) -> Holders {
        let word = self.holders.get(place).copied().unwrap_or(0);
        match self.keys.get(place).map(|key| key >> TAG_SHIFT) {
            Some(BITS) => Holders::Bits(word),
            Some(LIST) => Holders::List(word),
            Some(INTERNED) => Holders::interned_from(word),
            _ => Holders::NONE,
        }
    }

    pub(crate) fn replace(&mut self, place: usize, holders: Holders) {
        if let Some(&key) = self.keys.get(place) {
            let (tag, word) = encode(holders);
            self.write(place, key & HASH_MASK | tag << TAG_SHIFT, word);
        }
    }

    /// Frees `place` and closes the gap, so that probing may stop at the first free place.
    pub(crate) fn take_out(&mut self, mut place: usize) {
        self.used = self.used.saturating_sub(1);
        let mut next = self.after(place);
        for _ in 0..self.keys.len() {
            let key = self.keys.get(next).copied().unwrap_or(0);
            if key >> TAG_SHIFT == FREE {
                break;
            }
            if self.distance(self.home(key), next) >= self.distance(place, next) {
                let word = self.holders.get(next).copied().unwrap_or(0);
                self.write(place, key, word);
                place = next;
            }
            next = self.after(next);
        }
        if let Some(key) = self.keys.get_mut(place) {
            *key = FREE;
        }
        if self.keys.len() > self.first_capacity
            && self.used.saturating_mul(100) < self.keys.len().saturating_mul(EMPTIEST)
        {
            let fitting = self.used.saturating_mul(5).div_ceil(4);
            self.resize(fitting.max(self.first_capacity));
        }
    }

    fn grown_capacity(&self) -> usize {
        let used = self.used.saturating_add(1);
        if used.saturating_mul(100) <= self.keys.len().saturating_mul(FULLEST) {
            return self.keys.len();
        }
        let (numerator, denominator) = GROWTH;
        let grown = self.keys.len().saturating_mul(numerator).div_ceil(denominator);
        grown.max(self.first_capacity)
    }

    /// There is a free place.
    fn put(&mut self, key: u64, word: u64) {
        let mut place = self.home(key);
        while self.keys.get(place).is_some_and(|&found| found >> TAG_SHIFT != FREE) {
            place = self.after(place);
        }
        self.write(place, key, word);
    }

    fn resize(&mut self, capacity: usize) {
        let keys = core::mem::replace(&mut self.keys, vec![0; capacity]);
        let holders = core::mem::replace(&mut self.holders, vec![0; capacity]);
        for (key, word) in keys.into_iter().zip(holders) {
            if key >> TAG_SHIFT != FREE {
                self.put(key, word);
            }
        }
    }

    /// Where probing for `key` starts: its upper bits, scaled to the capacity.
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

    fn write(&mut self, place: usize, key: u64, word: u64) {
        if let (Some(old_key), Some(old_word)) = (self.keys.get_mut(place), self.holders.get_mut(place)) {
            *old_key = key;
            *old_word = word;
        }
    }
}

fn encode(holders: Holders) -> (u64, u64) {
    match holders {
        Holders::Bits(bits) => (BITS, bits),
        Holders::List(list) => (LIST, list),
        Holders::Interned(id) => (INTERNED, id.to_word()),
    }
}
