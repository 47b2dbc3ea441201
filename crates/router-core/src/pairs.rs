//! A fixed number of pairs, a key and a word, in chunks of one size.
//!
//! A table that grows is replaced by a longer one. In a heap that never gets smaller, as WebAssembly's, what the outgrown
//! ones leave behind is of use only if later ones fit into it: chunks of one size do.

use alloc::{boxed::Box, vec, vec::Vec};

/// Pairs in a chunk: 4 KiB. A power of two.
const CHUNK: usize = 256;

/// See the module. The last chunk is only as long as it has to be.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    chunks: Vec<Chunk>,
    len: usize,
}

/// All keys, then all words: a search passes many keys, but reads one word.
#[derive(Debug)]
struct Chunk(Box<[u64]>);

impl Pairs {
    /// So many pairs of zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let lengths = (0..len)
            .step_by(CHUNK)
            .map(|start| len.saturating_sub(start).min(CHUNK));
        Self {
            chunks: lengths.map(Chunk::zeroed).collect(),
            len,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, place: usize) -> Option<(u64, u64)> {
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)
    }

    pub(crate) fn set(&mut self, place: usize, pair: (u64, u64)) {
        if let Some(chunk) = self.chunks.get_mut(place / CHUNK) {
            chunk.set(place % CHUNK, pair);
        }
    }

    /// The first place from `start` on, round the end, whose key is one that `is` asked for.
    pub(crate) fn find_from(&self, start: usize, is: impl Fn(u64) -> bool) -> Option<usize> {
        let first = start / CHUNK;
        let in_chunk = |number: usize, from: usize| {
            let keys = self.chunks.get(number)?.keys().get(from..)?;
            let at = keys.iter().position(|&key| is(key))?;
            Some(number.saturating_mul(CHUNK).saturating_add(from).saturating_add(at))
        };
        in_chunk(first, start % CHUNK).or_else(|| {
            let mut others = (first.saturating_add(1)..self.chunks.len()).chain(0..=first);
            others.find_map(|number| in_chunk(number, 0))
        })
    }

    /// All of them. A chunk is freed when it has been passed.
    pub(crate) fn into_pairs(self) -> impl Iterator<Item = (u64, u64)> {
        let pairs = |chunk: Chunk| (0..chunk.len()).filter_map(move |place| chunk.get(place));
        self.chunks.into_iter().flat_map(pairs)
    }
}

impl Chunk {
    fn zeroed(pairs: usize) -> Self {
        Self(vec![0; pairs.saturating_mul(2)].into())
    }

    fn len(&self) -> usize {
        self.0.len() / 2
    }

    fn keys(&self) -> &[u64] {
        self.0.get(..self.len()).unwrap_or(&[])
    }

    fn get(&self, place: usize) -> Option<(u64, u64)> {
        let word = self.len().saturating_add(place);
        Some((*self.keys().get(place)?, *self.0.get(word)?))
    }

    fn set(&mut self, place: usize, (key, word): (u64, u64)) {
        let (keys, words) = self.0.split_at_mut(self.len());
        if let (Some(old_key), Some(old_word)) = (keys.get_mut(place), words.get_mut(place)) {
            (*old_key, *old_word) = (key, word);
        }
    }
}
