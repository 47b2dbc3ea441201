//! Where words may be cut into pieces that are merged by themselves.
//!
//! Characters that stand side by side in no token are never merged, and neither is anything that they have become part of.
//! So a word may be cut between them: what merging gives on both sides is what it gives for the whole. This is how Chinese,
//! where a pre-tokenizer makes a word of every half sentence, comes in pieces of one or two characters that are soon known,
//! and how the texts of SentencePiece models do, which mark spaces (`▁`) and are not cut into words at all.
//!
//! Tokens of bytes may begin or end inside a character. Where such a token goes past the border of two characters, it has
//! only the last bytes of the one before or the first bytes of the one after, a *part*. Parts have neighbours too.

use std::ops::Range;

use crate::perfect_hash::spread;

/// ASCII characters, each by itself, the mark of a space, and all others together.
const CLASSES: usize = 130;
const MARK: usize = 128;
const OTHER: usize = 129;
/// Bytes of the bits for one class, and for all.
const ROW: usize = CLASSES.div_ceil(8);
const TABLE: usize = CLASSES * ROW;
/// Pairs for each word of the filter: with two bits for each, about one of a hundred others is taken for one of them.
const PAIRS_PER_WORD: usize = 4;

/// Which characters stand side by side in tokens. Empty where words are not cut.
///
/// If one of them is ASCII, a table tells: for each class of the first one a row of bits, one for each class of the second.
/// Other pairs are in a Bloom filter, of a power of two words of 8 bytes; a pair that is wrongly found there is only not
/// cut. Table, parts before and after, filter, in this order.
#[derive(Clone, Copy, Default)]
pub(crate) struct Neighbours<'a> {
    classes: &'a [u8],
    /// Which last bytes of characters have neighbours: a bit for the lower six bits of the last one.
    parts_before: u64,
    /// Which first bytes of characters do: a bit for the lower six bits of the first one.
    parts_after: u64,
    pairs: &'a [[u8; 8]],
}

impl<'a> Neighbours<'a> {
    /// `None` if it is neither empty nor of a possible size.
    pub(crate) fn read(section: &'a [u8]) -> Option<Self> {
        if section.is_empty() {
            return Some(Self::default());
        }
        let (classes, rest) = section.split_at_checked(TABLE)?;
        let ([before, after, pairs @ ..], []) = rest.as_chunks() else {
            return None;
        };
        pairs.len().is_power_of_two().then_some(Self {
            classes,
            parts_before: u64::from_le_bytes(*before),
            parts_after: u64::from_le_bytes(*after),
            pairs,
        })
    }

    /// The section for tokens of these bytes.
    pub(crate) fn of<'t>(tokens: impl Iterator<Item = &'t [u8]>) -> Vec<u8> {
        let mut classes = vec![0; TABLE];
        let (mut parts_before, mut parts_after, mut hashes) = (0_u64, 0_u64, Vec::new());
        for sides in tokens.filter_map(sides) {
            for (before, after) in sides.iter().zip(sides.iter().skip(1)) {
                for row in before.classes() {
                    for column in after.classes() {
                        set(&mut classes, row, column);
                    }
                }
                if before.is_part() {
                    parts_before |= 1 << (before.key & 0x3f);
                }
                if after.is_part() {
                    parts_after |= 1 << (after.first & 0x3f);
                }
                hashes.push(pair_hash(before.key, after.key));
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        let mut pairs = vec![0_u64; (hashes.len() / PAIRS_PER_WORD).next_power_of_two()];
        for hash in hashes {
            let at = place(hash, pairs.len());
            if let Some(word) = pairs.get_mut(at) {
                *word |= bits(hash);
            }
        }
        let words = [parts_before, parts_after].into_iter().chain(pairs);
        classes.into_iter().chain(words.flat_map(u64::to_le_bytes)).collect()
    }

    /// Whether words are cut.
    pub(super) fn are_known(self) -> bool {
        !self.pairs.is_empty()
    }

    /// Visits the pieces of a word, by where they are. (A loop, as the compiler leaves calls in the iterators of this.)
    #[inline(always)]
    pub(super) fn try_for_each_piece<E>(
        self,
        word: &str,
        mut visit: impl FnMut(Range<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut start, mut before) = (0, None);
        for (at, character) in word.char_indices() {
            if before.is_some_and(|before| !self.are_together(before, character)) {
                visit(std::mem::replace(&mut start, at)..at)?;
            }
            before = Some(character);
        }
        visit(start..word.len())
    }

    #[inline(always)]
    fn are_together(self, before: char, after: char) -> bool {
        if before.is_ascii() || after.is_ascii() {
            return is_set(self.classes, class(before), class(after));
        }
        let (left, right) = (before as u32, after as u32);
        self.has_pair(left, right) || self.parts_are_together(before, after)
    }

    /// Whether a token that has a part of one of these may have something of the other.
    #[inline(always)]
    fn parts_are_together(self, before: char, after: char) -> bool {
        let first = after.encode_utf8(&mut [0; 4]).bytes().next().unwrap_or_default();
        let part_before = self.parts_before >> (before as u32 & 0x3f) & 1 == 1;
        let part_after = self.parts_after >> (first & 0x3f) & 1 == 1;
        let lefts = || (1..before.len_utf8()).map(|bytes| last_bytes(before, bytes));
        let mut rights = (1..after.len_utf8()).map(|missing| without_last_bytes(after, missing));
        (part_before && lefts().any(|left| self.has_pair(left, after as u32)))
            || (part_after
                && rights.any(|right| {
                    self.has_pair(before as u32, right)
                        || (part_before && lefts().any(|left| self.has_pair(left, right)))
                }))
    }

    #[inline(always)]
    fn has_pair(self, before: u32, after: u32) -> bool {
        let hash = pair_hash(before, after);
        let word = self.pairs.get(place(hash, self.pairs.len()));
        word.is_none_or(|word| u64::from_le_bytes(*word) & bits(hash) == bits(hash))
    }
}

/// A character of a token, or the part of one that it begins or ends with.
#[derive(Clone, Copy)]
struct Side {
    /// The code point, or what [`last_bytes`] or [`without_last_bytes`] say.
    key: u32,
    first: u8,
}

impl Side {
    fn is_part(self) -> bool {
        self.key >= 1 << PART
    }

    /// Of a part, all that it may be a part of.
    fn classes(self) -> [usize; 2] {
        match char::from_u32(self.key) {
            Some(character) => [class(character); 2],
            None => [MARK, OTHER],
        }
    }
}

/// The keys of parts have the number of bytes from here on; code points are smaller.
const PART: u32 = 24;

/// The key of the last `bytes` bytes of a character.
#[inline(always)]
fn last_bytes(character: char, bytes: usize) -> u32 {
    let bytes = bytes as u32;
    bytes << PART | character as u32 & !u32::MAX.wrapping_shl(bytes.wrapping_mul(6))
}

/// The key of a character without its last `missing` bytes.
#[inline(always)]
fn without_last_bytes(character: char, missing: usize) -> u32 {
    let missing = missing as u32;
    missing << PART | (character as u32).wrapping_shr(missing.wrapping_mul(6))
}

/// The characters and parts of a token; `None` if it is no piece of UTF-8.
fn sides(token: &[u8]) -> Option<Vec<Side>> {
    let is_last = |byte: &u8| byte & 0xc0 == 0x80;
    let payload = |start: u32, bytes: &[u8]| {
        bytes
            .iter()
            .fold(start, |code, byte| code << 6 | u32::from(byte & 0x3f))
    };
    let (part, rest) = token.split_at(token.iter().take_while(|byte| is_last(byte)).count());
    let (whole, end) = match std::str::from_utf8(rest) {
        Ok(whole) => (whole, &[][..]),
        Err(error) if error.error_len().is_none() => {
            let (whole, end) = rest.split_at(error.valid_up_to());
            (std::str::from_utf8(whole).ok()?, end)
        }
        Err(_) => return None,
    };
    let mut sides = Vec::new();
    match part.len() {
        0 => (),
        bytes @ 1..=3 => sides.push(Side {
            key: (bytes as u32) << PART | payload(0, part),
            first: 0,
        }),
        _ => return None,
    }
    sides.extend(whole.chars().map(|character| Side {
        key: character as u32,
        first: 0,
    }));
    if let [first, rest @ ..] = end {
        let bytes = first.leading_ones();
        let missing = bytes.saturating_sub(end.len() as u32);
        sides.push(Side {
            key: missing << PART | payload(u32::from(first & (0x7f >> bytes)), rest),
            first: *first,
        });
    }
    Some(sides)
}

#[inline(always)]
fn class(character: char) -> usize {
    match character {
        '\0'..='\x7f' => character as usize,
        '▁' => MARK,
        _ => OTHER,
    }
}

fn set(classes: &mut [u8], before: usize, after: usize) {
    if let Some(bits) = classes.get_mut(before.wrapping_mul(ROW).wrapping_add(after / 8)) {
        *bits |= 1 << (after % 8);
    }
}

#[inline(always)]
fn is_set(classes: &[u8], before: usize, after: usize) -> bool {
    let bits = classes.get(before.wrapping_mul(ROW).wrapping_add(after / 8));
    bits.is_none_or(|bits| bits >> (after % 8) & 1 == 1)
}

#[inline(always)]
fn pair_hash(before: u32, after: u32) -> u64 {
    spread(u64::from(before) << 32 | u64::from(after))
}

/// The word of the filter that has the bits of a hash. Of an empty filter none.
#[inline(always)]
fn place(hash: u64, words: usize) -> usize {
    (hash >> 32) as usize & words.wrapping_sub(1)
}

#[inline(always)]
fn bits(hash: u64) -> u64 {
    1 << (hash & 0x3f) | 1 << (hash >> 6 & 0x3f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'t>(tokens: &[&[u8]], text: &'t str) -> Vec<&'t str> {
        let section = Neighbours::of(tokens.iter().copied());
        let neighbours = Neighbours::read(&section).expect("a full section");
        let mut pieces = Vec::new();
        let visited = neighbours.try_for_each_piece(text, |piece| {
            pieces.push(&text[piece]);
            Ok::<(), ()>(())
        });
        visited.map(|()| pieces).unwrap()
    }

    #[test]
    fn a_word_is_cut_where_no_token_has_both_characters() {
        let tokens = ["▁ab", "b", "é1", "▁▁", "日本"].map(str::as_bytes);
        assert_eq!(pieces(&tokens, "▁ab▁abb1ñ1▁"), ["▁ab", "▁ab", "b", "1", "ñ1", "▁"]);
        assert_eq!(pieces(&tokens, "▁▁▁中文日本a"), ["▁▁▁", "中", "文", "日本", "a"]);
        assert_eq!(pieces(&[], "ab"), ["a", "b"]);
        assert_eq!(pieces(&[], ""), [""]);
    }

    /// Whatever part of two characters a token has: they stay together, and others do not.
    #[test]
    fn parts_of_characters_have_neighbours() {
        for before in ["é", "中", "😀"] {
            for after in ["ß", "文", "🚀"] {
                let text = [before, after].concat();
                let others = ["ê", "丰", "😁", "▁"].map(|other| [other, after].concat());
                for start in 0..before.len() {
                    for end in before.len() + 1..=text.len() {
                        let token = &text.as_bytes()[start..end];
                        assert_eq!(pieces(&[token], &text), [&text[..]], "{token:x?} in {text}");
                        for other in &others {
                            let has = other.as_bytes().windows(token.len()).any(|bytes| bytes == token);
                            assert_eq!(pieces(&[token], other).len() == 1, has, "{token:x?} in {other}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn parts_stand_beside_ascii() {
        assert_eq!(
            pieces(&[b" \xe4", b"\x81a"], " 丰\u{2581}a "),
            [" 丰", "\u{2581}a", " "]
        );
    }

    #[test]
    fn a_section_is_whole_or_empty() {
        let none = Neighbours::read(&[]).expect("empty");
        assert!(!none.are_known());
        let section = Neighbours::of(std::iter::empty());
        assert!(Neighbours::read(&section).expect("whole").are_known());
        for length in [
            1,
            TABLE,
            TABLE + 16,
            section.len() - 1,
            section.len() + 1,
            section.len() + 16,
        ] {
            let section: Vec<u8> = section.iter().copied().cycle().take(length).collect();
            assert!(Neighbours::read(&section).is_none(), "{length}");
        }
    }
}
