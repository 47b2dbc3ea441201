//! The symbols of characters.
//!
//! A byte-level model merges bytes, so a character of three bytes costs two merges wherever it stands. Where the outcome
//! is settled, whatever stands beside it, the character starts as the token of its bytes.

use std::collections::{BTreeMap, HashMap};

use super::bpe::Merges;
use crate::flat::tables::{NO_PAGE, NO_SYMBOL, PAGE, PAGES, Place};

/// Symbols by place in a word and character, in pages.
pub(super) struct CharTable {
    places: usize,
    pages: BTreeMap<usize, [u32; PAGE as usize]>,
}

impl CharTable {
    pub(super) fn new(places: usize) -> Self {
        Self {
            places,
            pages: BTreeMap::new(),
        }
    }

    pub(super) fn set(&mut self, character: char, place: Place, symbol: u32) {
        let code = character as u32;
        let page = place.page_of(code);
        let page = self.pages.entry(page).or_insert([NO_SYMBOL; PAGE as usize]);
        if let Some(place) = page.get_mut((code % PAGE) as usize) {
            *place = symbol;
        }
    }

    /// Sections of pages and of symbols.
    pub(super) fn write(&self) -> (Vec<u8>, Vec<u8>) {
        let mut index = vec![NO_PAGE; PAGES.saturating_mul(self.places)];
        for (number, page) in (0..).zip(self.pages.keys()) {
            if let Some(entry) = index.get_mut(*page) {
                *entry = number;
            }
        }
        let symbols = self.pages.values().flatten();
        (
            index.into_iter().flat_map(u16::to_le_bytes).collect(),
            symbols.flat_map(|symbol| symbol.to_le_bytes()).collect(),
        )
    }
}

/// The characters of a byte-level model whose bytes always end up as one token.
///
/// `tokens` are their bytes and ids, `bytes` the symbols of bytes. Three things must hold: merging the bytes alone gives one
/// token; at every step of that no neighbour can take the first or last symbol away at a better rank; and none takes that
/// token at a better rank than a step had, or it might come before merges that come before that step. What stands left
/// of a character ends with the last byte of a character, which is below 0xC0; what stands right begins with a first byte,
/// which is below 0x80 or from 0xC2 on.
pub(super) fn byte_level_chars(tokens: &[(Vec<u8>, u32)], bytes: &[u32], merges: &Merges) -> CharTable {
    let edges: HashMap<u32, (u8, u8)> = tokens
        .iter()
        .filter_map(|(bytes, id)| Some((*id, (*bytes.first()?, *bytes.last()?))))
        .collect();
    // Best rank at which a symbol is taken by one on its left, and by one on its right.
    let (mut from_left, mut from_right) = (HashMap::new(), HashMap::new());
    for ((left, right), (rank, _)) in merges {
        let ends_character = edges.get(left).is_none_or(|(_, last)| *last < 0xc0);
        let starts_character = edges
            .get(right)
            .is_none_or(|(first, _)| *first < 0x80 || *first >= 0xc2);
        if ends_character {
            lower(&mut from_left, *right, *rank);
        }
        if starts_character {
            lower(&mut from_right, *left, *rank);
        }
    }
    let rank_of = |ranks: &HashMap<u32, u32>, symbol: u32| ranks.get(&symbol).copied().unwrap_or(u32::MAX);
    let mut table = CharTable::new(1);
    for (token, id) in tokens {
        let mut characters = std::str::from_utf8(token).unwrap_or_default().chars();
        let (Some(character), None) = (characters.next(), characters.next()) else {
            continue;
        };
        let symbols: Option<Vec<u32>> = token
            .iter()
            .map(|byte| bytes.get(usize::from(*byte)).copied())
            .collect();
        let outcome = symbols.and_then(|symbols| {
            settle(symbols, merges, |first, last, rank| {
                rank < rank_of(&from_left, first) && rank < rank_of(&from_right, last)
            })
        });
        if outcome == Some(*id) {
            table.set(character, Place::ONLY, *id);
        }
    }
    table
}

fn lower(ranks: &mut HashMap<u32, u32>, symbol: u32, rank: u32) {
    let lowest = ranks.entry(symbol).or_insert(rank);
    *lowest = rank.min(*lowest);
}

/// The one symbol that `symbols` merge into, if every step is `safe` for the first and last symbol and the step's rank, and
/// so is the outcome for the worst of them.
fn settle(mut symbols: Vec<u32>, merges: &Merges, safe: impl Fn(u32, u32, u32) -> bool) -> Option<u32> {
    let mut worst = 0;
    while symbols.len() > 1 {
        let ranked = symbols.iter().zip(symbols.iter().skip(1)).enumerate();
        let best = ranked.filter_map(|(at, (left, right))| Some((merges.get(&(*left, *right))?, at)));
        let (&(rank, product), at) = best.min_by_key(|((rank, _), at)| (*rank, *at))?;
        if !safe(*symbols.first()?, *symbols.last()?, rank) {
            return None;
        }
        symbols.splice(at..=at.checked_add(1)?, [product]);
        worst = worst.max(rank);
    }
    let outcome = symbols.first().copied()?;
    (outcome != NO_SYMBOL && safe(outcome, outcome, worst)).then_some(outcome)
}
