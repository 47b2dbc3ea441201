//! A BPE tokenizer over flat tables.
//!
//! A text goes the way it goes in the library, most of it through the library's own parts: added tokens are cut out,
//! what is between them is normalized, added tokens that match normalized text are cut out, and the rest is cut into
//! words. The words become ids here: remembered, whole, or merged.

mod added;
pub(crate) mod cache;
mod classes;
pub(crate) mod cuts;
mod load;
pub(crate) mod merge;
pub(crate) mod normalize;
pub(crate) mod tables;
pub(crate) mod words;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use tk_encode::pipeline::{PipelineTokenizer, PreTokenizer, PreTokenizerScratch, Span};

pub(crate) use self::added::{Added, AddedTokens, write_added};
pub(crate) use self::load::read_components;

use self::added::Segment;
use self::cache::{Key, WordCache};
use self::cuts::{Cuts, Rules};
use self::merge::Merger;
use self::tables::{Meta, Tables};
use self::words::Neighbours;
use crate::EncodeError;
use crate::artefact::{SECTIONS, Section};
use work::Work;

/// Words of a text, and symbols of a word, that memory is kept for between texts; what took more is given back. 4 and 2
/// MiB.
const KEPT_WORDS: usize = 1 << 19;
const KEPT_SYMBOLS: usize = 1 << 16;

/// What a byte of a text costs that is known word by word: looking for added tokens, cutting into words, remembering. (In this
/// and other costs: nanoseconds, see [`work`].)
const TEXT_BYTE: u64 = 5;
/// What it costs beyond that where the model has no pre-tokenizer.
const UNCUT_BYTE: u64 = 6;
/// What an added token, or a text between two of them, costs beyond its bytes.
const SEGMENT: u64 = 60;
/// What a word costs that is not remembered, beside merging: looking whether it is a token, and remembering it.
const NEW_WORD: u64 = 210;

/// A loaded flat artefact.
pub(crate) struct Flat {
    bytes: Vec<u8>,
    sections: [Range<usize>; SECTIONS],
    meta: Meta,
    added: AddedTokens,
    /// Normalizers and pre-tokenizer; its model is empty.
    components: PipelineTokenizer,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    rules: Rules,
    /// One for each thread that is or was encoding.
    scratch: Mutex<Vec<Scratch>>,
}

/// What encoding works in.
#[derive(Default)]
struct Scratch {
    cache: WordCache,
    merger: Merger,
    pre_tokenizer: PreTokenizerScratch,
    words: Vec<Span>,
    spare_words: Vec<Span>,
}

impl Flat {
    /// One more than the highest id.
    pub(crate) fn vocab_size(&self) -> usize {
        self.meta.vocab_size as usize
    }

    /// What the post-processor puts before and after a text.
    pub(crate) fn around(&self) -> [&[u32]; 2] {
        [&self.prefix, &self.suffix]
    }

    /// Where `text` is cut into pieces.
    pub(crate) fn cuts<'t>(&'t self, text: &'t str) -> Cuts<'t> {
        Cuts::new(text, &self.added.raw, self.rules)
    }

    /// Where `text` is cut into pieces if no added tokens are looked for in it.
    pub(crate) fn plain_cuts<'t>(&self, text: &'t str) -> impl Iterator<Item = usize> + use<'t> {
        cuts::plain_cuts(text, self.rules)
    }

    /// The last place up to `limit` where `text` may be cut.
    pub(crate) fn last_cut(&self, text: &str, limit: usize) -> usize {
        cuts::last_cut(text, limit, &self.added.raw, self.rules)
    }

    /// Appends the ids of `text`, which stands at `offset` of a whole text, in bytes.
    pub(crate) fn encode(&self, text: &str, offset: usize, work: &Work, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        work.take(text.len(), TEXT_BYTE)?;
        self.with_scratch(|scratch| self.encode_text(text, offset, scratch, work, ids))
    }

    /// Appends the ids of `text`, in which added tokens are not looked for.
    pub(crate) fn encode_plain(&self, text: &str, work: &Work, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        work.take(text.len(), TEXT_BYTE)?;
        let normalized = self.normalize(text, 0, work)?;
        self.with_scratch(|scratch| self.encode_words(&normalized, scratch, work, ids))
    }

    fn with_scratch<T>(&self, encode: impl FnOnce(&mut Scratch) -> T) -> T {
        let pooled = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = pooled.unwrap_or_default();
        let result = encode(&mut scratch);
        scratch.shrink();
        self.scratch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(scratch);
        result
    }

    fn normalize<'t>(&self, text: &'t str, offset: usize, work: &Work) -> Result<Cow<'t, str>, EncodeError> {
        normalize::normalize(self.components.get_normalizers(), text, offset, work)
    }

    fn encode_text(
        &self,
        text: &str,
        base: usize,
        scratch: &mut Scratch,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        for segment in self.added.raw.segments(text) {
            work.take(1, SEGMENT)?;
            let range = match segment {
                Segment::Token(id) => {
                    ids.push(id);
                    continue;
                }
                Segment::Text(range) => range,
            };
            let offset = base.wrapping_add(range.start);
            let chunk = text.get(range).unwrap_or_default();
            let normalized = self.normalize(chunk, offset, work)?;
            for segment in self.added.normalized.segments(&normalized) {
                match segment {
                    Segment::Token(id) => ids.push(id),
                    Segment::Text(range) => {
                        self.encode_words(normalized.get(range).unwrap_or_default(), scratch, work, ids)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends the ids of normalized text without added tokens.
    fn encode_words(
        &self,
        text: &str,
        scratch: &mut Scratch,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        if u32::try_from(text.len()).is_err() {
            return Err(EncodeError::TooLong { len: text.len() });
        }
        scratch.words.clear();
        self.components
            .get_pre_tokenizer()
            .pre_tokenize(
                &classes::as_classified(text),
                &mut scratch.pre_tokenizer,
                &mut scratch.words,
            )
            .map_err(failed)?;
        let neighbours = Neighbours::read(self.section(Section::Neighbours)).unwrap_or_default();
        if neighbours.are_known() {
            work.take(text.len(), UNCUT_BYTE)?;
            neighbours.cut(text, &mut scratch.words, &mut scratch.spare_words);
        }
        scratch.encode_words(&self.tables(), text, work, ids)
    }

    fn section(&self, section: Section) -> &[u8] {
        let range = self.sections.get(section as usize).cloned();
        range.and_then(|range| self.bytes.get(range)).unwrap_or_default()
    }

    fn tables(&self) -> Tables<'_> {
        Tables::new(
            self.meta,
            [
                self.section(Section::PairPilots),
                self.section(Section::PairTags),
                self.section(Section::Pairs),
                self.section(Section::Bytes),
                self.section(Section::CharPages),
                self.section(Section::Chars),
                self.section(Section::WordPilots),
                self.section(Section::Words),
                self.section(Section::WordBytes),
            ],
        )
    }
}

impl Scratch {
    fn encode_words(
        &mut self,
        tables: &Tables<'_>,
        text: &str,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let Self {
            cache, merger, words, ..
        } = self;
        ids.reserve(words.len());
        for span in words.iter() {
            let (start, end) = (span.start as usize, span.end as usize);
            let length = end.wrapping_sub(start);
            if let Some(key) = Key::of(text.as_bytes(), start, length) {
                if !cache.short(key, ids) {
                    let before = ids.len();
                    encode_word(tables, merger, text.get(start..end), key.hash(), work, ids)?;
                    cache.insert_short(key, ids.get(before..).unwrap_or_default());
                }
            } else if let Some(word) = text.get(start..end) {
                let hash = cache::hash(word.as_bytes());
                if !cache.long(word.as_bytes(), hash, ids) {
                    let before = ids.len();
                    encode_word(tables, merger, Some(word), hash, work, ids)?;
                    cache.insert_long(word.as_bytes(), hash, ids.get(before..).unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    fn shrink(&mut self) {
        self.merger.shrink(KEPT_SYMBOLS);
        if self.words.capacity().max(self.spare_words.capacity()) > KEPT_WORDS {
            (self.words, self.spare_words) = (Vec::new(), Vec::new());
            self.pre_tokenizer = PreTokenizerScratch::default();
        }
    }
}

fn failed(error: tk_encode::Error) -> EncodeError {
    EncodeError::Failed(error.to_string())
}

fn encode_word(
    tables: &Tables<'_>,
    merger: &mut Merger,
    word: Option<&str>,
    hash: u64,
    work: &Work,
    ids: &mut Vec<u32>,
) -> Result<(), EncodeError> {
    let word = word.unwrap_or_default();
    work.take(1, NEW_WORD)?;
    if let Some(id) = tables.word(hash, word.as_bytes()) {
        ids.push(id);
    } else {
        merger.encode(tables, word, work, ids)?;
    }
    Ok(())
}
