//! Words as inference engines cut them.
//!
//! The library has the character classes of Unicode 17 for all its pre-tokenizers. In the 0.x line each has those of what it is
//! written with: regexes know Unicode 16, for which the characters that came with 17 are in no class, punctuation is older
//! still, and what is a number Rust says, by Unicode 17.

use std::borrow::Cow;

use tk_encode::pipeline::PipelinePreTokenizer;

use crate::limits::pattern;

/// First and last of the characters that Unicode 17 put into a class.
const NEWER: &[(u32, u32)] = &[
    (0x88f, 0x88f),
    (0xc5c, 0xc5c),
    (0xcdc, 0xcdc),
    (0x1acf, 0x1add),
    (0x1ae0, 0x1aeb),
    (0x20c1, 0x20c1),
    (0x2b96, 0x2b96),
    (0xa7ce, 0xa7cf),
    (0xa7d2, 0xa7d2),
    (0xa7d4, 0xa7d4),
    (0xa7f1, 0xa7f1),
    (0xfbc3, 0xfbd2),
    (0xfd90, 0xfd91),
    (0xfdc8, 0xfdce),
    (0x10940, 0x10959),
    (0x10ec5, 0x10ec7),
    (0x10ed0, 0x10ed8),
    (0x10efa, 0x10efb),
    (0x11b60, 0x11b67),
    (0x11db0, 0x11ddb),
    (0x11de0, 0x11de9),
    (0x16ea0, 0x16eb8),
    (0x16ebb, 0x16ed3),
    (0x16ff2, 0x16ff6),
    (0x187f8, 0x187ff),
    (0x18d09, 0x18d1e),
    (0x18d80, 0x18df2),
    (0x1ccfa, 0x1ccfc),
    (0x1ceba, 0x1ced0),
    (0x1cee0, 0x1cef0),
    (0x1e6c0, 0x1e6de),
    (0x1e6e0, 0x1e6f5),
    (0x1e6fe, 0x1e6ff),
    (0x1f6d8, 0x1f6d8),
    (0x1f777, 0x1f77a),
    (0x1f8d0, 0x1f8d8),
    (0x1fa54, 0x1fa57),
    (0x1fa8a, 0x1fa8a),
    (0x1fa8e, 0x1fa8e),
    (0x1fac8, 0x1fac8),
    (0x1facd, 0x1facd),
    (0x1faea, 0x1faea),
    (0x1faef, 0x1faef),
    (0x1fbfa, 0x1fbfa),
    (0x2b73a, 0x2b73f),
    (0x2cea2, 0x2cead),
    (0x323b0, 0x33479),
];

/// First and last of the characters that are punctuation for the library and not for BERT's pre-tokenizer, nor for that which
/// splits at punctuation: those of the 0.x line know older classes (the crate `unicode_categories`).
const NOT_PUNCTUATION: &[(u32, u32)] = &[
    (0x61d, 0x61d),
    (0x9fd, 0x9fd),
    (0xa76, 0xa76),
    (0xc77, 0xc77),
    (0xc84, 0xc84),
    (0x1b4e, 0x1b4f),
    (0x1b7d, 0x1b7f),
    (0x2e43, 0x2e4f),
    (0x2e52, 0x2e5d),
    (0x10d6e, 0x10d6e),
    (0x10ead, 0x10ead),
    (0x10ed0, 0x10ed0),
    (0x10f55, 0x10f59),
    (0x10f86, 0x10f89),
    (0x113d4, 0x113d5),
    (0x113d7, 0x113d8),
    (0x1144b, 0x1144f),
    (0x1145a, 0x1145b),
    (0x1145d, 0x1145d),
    (0x11660, 0x1166c),
    (0x116b9, 0x116b9),
    (0x1183b, 0x1183b),
    (0x11944, 0x11946),
    (0x119e2, 0x119e2),
    (0x11a3f, 0x11a46),
    (0x11a9a, 0x11a9c),
    (0x11a9e, 0x11aa2),
    (0x11b00, 0x11b09),
    (0x11be1, 0x11be1),
    (0x11c41, 0x11c45),
    (0x11c70, 0x11c71),
    (0x11ef7, 0x11ef8),
    (0x11f43, 0x11f4f),
    (0x11fff, 0x11fff),
    (0x12ff1, 0x12ff2),
    (0x16d6d, 0x16d6f),
    (0x16e97, 0x16e9a),
    (0x16fe2, 0x16fe2),
    (0x1e5ff, 0x1e5ff),
    (0x1e95e, 0x1e95f),
];

/// Characters of 2, 3 and 4 bytes that are in no class.
const UNASSIGNED: [char; 3] = ['\u{378}', '\u{fdd0}', '\u{1fffe}'];

/// Which characters a pre-tokenizer of the library has in other classes than those of inference engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Classes {
    /// None.
    Same,
    /// The newer ones.
    Newer,
    /// And some of punctuation.
    Punctuation,
}

impl Classes {
    pub(super) fn of(pre_tokenizer: &PipelinePreTokenizer) -> Self {
        match pre_tokenizer {
            PipelinePreTokenizer::Bert(_) | PipelinePreTokenizer::Punctuation(_) => Self::Punctuation,
            PipelinePreTokenizer::Digits(_)
            | PipelinePreTokenizer::WhitespaceSplit(_)
            | PipelinePreTokenizer::Delimiter(_)
            | PipelinePreTokenizer::FixedLength(_)
            | PipelinePreTokenizer::None => Self::Same,
            _ if pattern(pre_tokenizer).is_some() => Self::Same,
            _ => Self::Newer,
        }
    }

    /// A text to be cut into words in place of `text`: of the same length, with the same character boundaries.
    pub(super) fn as_classified(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Same => Cow::Borrowed(text),
            Self::Newer if !may_have_newer(text.as_bytes()) => Cow::Borrowed(text),
            Self::Newer => replace(text, in_class_of_newer),
            Self::Punctuation if text.is_ascii() => Cow::Borrowed(text),
            Self::Punctuation => replace(text, in_class_of_punctuation),
        }
    }
}

fn replace(text: &str, replacement: impl Fn(char) -> Option<char>) -> Cow<'_, str> {
    if !text.contains(|character| replacement(character).is_some()) {
        return Cow::Borrowed(text);
    }
    let replaced = text
        .chars()
        .map(|character| replacement(character).unwrap_or(character));
    Cow::Owned(replaced.collect())
}

fn in_class_of_newer(character: char) -> Option<char> {
    is_newer(character).then(|| unassigned(character))
}

fn in_class_of_punctuation(character: char) -> Option<char> {
    match character {
        // Nearly all text: below the first of them, letters of Hangul, and from there to the first that is newer.
        ..'\u{61d}' | '\u{1100}'..='\u{11ff}' | '\u{2e5e}'..'\u{a7ce}' | '\u{a7f2}'..'\u{fbc3}' => None,
        // Punctuation of old, and no longer.
        '\u{166d}' => Some('\u{2010}'),
        '\u{111c9}' => Some('\u{10100}'),
        _ if is_in(NOT_PUNCTUATION, character) => Some(unassigned(character)),
        _ => in_class_of_newer(character),
    }
}

/// A character without a class that takes as many bytes.
fn unassigned(character: char) -> char {
    let [two, three, four] = UNASSIGNED;
    match character.len_utf8() {
        2 => two,
        3 => three,
        _ => four,
    }
}

fn is_in(ranges: &[(u32, u32)], character: char) -> bool {
    let code = u32::from(character);
    let following = ranges.partition_point(|(_, last)| *last < code);
    ranges.get(following).is_some_and(|(first, _)| *first <= code)
}

pub(super) fn is_newer(character: char) -> bool {
    // Nearly all text: below the first of them, and from kana to Hangul.
    if matches!(character, ..'\u{88f}' | '\u{2b97}'..'\u{a7ce}' | '\u{a7f2}'..'\u{fbc3}') {
        return false;
    }
    is_in(NEWER, character)
}

/// Whether first bytes of newer characters stand in a text. Fast on text that has few of them.
fn may_have_newer(text: &[u8]) -> bool {
    const BLOCK: usize = 64;
    let mut rest = text;
    while let Some(block) = rest.get(..BLOCK.min(rest.len())).filter(|block| !block.is_empty()) {
        let leads = block.iter().fold(false, |any, byte| any | is_lead(*byte));
        // A second byte may stand in the next block.
        let with_next = rest.get(..BLOCK.wrapping_add(1).min(rest.len())).unwrap_or(block);
        if leads && with_next.windows(2).any(is_start) {
            return true;
        }
        rest = rest.get(block.len()..).unwrap_or_default();
    }
    false
}

fn is_lead(byte: u8) -> bool {
    matches!(byte, 0xe0 | 0xe1 | 0xe2 | 0xea | 0xef | 0xf0)
}

fn is_start(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [0xe0, 0xa2 | 0xb1 | 0xb3, ..]
            | [0xe1, 0xab, ..]
            | [0xe2, 0x83 | 0xae, ..]
            | [0xea, 0x9f, ..]
            | [0xef, 0xaf | 0xb6 | 0xb7, ..]
            | [
                0xf0,
                0x90 | 0x91 | 0x96 | 0x98 | 0x9c | 0x9e | 0x9f | 0xab | 0xac | 0xb2 | 0xb3,
                ..
            ]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_characters_become_unassigned_ones_of_the_same_length() {
        for character in (0..=0x10_ffff).filter_map(char::from_u32) {
            for before in [0, 1, 61, 62, 63, 64] {
                let text = format!("{}{character}é", "a".repeat(before));
                let classified = Classes::Newer.as_classified(&text);
                assert_eq!(
                    matches!(classified, Cow::Owned(_)),
                    is_newer(character),
                    "{character:?}"
                );
                assert_eq!(classified.len(), text.len());
                assert!(!classified.contains(is_newer));
            }
        }
    }
}
