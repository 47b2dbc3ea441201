//! Byte pair encoding of one word: of all neighbours that merge, those of the lowest rank do first, the leftmost of them
//! before the others, until none is left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Peekable;

use super::tables::{Meta, NO_MERGE, NO_SYMBOL, Tables};
use crate::{Effort, EncodeError};

/// Words of more symbols than this go through a queue, others are scanned again for every merge. Where the two take the
/// same time; what comes out is the same.
const SCAN_SYMBOLS: usize = 48;

/// Most symbols that one word can have: a queue takes about 32 bytes for each.
pub(crate) const MAX_WORD_SYMBOLS: usize = 12 << 20;

/// No neighbour.
const END: u32 = u32::MAX;

/// What merging a word works in; kept from word to word.
#[derive(Default)]
pub(crate) struct Merger {
    /// Before: the word's first symbols. After: its ids.
    symbols: Vec<u32>,
    /// Of each symbol with the next one.
    merges: Vec<u64>,
    links: Vec<Link>,
    /// Keys of the pairs that the word starts with, by rank: sorted once, which is faster than a heap.
    first: Vec<u64>,
    /// Keys of the pairs that come from merges.
    queue: BinaryHeap<Reverse<u64>>,
}

/// The neighbours of a symbol that has not been merged into the one before it.
#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

impl Merger {
    /// The ids of `word`.
    ///
    /// # Errors
    /// When it has more than [`MAX_WORD_SYMBOLS`], or needs more than is left of `effort`.
    pub(crate) fn encode(
        &mut self,
        tables: &Tables<'_>,
        word: &str,
        effort: &mut Effort,
    ) -> Result<&[u32], EncodeError> {
        self.symbols.clear();
        first_symbols(tables, word, &mut self.symbols);
        if self.symbols.len() > MAX_WORD_SYMBOLS {
            return Err(EncodeError::WordTooLong { len: word.len() });
        }
        if self.symbols.len() > SCAN_SYMBOLS {
            self.merge_by_queue(tables, effort)?;
        } else {
            self.merge_by_scan(tables, effort)?;
        }
        Ok(&self.symbols)
    }

    /// Gives memory back that an unusually long word took.
    pub(crate) fn shrink(&mut self, symbols: usize) {
        if self.symbols.capacity() > symbols {
            *self = Self::default();
        }
    }

    fn look_up_neighbours(&mut self, tables: &Tables<'_>, effort: &mut Effort) -> Result<(), EncodeError> {
        effort.take(self.symbols.len())?;
        self.merges.clear();
        self.merges.reserve_exact(self.symbols.len());
        let pairs = self.symbols.iter().zip(self.symbols.iter().skip(1));
        self.merges
            .extend(pairs.map(|(left, right)| tables.merge(*left, *right)));
        self.merges.push(NO_MERGE);
        Ok(())
    }

    fn merge_by_scan(&mut self, tables: &Tables<'_>, effort: &mut Effort) -> Result<(), EncodeError> {
        self.look_up_neighbours(tables, effort)?;
        loop {
            let (mut lowest, mut at) = (NO_MERGE, 0);
            for (index, merge) in self.merges.iter().enumerate() {
                if *merge < lowest {
                    (lowest, at) = (*merge, index);
                }
            }
            let next = at.wrapping_add(1);
            if lowest == NO_MERGE || next >= self.symbols.len() {
                return Ok(());
            }
            effort.take(2)?;
            let product = lowest as u32;
            self.symbols.remove(next);
            self.merges.remove(at);
            if let Some(symbol) = self.symbols.get_mut(at) {
                *symbol = product;
            }
            if let (Some(merge), Some(right)) = (self.merges.get_mut(at), self.symbols.get(next)) {
                *merge = tables.merge(product, *right);
            }
            let before = at.wrapping_sub(1);
            if let (Some(merge), Some(left)) = (self.merges.get_mut(before), self.symbols.get(before)) {
                *merge = tables.merge(*left, product);
            }
        }
    }

    /// The queue holds `rank << 32 | index of the left symbol`. A pair that has changed since it was queued is known by
    /// its rank: that of another pair, as ranks are unique.
    fn merge_by_queue(&mut self, tables: &Tables<'_>, effort: &mut Effort) -> Result<(), EncodeError> {
        self.look_up_neighbours(tables, effort)?;
        let count = self.symbols.len() as u32;
        self.links.clear();
        self.links.reserve_exact(self.symbols.len());
        self.links.extend((0..count).map(|index| Link {
            previous: index.wrapping_sub(1),
            next: if index.wrapping_add(1) < count {
                index.wrapping_add(1)
            } else {
                END
            },
        }));
        self.first.clear();
        self.first.reserve_exact(self.merges.len());
        self.first
            .extend((0..).zip(&self.merges).filter_map(|(index, merge)| key(*merge, index)));
        self.first.sort_unstable();
        self.queue.clear();
        let mut first = std::mem::take(&mut self.first);
        let mut rest = first.iter().copied().peekable();
        while let Some(key) = self.next_key(&mut rest) {
            effort.take(1)?;
            let current = self.merges.get(key as u32 as usize).copied().unwrap_or(NO_MERGE);
            if current != NO_MERGE && current >> 32 == key >> 32 {
                effort.take(2)?;
                self.merge_at(tables, key as u32, current as u32);
            }
        }
        first.clear();
        self.first = first;
        let mut live = self.links.iter().map(|link| link.previous != MERGED);
        self.symbols.retain(|_| live.next() == Some(true));
        Ok(())
    }

    /// The lowest key of those that the word started with and those that were queued.
    fn next_key(&mut self, first: &mut Peekable<impl Iterator<Item = u64>>) -> Option<u64> {
        let queued = self.queue.peek().map_or(u64::MAX, |Reverse(key)| *key);
        match first.next_if(|key| *key <= queued) {
            Some(key) => Some(key),
            None => self.queue.pop().map(|Reverse(key)| key),
        }
    }

    /// Merges the symbol at `index` and the one after it into `product`.
    fn merge_at(&mut self, tables: &Tables<'_>, index: u32, product: u32) {
        let Some(&Link { previous, next: gone }) = self.links.get(index as usize) else {
            return;
        };
        let Some(after) = self.links.get(gone as usize).map(|link| link.next) else {
            return;
        };
        self.set(index, product, Link { previous, next: after });
        self.set(
            gone,
            product,
            Link {
                previous: MERGED,
                next: END,
            },
        );
        if let Some(link) = self.links.get_mut(after as usize) {
            link.previous = index;
        }
        self.set_merge(gone, NO_MERGE);
        let right = self.symbols.get(after as usize);
        let merge = right.map_or(NO_MERGE, |right| tables.merge(product, *right));
        self.set_merge(index, merge);
        if let Some(left) = self.symbols.get(previous as usize) {
            let merge = tables.merge(*left, product);
            self.set_merge(previous, merge);
        }
    }

    fn set(&mut self, index: u32, symbol: u32, link: Link) {
        if let (Some(at), Some(links)) = (self.symbols.get_mut(index as usize), self.links.get_mut(index as usize)) {
            (*at, *links) = (symbol, link);
        }
    }

    fn set_merge(&mut self, index: u32, merge: u64) {
        if let Some(current) = self.merges.get_mut(index as usize) {
            *current = merge;
            self.queue.extend(key(merge, index).map(Reverse));
        }
    }
}

/// The `previous` of a symbol that was merged into the one before it: above every index, and not [`END`].
const MERGED: u32 = u32::MAX - 1;

fn key(merge: u64, index: u32) -> Option<u64> {
    (merge != NO_MERGE).then_some(merge >> 32 << 32 | u64::from(index))
}

/// Characters that have a symbol are that symbol, others their bytes, or unknown.
fn first_symbols(tables: &Tables<'_>, word: &str, symbols: &mut Vec<u32>) {
    let Meta { flags, unknown, .. } = tables.meta;
    let mut after_unknown = false;
    for character in word.chars() {
        let symbol = tables.char(character);
        if symbol != NO_SYMBOL {
            symbols.push(symbol);
            after_unknown = false;
        } else if flags & Meta::BYTES != 0 {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                symbols.push(tables.byte(byte));
            }
            after_unknown = false;
        } else {
            if unknown != NO_SYMBOL && !(after_unknown && flags & Meta::FUSE_UNKNOWN != 0) {
                symbols.push(unknown);
            }
            after_unknown = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tables::{PAGES, PairSlot, TableSections, pair_hash};
    use super::*;
    use crate::perfect_hash::assign;

    /// Tables over the letters a to h and 60 random merges of them and of what they give.
    struct Model {
        merges: Vec<(u32, u32)>,
        sections: Vec<Vec<u8>>,
    }

    const LETTERS: u32 = 8;

    impl Model {
        fn new(mut state: u64) -> Self {
            let mut random = move |end: u32| {
                state = state
                    .wrapping_mul(0x5851_f42d_4c95_7f2d)
                    .wrapping_add(0x1405_7b7e_f767_814f);
                (state >> 33) as u32 % end
            };
            let mut merges = Vec::new();
            while merges.len() < 60 {
                let known = LETTERS + merges.len() as u32;
                let pair = (random(known), random(known));
                if !merges.contains(&pair) {
                    merges.push(pair);
                }
            }
            let hashes: Vec<u64> = merges.iter().map(|(left, right)| pair_hash(*left, *right)).collect();
            let assignment = assign(&hashes).unwrap();
            let slots = assignment.keys.iter().flat_map(|key| match key {
                None => PairSlot::EMPTY,
                Some(rank) => {
                    let (left, right) = merges[*rank as usize];
                    PairSlot::write(left, right, *rank, LETTERS + rank)
                }
            });
            let mut page = [NO_SYMBOL; 64];
            (0..LETTERS).for_each(|letter| page[33 + letter as usize] = letter);
            let mut pages = vec![0xff; 2 * PAGES];
            pages[2..4].fill(0);
            let pilots = assignment.pilots.iter().flat_map(|pilot| pilot.to_le_bytes()).collect();
            let chars = page.into_iter().flat_map(u32::to_le_bytes).collect();
            let sections = vec![pilots, slots.collect(), Vec::new(), pages, chars];
            Self { merges, sections }
        }

        fn tables(&self) -> Tables<'_> {
            let mut sections: TableSections<'_> = [&[]; 8];
            sections
                .iter_mut()
                .zip(&self.sections)
                .for_each(|(section, bytes)| *section = bytes);
            let meta = Meta {
                vocab_size: LETTERS + 60,
                flags: 0,
                unknown: NO_SYMBOL,
            };
            Tables::new(meta, sections)
        }

        /// The definition: the best pair, leftmost first, one at a time.
        fn reference(&self, word: &str) -> Vec<u32> {
            let mut symbols: Vec<u32> = word.bytes().map(|byte| u32::from(byte - b'a')).collect();
            loop {
                let rank = |pair: &[u32]| self.merges.iter().position(|merge| *merge == (pair[0], pair[1]));
                let best = symbols
                    .windows(2)
                    .enumerate()
                    .filter_map(|(at, pair)| Some((rank(pair)?, at)))
                    .min();
                let Some((rank, at)) = best else { return symbols };
                symbols.splice(at..at + 2, [LETTERS + rank as u32]);
            }
        }
    }

    fn word(length: usize, mut state: u64) -> String {
        let letter = |_| {
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            char::from(b'a' + (state >> 40) as u8 % if state >> 63 == 0 { 2 } else { 8 })
        };
        (0..length).map(letter).collect()
    }

    #[test]
    fn scan_and_queue_both_do_what_the_definition_says() {
        let mut merger = Merger::default();
        for seed in 0..40 {
            let model = Model::new(seed);
            for length in (0..70).chain([200, 333]) {
                let word = word(length, seed * 1000 + length as u64);
                let expected = model.reference(&word);
                for by_queue in [false, true] {
                    merger.symbols.clear();
                    first_symbols(&model.tables(), &word, &mut merger.symbols);
                    if by_queue {
                        merger
                            .merge_by_queue(&model.tables(), &mut Effort::unbounded())
                            .unwrap();
                    } else {
                        merger.merge_by_scan(&model.tables(), &mut Effort::unbounded()).unwrap();
                    }
                    assert_eq!(merger.symbols, expected, "{word}, queue: {by_queue}");
                }
                let ids = merger.encode(&model.tables(), &word, &mut Effort::unbounded());
                assert_eq!(ids.unwrap(), expected);
            }
        }
    }

    /// The work for a word without a boundary grows with its length: at most three looks at the queue and two look-ups
    /// for each symbol, and one look-up to begin with.
    #[test]
    fn long_words_take_linear_work() {
        for seed in 0..10 {
            let model = Model::new(seed);
            for (length, word) in [
                (10_000, word(10_000, seed)),
                (1_000_000, word(1_000_000, seed)),
                (300_000, "a".repeat(300_000)),
            ] {
                let mut effort = Effort::unbounded();
                Merger::default().encode(&model.tables(), &word, &mut effort).unwrap();
                let steps = Effort::unbounded().left() - effort.left();
                assert!(steps <= 6 * length as u64, "{steps} steps for {length}");
            }
        }
    }

    #[test]
    fn words_beyond_memory_are_refused() {
        let model = Model::new(1);
        let mut merger = Merger::default();
        let word = "a".repeat(MAX_WORD_SYMBOLS + 1);
        let refused = merger.encode(&model.tables(), &word, &mut Effort::unbounded());
        assert!(matches!(refused, Err(EncodeError::WordTooLong { .. })));
    }
}
