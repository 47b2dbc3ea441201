//! Byte pair encoding of one word: of all neighbours that merge, those of the lowest rank do first, the leftmost of them
//! before the others, until none is left.
//!
//! Which are next is found by looking at all of them, which is fastest for short words. A long word is encoded a *window* at
//! a time: a row of tokens is the encoding of its text exactly if every two neighbours in it are the encoding of their own
//! text. (What happens inside the text of one token depends on what stands beside it only by merges across a border, and the
//! first of those in the whole text would also be made in the text of the two tokens beside it, and the other way round.) So
//! what was encoded before stands if its last token goes with the first one of the window. This holds for any list of merges,
//! keeps the work linear, and all of it in the processor's nearest cache.

use std::ops::Range;

use super::tables::{Merge, Meta, NO_MERGE, NO_SYMBOL, Place, Tables};
use crate::EncodeError;
use work::Work;

/// Symbols of a window, unless its tokens are too long for that; words of up to so many are encoded in one go.
const WINDOW: usize = 48;

/// Most symbols of a window, far above what the longest tokens of real vocabularies take.
const MAX_WINDOW: usize = 4096;

/// Tokens at the end of a window that are not taken, as what follows may change them. Any number would do; with these the
/// last one that is taken hardly ever has to be taken back.
const UNSETTLED: usize = 2;

/// What it costs to look up how two symbols merge.
const LOOK: u64 = 18;
/// Symbols that are looked at in the time of a look.
const SYMBOLS_PER_LOOK: usize = 32;

/// Most symbols that one word can have: a bound on memory, of which they take 12 bytes each.
pub(crate) const MAX_WORD_SYMBOLS: usize = 12 << 20;

/// What merging a word works in; kept from word to word.
#[derive(Default)]
pub(crate) struct Merger {
    /// What the word starts with.
    symbols: Vec<u32>,
    window: Row,
    /// Two tokens that stand beside each other.
    border: Row,
    /// Tokens of a long word up to the window, and their first symbols' places.
    settled: Vec<(u32, usize)>,
}

/// Symbols that are being merged.
#[derive(Default)]
struct Row {
    symbols: Vec<u32>,
    /// Of each symbol with the next one.
    merges: Vec<Merge>,
    /// Place of the first of the symbols that went into each.
    starts: Vec<u32>,
    /// What of the word it was.
    part: Range<usize>,
}

impl Merger {
    /// Appends the ids of `word`.
    ///
    /// # Errors
    /// When it has more than [`MAX_WORD_SYMBOLS`], or needs more than is left of `work`.
    pub(crate) fn encode(
        &mut self,
        tables: &Tables<'_>,
        word: &str,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        self.window.part = 0..0;
        self.border.part = 0..0;
        self.symbols.clear();
        first_symbols(tables, word, &mut self.symbols);
        if self.symbols.len() > MAX_WORD_SYMBOLS {
            return Err(EncodeError::WordTooLong { len: word.len() });
        }
        if self.symbols.len() <= WINDOW {
            self.window.merge(tables, &self.symbols, 0..self.symbols.len(), work)?;
            ids.extend_from_slice(&self.window.symbols);
        } else {
            self.encode_by_windows(tables, work)?;
            ids.extend(self.settled.iter().map(|(id, _)| *id));
        }
        Ok(())
    }

    /// Gives memory back that an unusually long word took.
    pub(crate) fn shrink(&mut self, symbols: usize) {
        if self.symbols.capacity() > symbols {
            *self = Self::default();
        }
    }

    /// Leaves the word's tokens in `settled`.
    ///
    /// Ends, as the window's end moves on with all that is settled, and what is taken back is encoded anew up to that end.
    fn encode_by_windows(&mut self, tables: &Tables<'_>, work: &Work) -> Result<(), EncodeError> {
        self.settled.clear();
        let (mut start, mut end, mut width) = (0, WINDOW, WINDOW);
        loop {
            end = end.min(self.symbols.len());
            self.window.merge(tables, &self.symbols, start..end, work)?;
            if let Some(last) = self.settled.last().copied()
                && !self.goes_with_window(tables, last, work)?
            {
                self.settled.pop();
                start = last.1;
                continue;
            }
            let tokens = self.window.symbols.iter().zip(&self.window.starts);
            let tokens = tokens.map(|(id, place)| (*id, start.wrapping_add(*place as usize)));
            if end == self.symbols.len() {
                self.settled.extend(tokens);
                return Ok(());
            }
            let count = tokens.len().saturating_sub(UNSETTLED);
            let next = tokens.clone().nth(count).map_or(start, |(_, place)| place);
            self.settled.extend(tokens.take(count));
            // Long tokens: else most of it would be encoded twice or more.
            if next.wrapping_sub(start) < width / 2 {
                width = width.wrapping_mul(2);
            }
            start = next;
            end = start.wrapping_add(width).max(end.wrapping_add(1));
        }
    }

    /// Whether the text of a token and of the first token of the window has these two as its encoding.
    fn goes_with_window(
        &mut self,
        tables: &Tables<'_>,
        (last, place): (u32, usize),
        work: &Work,
    ) -> Result<bool, EncodeError> {
        let Range { start, end } = self.window.part;
        let end = self
            .window
            .starts
            .get(1)
            .map_or(end, |next| start.wrapping_add(*next as usize));
        self.border.merge(tables, &self.symbols, place..end, work)?;
        let first = self.window.symbols.first().copied();
        Ok(self
            .border
            .symbols
            .iter()
            .copied()
            .eq(std::iter::once(last).chain(first)))
    }
}

impl Row {
    /// Merges a part of `word`.
    fn merge(&mut self, tables: &Tables<'_>, word: &[u32], part: Range<usize>, work: &Work) -> Result<(), EncodeError> {
        let symbols = word.get(part.clone()).unwrap_or_default();
        if symbols.len() > MAX_WINDOW {
            return Err(work::Exhausted.into());
        }
        // So in runs of the same few characters.
        let again = word.get(self.part.clone()) == Some(symbols) && !symbols.is_empty();
        self.part = part;
        if again {
            return Ok(work.take(1, LOOK)?);
        }
        work.take(symbols.len(), LOOK)?;
        self.symbols.clear();
        self.symbols.extend_from_slice(symbols);
        self.starts.clear();
        self.starts.extend(0..symbols.len() as u32);
        self.merges.clear();
        let pairs = symbols.iter().zip(symbols.iter().skip(1));
        self.merges
            .extend(pairs.map(|(left, right)| tables.merge(*left, *right)));
        self.merges.push(NO_MERGE);
        loop {
            let (mut lowest, mut at) = (NO_MERGE, 0);
            for (index, merge) in self.merges.iter().enumerate() {
                if *merge < lowest {
                    (lowest, at) = (*merge, index);
                }
            }
            if lowest == NO_MERGE {
                return Ok(());
            }
            work.take((self.merges.len() / SYMBOLS_PER_LOOK).wrapping_add(2), LOOK)?;
            self.merge_at(tables, at, lowest as u32);
        }
    }

    /// Merges the symbol at `at` and the next one into `product`.
    fn merge_at(&mut self, tables: &Tables<'_>, at: usize, product: u32) {
        let next = at.wrapping_add(1);
        if next >= self.symbols.len() {
            return;
        }
        self.symbols.remove(next);
        self.starts.remove(next);
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

/// Characters that have a symbol are that symbol, others their bytes, or unknown.
fn first_symbols(tables: &Tables<'_>, word: &str, symbols: &mut Vec<u32>) {
    let Meta { flags, unknown, .. } = tables.meta;
    let place = |start: usize, end: usize| match flags & Meta::AFFIXES {
        0 => Place::ONLY,
        _ => Place::of(start > 0, end < word.len()),
    };
    let mut after_unknown = false;
    for (start, character) in word.char_indices() {
        let symbol = tables.char(character, place(start, start.wrapping_add(character.len_utf8())));
        if symbol != NO_SYMBOL {
            symbols.push(symbol);
            after_unknown = false;
        } else if flags & Meta::BYTES != 0 {
            for (start, byte) in (start..).zip(character.encode_utf8(&mut [0; 4]).bytes()) {
                symbols.push(tables.byte(byte, place(start, start.wrapping_add(1))));
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
    use super::super::tables::{Kind, PAGES, PairSlot, TableSections, pair_hash, pair_tag};
    use super::*;
    use crate::perfect_hash::assign;

    /// Tables over the letters a to h and merges of them and of what they give.
    struct Model {
        /// In the order of their products.
        merges: Vec<(u32, u32)>,
        ranks: Vec<u32>,
        sections: Vec<Vec<u8>>,
    }

    const LETTERS: u32 = 8;

    impl Model {
        /// 60 random merges; of odd seeds ranked in another order than that in which one needs another.
        fn new(seed: u64) -> Self {
            let mut state = seed;
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
            let rank = |index| if seed % 2 == 1 { index * 37 % 60 } else { index };
            Self::of(merges, (0..60).map(rank).collect())
        }

        /// Runs of `a` of each power of two up to that of `doublings`, and of those that are half as long again.
        fn of_runs(doublings: u32) -> Self {
            let power = |exponent| if exponent == 0 { 0 } else { LETTERS + 2 * exponent - 2 };
            let merges = (0..doublings).flat_map(|exponent| {
                let run = power(exponent);
                [(run, run), (power(exponent + 1), run)]
            });
            Self::of(merges.collect(), (0..2 * doublings).collect())
        }

        fn of(merges: Vec<(u32, u32)>, ranks: Vec<u32>) -> Self {
            let hashes: Vec<u64> = merges.iter().map(|(left, right)| pair_hash(*left, *right)).collect();
            let assignment = assign(&hashes).unwrap();
            let slots = assignment.keys.iter().flat_map(|key| match key {
                None => PairSlot::EMPTY,
                Some(index) => {
                    let (left, right) = merges[*index as usize];
                    PairSlot::write(left, right, ranks[*index as usize], LETTERS + index)
                }
            });
            let tag = |key: &Option<u32>| key.map_or(0, |index| pair_tag(hashes[index as usize]));
            let tags = assignment.keys.iter().map(tag).collect();
            let mut page = [NO_SYMBOL; 64];
            (0..LETTERS).for_each(|letter| page[33 + letter as usize] = letter);
            let mut pages = vec![0xff; 2 * PAGES];
            pages[2..4].fill(0);
            let pilots = assignment.pilots.iter().flat_map(|pilot| pilot.to_le_bytes()).collect();
            let chars = page.into_iter().flat_map(u32::to_le_bytes).collect();
            let sections = vec![pilots, tags, slots.collect(), Vec::new(), pages, chars];
            Self {
                merges,
                ranks,
                sections,
            }
        }

        fn tables(&self) -> Tables<'_> {
            let mut sections: TableSections<'_> = [&[]; 9];
            sections
                .iter_mut()
                .zip(&self.sections)
                .for_each(|(section, bytes)| *section = bytes);
            let meta = Meta {
                kind: Kind::Bpe,
                vocab_size: LETTERS + self.merges.len() as u32,
                flags: 0,
                unknown: NO_SYMBOL,
                longest_word: 0,
                unknown_score: 0.0,
            };
            Tables::new(meta, sections)
        }

        /// The definition: the best pair, leftmost first, one at a time.
        fn reference(&self, word: &str) -> Vec<u32> {
            let mut symbols: Vec<u32> = word.bytes().map(|byte| u32::from(byte - b'a')).collect();
            loop {
                let rank = |pair: &[u32]| {
                    let index = self.merges.iter().position(|merge| *merge == (pair[0], pair[1]))?;
                    Some((self.ranks[index], index as u32))
                };
                let best = symbols
                    .windows(2)
                    .enumerate()
                    .filter_map(|(at, pair)| Some((rank(pair)?, at)))
                    .min();
                let Some(((_, index), at)) = best else { return symbols };
                symbols.splice(at..at + 2, [LETTERS + index]);
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

    fn encode(model: &Model, word: &str, work: &Work) -> Result<Vec<u32>, EncodeError> {
        let mut ids = Vec::new();
        Merger::default().encode(&model.tables(), word, work, &mut ids)?;
        Ok(ids)
    }

    #[test]
    fn words_of_all_lengths_are_what_the_definition_says() {
        for seed in 0..60 {
            let model = Model::new(seed);
            for length in (0..70).chain([128, 200, 333, 700]) {
                let word = word(length, seed * 1000 + length as u64);
                let ids = encode(&model, &word, &Work::unbounded()).unwrap();
                assert_eq!(ids, model.reference(&word), "{word}");
            }
        }
    }

    /// Tokens that are longer than a window, windows that end within runs, and windows that are the same again.
    #[test]
    fn runs_are_what_the_definition_says() {
        for doublings in [1, 3, 6, 9] {
            let model = Model::of_runs(doublings);
            for length in (1..20).chain([47, 48, 49, 63, 64, 65, 127, 500, 1023]) {
                let run = "a".repeat(length);
                for word in [run.clone(), format!("b{run}c{run}"), "aab".repeat(length)] {
                    let ids = encode(&model, &word, &Work::unbounded()).unwrap();
                    assert_eq!(ids, model.reference(&word), "{word}");
                }
            }
        }
    }

    /// The work for a word without a boundary grows with its length.
    #[test]
    fn long_words_take_linear_work() {
        for seed in 0..10 {
            let model = Model::new(seed);
            for (length, word) in [
                (10_000, word(10_000, seed)),
                (1_000_000, word(1_000_000, seed)),
                (300_000, "a".repeat(300_000)),
            ] {
                let work = Work::unbounded();
                encode(&model, &word, &work).unwrap();
                let looks = (u64::MAX - work.left()) / LOOK;
                assert!(looks <= 6 * length as u64, "{looks} looks for {length}");
            }
        }
    }

    #[test]
    fn words_beyond_memory_are_refused() {
        let model = Model::new(1);
        let word = "a".repeat(MAX_WORD_SYMBOLS + 1);
        let refused = encode(&model, &word, &Work::unbounded());
        assert!(matches!(refused, Err(EncodeError::WordTooLong { .. })));
    }
}
