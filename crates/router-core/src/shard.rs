//! One part of a view's table: from block to holders.

use crate::hash::SequenceHash;
use crate::holders::Holders;
use crate::pairs::Pairs;

/// A shard grows when it is fuller than this, in percent,
const FULLEST: usize = 90;
/// by an eighth, after which it is 80 % full: 17.8 to 20 bytes an entry.
const GROWTH: (usize, usize) = (9, 8);
/// One that is told what to expect starts with room for that, as full, in percent: few shards get so much more than
/// others that they grow after all.
const EXPECTED_FULL: usize = 85;
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
    pairs: Pairs,
    used: usize,
    first_capacity: usize,
    /// Capacity for what is to come; 0: nothing is known of it.
    expected_capacity: usize,
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
            pairs: Pairs::default(),
            used: 0,
            first_capacity: FIRST_CAPACITY.saturating_add(number & 3),
            expected_capacity: 0,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pairs.len().saturating_mul(PLACE)
    }

    /// Where the block stands; if nowhere, where it would.
    pub(crate) fn find(&self, hash: SequenceHash) -> Result<usize, usize> {
        let key = hash.0 & HASH_MASK;
        let is_end = |found: u64| found & HASH_MASK == key || found >> TAG_SHIFT == FREE;
        // There is always a free place, but in a table that has none at all.
        let place = self.pairs.find_from(self.home(key), is_end).unwrap_or(0);
        match self.key(place) >> TAG_SHIFT {
            FREE => Err(place),
            _ => Ok(place),
        }
    }

    /// So many entries are to come in all; 0: that is not known.
    pub(crate) fn expect(&mut self, entries: usize) {
        self.expected_capacity = entries.saturating_mul(100).div_ceil(EXPECTED_FULL);
    }

    /// The capacity that one more entry takes, of which no less will do. `room`: the bytes that the table may grow by if it
    /// is to have more.
    pub(crate) fn capacity_for_one_more(&self, room: usize) -> usize {
        let used = self.used.saturating_add(1);
        if used.saturating_mul(100) <= self.pairs.len().saturating_mul(FULLEST) {
            return self.pairs.len();
        }
        let (numerator, denominator) = GROWTH;
        let grown = self.pairs.len().saturating_mul(numerator).div_ceil(denominator);
        let least = grown.max(self.first_capacity);
        match self.growth_to(self.expected_capacity) <= room {
            true => least.max(self.expected_capacity),
            false => least,
        }
    }

    /// How many more bytes the table takes with this capacity.
    pub(crate) fn growth_to(&self, capacity: usize) -> usize {
        capacity.saturating_sub(self.pairs.len()).saturating_mul(PLACE)
    }

    /// Adds a block that is not there. `place`: where [`Shard::find`] said that it would stand; `capacity`: what
    /// [`Shard::capacity_for_one_more`] said.
    pub(crate) fn add(&mut self, place: usize, capacity: usize, hash: SequenceHash, holders: Holders) {
        let (tag, word) = encode(holders);
        let pair = (hash.0 & HASH_MASK | tag << TAG_SHIFT, word);
        if capacity > self.pairs.len() {
            self.resize(capacity);
            self.put(pair);
        } else {
            self.pairs.set(place, pair);
        }
        self.used = self.used.saturating_add(1);
    }

    pub(crate) fn holders(&self, place: usize) -> Holders {
        let (key, word) = self.pairs.get(place).unwrap_or_default();
        match key >> TAG_SHIFT {
            BITS => Holders::Bits(word),
            LIST => Holders::List(word),
            INTERNED => Holders::interned_from(word),
            _ => Holders::NONE,
        }
    }

    pub(crate) fn replace(&mut self, place: usize, holders: Holders) {
        let (tag, word) = encode(holders);
        self.pairs
            .set(place, (self.key(place) & HASH_MASK | tag << TAG_SHIFT, word));
    }

    /// Frees `place` and closes the gap, so that probing may stop at the first free place.
    pub(crate) fn take_out(&mut self, mut place: usize) {
        self.used = self.used.saturating_sub(1);
        let mut next = self.after(place);
        for _ in 0..self.pairs.len() {
            let pair @ (key, _) = self.pairs.get(next).unwrap_or_default();
            if key >> TAG_SHIFT == FREE {
                break;
            }
            if self.distance(self.home(key), next) >= self.distance(place, next) {
                self.pairs.set(place, pair);
                place = next;
            }
            next = self.after(next);
        }
        self.pairs.set(place, (FREE << TAG_SHIFT, 0));
        if self.pairs.len() > self.first_capacity
            && self.used.saturating_mul(100) < self.pairs.len().saturating_mul(EMPTIEST)
        {
            let fitting = self.used.saturating_mul(5).div_ceil(4);
            self.resize(fitting.max(self.first_capacity));
        }
    }

    fn put(&mut self, pair: (u64, u64)) {
        let free = self
            .pairs
            .find_from(self.home(pair.0), |found| found >> TAG_SHIFT == FREE);
        if let Some(place) = free {
            self.pairs.set(place, pair);
        }
    }

    fn resize(&mut self, capacity: usize) {
        let old = core::mem::replace(&mut self.pairs, Pairs::zeroed(capacity));
        for pair in old.into_pairs().filter(|(key, _)| key >> TAG_SHIFT != FREE) {
            self.put(pair);
        }
    }

    /// Where probing for `key` starts: its upper bits, scaled to the capacity.
    fn home(&self, key: u64) -> usize {
        let fraction = (key >> 24) & 0xFFFF_FFFF;
        let place = fraction.wrapping_mul(self.pairs.len() as u64) >> 32;
        usize::try_from(place).unwrap_or(0)
    }

    fn after(&self, place: usize) -> usize {
        let next = place.saturating_add(1);
        if next >= self.pairs.len() { 0 } else { next }
    }

    /// Steps of probing from `from` to `to`.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to.saturating_sub(from)
        } else {
            to.saturating_add(self.pairs.len()).saturating_sub(from)
        }
    }

    fn key(&self, place: usize) -> u64 {
        self.pairs.get(place).map_or(0, |(key, _)| key)
    }
}

fn encode(holders: Holders) -> (u64, u64) {
    match holders {
        Holders::Bits(bits) => (BITS, bits),
        Holders::List(list) => (LIST, list),
        Holders::Interned(id) => (INTERNED, id.to_word()),
    }
}
