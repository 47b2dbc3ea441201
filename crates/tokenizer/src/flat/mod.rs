//! A BPE tokenizer over flat tables.
//!
//! A text goes the way it goes in the library, most of it through the library's own parts: added tokens are cut out,
//! what is between them is normalized, added tokens that match normalized text are cut out, and the rest is cut into
//! words. The words become ids here: remembered, whole, or merged.

pub(crate) mod cache;
mod classes;
pub(crate) mod cuts;
mod load;
pub(crate) mod merge;
pub(crate) mod normalize;
pub(crate) mod tables;
pub(crate) mod words;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use tk_encode::pipeline::{
    PipelineTokenizer, PreTokenizer, PreTokenizerScratch, Segment, Span, SpecialSegmentIterator,
};
use tk_encode::vocab::bucket_added_vocabulary::AddedVocabulary;

pub(crate) use self::load::{Added, read_components, vocabulary, write_added};

use self::cache::{Key, WordCache};
use self::cuts::{Cuts, Rules};
use self::merge::Merger;
use self::tables::{Meta, Tables};
use crate::artefact::{SECTIONS, Section};
use crate::{Effort, EncodeError};

/// Words of a text, and symbols of a word, that memory is kept for between texts; what took more is given back. 4 and 2
/// MiB.
const KEPT_WORDS: usize = 1 << 19;
const KEPT_SYMBOLS: usize = 1 << 16;

/// A loaded flat artefact.
pub(crate) struct Flat {
    bytes: Vec<u8>,
    sections: [Range<usize>; SECTIONS],
    meta: Meta,
    added: AddedVocabulary,
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

    /// What a text of so many bytes may take.
    pub(crate) fn effort(&self, bytes: usize) -> Effort {
        Effort::for_text(bytes, self.meta.flags & Meta::WORDS != 0)
    }

    /// Where `text` is cut into pieces.
    pub(crate) fn cuts<'t>(&'t self, text: &'t str) -> Cuts<'t> {
        Cuts::new(text, &self.added, self.rules)
    }

    /// The last place up to `limit` where `text` may be cut.
    pub(crate) fn last_cut(&self, text: &str, limit: usize) -> usize {
        cuts::last_cut(text, limit, &self.added, self.rules)
    }

    /// Appends the ids of `text`, which stands at `offset` of a whole text, in bytes.
    pub(crate) fn encode(
        &self,
        text: &str,
        offset: usize,
        effort: &mut Effort,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        self.with_scratch(|scratch| self.encode_text(text, offset, scratch, effort, ids))
    }

    /// Appends the ids of `text`, in which added tokens are not looked for.
    pub(crate) fn encode_plain(&self, text: &str, effort: &mut Effort, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        let normalized = normalize::normalize(self.components.get_normalizers(), text, 0).map_err(failed)?;
        self.with_scratch(|scratch| self.encode_words(&normalized, scratch, effort, ids))
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

    fn encode_text(
        &self,
        text: &str,
        base: usize,
        scratch: &mut Scratch,
        effort: &mut Effort,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        for segment in SpecialSegmentIterator::new(text, &self.added, false, false) {
            let (chunk, offset) = match segment {
                Segment::SpecialToken(id) => {
                    ids.push(id);
                    continue;
                }
                Segment::Text { text, input_offset } => (text, base.wrapping_add(input_offset)),
            };
            let normalized = normalize::normalize(self.components.get_normalizers(), chunk, offset).map_err(failed)?;
            for segment in SpecialSegmentIterator::new(&normalized, &self.added, true, false) {
                match segment {
                    Segment::SpecialToken(id) => ids.push(id),
                    Segment::Text { text, .. } => self.encode_words(text, scratch, effort, ids)?,
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
        effort: &mut Effort,
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
        if self.meta.flags & Meta::WORDS != 0 {
            words::cut(text, &mut scratch.words, &mut scratch.spare_words);
        }
        scratch.encode_words(&self.tables(), text, effort, ids)
    }

    fn tables(&self) -> Tables<'_> {
        let section = |section: Section| {
            let range = self.sections.get(section as usize).cloned();
            range.and_then(|range| self.bytes.get(range)).unwrap_or_default()
        };
        Tables::new(
            self.meta,
            [
                section(Section::PairPilots),
                section(Section::Pairs),
                section(Section::Bytes),
                section(Section::CharPages),
                section(Section::Chars),
                section(Section::WordPilots),
                section(Section::Words),
                section(Section::WordBytes),
            ],
        )
    }
}

impl Scratch {
    fn encode_words(
        &mut self,
        tables: &Tables<'_>,
        text: &str,
        effort: &mut Effort,
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
                    encode_word(tables, merger, text.get(start..end), key.hash(), effort, ids)?;
                    cache.insert_short(key, ids.get(before..).unwrap_or_default());
                }
            } else if let Some(word) = text.get(start..end) {
                let hash = cache::hash(word.as_bytes());
                if !cache.long(word.as_bytes(), hash, ids) {
                    let before = ids.len();
                    encode_word(tables, merger, Some(word), hash, effort, ids)?;
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
    effort: &mut Effort,
    ids: &mut Vec<u32>,
) -> Result<(), EncodeError> {
    let word = word.unwrap_or_default();
    if let Some(id) = tables.word(hash, word.as_bytes()) {
        ids.push(id);
    } else {
        ids.extend_from_slice(merger.encode(tables, word, effort)?);
    }
    Ok(())
}
