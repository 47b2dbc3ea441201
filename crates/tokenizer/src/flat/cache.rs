//! Words seen before and their ids: a hit costs a hash and a comparison instead of merging.
//!
//! Entries are found by a hash and confirmed by the word's full content, so two words can never be taken for one another.
//! Words of up to 15 bytes, nearly all of them in text with spaces, are keyed by their bytes as such, in slots of 32
//! bytes that also hold up to three ids. What does not fit there stands in two arenas; when one is full everything is
//! forgotten. All together at most about 5 MiB.

use xxhash_rust::xxh3::xxh3_64;

use crate::perfect_hash::spread;

/// Longest word that is its own key, in bytes.
pub(crate) const SHORT: usize = 15;
/// Longest word that is remembered, in bytes.
const LONGEST: usize = 4 << 10;
/// Slots for short words, 32 bytes each.
const SHORT_SLOTS: usize = 1 << SHORT_BITS;
const SHORT_BITS: u32 = 15;
/// Slots for long words, 24 bytes each.
const LONG_SLOTS: usize = 1 << LONG_BITS;
const LONG_BITS: u32 = 13;
/// Bytes of long words.
const WORD_BYTES: usize = 1 << 20;
/// Ids of encodings that do not fit a slot.
const IDS: usize = 256 << 10;
/// Ids that fit a slot.
const INLINE_IDS: usize = 3;

/// A short word: its bytes, zeros, and its length in the last byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key {
    lower: u64,
    upper: u64,
}

/// Masks for the lower and upper 8 bytes of a word of 0 to 15 bytes.
const MASKS: [(u64, u64); SHORT + 1] = {
    const ALL: u64 = u64::MAX;
    [
        (0, 0),
        (ALL >> 56, 0),
        (ALL >> 48, 0),
        (ALL >> 40, 0),
        (ALL >> 32, 0),
        (ALL >> 24, 0),
        (ALL >> 16, 0),
        (ALL >> 8, 0),
        (ALL, 0),
        (ALL, ALL >> 56),
        (ALL, ALL >> 48),
        (ALL, ALL >> 40),
        (ALL, ALL >> 32),
        (ALL, ALL >> 24),
        (ALL, ALL >> 16),
        (ALL, ALL >> 8),
    ]
};

impl Key {
    /// The key of the word of `length` bytes at `start` in `text`; `None` if it is longer than [`SHORT`].
    #[inline(always)]
    pub(crate) fn of(text: &[u8], start: usize, length: usize) -> Option<Self> {
        let (lower_mask, upper_mask) = MASKS.get(length)?;
        let [lower, upper] = match text.get(start..).and_then(|text| text.first_chunk::<16>()) {
            Some(bytes) => halves(bytes),
            None => {
                let mut bytes = [0; 16];
                for (byte, text) in bytes.iter_mut().zip(text.get(start..)?) {
                    *byte = *text;
                }
                halves(&bytes)
            }
        };
        Some(Self {
            lower: lower & lower_mask,
            upper: upper & upper_mask | (length as u64) << 56,
        })
    }

    /// The hash of the word; see [`hash`].
    pub(crate) fn hash(self) -> u64 {
        spread(self.lower ^ self.upper.wrapping_mul(0xa076_1d64_78bd_642f).rotate_left(23))
    }
}

impl Key {
    /// The key's slot. A product's upper bits depend on all bits of its factors, which is enough here.
    #[inline(always)]
    fn home(self) -> usize {
        let product = (self.lower ^ self.upper.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (product >> (u64::BITS - SHORT_BITS)) as usize
    }
}

#[inline(always)]
fn halves(bytes: &[u8; 16]) -> [u64; 2] {
    u64_pair(u128::from_le_bytes(*bytes))
}

#[inline(always)]
fn u64_pair(number: u128) -> [u64; 2] {
    [number as u64, (number >> 64) as u64]
}

/// Hash of any word: that of its key if it is short.
pub(crate) fn hash(word: &[u8]) -> u64 {
    Key::of(word, 0, word.len()).map_or_else(|| xxh3_64(word), Key::hash)
}

/// Slot of a short word; a key of zeros is none, as the empty word is not remembered.
#[derive(Clone, Copy, Default)]
struct ShortSlot {
    key: Key,
    /// The ids, or the first place in the arena.
    ids: [u32; INLINE_IDS],
    count: u32,
}

/// Slot of a long word; one without bytes is empty.
#[derive(Clone, Copy, Default)]
struct LongSlot {
    hash: u64,
    word: u32,
    word_length: u32,
    ids: u32,
    count: u32,
}

/// The words of one tokenizer.
pub(crate) struct WordCache {
    short: Box<[ShortSlot]>,
    long: Box<[LongSlot]>,
    words: Vec<u8>,
    ids: Vec<u32>,
}

impl Default for WordCache {
    fn default() -> Self {
        Self {
            short: vec![ShortSlot::default(); SHORT_SLOTS].into_boxed_slice(),
            long: vec![LongSlot::default(); LONG_SLOTS].into_boxed_slice(),
            words: Vec::new(),
            ids: Vec::new(),
        }
    }
}

impl WordCache {
    /// Appends the ids of a short word. Whether it is known.
    #[inline(always)]
    pub(crate) fn short(&self, key: Key, ids: &mut Vec<u32>) -> bool {
        let home = key.home();
        for place in [home, home ^ 1] {
            let Some(slot) = self.short.get(place) else {
                return false;
            };
            if slot.key == key {
                if let ([first, ..], 1) = (slot.ids, slot.count) {
                    ids.push(first);
                } else {
                    ids.extend_from_slice(self.slot_ids(slot));
                }
                return true;
            }
        }
        false
    }

    fn slot_ids<'a>(&'a self, slot: &'a ShortSlot) -> &'a [u32] {
        let (count, [first, ..]) = (slot.count as usize, slot.ids);
        if count <= INLINE_IDS {
            slot.ids.get(..count).unwrap_or_default()
        } else {
            self.arena_ids(first, slot.count)
        }
    }

    fn arena_ids(&self, start: u32, count: u32) -> &[u32] {
        let rest = self.ids.get(start as usize..).unwrap_or_default();
        rest.get(..count as usize).unwrap_or_default()
    }

    /// Appends the ids of a word that is not short. Whether it is known.
    pub(crate) fn long(&self, word: &[u8], hash: u64, ids: &mut Vec<u32>) -> bool {
        let home = long_home(hash);
        let slots = [home, home ^ 1].map(|place| self.long.get(place));
        let known = slots.into_iter().flatten().find(|slot| {
            slot.hash == hash
                && slot.word_length as usize == word.len()
                && self
                    .words
                    .get(slot.word as usize..)
                    .is_some_and(|words| words.starts_with(word))
        });
        if let Some(slot) = known {
            ids.extend_from_slice(self.arena_ids(slot.ids, slot.count));
        }
        known.is_some()
    }

    /// Remembers the ids of a short word.
    pub(crate) fn insert_short(&mut self, key: Key, ids: &[u32]) {
        let mut slot = ShortSlot {
            key,
            ids: [0; INLINE_IDS],
            count: ids.len() as u32,
        };
        if ids.len() <= INLINE_IDS {
            for (place, id) in slot.ids.iter_mut().zip(ids) {
                *place = *id;
            }
        } else {
            let Some((_, start)) = self.reserve(&[], ids) else {
                return;
            };
            slot.ids = [start, 0, 0];
        }
        put(&mut self.short, key.home(), slot);
    }

    /// Remembers the ids of a word that is not short, if it is not too long.
    pub(crate) fn insert_long(&mut self, word: &[u8], hash: u64, ids: &[u32]) {
        if word.len() > LONGEST {
            return;
        }
        if let Some((start, first)) = self.reserve(word, ids) {
            let slot = LongSlot {
                hash,
                word: start,
                word_length: word.len() as u32,
                ids: first,
                count: ids.len() as u32,
            };
            put(&mut self.long, long_home(hash), slot);
        }
    }

    /// Copies a word and its ids to the arenas and says where they start. `None` if they are larger than an arena.
    fn reserve(&mut self, word: &[u8], ids: &[u32]) -> Option<(u32, u32)> {
        let fits = |used: usize, more: usize, limit: usize| used.checked_add(more).is_some_and(|end| end <= limit);
        if !fits(self.words.len(), word.len(), WORD_BYTES) || !fits(self.ids.len(), ids.len(), IDS) {
            self.short.fill(ShortSlot::default());
            self.long.fill(LongSlot::default());
            self.words.clear();
            self.ids.clear();
        }
        if !fits(0, word.len(), WORD_BYTES) || !fits(0, ids.len(), IDS) {
            return None;
        }
        let starts = (self.words.len() as u32, self.ids.len() as u32);
        self.words.extend_from_slice(word);
        self.ids.extend_from_slice(ids);
        Some(starts)
    }
}

/// Puts `slot` at `home`. The one that was there gets its neighbour's place, so the two most recent ones stay.
fn put<T>(slots: &mut [T], home: usize, slot: T) {
    let before = slots.get_mut(home).map(|place| std::mem::replace(place, slot));
    if let (Some(before), Some(place)) = (before, slots.get_mut(home ^ 1)) {
        *place = before;
    }
}

fn long_home(hash: u64) -> usize {
    (hash >> (u64::BITS - LONG_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn get(cache: &WordCache, word: &[u8]) -> Option<Vec<u32>> {
        let mut ids = vec![9];
        let known = match Key::of(word, 0, word.len()) {
            Some(key) => cache.short(key, &mut ids),
            None => cache.long(word, hash(word), &mut ids),
        };
        assert_eq!(ids.remove(0), 9, "appends");
        known.then_some(ids)
    }

    fn insert(cache: &mut WordCache, word: &[u8], ids: &[u32]) {
        match Key::of(word, 0, word.len()) {
            Some(key) => cache.insert_short(key, ids),
            None => cache.insert_long(word, hash(word), ids),
        }
    }

    /// More words than there is room for, of all lengths, with few and many ids: what is known is right, and the last
    /// one is known.
    #[test]
    fn what_is_remembered_is_right() {
        let (mut cache, mut truth) = (WordCache::default(), HashMap::new());
        for number in 0..150_000_u32 {
            let length = 1 + number as usize % 40;
            let word: Vec<u8> = number.to_string().bytes().cycle().take(length).collect();
            let ids: Vec<u32> = (0..1 + number % 7).map(|id| number + id).collect();
            let ids = truth.entry(word.clone()).or_insert(ids).clone();
            insert(&mut cache, &word, &ids);
            assert_eq!(get(&cache, &word), Some(ids));
        }
        let known = truth.iter().filter(|(word, ids)| match get(&cache, word) {
            Some(found) => {
                assert_eq!(&found, *ids);
                true
            }
            None => false,
        });
        assert!(known.count() > 1000);
        assert!(cache.words.capacity() <= 2 * WORD_BYTES && cache.ids.capacity() <= 2 * IDS);
    }

    #[test]
    fn a_key_does_not_depend_on_what_follows() {
        let text = b"abcdefghijklmnopqrstuvwxyz";
        for length in 0..=SHORT {
            for start in 0..text.len() - length {
                let word = &text[start..start + length];
                assert_eq!(Key::of(text, start, length), Key::of(word, 0, length));
                assert_eq!(
                    Key::of(text, start, length),
                    Key::of(&[word, b"\0"].concat(), 0, length)
                );
            }
        }
        assert_eq!(Key::of(text, 0, SHORT + 1), None);
        assert_ne!(Key::of(b"a\0", 0, 1), Key::of(b"a\0", 0, 2));
    }

    #[test]
    fn hash_is_that_of_the_key() {
        assert_eq!(hash(b"word"), Key::of(b"a word.", 2, 4).unwrap().hash());
    }
}
