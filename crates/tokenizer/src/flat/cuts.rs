//! Where a text can be cut so that the ids of its pieces, one after the other, are the ids of the text.
//!
//! A cut must hold whatever stands on either side of it, as pieces are remembered without their surroundings. There are
//! two kinds:
//!
//! - Before an added token that the tokenizer itself cuts out of the text. What is between added tokens is encoded by
//!   itself anyway. Only a token that must be a whole word looks at what follows it, so a tokenizer with such a token is
//!   not cut at all.
//! - In plain text, where the pre-tokenizer is one of a known few: before a single space between two ASCII letters, and
//!   between a line feed and an ASCII letter or a Chinese character. [`Plain`] says why.
//!
//! Pieces have at least [`LEAST`] bytes, [`LEAST_OF_PLAIN`] where they end in plain text, and there not every place that
//! would do is taken but those where a hash of the next eight bytes says so. So where a text is cut depends on little
//! around the place, and two texts that differ are cut alike again soon after the difference.

use std::ops::Range;

use tk_encode::pipeline::{PipelineNormalizer, PipelinePreTokenizer};
use tk_encode::pre_tokenizers::split::Split;
use tk_encode::tokenizer::SplitDelimiterBehavior;
use tk_encode::utils::Grammar;

use super::added::{Added, Matcher, Segment, Segments};

/// Least length of a piece, in bytes; the last one of a text may be shorter. (Unit tests cut wherever it may be done.)
const LEAST: usize = if cfg!(test) { 1 } else { 1 << 10 };
/// The same for pieces that end in plain text. Larger, as nothing is looked at up to there.
const LEAST_OF_PLAIN: usize = if cfg!(test) { 1 } else { 2 << 10 };

/// How texts of a tokenizer may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Before added tokens.
    tokens: bool,
    /// Also in plain text.
    plain: Plain,
}

/// Where plain text may be cut.
///
/// The regexes of the GPT family try alternatives at a place where the last match has ended, and look at nothing before
/// it. So a place is a boundary for any text around it if no match can go across it, and no match before it depends on
/// what comes after.
///
/// *Before a single space between two ASCII letters.* Only two kinds of matches take a space at all: one *starts* with a
/// space and goes on with other characters, the other is a run of white space. Neither has a letter before the space. The
/// match that ends with the letter is a run of letters, with or without something before them, and ends there whether the
/// text goes on with a space or not at all. After the cut, the space starts a new match either way.
///
/// *Between a line feed and a letter.* Line feeds are taken by `\s*[\r\n]+`, by the end of `[^\s\p{L}\p{N}]+[\r\n]*` (with
/// slashes in some), and by runs of white space, and none of them goes on with a letter; a letter is preceded in its match
/// by letters, marks or one character that is no line feed. White space up to the line feed is taken whole by
/// `\s*[\r\n]+`, which is tried before the alternatives that look ahead. GPT-2's regex lacks that alternative, so its
/// texts are cut at spaces only.
///
/// Normalization to a Unicode form works on both sides as on the whole: neither ASCII characters nor these Chinese ones
/// combine with anything before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Nowhere,
    Spaces,
    SpacesAndLines,
}

impl Rules {
    /// The rules that are proven for a tokenizer of these parts.
    pub(super) fn of(
        added: &[Added],
        normalizers: &[PipelineNormalizer],
        pre_tokenizer: &PipelinePreTokenizer,
    ) -> Self {
        let unicode_forms = normalizers.iter().all(|normalizer| {
            matches!(
                normalizer,
                PipelineNormalizer::NFC(_)
                    | PipelineNormalizer::NFD(_)
                    | PipelineNormalizer::NFKC(_)
                    | PipelineNormalizer::NFKD(_)
            )
        });
        // An added token could go across the cut, or take the space.
        let separate = added
            .iter()
            .all(|Added { token, .. }| !token.lstrip && !token.rstrip && !token.content.contains(char::is_whitespace));
        Self {
            tokens: added.iter().all(|Added { token, .. }| !token.single_word),
            plain: if unicode_forms && separate {
                plain(pre_tokenizer)
            } else {
                Plain::Nowhere
            },
        }
    }
}

fn plain(pre_tokenizer: &PipelinePreTokenizer) -> Plain {
    match pre_tokenizer {
        PipelinePreTokenizer::Split(split) => plain_of_split(split),
        PipelinePreTokenizer::Sequence(sequence) if sequence.is_deepseek() => {
            let mut others = sequence.pre_tokenizers().iter().skip(3);
            if others.all(|other| *other == PipelinePreTokenizer::None) {
                Plain::SpacesAndLines
            } else {
                Plain::Nowhere
            }
        }
        PipelinePreTokenizer::Sequence(sequence) => {
            let parts = sequence.pre_tokenizers().iter();
            let mut parts = parts.filter(|part| **part != PipelinePreTokenizer::None);
            match (parts.next(), parts.next()) {
                (Some(PipelinePreTokenizer::Split(split)), None) => plain_of_split(split),
                _ => Plain::Nowhere,
            }
        }
        _ => Plain::Nowhere,
    }
}

fn plain_of_split(split: &Split) -> Plain {
    if split.invert || split.behavior != SplitDelimiterBehavior::Isolated {
        return Plain::Nowhere;
    }
    match split.grammar() {
        Some(Grammar::Cl100k { .. } | Grammar::O200k | Grammar::Tekken | Grammar::Kimi) => Plain::SpacesAndLines,
        Some(Grammar::Gpt2) => Plain::Spaces,
        None => Plain::Nowhere,
    }
}

/// The places where a text is cut, ascending.
pub struct Cuts<'t> {
    text: &'t str,
    rules: Rules,
    segments: Segments<'t>,
    /// What is left of the text between two added tokens.
    between: Option<Range<usize>>,
    /// Where the last piece ended.
    last: usize,
}

impl<'t> Cuts<'t> {
    pub(super) fn new(text: &'t str, added: &'t Matcher, rules: Rules) -> Self {
        Self {
            text,
            rules,
            segments: added.segments(text),
            between: None,
            last: 0,
        }
    }
}

impl Iterator for Cuts<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if !self.rules.tokens {
            return None;
        }
        loop {
            let Some(between) = &self.between else {
                if let Segment::Text(between) = self.segments.next()? {
                    self.between = Some(between);
                }
                continue;
            };
            let (start, end) = (between.start, between.end);
            let earliest = self.last.wrapping_add(LEAST_OF_PLAIN);
            let cut = plain_cut(self.text.as_bytes(), earliest.max(start), end, self.rules.plain);
            if cut.is_none() {
                self.between = None;
            }
            // Behind the text stands an added token, or nothing.
            let at_token = || (end < self.text.len() && end >= self.last.wrapping_add(LEAST)).then_some(end);
            if let Some(cut) = cut.or_else(at_token) {
                self.last = cut;
                return Some(cut);
            }
        }
    }
}

/// The places where a text without added tokens is cut, ascending.
pub(super) fn plain_cuts(text: &str, rules: Rules) -> impl Iterator<Item = usize> + use<'_> {
    let mut last = 0_usize;
    std::iter::from_fn(move || {
        last = plain_cut(
            text.as_bytes(),
            last.wrapping_add(LEAST_OF_PLAIN),
            text.len(),
            rules.plain,
        )?;
        Some(last)
    })
}

/// The first place to cut after `from` and well before `end`.
fn plain_cut(text: &[u8], from: usize, end: usize, plain: Plain) -> Option<usize> {
    if plain == Plain::Nowhere || from >= end {
        return None;
    }
    let mut rest = text.get(from..end)?;
    while let Some([before, after @ ..]) = rest.first_chunk::<{ BEFORE + AFTER }>() {
        let [first, second, ..] = *after;
        let hash = u64::from_le_bytes(*after).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // First, as nearly all places fail it.
        if (cfg!(test) || hash.leading_zeros() >= BITS) && may_cut(*before, first, second, plain) {
            return Some(end.wrapping_sub(rest.len()).wrapping_add(BEFORE));
        }
        rest = rest.get(1..)?;
    }
    None
}

/// The last place up to `limit` where `text` may be cut, so that the ids before it are the same whatever stands from
/// `limit` on; 0 if there is none. Unlike [`Cuts`], it passes no place over.
pub(super) fn last_cut(text: &str, limit: usize, added: &Matcher, rules: Rules) -> usize {
    let mut last = 0;
    if !rules.tokens {
        return last;
    }
    for segment in added.segments(text) {
        let Segment::Text(Range { start, end }) = segment else {
            continue;
        };
        if start >= limit {
            break;
        }
        last = if end <= limit && end < text.len() {
            end
        } else {
            last_plain_cut(text.as_bytes(), start, limit, rules.plain).unwrap_or(last)
        };
    }
    last
}

/// The last place to cut after `from` that is known to be one by the text up to `limit`.
fn last_plain_cut(text: &[u8], from: usize, limit: usize, plain: Plain) -> Option<usize> {
    if plain == Plain::Nowhere {
        return None;
    }
    let mut windows = text.get(from..limit)?.windows(BEFORE + 2);
    let place = windows
        .rposition(|window| matches!(*window, [before, first, second] if may_cut(before, first, second, plain)))?;
    Some(from.saturating_add(place).saturating_add(BEFORE))
}

#[cold]
fn may_cut(before: u8, first: u8, second: u8, plain: Plain) -> bool {
    match (before, first) {
        (_, b' ') => before.is_ascii_alphabetic() && second.is_ascii_alphabetic(),
        // The first bytes of U+4000 to U+9FFF, all of them ideographs or hexagrams.
        (b'\n', b'A'..=b'Z' | b'a'..=b'z' | 0xe4..=0xe9) => plain == Plain::SpacesAndLines,
        _ => false,
    }
}

/// Bytes that are looked at before and after a place.
const BEFORE: usize = 1;
const AFTER: usize = 8;
/// One of 64 places is taken: half a KiB of prose, some KiB of code or Chinese.
const BITS: u32 = 6;

#[cfg(test)]
mod tests;
