//! What is remembered: the most recently used entries that fit the budget.

use std::hash::{BuildHasherDefault, Hasher};
use std::mem::size_of;

use lru::LruCache;
use router_core::hash::{Reach, SequenceHash};

use crate::key::Key;

/// Something remembered.
pub(crate) enum Entry {
    /// The tokens of a piece.
    Tokens(Box<[u32]>),
    /// What a piece adds in its place.
    InPlace(InPlace),
}

/// Blocks up to the end of a piece, from the end of the one before it.
pub(crate) struct InPlace {
    /// Of the blocks that the piece completes.
    pub(crate) blocks: Box<[SequenceHash]>,
    /// Tokens at its end that are in no full block yet.
    pub(crate) tail: Box<[u32]>,
    /// Images that those blocks will have in their hashes.
    pub(crate) media: Box<[Reach]>,
    /// Tokens in the piece.
    pub(crate) tokens: usize,
}

/// Entries by their keys.
pub(crate) struct Store {
    budget: usize,
    /// What the entries take, without the table that finds them.
    used: usize,
    /// Most entries that there ever were: the table does not shrink.
    most: usize,
    entries: LruCache<Key, Entry, BuildHasherDefault<AlreadyHashed>>,
}

/// What an allocation takes beside its content, in bytes: at most, in the allocators at hand.
const ALLOCATION: usize = 16;
/// What an entry takes beside its tokens and hashes: its place in the list of recent use, with two links.
const NODE: usize = size_of::<Key>() + size_of::<Entry>() + 2 * size_of::<usize>() + ALLOCATION;
/// Places that the table has for each entry, at most, as it doubles when it is seven eighths full.
const PLACES: usize = 3;
/// A place in the table: two pointers and a byte.
const PLACE: usize = 2 * size_of::<usize>() + 1;
/// The largest share of the budget that one entry may take. Larger ones would push too much else out.
const SHARE: usize = 8;

impl Store {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            budget,
            used: 0,
            most: 0,
            entries: LruCache::unbounded_with_hasher(BuildHasherDefault::default()),
        }
    }

    /// Whether anything can be remembered.
    pub(crate) fn is_on(&self) -> bool {
        self.budget > 0
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> usize {
        self.used.saturating_add(self.most.saturating_mul(PLACES * PLACE))
    }

    /// The entry of that key; it becomes the most recently used one.
    pub(crate) fn get(&mut self, key: Key) -> Option<&Entry> {
        self.entries.get(&key)
    }

    /// Remembers an entry and forgets those that were not used for the longest time, as far as room is needed.
    pub(crate) fn put(&mut self, key: Key, entry: Entry) {
        let size = entry.size();
        if size > self.budget / SHARE {
            return;
        }
        self.used = self.used.saturating_add(size);
        if let Some(before) = self.entries.put(key, entry) {
            self.used = self.used.saturating_sub(before.size());
        }
        self.most = self.most.max(self.entries.len());
        while self.bytes() > self.budget {
            let Some((_, oldest)) = self.entries.pop_lru() else {
                return;
            };
            self.used = self.used.saturating_sub(oldest.size());
        }
    }
}

impl Entry {
    /// Bytes that it takes, the table apart.
    fn size(&self) -> usize {
        let content = match self {
            Self::Tokens(tokens) => allocated(size_of_val::<[u32]>(tokens)),
            Self::InPlace(InPlace {
                blocks, tail, media, ..
            }) => allocated(size_of_val::<[SequenceHash]>(blocks))
                .saturating_add(allocated(size_of_val::<[u32]>(tail)))
                .saturating_add(allocated(size_of_val::<[Reach]>(media))),
        };
        content.saturating_add(NODE)
    }
}

fn allocated(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else {
        bytes.saturating_add(ALLOCATION)
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    /// Keys hand on no bytes.
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, number: u64) {
        self.0 ^= number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn keys_are_their_own_hashes() {
        let hashes = [[1, 2], [3, 2], [u64::MAX, 0]]
            .map(|key| BuildHasherDefault::<AlreadyHashed>::default().hash_one(Key(key)));
        assert_eq!(hashes, [1, 3, u64::MAX]);
    }
}
