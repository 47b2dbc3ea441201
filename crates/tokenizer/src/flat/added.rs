//! Added tokens, found in a text the way the 0.x line of `tokenizers` does (`AddedVocabulary::find_matches`): leftmost
//! first, the longest of those that start there, one after the other. The time is linear in the text, whatever the tokens.

use std::collections::BTreeMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, FindIter, MatchKind};
use tk_encode::pre_tokenizers::whitespace::is_word_char;
use tk_encode::vocab::bucket_added_vocabulary::AddedToken;

use super::classes::is_newer;
use crate::LoadError;

/// An added token as the artefact has it: its content is normalized already if it matches normalized text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) id: u32,
    pub(crate) token: AddedToken,
}

/// The added tokens of a tokenizer.
pub(crate) struct AddedTokens {
    /// Those that match the text as it comes.
    pub(super) raw: Matcher,
    /// Those that match it once it is normalized.
    pub(super) normalized: Matcher,
}

impl AddedTokens {
    /// # Errors
    /// When two of them have the same content or id, one has none, or there are too many.
    pub(crate) fn new(added: &[Added]) -> Result<Self, String> {
        let mut contents = BTreeMap::new();
        let mut ids = BTreeMap::new();
        for Added { id, token } in added {
            let content = token.content.as_str();
            if content.is_empty() {
                return Err(format!("added token {id} has no content"));
            }
            if contents.insert(content, id).is_some() {
                return Err(format!("two added tokens are {content:?}"));
            }
            if let Some(other) = ids.insert(id, content) {
                return Err(format!(
                    "the added tokens {other:?} and {content:?} have the same id, {id}"
                ));
            }
        }
        let matcher = |normalized| Matcher::new(added.iter().filter(|added| added.token.normalized == normalized));
        Ok(Self {
            raw: matcher(false)?,
            normalized: matcher(true)?,
        })
    }
}

/// Finds tokens in a text.
pub(super) struct Matcher {
    /// `None` if there are no tokens.
    automaton: Option<AhoCorasick>,
    /// By number in the automaton.
    tokens: Vec<Token>,
}

#[derive(Clone, Copy)]
struct Token {
    id: u32,
    single_word: bool,
    left_strip: bool,
    right_strip: bool,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// An added token's id.
    Token(u32),
    /// Places of text between added tokens; never empty.
    Text(Range<usize>),
}

impl Matcher {
    fn new<'t>(added: impl Iterator<Item = &'t Added> + Clone) -> Result<Self, String> {
        let contents = added.clone().map(|added| added.token.content.as_str());
        let tokens: Vec<_> = added
            .clone()
            .map(|Added { id, token }| Token {
                id: *id,
                single_word: token.single_word,
                left_strip: token.lstrip,
                right_strip: token.rstrip,
            })
            .collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            // Others are faster, but take much memory for thousands of tokens.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(contents);
        Ok(Self {
            automaton: match tokens.is_empty() {
                true => None,
                false => Some(automaton.map_err(|error| format!("added tokens: {error}"))?),
            },
            tokens,
        })
    }

    /// The parts of `text`, which together are all of it, but for white space that tokens strip.
    pub(super) fn segments<'t>(&'t self, text: &'t str) -> Segments<'t> {
        Segments {
            text,
            tokens: &self.tokens,
            matches: self.automaton.as_ref().map(|automaton| automaton.find_iter(text)),
            after: 0,
            stripped: 0..0,
            pending: None,
        }
    }
}

/// See [`Matcher::segments`].
pub(super) struct Segments<'t> {
    text: &'t str,
    tokens: &'t [Token],
    matches: Option<FindIter<'t, 't>>,
    /// Where the last token ends.
    after: usize,
    /// The white space that a token has stripped last, as tokens may stand in it.
    stripped: Range<usize>,
    /// The token behind the text that was given out last.
    pending: Option<u32>,
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if let Some(id) = self.pending.take() {
            return Some(Segment::Token(id));
        }
        while let Some(found) = self.matches.as_mut().and_then(Iterator::next) {
            let Some(token) = self.tokens.get(found.pattern().as_usize()) else {
                continue;
            };
            let Some(Range { start, end }) = self.range(*token, found.range()) else {
                continue;
            };
            let before = std::mem::replace(&mut self.after, end);
            // Nothing is left of a token in white space that the one before it has stripped.
            self.pending = (start < end).then_some(token.id);
            if before < start {
                return Some(Segment::Text(before..start));
            }
            if let Some(id) = self.pending.take() {
                return Some(Segment::Token(id));
            }
        }
        let rest = std::mem::replace(&mut self.after, self.text.len());
        (rest < self.text.len()).then_some(Segment::Text(rest..self.text.len()))
    }
}

impl Segments<'_> {
    /// What a match takes of the text; `None` if it is not to be one.
    fn range(&mut self, token: Token, found: Range<usize>) -> Option<Range<usize>> {
        let (before, rest) = (self.text.get(..found.start)?, self.text.get(found.end..)?);
        if token.single_word && (before.ends_with(is_word) || rest.starts_with(is_word)) {
            return None;
        }
        let start = match before.get(self.after..) {
            Some(between) if token.left_strip => self.after.wrapping_add(between.trim_end().len()),
            None if token.left_strip => self.after,
            _ => found.start,
        };
        if !token.right_strip {
            return Some(start..found.end);
        }
        // Not again for each of many tokens in a long run of white space.
        if !(self.stripped.start..=self.stripped.end).contains(&found.end) {
            self.stripped = found.end..self.text.len().saturating_sub(rest.trim_start().len());
        }
        Some(start..self.stripped.end)
    }
}

/// `\w` of Unicode 16.
fn is_word(character: char) -> bool {
    is_word_char(character) && !is_newer(character)
}

const SINGLE_WORD: u32 = 1;
const LEFT_STRIP: u32 = 2;
const RIGHT_STRIP: u32 = 4;
const NORMALIZED: u32 = 8;

/// Writes the section of added tokens.
pub(crate) fn write_added(added: &[Added]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Added { id, token } in added {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(token.single_word, SINGLE_WORD)
            | flag(token.lstrip, LEFT_STRIP)
            | flag(token.rstrip, RIGHT_STRIP)
            | flag(token.normalized, NORMALIZED);
        for number in [*id, flags, u32::try_from(token.content.len()).unwrap_or(u32::MAX)] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(token.content.as_bytes());
    }
    bytes
}

/// Reads what [`write_added`] wrote.
pub(super) fn read_added(mut bytes: &[u8], vocab_size: u32) -> Result<Vec<Added>, LoadError> {
    const BAD: LoadError = LoadError::Damaged("an added token cannot be read");
    let mut added = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<12>() {
        let [id, flags, length] = *head.as_chunks().0 else {
            return Err(BAD);
        };
        let [id, flags, length] = [id, flags, length].map(u32::from_le_bytes);
        let (content, rest) = rest.split_at_checked(length as usize).ok_or(BAD)?;
        let content = std::str::from_utf8(content).map_err(|_| BAD)?;
        if id >= vocab_size {
            return Err(BAD);
        }
        let token = AddedToken::from(content, false)
            .single_word(flags & SINGLE_WORD != 0)
            .lstrip(flags & LEFT_STRIP != 0)
            .rstrip(flags & RIGHT_STRIP != 0)
            .normalized(flags & NORMALIZED != 0);
        added.push(Added { id, token });
        bytes = rest;
    }
    if !bytes.is_empty() {
        return Err(BAD);
    }
    Ok(added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTENTS: [&str; 6] = ["<a>", "<a>b", " b", "é", "\n", "ab"];

    fn tokens(flags: [u8; 6]) -> Vec<Added> {
        let added = CONTENTS.into_iter().zip(flags).zip(1..);
        let added = added.map(|((content, flags), id)| Added {
            id,
            token: AddedToken::from(content, false)
                .normalized(false)
                .single_word(flags & 1 != 0)
                // The older line panics at white space that strips white space which another one has stripped.
                .lstrip(flags & 2 != 0 && !content.starts_with(char::is_whitespace))
                .rstrip(flags & 4 != 0),
        });
        added.collect()
    }

    /// The ids and texts that the 0.x line makes of a text, with a model that gives each text a token of its own.
    fn reference(added: &[Added], text: &str) -> Vec<Result<u32, String>> {
        use tokenizers::models::wordlevel::WordLevel;
        let mut tokenizer = tokenizers::Tokenizer::new(WordLevel::default());
        let tokens = added.iter().map(|Added { token, .. }| {
            tokenizers::AddedToken::from(token.content.clone(), false)
                .normalized(token.normalized)
                .single_word(token.single_word)
                .lstrip(token.lstrip)
                .rstrip(token.rstrip)
        });
        tokenizer.add_tokens(tokens).unwrap();
        use tokenizers::normalizer::NormalizedString;
        let added_vocabulary = tokenizer.get_added_vocabulary();
        let mut split = added_vocabulary.extract_and_normalize(None::<&tokenizers::NormalizerWrapper>, text);
        let _ = split.normalize(|_: &mut NormalizedString| Ok(()));
        split
            .get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::Byte)
            .into_iter()
            .map(|(text, _, tokens)| match tokens {
                Some(tokens) => Ok(tokens[0].id.wrapping_add(1)),
                None => Err(text.to_owned()),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn a_text_is_split_as_by_the_older_line(
            flags in proptest::array::uniform6(0_u8..8),
            parts in proptest::collection::vec(
                prop::sample::select(vec!["<a>", "b", " ", "é", "\n", "a", "_", "\u{200d}", "-", "<", "\u{a7ce}"]), 0..12),
        ) {
            let (added, text) = (tokens(flags), parts.concat());
            let matcher = AddedTokens::new(&added).unwrap().raw;
            let ours: Vec<_> = matcher
                .segments(&text)
                .map(|segment| match segment {
                    Segment::Token(id) => Ok(id),
                    Segment::Text(range) => Err(text[range].to_owned()),
                })
                .collect();
            prop_assert_eq!(ours, reference(&added, &text));
        }
    }

    #[test]
    fn the_section_is_read_as_it_was_written() {
        let added = tokens([0, 1, 2, 3, 4, 7]);
        assert_eq!(read_added(&write_added(&added), 7).unwrap(), added);
        assert!(read_added(&write_added(&added), 6).is_err());
    }

    #[test]
    fn tokens_that_cannot_be_told_apart_are_refused() {
        let all = tokens([0; 6]);
        let (a, b) = (all[0].clone(), all[1].clone());
        let refused = |added: [Added; 2]| AddedTokens::new(&added).err().unwrap();
        assert_eq!(
            refused([a.clone(), Added { id: 7, ..a.clone() }]),
            "two added tokens are \"<a>\""
        );
        assert_eq!(
            refused([a.clone(), Added { id: a.id, ..b }]),
            "the added tokens \"<a>\" and \"<a>b\" have the same id, 1"
        );
    }
}
