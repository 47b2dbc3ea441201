//! A tokenizer over flat tables.
//!
//! A text goes the way it goes in the library, most of it through the library's own parts: added tokens are cut out,
//! what is between them is normalized, added tokens that match normalized text are cut out, and the rest is cut into
//! words. The words become ids here: remembered, or as the model has them ([`merge`], [`unigram`], [`word_piece`]).

mod added;
mod bert;
pub(crate) mod cache;
pub(crate) mod charsmap;
mod classes;
pub(crate) mod cuts;
pub(crate) mod double_array;
mod load;
pub(crate) mod merge;
pub(crate) mod neighbours;
pub(crate) mod normalize;
pub(crate) mod tables;
pub(crate) mod unigram;
mod word_piece;
mod words;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use tk_encode::pipeline::{PipelineTokenizer, Span};

pub(crate) use self::added::AddedTokens;
#[cfg(feature = "build")]
pub(crate) use self::added::{Added, write_added};
#[cfg(feature = "build")]
pub(crate) use self::load::{CHARSMAP_PLACEHOLDER, read_components};

use self::added::Segment;
use self::cache::{Key, WordCache};
use self::charsmap::Charsmap;
use self::cuts::{Cuts, Rules};
use self::double_array::DoubleArray;
use self::merge::Merger;
use self::neighbours::Neighbours;
use self::normalize::Normalizers;
use self::tables::{Kind, Meta, Tables};
use self::unigram::{Lattice, Unigram};
use self::word_piece::WordPiece;
use self::words::Words;
use crate::EncodeError;
use crate::artefact::{SECTIONS, Section};
use work::Work;

/// Words of a text, and symbols or bytes of a word, that memory is kept for between texts; what took more is given back. 4
/// and up to 2 MiB.
const KEPT_WORDS: usize = 1 << 19;
const KEPT_SYMBOLS: usize = 1 << 16;

/// What a byte of a text costs that is known word by word: looking for added tokens, cutting into words, remembering. (In this
/// and other costs: nanoseconds, see [`work`].)
const TEXT_BYTE: u64 = 5;
/// What a byte of a long word costs beyond that, for looking where it may be cut.
const LONG_WORD_BYTE: u64 = 6;
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
    lattice: Lattice,
    words: Words,
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
        let normalizers = self.normalizers();
        let normalized = normalizers.apply(text, 0, work)?;
        let marked = normalizers.mark_spaces(&normalized, 0, work)?;
        self.with_scratch(|scratch| self.encode_words(&marked, scratch, work, ids))
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

    fn normalizers(&self) -> Normalizers<'_> {
        Normalizers {
            all: self.components.get_normalizers(),
            charsmap: Charsmap::read(self.section(Section::Charsmap)),
            runs_of_spaces: self.meta.flags & Meta::RUNS_OF_SPACES != 0,
        }
    }

    fn encode_text(
        &self,
        text: &str,
        base: usize,
        scratch: &mut Scratch,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let normalizers = self.normalizers();
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
            let normalized = normalizers.apply(chunk, offset, work)?;
            for segment in self.added.normalized.segments(&normalized) {
                match segment {
                    Segment::Token(id) => {
                        // And the text before it.
                        work.take(2, SEGMENT)?;
                        ids.push(id);
                    }
                    Segment::Text(range) => {
                        let offset = offset.wrapping_add(range.start);
                        let chunk = normalized.get(range).unwrap_or_default();
                        let marked = normalizers.mark_spaces(chunk, offset, work)?;
                        self.encode_words(&marked, scratch, work, ids)?;
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
        let neighbours = Neighbours::read(self.section(Section::Neighbours)).unwrap_or_default();
        let pre_tokenizer = self.components.get_pre_tokenizer();
        let mut words = std::mem::take(&mut scratch.words);
        let encoded = words
            .cut(text, pre_tokenizer, work)
            .and_then(|words| scratch.encode_words(&self.model(), neighbours, text, words, work, ids));
        scratch.words = words;
        encoded
    }

    fn model(&self) -> Model<'_> {
        match self.meta.kind {
            Kind::Bpe => Model::Bpe(self.tables()),
            Kind::Unigram => Model::Unigram(Unigram {
                meta: self.meta,
                tokens: DoubleArray::new(self.section(Section::Tokens)),
                scores: self.section(Section::Scores).as_chunks().0,
                bytes: self.section(Section::Bytes).as_chunks().0,
            }),
            Kind::WordPiece | Kind::WordLevel => Model::WordPiece(WordPiece {
                meta: self.meta,
                tokens: DoubleArray::new(self.section(Section::Tokens)),
                continuation: self.section(Section::Continuation),
            }),
        }
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

/// What makes ids of words.
enum Model<'a> {
    Bpe(Tables<'a>),
    Unigram(Unigram<'a>),
    WordPiece(WordPiece<'a>),
}

impl Scratch {
    fn encode_words(
        &mut self,
        model: &Model<'_>,
        neighbours: Neighbours<'_>,
        text: &str,
        words: &[Span],
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        ids.reserve(words.len());
        words.iter().try_for_each(|span| {
            let word = span.start as usize..span.end as usize;
            if word.len() <= cache::SHORT || !neighbours.are_known() {
                return self.encode_word(model, text, word, work, ids);
            }
            work.take(word.len(), LONG_WORD_BYTE)?;
            let start = word.start;
            neighbours.try_for_each_piece(text.get(word).unwrap_or_default(), |piece| {
                let piece = start.wrapping_add(piece.start)..start.wrapping_add(piece.end);
                self.encode_word(model, text, piece, work, ids)
            })
        })
    }

    /// Appends the ids of a word, or of a piece of one.
    #[inline(always)]
    fn encode_word(
        &mut self,
        model: &Model<'_>,
        text: &str,
        word: Range<usize>,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let before = ids.len();
        if let Some(key) = Key::of(text.as_bytes(), word.start, word.len()) {
            if !self.cache.short(key, ids) {
                self.encode_new_word(model, text.get(word), key.hash(), work, ids)?;
                self.cache.insert_short(key, ids.get(before..).unwrap_or_default());
            }
        } else if let Some(word) = text.get(word) {
            let hash = cache::hash(word.as_bytes());
            if !self.cache.long(word.as_bytes(), hash, ids) {
                self.encode_new_word(model, Some(word), hash, work, ids)?;
                let ids = ids.get(before..).unwrap_or_default();
                self.cache.insert_long(word.as_bytes(), hash, ids);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn encode_new_word(
        &mut self,
        model: &Model<'_>,
        word: Option<&str>,
        hash: u64,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let word = word.unwrap_or_default();
        work.take(1, NEW_WORD)?;
        match model {
            Model::Bpe(tables) => match tables.word(hash, word.as_bytes()) {
                Some(id) => ids.push(id),
                None => self.merger.encode(tables, word, work, ids)?,
            },
            Model::Unigram(unigram) => unigram.encode(word, &mut self.lattice, work, ids)?,
            Model::WordPiece(word_piece) => word_piece.encode(word, work, ids)?,
        }
        Ok(())
    }

    fn shrink(&mut self) {
        self.merger.shrink(KEPT_SYMBOLS);
        self.lattice.shrink(KEPT_SYMBOLS);
        self.words.shrink(KEPT_WORDS);
    }
}

fn failed(error: tk_encode::Error) -> EncodeError {
    EncodeError::Failed(error.to_string())
}
