//! Words as inference engines cut them.
//!
//! The regexes of the 0.x line know the character classes of Unicode 16, the library's classifier those of Unicode 17.
//! For Unicode 16 the characters that came with 17 are in no class.

use std::borrow::Cow;

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

/// Characters of 3 and 4 bytes that will never be in a class.
const UNASSIGNED: [char; 2] = ['\u{fdd0}', '\u{1fffe}'];

pub(super) fn is_newer(character: char) -> bool {
    // Nearly all text: below the first of them, and from kana to Hangul.
    if matches!(character, ..'\u{88f}' | '\u{2b97}'..'\u{a7ce}' | '\u{a7f2}'..'\u{fbc3}') {
        return false;
    }
    let code = u32::from(character);
    let following = NEWER.partition_point(|(_, last)| *last < code);
    NEWER.get(following).is_some_and(|(first, _)| *first <= code)
}

/// A text to be classified in place of `text`: of the same length, with the same character boundaries.
pub(crate) fn as_classified(text: &str) -> Cow<'_, str> {
    if !may_have_newer(text.as_bytes()) || !text.contains(is_newer) {
        return Cow::Borrowed(text);
    }
    let [three, four] = UNASSIGNED;
    let classified = text
        .chars()
        .map(|character| match (is_newer(character), character.len_utf8()) {
            (false, _) => character,
            (true, 3) => three,
            (true, _) => four,
        });
    Cow::Owned(classified.collect())
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
                let classified = as_classified(&text);
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
