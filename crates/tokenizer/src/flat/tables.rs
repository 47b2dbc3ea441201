//! The BPE tables, read where they lie in the artefact.
//!
//! A *symbol* is a token id; merging starts from the symbols of bytes or characters.

use crate::LoadError;
use crate::perfect_hash::{slot, spread};

/// No symbol, in the tables of bytes and characters.
pub(crate) const NO_SYMBOL: u32 = u32::MAX;
/// No merge. Merges compare by rank, so this is the worst.
pub(crate) const NO_MERGE: Merge = u64::MAX;
/// Ids and ranks have this many bits.
pub(crate) const ID_BITS: u32 = 20;
/// Above every id.
pub(crate) const ID_LIMIT: u32 = (1 << ID_BITS) - 1;
/// Code points of a page of characters.
pub(crate) const PAGE: u32 = 64;
/// Number of pages that all of Unicode takes.
pub(crate) const PAGES: usize = 0x11_0000 / PAGE as usize;
/// The page of characters that have no symbol.
pub(crate) const NO_PAGE: u16 = u16::MAX;
/// Longest whole word, in bytes.
pub(crate) const MAX_WHOLE_WORD: usize = (1 << (32 - ID_BITS)) - 1;

/// Rank in the upper half (0 is merged first), the symbol that comes out in the lower.
pub(crate) type Merge = u64;

/// What the tables say beside themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Meta {
    pub(crate) kind: Kind,
    /// One more than the highest id.
    pub(crate) vocab_size: u32,
    /// Of BPE: bit 0: a character without a symbol becomes its bytes; bit 1: runs of unknown characters become one; bit 3:
    /// [`Meta::AFFIXES`]. Of all: bit 2: [`Meta::RUNS_OF_SPACES`].
    pub(crate) flags: u32,
    /// Id of what has none, or [`NO_SYMBOL`]: then BPE drops it, and others fail.
    pub(crate) unknown: u32,
    /// Longest word that is split, in characters, in WordPiece models.
    pub(crate) longest_word: u32,
    /// Score of an unknown character, in Unigram models.
    pub(crate) unknown_score: f64,
}

/// Kinds of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Bpe = 1,
    Unigram = 2,
    WordPiece = 3,
    WordLevel = 4,
}

impl Meta {
    pub(crate) const BYTES: u32 = 1;
    pub(crate) const FUSE_UNKNOWN: u32 = 2;
    /// A normalizer that replaces two spaces replaces all spaces that stand side by side, two or more.
    pub(crate) const RUNS_OF_SPACES: u32 = 4;
    /// Symbols of bytes and characters depend on their [`Place`] in a word.
    pub(crate) const AFFIXES: u32 = 8;

    pub(crate) fn write(self) -> Vec<u8> {
        let score = self.unknown_score.to_bits();
        let numbers = [
            self.kind as u32,
            self.vocab_size,
            self.flags,
            self.unknown,
            self.longest_word,
        ];
        let numbers = numbers.into_iter().flat_map(u32::to_le_bytes);
        numbers.chain(score.to_le_bytes()).collect()
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        let (numbers, score) = bytes.split_first_chunk::<20>().ok_or(BAD)?;
        let (&[kind, vocab_size, flags, unknown, longest_word], &[score]) =
            (numbers.as_chunks().0, score.as_chunks().0)
        else {
            return Err(BAD);
        };
        let numbers = [kind, vocab_size, flags, unknown, longest_word];
        let [kind, vocab_size, flags, unknown, longest_word] = numbers.map(u32::from_le_bytes);
        let kind = match kind {
            1 => Kind::Bpe,
            2 => Kind::Unigram,
            3 => Kind::WordPiece,
            4 => Kind::WordLevel,
            _ => return Err(BAD),
        };
        let meta = Self {
            kind,
            vocab_size,
            flags,
            unknown,
            longest_word,
            unknown_score: f64::from_le_bytes(score),
        };
        (vocab_size <= ID_LIMIT && meta.has_or_none(unknown))
            .then_some(meta)
            .ok_or(BAD)
    }

    /// The places that bytes and characters have symbols for.
    pub(super) fn places(self) -> usize {
        if self.flags & Self::AFFIXES == 0 {
            1
        } else {
            Place::COUNT
        }
    }

    /// Whether a symbol is below the vocabulary size, or [`NO_SYMBOL`].
    pub(super) fn has_or_none(self, symbol: u32) -> bool {
        symbol < self.vocab_size || symbol == NO_SYMBOL
    }
}

/// Where in a word a byte or a character stands: how it is spelled depends on that in a model with affixes
/// (`continuing_subword_prefix`, `end_of_word_suffix`). In other models all are [`Place::ONLY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(usize);

impl Place {
    pub(crate) const COUNT: usize = 4;
    pub(crate) const ONLY: Self = Self(0);

    /// All, by their number.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    #[inline(always)]
    pub(crate) fn of(goes_on: bool, is_followed: bool) -> Self {
        Self(usize::from(goes_on) | usize::from(is_followed) << 1)
    }

    /// The number of the page that a code point is on.
    #[inline(always)]
    pub(crate) fn page_of(self, code: u32) -> usize {
        self.0.wrapping_mul(PAGES).wrapping_add((code / PAGE) as usize)
    }

    /// Whether something stands before it in the word.
    pub(crate) fn goes_on(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether something stands after it.
    pub(crate) fn is_followed(self) -> bool {
        self.0 & 2 != 0
    }
}

pub(super) const BAD: LoadError = LoadError::Damaged("a table has an impossible size or entry");

/// One merge, or [`PairSlot::EMPTY`]: the two symbols in the lower 20 bits of the first two numbers, the lower 12 and
/// upper 8 bits of the rank above them, then the symbol that comes out.
pub(crate) struct PairSlot;

impl PairSlot {
    pub(crate) const EMPTY: [u8; 12] = [0xff; 12];

    pub(crate) fn write(left: u32, right: u32, rank: u32, product: u32) -> [u8; 12] {
        let numbers = [left | rank << ID_BITS, right | (rank >> 12) << ID_BITS, product];
        let mut slot = [0; 12];
        for (bytes, number) in slot.as_chunks_mut().0.iter_mut().zip(numbers) {
            *bytes = number.to_le_bytes();
        }
        slot
    }

    /// The merge, if the slot is that of the pair.
    #[inline(always)]
    fn merge_of(slot: &[u8; 12], left: u32, right: u32) -> Option<Merge> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *slot;
        let (first, second) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let rank = first >> ID_BITS | second >> ID_BITS << 12;
        let same = (first ^ left) & ID_LIMIT == 0 && (second ^ right) & ID_LIMIT == 0;
        same.then_some(u64::from(rank) << 32 | u64::from(u32::from_le_bytes([i, j, k, l])))
    }
}

/// A whole word: where its bytes start, then its id in the lower 20 bits and its length above. A length of zero: none.
pub(crate) struct WordSlot;

impl WordSlot {
    pub(crate) const EMPTY: [u8; 8] = [0; 8];

    pub(crate) fn write(start: u32, length: u32, id: u32) -> [u8; 8] {
        (u64::from(start) | u64::from(length << ID_BITS | id) << 32).to_le_bytes()
    }

    /// Start, length, id.
    #[inline(always)]
    fn read(slot: &[u8; 8]) -> (usize, usize, u32) {
        let number = u64::from_le_bytes(*slot);
        let upper = (number >> 32) as u32;
        (number as u32 as usize, (upper >> ID_BITS) as usize, upper & ID_LIMIT)
    }
}

/// Hash of a pair of symbols.
#[inline(always)]
pub(crate) fn pair_hash(left: u32, right: u32) -> u64 {
    spread(u64::from(left) << 32 | u64::from(right))
}

/// What tells nearly all pairs that do not merge from the one whose slot they find, in a table small enough to stay in the
/// processor's cache.
#[inline(always)]
pub(crate) fn pair_tag(hash: u64) -> u8 {
    // The slot depends on the other bits.
    (hash >> 32) as u8
}

/// The tables of one artefact.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    pub(crate) meta: Meta,
    pair_pilots: &'a [[u8; 2]],
    pair_tags: &'a [u8],
    pairs: &'a [[u8; 12]],
    bytes: &'a [[u8; 4]],
    char_pages: &'a [[u8; 2]],
    chars: &'a [[u8; 4]],
    word_pilots: &'a [[u8; 2]],
    words: &'a [[u8; 8]],
    word_bytes: &'a [u8],
}

/// The sections of [`Tables`], in the order of their numbers from [`crate::artefact::Section::PairPilots`] on.
pub(crate) type TableSections<'a> = [&'a [u8]; 9];

impl<'a> Tables<'a> {
    /// The tables in these sections. Lookups are memory-safe and end for any content; [`Tables::check`] once makes sure
    /// that they also make sense.
    pub(crate) fn new(meta: Meta, sections: TableSections<'a>) -> Self {
        let [
            pair_pilots,
            pair_tags,
            pairs,
            bytes,
            char_pages,
            chars,
            word_pilots,
            words,
            word_bytes,
        ] = sections;
        Self {
            meta,
            pair_pilots: pair_pilots.as_chunks().0,
            pair_tags,
            pairs: pairs.as_chunks().0,
            bytes: bytes.as_chunks().0,
            char_pages: char_pages.as_chunks().0,
            chars: chars.as_chunks().0,
            word_pilots: word_pilots.as_chunks().0,
            words: words.as_chunks().0,
            word_bytes,
        }
    }

    /// That every symbol is below the vocabulary size and every place inside its table.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let known = |symbol: u32| symbol < self.meta.vocab_size;
        let known_or_none = |symbol: &[u8; 4]| self.meta.has_or_none(u32::from_le_bytes(*symbol));
        let pages = self.chars.as_chunks::<{ PAGE as usize }>().0.len();
        let places = self.meta.places();
        let good = self.bytes.len() == places.wrapping_mul(256)
            && self.pair_tags.len() == self.pairs.len()
            && self.char_pages.len() == places.wrapping_mul(PAGES)
            && self.chars.len().is_multiple_of(PAGE as usize)
            && self.bytes.iter().all(known_or_none)
            && self.chars.iter().all(known_or_none)
            && (self.meta.flags & Meta::BYTES == 0
                || self
                    .bytes
                    .chunks(256)
                    .flat_map(|symbols| (0..=u8::MAX).zip(symbols))
                    .all(|(byte, symbol)| {
                        // These never stand in UTF-8.
                        matches!(byte, 0xc0 | 0xc1 | 0xf5..=0xff) || *symbol != NO_SYMBOL.to_le_bytes()
                    }))
            && self.char_pages.iter().all(|page| {
                let page = u16::from_le_bytes(*page);
                page == NO_PAGE || usize::from(page) < pages
            })
            && self.pairs.iter().all(|slot| {
                let product = slot.last_chunk().map_or(NO_SYMBOL, |bytes| u32::from_le_bytes(*bytes));
                known(product) || *slot == PairSlot::EMPTY
            })
            && self.words.iter().all(|slot| {
                let (start, length, id) = WordSlot::read(slot);
                let inside = start
                    .checked_add(length)
                    .is_some_and(|end| end <= self.word_bytes.len());
                length == 0 || (inside && known(id))
            });
        good.then_some(()).ok_or(BAD)
    }

    /// How these two merge.
    #[inline(always)]
    pub(crate) fn merge(&self, left: u32, right: u32) -> Merge {
        let hash = pair_hash(left, right);
        let at = slot(hash, self.pair_pilots, self.pairs.len());
        if self.pair_tags.get(at) != Some(&pair_tag(hash)) {
            return NO_MERGE;
        }
        self.pairs
            .get(at)
            .and_then(|slot| PairSlot::merge_of(slot, left, right))
            .unwrap_or(NO_MERGE)
    }

    /// Symbol of a character, or [`NO_SYMBOL`].
    #[inline(always)]
    pub(crate) fn char(&self, character: char, place: Place) -> u32 {
        let code = character as u32;
        let page = self
            .char_pages
            .get(place.page_of(code))
            .map_or(NO_PAGE, |page| u16::from_le_bytes(*page));
        let at = u32::from(page).wrapping_mul(PAGE).wrapping_add(code % PAGE);
        self.chars
            .get(at as usize)
            .map_or(NO_SYMBOL, |symbol| u32::from_le_bytes(*symbol))
    }

    /// Symbol of a byte, or [`NO_SYMBOL`].
    #[inline(always)]
    pub(crate) fn byte(&self, byte: u8, place: Place) -> u32 {
        self.bytes
            .get(place.0.wrapping_mul(256).wrapping_add(usize::from(byte)))
            .map_or(NO_SYMBOL, |symbol| u32::from_le_bytes(*symbol))
    }

    /// The id of a word that is a token as a whole. `hash` is the word's [`super::cache::hash`].
    #[inline]
    pub(crate) fn word(&self, hash: u64, word: &[u8]) -> Option<u32> {
        let at = slot(hash, self.word_pilots, self.words.len());
        let (start, length, id) = WordSlot::read(self.words.get(at)?);
        (length == word.len() && self.word_bytes.get(start..start.checked_add(length)?)? == word).then_some(id)
    }
}
