//! Unigram models: of all ways to split a word into tokens, the one whose scores sum up highest.
//!
//! The best way up to each place is found from left to right (Viterbi), as `encode_optimized` of `tokenizers` 0.23 and
//! `EncodeOptimized` of SentencePiece do it: of two ways with the same score the one that was found first stays, which is that
//! with the longer last token, and scores are added up in the same order, so that ids are the same to the last bit of a score.

use super::double_array::DoubleArray;
use super::tables::{BAD, Meta, NO_SYMBOL};
use crate::{EncodeError, LoadError};
use work::Work;

/// What a byte of a word costs, and a look at it from each place before it where a token may start, in nanoseconds (see [`work`]).
const BYTE: u64 = 10;
const LOOK: u64 = 4;
/// Longest word: 16 bytes of memory for each of its own.
const MAX_WORD: usize = 12_000_000;
/// How much below the lowest score of a token that of an unknown character is, as in SentencePiece.
pub(crate) const UNKNOWN_PENALTY: f64 = 10.0;

/// The tables of a Unigram model.
#[derive(Clone, Copy)]
pub(super) struct Unigram<'a> {
    pub(super) meta: Meta,
    /// From tokens to their ids.
    pub(super) tokens: DoubleArray<'a>,
    /// By id, as little-endian numbers.
    pub(super) scores: &'a [[u8; 8]],
    /// Tokens of the bytes of unknown characters, by byte.
    pub(super) bytes: &'a [[u8; 4]],
}

/// What splitting works in.
#[derive(Default)]
pub(super) struct Lattice {
    /// For each place in a word the best way to it.
    ways: Vec<Way>,
    /// The tokens of the best way to the end, last one first: where they start, and their ids.
    path: Vec<(u32, u32)>,
}

/// The last token of a way, and the score of all of them.
#[derive(Clone, Copy)]
struct Way {
    score: f64,
    start: u32,
    id: u32,
}

impl Way {
    /// No way, as its token would start behind the word.
    const NONE: Self = Self {
        score: 0.0,
        start: u32::MAX,
        id: 0,
    };
}

impl Lattice {
    /// Gives back what words of more than so many bytes took.
    pub(super) fn shrink(&mut self, kept: usize) {
        if self.ways.capacity() > kept {
            *self = Self::default();
        }
    }

    /// Takes `way` to `end` if there was none, or one of a lower score.
    fn offer(&mut self, end: usize, way: Way) {
        if let Some(known) = self.ways.get_mut(end)
            && (known.start == Way::NONE.start || way.score > known.score)
        {
            *known = way;
        }
    }

    fn way(&self, end: usize) -> Way {
        self.ways.get(end).copied().unwrap_or(Way::NONE)
    }

    /// Goes back along the best way to `end`.
    fn trace(&mut self, mut end: usize) {
        self.path.clear();
        while end > 0 {
            let Way { start, id, .. } = self.way(end);
            // Every way starts before it ends.
            end = (start as usize).min(end.saturating_sub(1));
            self.path.push((end as u32, id));
        }
    }
}

impl Unigram<'_> {
    /// That there are not more tokens than ids, and that every byte has a known one, or none, or there are none at all.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        let known_or_none = |id: &[u8; 4]| self.meta.has_or_none(u32::from_le_bytes(*id));
        (self.scores.len() <= self.meta.vocab_size as usize
            && matches!(self.bytes.len(), 0 | 256)
            && self.bytes.iter().all(known_or_none))
        .then_some(())
        .ok_or(BAD)
    }

    /// Appends the ids of a word.
    pub(super) fn encode(
        &self,
        word: &str,
        lattice: &mut Lattice,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        if word.len() > MAX_WORD {
            return Err(EncodeError::WordTooLong { len: word.len() });
        }
        work.take(word.len(), BYTE)?;
        self.find_ways(word, lattice, work)?;
        lattice.trace(word.len());
        // Unknown characters side by side are one text.
        let mut unknown = None;
        for &(start, id) in lattice.path.iter().rev() {
            if id == self.meta.unknown {
                unknown.get_or_insert(start as usize);
                continue;
            }
            if let Some(first) = unknown.take() {
                self.push_unknown(word.get(first..start as usize).unwrap_or_default(), ids);
            }
            ids.push(id);
        }
        if let Some(first) = unknown {
            self.push_unknown(word.get(first..).unwrap_or_default(), ids);
        }
        Ok(())
    }

    fn find_ways(&self, word: &str, lattice: &mut Lattice, work: &Work) -> Result<(), EncodeError> {
        lattice.ways.clear();
        lattice.ways.resize(word.len().saturating_add(1), Way::NONE);
        for (start, character) in word.char_indices() {
            let after = start.wrapping_add(character.len_utf8());
            let score = lattice.way(start).score;
            let way = |of_token: f64, id| Way {
                score: of_token + score,
                start: start as u32,
                id,
            };
            let (mut node, mut end, mut is_token) = (self.tokens.root(), start, false);
            for byte in word.as_bytes().get(start..).unwrap_or_default() {
                let Some(next) = self.tokens.child(node, *byte) else {
                    break;
                };
                (node, end) = (next, end.wrapping_add(1));
                if let Some((id, of_token)) = self.tokens.value(node).and_then(|id| Some((id, self.score(id)?))) {
                    lattice.offer(end, way(of_token, id));
                    is_token |= end == after;
                }
            }
            // The last look found nothing.
            work.take(end.wrapping_sub(start).saturating_add(1), LOOK)?;
            if !is_token {
                lattice.offer(after, way(self.meta.unknown_score, self.meta.unknown));
                if lattice.way(after).id == NO_SYMBOL {
                    return Err(EncodeError::Failed("a character is in no token".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn score(&self, id: u32) -> Option<f64> {
        self.scores.get(id as usize).map(|score| f64::from_le_bytes(*score))
    }

    /// Appends the ids of unknown characters: of a token that they happen to be together, of their bytes, or the unknown one.
    fn push_unknown(&self, text: &str, ids: &mut Vec<u32>) {
        if let Some(id) = self.tokens.get(text.as_bytes()).filter(|id| self.score(*id).is_some()) {
            ids.push(id);
            return;
        }
        let before = ids.len();
        let byte = |byte: u8| self.bytes.get(usize::from(byte)).map(|id| u32::from_le_bytes(*id));
        ids.extend(text.bytes().map_while(byte).take_while(|id| *id != NO_SYMBOL));
        if ids.len().wrapping_sub(before) < text.len() {
            ids.truncate(before);
            ids.push(self.meta.unknown);
        }
    }
}
