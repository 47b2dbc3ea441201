//! Exact token ids from text.
//!
//! The ids are those of the Hugging Face `tokenizers` library: this crate is a thin, panic-averse face over its 1.0
//! line (`tk-encode`, `tk-serialize`), with models of its own, checked against that line and against the independent
//! 0.x line in `tests/`.
//!
//! A tokenizer travels as an *artefact*. The control plane builds it natively (`build`, behind the feature of that name) from
//! the *canonical* layout of `tokenizer.json` (`"version": "2.0"`, as `tk_convert::canonicalize_str` writes it); the filter's
//! wasm VM loads it ([`Tokenizer::load`]): flat tables that are used where they lie, a few milliseconds and megabytes to
//! load. What they cannot hold is refused when it is built.

#![cfg_attr(
    not(feature = "build"),
    expect(dead_code, reason = "what writes a table stands beside what reads it")
)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod artefact;
#[cfg(feature = "build")]
mod build;
mod flat;
#[cfg(feature = "build")]
mod library;
mod limits;
mod perfect_hash;

#[cfg(feature = "build")]
pub use crate::build::build;
pub use crate::flat::cuts::Cuts;
#[cfg(feature = "build")]
pub use crate::library::Library;

use crate::flat::Flat;
use tk_encode::pipeline::PipelineTokenizer;
use work::Work;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not an artefact, or not the one that was built.
    #[error("tokenizer artefact: {0}")]
    Damaged(&'static str),
    /// Built for another version of this crate.
    #[error("tokenizer artefact of version {found}, this build knows version {known}")]
    Version { found: u32, known: u32 },
    /// The file is not UTF-8, so it is no JSON either.
    #[error("tokenizer.json is not UTF-8: first bad byte at offset {valid_up_to}")]
    NotUtf8 { valid_up_to: usize },
    /// The library refuses the file. The message names the cause: malformed JSON, a layout that was not canonicalized,
    /// a model type or component that is not compiled into this build, or a regex that needs a regex engine.
    #[error("tokenizer.json is not supported: {0}")]
    Unsupported(String),
}

/// Why a text could not be turned into ids.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Longer than [`MAX_TEXT_BYTES`].
    #[error("text of {len} bytes is longer than the limit of {MAX_TEXT_BYTES} bytes")]
    TooLong { len: usize },
    /// A text without a place to cut it has more than 12 million symbols: bytes, or characters that are tokens.
    #[error("a word of {len} bytes is too long to be merged in bounded memory")]
    WordTooLong { len: usize },
    /// Nothing is left of the request's work.
    #[error(transparent)]
    TooMuchWork(#[from] work::Exhausted),
    /// The library failed. What it wrote to the caller's buffer is taken back.
    #[error("tokenizing failed: {0}")]
    Failed(String),
}

impl EncodeError {
    /// A label for a metric: snake case, of a small fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::WordTooLong { .. } | Self::TooMuchWork(_) => "tokenizer_limit",
            Self::Failed(_) => "tokenizer_error",
        }
    }
}

/// The longest text one call takes, in bytes.
///
/// The library's spans are 32-bit and a normalizer can widen a character (a space becomes three bytes), so this stays
/// far below 4 GiB; and it bounds what one request can make a VM allocate: about 12 bytes per input byte at worst.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

/// A loaded tokenizer. `Send + Sync`; every thread that encodes keeps its own scratch and word cache alive inside, which
/// makes repeated words about three times as fast as first ones.
pub struct Tokenizer {
    flat: Flat,
}

impl Tokenizer {
    /// Loads an artefact. Its tables stay where they are in `artefact`; all of it is checked, so that a damaged or
    /// hostile one is refused here or, at worst, gives wrong ids.
    pub fn load(artefact: Vec<u8>) -> Result<Self, LoadError> {
        let sections = artefact::read(&artefact)?;
        let flat = Flat::load(artefact, sections)?;
        Ok(Self { flat })
    }

    /// Appends the ids of `text` to `ids`. Special tokens that stand in `text` become their ids; with
    /// `add_special_tokens` the post-processor adds its own (BOS, EOS) as in the Hugging Face library's `encode`.
    /// Padding and truncation that the file may declare are ignored, as inference engines ignore them. On an error `ids`
    /// is unchanged.
    pub fn encode_into(&self, text: &str, add_special_tokens: bool, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        self.encode_within(text, add_special_tokens, &Work::unbounded(), ids)
    }

    /// Does what [`Tokenizer::encode_into`] does with the work of a request.
    pub fn encode_within(
        &self,
        text: &str,
        add_special_tokens: bool,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        check_length(text)?;
        let before = ids.len();
        let [prefix, suffix] = if add_special_tokens {
            self.flat.around()
        } else {
            [&[][..]; 2]
        };
        ids.extend_from_slice(prefix);
        let encoded = self.flat.encode(text, 0, work, ids);
        encoded.inspect_err(|_| ids.truncate(before))?;
        ids.extend_from_slice(suffix);
        Ok(())
    }

    /// How many tokens the post-processor puts before a text, and how many after it.
    pub fn around(&self) -> [usize; 2] {
        self.flat.around().map(<[u32]>::len)
    }

    /// For encoding texts piece by piece.
    pub fn cutter(&self) -> Cutter<'_> {
        Cutter { flat: &self.flat }
    }

    /// Appends the ids of `text` as [`Tokenizer::encode_into`] does, but for special tokens that stand in it, which are
    /// text like any other (`encode_ordinary` of `tiktoken`). `work` is that of the request.
    pub fn encode_plain_into(&self, text: &str, work: &Work, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        check_length(text)?;
        let before = ids.len();
        let encoded = self.flat.encode_plain(text, work, ids);
        encoded.inspect_err(|_| ids.truncate(before))
    }

    /// One more than the highest id this tokenizer knows (its added tokens included). An engine's embedding table may be
    /// larger, padded to a round number.
    pub fn vocab_size(&self) -> usize {
        self.flat.vocab_size()
    }
}

/// Encodes texts piece by piece: the ids of a text are [`Cutter::prefix`], those of its pieces, and [`Cutter::suffix`],
/// the first and last one only with special tokens.
#[derive(Clone, Copy)]
pub struct Cutter<'t> {
    flat: &'t Flat,
}

impl<'t> Cutter<'t> {
    /// The places between two pieces of `text`, ascending. The ids of a piece depend on its own bytes and on whether it
    /// is the first one, on nothing else; the same bytes are a piece of another text if that is cut there too.
    pub fn cuts(self, text: &'t str) -> Cuts<'t> {
        self.flat.cuts(text)
    }

    /// The same of a text that is encoded by [`Tokenizer::encode_plain_into`]. The ids of a piece depend on its own bytes.
    pub fn plain_cuts<'a>(self, text: &'a str) -> impl Iterator<Item = usize> + use<'a> {
        self.flat.plain_cuts(text)
    }

    /// How much of `text` has ids of its own, if only its first `known` bytes are known: those ids are the first ones of
    /// the text whatever follows. (`text` goes on to show whether an added token stands there.) 0 if that cannot be told.
    pub fn settled(self, text: &str, known: usize) -> usize {
        self.flat.last_cut(text, known)
    }

    /// Appends the ids of the piece that stands at `offset` of its text, in bytes; only whether that is 0 matters. On an
    /// error `ids` may hold some of them. `work` is that of the request.
    pub fn encode_into(self, piece: &str, offset: usize, work: &Work, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        check_length(piece)?;
        self.flat.encode(piece, offset, work, ids)
    }

    /// What the post-processor puts before a text.
    pub fn prefix(self) -> &'t [u32] {
        let [prefix, _] = self.flat.around();
        prefix
    }

    /// What the post-processor puts after a text.
    pub fn suffix(self) -> &'t [u32] {
        let [_, suffix] = self.flat.around();
        suffix
    }
}

fn check_length(text: &str) -> Result<(), EncodeError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(EncodeError::TooLong { len: text.len() });
    }
    Ok(())
}

fn read_json(json: &[u8]) -> Result<PipelineTokenizer, LoadError> {
    let text = std::str::from_utf8(json).map_err(|error| LoadError::NotUtf8 {
        valid_up_to: error.valid_up_to(),
    })?;
    tk_serialize::from_json(text).map_err(|error| LoadError::Unsupported(error.to_string()))
}

const _: fn() = || {
    fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Tokenizer>();
};
