//! Words of a text that no pre-tokenizer has cut.
//!
//! SentencePiece models mark spaces (`▁`) and merge whole texts, in which nothing is remembered and every merge is queued.
//! But characters that stand side by side in no token are never merged, and neither is anything that they have become
//! part of. So a text may be cut between them: what merging gives on both sides is what it gives for the whole.

use tk_encode::pipeline::Span;

/// ASCII characters, each by itself, the mark of a space, and all others together.
const CLASSES: usize = 130;
const MARK: usize = 128;
const OTHER: usize = 129;
/// Bytes of the bits for one class.
const ROW: usize = CLASSES.div_ceil(8);

/// Which classes of characters stand side by side in tokens: for each class of the first one a row of bits, one for each
/// class of the second. Empty where words are not cut.
#[derive(Clone, Copy, Default)]
pub(crate) struct Neighbours<'a>(&'a [u8]);

impl<'a> Neighbours<'a> {
    /// `None` if it is neither empty nor a full table.
    pub(crate) fn read(bits: &'a [u8]) -> Option<Self> {
        matches!(bits.len(), 0 | TABLE).then_some(Self(bits))
    }

    /// The table of these tokens.
    pub(crate) fn of<'t>(tokens: impl Iterator<Item = &'t str>) -> Vec<u8> {
        let mut bits = vec![0; TABLE];
        for token in tokens {
            let classes = token.chars().map(class);
            for (before, after) in classes.clone().zip(classes.skip(1)) {
                if let Some(bits) = bits.get_mut(before.wrapping_mul(ROW).wrapping_add(after / 8)) {
                    *bits |= 1 << (after % 8);
                }
            }
        }
        bits
    }

    /// Whether there is a table.
    pub(super) fn are_known(self) -> bool {
        !self.0.is_empty()
    }

    /// Cuts `words` of `text` further. `spare` is room to do so in.
    pub(super) fn cut(self, text: &str, words: &mut Vec<Span>, spare: &mut Vec<Span>) {
        spare.clear();
        for &Span { mut start, end } in words.iter() {
            let offset = start;
            for at in self.cuts(text.get(start as usize..end as usize).unwrap_or_default()) {
                let here = offset.wrapping_add(at as u32);
                spare.push(Span { start, end: here });
                start = here;
            }
            spare.push(Span { start, end });
        }
        std::mem::swap(words, spare);
    }

    /// Places inside a text whose two characters stand side by side in no token.
    fn cuts(self, text: &str) -> impl Iterator<Item = usize> {
        let mut characters = text.char_indices();
        let mut row = self.row(characters.next());
        characters.filter_map(move |(at, character)| {
            let after = class(character);
            let together = row.get(after / 8).is_some_and(|bits| bits >> (after % 8) & 1 == 1);
            row = self.row(Some((at, character)));
            (!together).then_some(at)
        })
    }

    fn row(self, before: Option<(usize, char)>) -> &'a [u8] {
        let before = before.map_or(OTHER, |(_, character)| class(character));
        let rest = self.0.get(before.wrapping_mul(ROW)..).unwrap_or_default();
        rest.get(..ROW).unwrap_or_default()
    }
}

const TABLE: usize = CLASSES * ROW;

#[inline(always)]
fn class(character: char) -> usize {
    match character {
        '\0'..='\x7f' => character as usize,
        '▁' => MARK,
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut<'t>(tokens: &[&str], text: &'t str) -> Vec<&'t str> {
        let bits = Neighbours::of(tokens.iter().copied());
        let mut words = vec![Span {
            start: 0,
            end: text.len() as u32,
        }];
        let neighbours = Neighbours::read(&bits).expect("a full table");
        neighbours.cut(text, &mut words, &mut Vec::new());
        let word = |span: &Span| &text[span.start as usize..span.end as usize];
        words.iter().map(word).collect()
    }

    #[test]
    fn a_text_is_cut_where_no_token_has_both_characters() {
        assert_eq!(
            cut(&["▁ab", "b", "é1"], "▁ab▁abb1ñ1▁"),
            ["▁ab", "▁ab", "b", "1", "ñ1", "▁"]
        );
        assert_eq!(cut(&["▁▁", "日本"], "▁▁▁中文a"), ["▁▁▁", "中文", "a"]);
        assert_eq!(cut(&[], ""), [""]);
    }

    #[test]
    fn a_table_is_whole_or_empty() {
        assert!(Neighbours::read(&[0; TABLE]).expect("whole").are_known());
        assert!(!Neighbours::read(&[]).expect("empty").are_known());
        assert!(Neighbours::read(&[0; TABLE - 1]).is_none());
    }
}
