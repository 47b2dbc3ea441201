//! The container of a tokenizer artefact: what it is, that it is whole, and where its sections are.
//!
//! All numbers are little-endian, and offsets count from the start of the artefact, so it can stand anywhere in memory:
//!
//! ```text
//! offset  bytes
//!      0      8  magic "WARMTOK\0"
//!      8      8  xxh3-64 of everything from offset 16 on
//!     16      4  version of this layout
//!     20      4  number of sections
//!     24    8 n  per section: offset, length
//! ```
//!
//! The sections are those of [`Section`].

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use crate::LoadError;

const MAGIC: [u8; 8] = *b"WARMTOK\0";
const VERSION: u32 = 6;
const CHECKED_FROM: usize = 16;
const SECTION_TABLE: usize = 24;

/// Sections, by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Section {
    /// [`crate::flat::tables::Meta`].
    Meta,
    /// Pilots of the pairs, 2 bytes each.
    PairPilots,
    /// A byte of each merge's hash: [`crate::flat::tables::pair_tag`].
    PairTags,
    /// Merges: [`crate::flat::tables::PairSlot`].
    Pairs,
    /// Symbol of each byte, 4 bytes each; of BPE for each [`crate::flat::tables::Place`]. Empty if no byte has one.
    Bytes,
    /// For each place and each 64 code points their page in `Chars`, 2 bytes each.
    CharPages,
    /// Pages of 64 symbols, 4 bytes each.
    Chars,
    /// Pilots of the words, 2 bytes each.
    WordPilots,
    /// Whole words: [`crate::flat::tables::WordSlot`].
    Words,
    /// The bytes that `Words` points into.
    WordBytes,
    /// Where words are cut into pieces, or empty: [`crate::flat::neighbours::Neighbours`].
    Neighbours,
    /// Added tokens: id, flags, length (4 bytes each), content.
    Added,
    /// Ids that the post-processor puts before a text, 4 bytes each.
    Prefix,
    /// Ids that the post-processor puts after a text, 4 bytes each.
    Suffix,
    /// Normalizers and pre-tokenizer: a `tokenizer.json` of a few hundred bytes with nothing else in it.
    Components,
    /// The character map of a normalizer, or empty: [`crate::flat::charsmap::Charsmap`].
    Charsmap,
    /// From the tokens of a model that is not BPE to their ids: [`crate::flat::double_array::DoubleArray`].
    Tokens,
    /// Scores of a Unigram model's tokens by id, 8 bytes each.
    Scores,
    /// What the tokens of a WordPiece model start with that go on with a word.
    Continuation,
}

impl Section {
    /// The tables of a BPE model, in the order of their numbers.
    pub(crate) const OF_BPE: [Self; 11] = [
        Self::Meta,
        Self::PairPilots,
        Self::PairTags,
        Self::Pairs,
        Self::Bytes,
        Self::CharPages,
        Self::Chars,
        Self::WordPilots,
        Self::Words,
        Self::WordBytes,
        Self::Neighbours,
    ];
}

/// Number of sections.
pub(crate) const SECTIONS: usize = 19;

/// Writes an artefact.
#[cfg(feature = "build")]
pub(crate) fn write(sections: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut number = |value: usize| body.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    number(VERSION as usize);
    number(sections.len());
    let mut offset = SECTION_TABLE.saturating_add(sections.len().saturating_mul(8));
    for section in sections {
        number(offset);
        number(section.len());
        offset = offset.saturating_add(section.len());
    }
    for section in sections {
        body.extend_from_slice(section);
    }
    let mut artefact = MAGIC.to_vec();
    artefact.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    artefact.extend_from_slice(&body);
    artefact
}

/// The sections of an artefact.
///
/// # Errors
/// When it is no artefact, of another version, damaged, or its sections lie outside of it.
pub(crate) fn read(artefact: &[u8]) -> Result<[Range<usize>; SECTIONS], LoadError> {
    if artefact.get(..MAGIC.len()) != Some(&MAGIC) {
        return Err(LoadError::Damaged("it does not start as a tokenizer artefact"));
    }
    let checked = artefact.get(CHECKED_FROM..).ok_or(CUT_SHORT)?;
    let checksum = artefact.get(8..CHECKED_FROM).and_then(|bytes| bytes.first_chunk());
    let version = number(artefact, 16).ok_or(CUT_SHORT)?;
    // First, as another version may be checked in another way.
    if version != VERSION {
        return Err(LoadError::Version {
            found: version,
            known: VERSION,
        });
    }
    if checksum.map(|bytes| u64::from_le_bytes(*bytes)) != Some(xxh3_64(checked)) {
        return Err(LoadError::Damaged("its checksum differs from its content"));
    }
    if number(artefact, 20).ok_or(CUT_SHORT)? as usize != SECTIONS {
        return Err(LoadError::Damaged("unknown number of sections"));
    }
    let mut sections = [const { 0..0 }; SECTIONS];
    for (at, section) in sections.iter_mut().enumerate() {
        let entry = SECTION_TABLE.saturating_add(at.saturating_mul(8));
        let start = number(artefact, entry).ok_or(CUT_SHORT)? as usize;
        let length = number(artefact, entry.saturating_add(4)).ok_or(CUT_SHORT)? as usize;
        let end = start.checked_add(length).filter(|&end| end <= artefact.len());
        *section = start..end.ok_or(CUT_SHORT)?;
    }
    Ok(sections)
}

const CUT_SHORT: LoadError = LoadError::Damaged("it is cut short, or a section lies outside of it");

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)
        .and_then(|bytes| bytes.first_chunk())
        .map(|bytes| u32::from_le_bytes(*bytes))
}
