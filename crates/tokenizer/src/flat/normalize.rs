//! Normalization as inference engines have it.
//!
//! They tokenize with the 0.x line of `tokenizers`, whose Unicode normalization forms are those of Unicode 9. The
//! library here knows Unicode 17. The forms differ only where a character stands that was added in between and has a
//! combining class or a decomposition, or takes part in a composition: for Unicode 9 it is none of that, so it ends what
//! stands before it and stays as it is.

use std::borrow::Cow;

use tk_encode::normalizers::replace::{Replace, ReplacePattern};
use tk_encode::pipeline::{Normalizer, PipelineNormalizer};
use work::Work;

use super::charsmap::Charsmap;
use super::{bert, failed};
use crate::{EncodeError, MAX_TEXT_BYTES};

/// First and last of the characters that Unicode 17 treats specially in normalization and Unicode 9 does not.
const NEWER: &[(u32, u32)] = &[
    (0x7fd, 0x7fd),
    (0x897, 0x89f),
    (0x8ca, 0x8d3),
    (0x9fe, 0x9fe),
    (0xc3c, 0xc3c),
    (0xd3b, 0xd3c),
    (0xeba, 0xeba),
    (0x1715, 0x1715),
    (0x1abf, 0x1add),
    (0x1ae0, 0x1aeb),
    (0x1df6, 0x1dfa),
    (0x32ff, 0x32ff),
    (0xa7f1, 0xa7f4),
    (0xa82c, 0xa82c),
    (0xab69, 0xab69),
    (0x105c9, 0x105c9),
    (0x105d2, 0x105d2),
    (0x105da, 0x105da),
    (0x105e4, 0x105e4),
    (0x10781, 0x10785),
    (0x10787, 0x107b0),
    (0x107b2, 0x107ba),
    (0x10d24, 0x10d27),
    (0x10d69, 0x10d6d),
    (0x10eab, 0x10eac),
    (0x10efa, 0x10efb),
    (0x10efd, 0x10eff),
    (0x10f46, 0x10f50),
    (0x10f82, 0x10f85),
    (0x11070, 0x11070),
    (0x1133b, 0x1133b),
    (0x11382, 0x11385),
    (0x1138b, 0x1138b),
    (0x1138e, 0x1138e),
    (0x11390, 0x11391),
    (0x113b8, 0x113b8),
    (0x113bb, 0x113bb),
    (0x113c2, 0x113c2),
    (0x113c5, 0x113c5),
    (0x113c7, 0x113c9),
    (0x113ce, 0x113d0),
    (0x1145e, 0x1145e),
    (0x11839, 0x1183a),
    (0x11930, 0x11930),
    (0x11935, 0x11935),
    (0x11938, 0x11938),
    (0x1193d, 0x1193e),
    (0x11943, 0x11943),
    (0x119e0, 0x119e0),
    (0x11a34, 0x11a34),
    (0x11a47, 0x11a47),
    (0x11a99, 0x11a99),
    (0x11d42, 0x11d42),
    (0x11d44, 0x11d45),
    (0x11d97, 0x11d97),
    (0x11f41, 0x11f42),
    (0x1611e, 0x16129),
    (0x1612f, 0x1612f),
    (0x16d63, 0x16d63),
    (0x16d67, 0x16d6a),
    (0x16ff0, 0x16ff1),
    (0x1ccd6, 0x1ccf9),
    (0x1e030, 0x1e06d),
    (0x1e08f, 0x1e08f),
    (0x1e130, 0x1e136),
    (0x1e2ae, 0x1e2ae),
    (0x1e2ec, 0x1e2ef),
    (0x1e4ec, 0x1e4ef),
    (0x1e5ee, 0x1e5ef),
    (0x1e6e3, 0x1e6e3),
    (0x1e6e6, 0x1e6e6),
    (0x1e6ee, 0x1e6ef),
    (0x1e6f5, 0x1e6f5),
    (0x1f16c, 0x1f16c),
    (0x1fbf0, 0x1fbf9),
];

fn is_newer(character: char) -> bool {
    let code = u32::from(character);
    let following = NEWER.partition_point(|(_, last)| *last < code);
    NEWER.get(following).is_some_and(|(first, _)| *first <= code)
}

/// What a byte beyond ASCII costs to be looked at, and to be normalized where that changes something, in nanoseconds (see
/// [`work`]).
const LOOKED_AT: u64 = 5;
const NORMALIZED: u64 = 30;
/// What a byte beyond ASCII costs that is brought to lower case, or whose accents are stripped.
const LOWERED: u64 = 10;
/// What a byte costs that is looked up in a character map, and one beyond ASCII besides.
const MAPPED: u64 = 6;
const MAPPED_BEYOND_ASCII: u64 = 4;
/// What a byte costs in which spaces are marked.
const MARKED: u64 = 4;
/// What a byte costs that BERT's normalizer looks at, and one beyond ASCII besides.
const CLEANED: u64 = 5;
const CLEANED_BEYOND_ASCII: u64 = 12;
/// What a byte costs that normalizers add to a text, once that has become twice as long: most of what makes the others' price.
const ADDED: u64 = super::TEXT_BYTE;

/// Texts are brought to a Unicode form in pieces of about so many bytes, as most are in that form already: what is not
/// takes several times as long.
const PIECE: usize = if cfg!(test) { 5 } else { 256 };

/// The normalizers of a tokenizer.
#[derive(Clone, Copy)]
pub(crate) struct Normalizers<'n> {
    pub(crate) all: &'n [PipelineNormalizer],
    /// What stands for a precompiled character map in `all`.
    pub(crate) charsmap: Option<Charsmap<'n>>,
    /// See [`super::tables::Meta::RUNS_OF_SPACES`].
    pub(crate) runs_of_spaces: bool,
}

impl<'n> Normalizers<'n> {
    /// The library's, as it read them.
    pub(crate) fn of(all: &'n [PipelineNormalizer]) -> Self {
        let charsmap = all.iter().find_map(|normalizer| match normalizer {
            PipelineNormalizer::Precompiled(map) => map.charsmap(),
            _ => None,
        });
        Self {
            all,
            charsmap: charsmap.and_then(Charsmap::read),
            runs_of_spaces: false,
        }
    }

    /// `text` after all of them but for [`Normalizers::mark_spaces`]. `offset` is its place in the whole text, in bytes.
    pub(crate) fn apply<'t>(self, text: &'t str, offset: usize, work: &Work) -> Result<Cow<'t, str>, EncodeError> {
        let (mut current, free) = (Cow::Borrowed(text), text.len().saturating_mul(2));
        for normalizer in self.split().0 {
            current = match current {
                Cow::Borrowed(text) => self.one(normalizer, text, offset, free, work)?,
                Cow::Owned(text) => Cow::Owned(self.one(normalizer, &text, offset, free, work)?.into_owned()),
            };
        }
        Ok(current)
    }

    /// A normalized `text` without added tokens with its spaces marked, where `tokenizer.json` has a pre-tokenizer
    /// (`Metaspace`) that does so. The library sees a normalizer in it, and looks for added tokens behind it.
    pub(crate) fn mark_spaces<'t>(
        self,
        text: &'t str,
        offset: usize,
        work: &Work,
    ) -> Result<Cow<'t, str>, EncodeError> {
        match self.split().1 {
            Some(marker) => self.one(marker, text, offset, text.len().saturating_mul(2), work),
            None => Ok(Cow::Borrowed(text)),
        }
    }

    /// All but the one that marks spaces, and that.
    fn split(&self) -> (&[PipelineNormalizer], Option<&PipelineNormalizer>) {
        match self.all {
            [others @ .., marker @ PipelineNormalizer::Metaspace(_)] => (others, Some(marker)),
            others => (others, None),
        }
    }

    /// `text` after one of them. Up to a length of `free`, what it writes costs nothing.
    fn one<'t>(
        &self,
        normalizer: &PipelineNormalizer,
        text: &'t str,
        offset: usize,
        free: usize,
        work: &Work,
    ) -> Result<Cow<'t, str>, EncodeError> {
        let normalized = self.normalize(normalizer, text, offset, work)?;
        work.take(normalized.len().saturating_sub(text.len().max(free)), ADDED)?;
        match normalized.len() > MAX_TEXT_BYTES {
            true => Err(EncodeError::TooLong { len: normalized.len() }),
            false => Ok(normalized),
        }
    }

    /// What may write much looks at [`longest`] as it does so.
    #[inline(never)]
    fn normalize<'t>(
        &self,
        normalizer: &PipelineNormalizer,
        text: &'t str,
        offset: usize,
        work: &Work,
    ) -> Result<Cow<'t, str>, EncodeError> {
        match (normalizer, self.charsmap) {
            (
                PipelineNormalizer::NFC(_)
                | PipelineNormalizer::NFD(_)
                | PipelineNormalizer::NFKC(_)
                | PipelineNormalizer::NFKD(_),
                _,
            ) => to_unicode_form(normalizer, text, work),
            (PipelineNormalizer::Precompiled(_), Some(charsmap)) => {
                work.take(text.len(), MAPPED)?;
                work.take(beyond_ascii(text), MAPPED_BEYOND_ASCII)?;
                Ok(charsmap.apply(text, longest(text, work)).ok_or(work::Exhausted)?)
            }
            (PipelineNormalizer::Metaspace(_), _) => {
                work.take(text.len(), MARKED)?;
                normalizer.normalize(text, offset).map_err(failed)
            }
            (PipelineNormalizer::Lowercase(_) | PipelineNormalizer::StripAccents(_), _) => {
                work.take(beyond_ascii(text), LOWERED)?;
                normalizer.normalize(text, offset).map_err(failed)
            }
            (PipelineNormalizer::Bert(bert), _) => {
                work.take(text.len(), CLEANED)?;
                work.take(beyond_ascii(text), CLEANED_BEYOND_ASCII)?;
                bert::normalize(*bert, text, work).map(Cow::Owned)
            }
            (PipelineNormalizer::Replace(replace), _) => {
                check_replaced(replace, text, work)?;
                match self.runs_of_spaces && is_two_spaces(replace) {
                    true => Ok(replace_runs_of_spaces(text, &replace.content)),
                    false => normalizer.normalize(text, offset).map_err(failed),
                }
            }
            (PipelineNormalizer::Prepend(_) | PipelineNormalizer::Strip(_), _) => {
                normalizer.normalize(text, offset).map_err(failed)
            }
            _ => {
                // Of the library's own kinds the slowest costs what a Unicode form does.
                work.take(text.len(), CLEANED)?;
                work.take(beyond_ascii(text), NORMALIZED)?;
                normalizer.normalize(text, offset).map_err(failed)
            }
        }
    }
}

/// How long a text may become at most by one of them.
fn longest(text: &str, work: &Work) -> usize {
    let affordable = usize::try_from(work.left() / ADDED).unwrap_or(usize::MAX);
    let free = text.len().saturating_mul(2);
    free.saturating_add(affordable).min(MAX_TEXT_BYTES)
}

/// What a byte costs in which a text is looked for: as good as nothing, but at worst a look for each byte of it.
pub(crate) fn price_of_search(pattern: &str) -> u64 {
    pattern.len().saturating_sub(1) as u64
}

/// That there is work left to look for what is replaced, and for what is written in its place.
fn check_replaced(replace: &Replace, text: &str, work: &Work) -> Result<(), work::Exhausted> {
    let (ReplacePattern::String(pattern) | ReplacePattern::Regex(pattern)) = replace.pattern();
    work.take(text.len(), price_of_search(pattern))?;
    let written = |times: usize| times.saturating_mul(replace.content.len());
    let longest = longest(text, work);
    let most = text.len().checked_div(pattern.len()).map_or(0, written);
    if most <= longest {
        return Ok(());
    }
    let places = text.as_bytes().windows(pattern.len().max(1));
    let found = places.filter(|place| *place == pattern.as_bytes()).count();
    match written(found) <= longest {
        true => Ok(()),
        false => Err(work::Exhausted),
    }
}

fn is_two_spaces(replace: &Replace) -> bool {
    *replace.pattern() == ReplacePattern::String("  ".to_owned())
}

fn replace_runs_of_spaces<'t>(text: &'t str, replacement: &str) -> Cow<'t, str> {
    let mut changed: Option<String> = None;
    let mut rest = text;
    while let Some((before, run)) = rest.split_once("  ") {
        let changed = changed.get_or_insert_default();
        changed.push_str(before);
        changed.push_str(replacement);
        rest = run.trim_start_matches(' ');
    }
    match changed {
        Some(changed) => Cow::Owned(changed + rest),
        None => Cow::Borrowed(text),
    }
}

pub(super) fn to_unicode_form<'a>(
    normalizer: &PipelineNormalizer,
    text: &'a str,
    work: &Work,
) -> Result<Cow<'a, str>, EncodeError> {
    if text.is_ascii() {
        return Ok(Cow::Borrowed(text));
    }
    work.take(beyond_ascii(text), LOOKED_AT)?;
    // What stands before `rest`, once something of it has changed.
    let mut changed: Option<String> = None;
    let (mut rest, longest) = (text, longest(text, work));
    while !rest.is_empty() {
        if changed.as_ref().is_some_and(|changed| changed.len() > longest) {
            return Err(work::Exhausted.into());
        }
        let (piece, after) = rest.split_at(end_of_piece(rest));
        let done = text.len().wrapping_sub(rest.len());
        match (piece_in_form(normalizer, piece, work)?, &mut changed) {
            (Cow::Borrowed(_), None) => {}
            (piece, Some(changed)) => changed.push_str(&piece),
            (Cow::Owned(piece), None) => {
                let before = text.get(..done).unwrap_or_default();
                changed = Some([before, &piece].concat());
            }
        }
        rest = after;
    }
    Ok(changed.map_or(Cow::Borrowed(text), Cow::Owned))
}

/// Before a space: it takes part in no composition with what stands before it, and ends what is sorted there.
fn end_of_piece(text: &str) -> usize {
    let spaces = text.as_bytes().iter().skip(PIECE);
    let place = spaces.into_iter().position(|byte| *byte == b' ');
    place.map_or(text.len(), |place| place.wrapping_add(PIECE))
}

fn piece_in_form<'a>(normalizer: &PipelineNormalizer, text: &'a str, work: &Work) -> Result<Cow<'a, str>, EncodeError> {
    let normalized = normalizer.normalize(text, 0).map_err(failed)?;
    // What Unicode 17 leaves alone, Unicode 9 leaves alone.
    if matches!(normalized, Cow::Borrowed(_)) {
        return Ok(normalized);
    }
    work.take(beyond_ascii(text), NORMALIZED)?;
    if !text.contains(is_newer) {
        return Ok(normalized);
    }
    let mut pieces = String::with_capacity(text.len());
    for piece in text.split_inclusive(is_newer) {
        let before = piece.trim_end_matches(is_newer);
        pieces.push_str(&normalizer.normalize(before, 0).map_err(failed)?);
        pieces.push_str(piece.get(before.len()..).unwrap_or_default());
    }
    Ok(Cow::Owned(pieces))
}

fn beyond_ascii(text: &str) -> usize {
    text.bytes().filter(|byte| !byte.is_ascii()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tk_encode::normalizers::unicode::{NFC, NFD, NFKC, NFKD};
    use unicode_normalization::UnicodeNormalization as Newer;
    use unicode_normalization::char::canonical_combining_class as newer_class;
    use unicode_normalization_alignments::UnicodeNormalization as Older;
    use unicode_normalization_alignments::char::canonical_combining_class as older_class;

    fn characters() -> impl Iterator<Item = char> {
        (0..=0x10_ffff).filter_map(char::from_u32)
    }

    #[test]
    fn the_newer_characters_are_those_that_the_tables_treat_otherwise() {
        let mut newer = BTreeSet::new();
        for character in characters() {
            let text = character.to_string();
            let decomposed: String = Newer::nfd(text.as_str()).collect();
            let canonical = decomposed
                .chars()
                .eq(Older::nfd(text.as_str()).map(|(character, _)| character));
            let compatible = Newer::nfkd(text.as_str()).eq(Older::nfkd(text.as_str()).map(|(character, _)| character));
            if !canonical || !compatible || newer_class(character) != older_class(character) {
                newer.insert(character);
            }
            if !canonical {
                // A part that Unicode 9 treats as a mark stays one: what it would compose with ends what stands before.
                newer.extend(decomposed.chars().filter(|part| older_class(*part) == 0));
            }
        }
        assert_eq!(
            characters()
                .filter(|character| is_newer(*character))
                .collect::<BTreeSet<_>>(),
            newer
        );
    }

    #[test]
    fn forms_are_those_of_the_older_tables() {
        let mut characters: Vec<char> = characters().filter(|character| is_newer(*character)).collect();
        characters.extend(
            "aeoA  \u{301}\u{327}\u{323}\u{307}\u{308}\u{345}가ᄀ\u{1161}\u{11a8}ﬁé\u{3099}か\u{93c}क"
                .repeat(20)
                .chars(),
        );
        let mut state = 5_u64;
        for _ in 0..20_000 {
            let text: String = (0..24)
                .map(|_| {
                    state = state
                        .wrapping_mul(0x5851_f42d_4c95_7f2d)
                        .wrapping_add(0x1405_7b7e_f767_814f);
                    characters[(state >> 33) as usize % characters.len()]
                })
                .collect();
            let ours = |normalizer| {
                let normalizers = Normalizers {
                    all: &[normalizer],
                    charsmap: None,
                    runs_of_spaces: false,
                };
                normalizers.apply(&text, 0, &Work::unbounded()).unwrap().into_owned()
            };
            let only = |pairs: &mut dyn Iterator<Item = (char, isize)>| {
                pairs.map(|(character, _)| character).collect::<String>()
            };
            let older = text.as_str();
            assert_eq!(
                ours(PipelineNormalizer::NFC(NFC)),
                only(&mut Older::nfc(older)),
                "{text:?}"
            );
            assert_eq!(
                ours(PipelineNormalizer::NFD(NFD)),
                only(&mut Older::nfd(older)),
                "{text:?}"
            );
            assert_eq!(
                ours(PipelineNormalizer::NFKC(NFKC)),
                only(&mut Older::nfkc(older)),
                "{text:?}"
            );
            assert_eq!(
                ours(PipelineNormalizer::NFKD(NFKD)),
                only(&mut Older::nfkd(older)),
                "{text:?}"
            );
        }
    }
}
