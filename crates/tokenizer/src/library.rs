//! The tokenizer library as it is, for models that flat tables do not hold.

use tk_encode::pipeline::{EncodeOptions, Override, PipelineNormalizer, PipelineToken, PipelineTokenizer};
use work::{Limits, Work};

use crate::flat::normalize::{Normalizers, price_of_search};
use crate::limits::{self, pre_tokenizers};
use crate::{EncodeError, LoadError};

/// What a byte of a normalized text costs for each pre-tokenizer, in nanoseconds (see [`work`]).
const BYTE: u64 = 60;
/// What each token costs beyond that which a place in a run of one character may start: all tokens of nothing but that
/// character are looked at there.
const TOKEN_IN_RUN: u64 = 15;

/// A tokenizer of the library.
pub(crate) struct Library {
    pipeline: PipelineTokenizer,
    vocab_size: usize,
    /// Length of the longest token, in characters.
    longest: usize,
    /// Bytes that a text may become longer by, as normalizers put something before each one between two added tokens.
    prepended: usize,
    /// What a byte of a normalized text costs.
    of_byte: u64,
}

/// What becomes of special tokens.
#[derive(Clone, Copy)]
pub(crate) enum Specials {
    /// Those in the text are read, and the post-processor may add its own.
    Read { add: bool },
    /// Those in the text are text.
    AreText,
}

impl Library {
    pub(crate) fn new(pipeline: PipelineTokenizer) -> Result<Self, LoadError> {
        limits::check(&pipeline)?;
        let normalizers = pipeline.get_normalizers();
        let prepends = |one: &PipelineNormalizer| matches!(one, PipelineNormalizer::Prepend(_));
        let prepended = match normalizers.iter().any(prepends) {
            true => Normalizers::of(normalizers).apply("a", 0, &Work::new(Limits::DEFAULT, 1)),
            false => Ok("".into()),
        };
        let prepended = prepended.map_err(|error| LoadError::Unsupported(format!("normalizer: {error}")))?;
        let pre_tokenizers = pre_tokenizers(pipeline.get_pre_tokenizer());
        let patterns = pre_tokenizers.iter().filter_map(limits::pattern).map(price_of_search);
        let of_byte = (pre_tokenizers.len().max(1) as u64).saturating_mul(BYTE);
        let vocab_size = count_ids(&pipeline);
        let ids = 0..u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let lengths = ids.filter_map(|id| Some(pipeline.get_model().id_to_token(id)?.chars().count()));
        Ok(Self {
            longest: lengths.max().unwrap_or(0),
            prepended: prepended.len(),
            of_byte: of_byte.saturating_add(patterns.sum()),
            pipeline,
            vocab_size,
        })
    }

    /// One more than the highest id.
    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// How many tokens the post-processor puts before a text, and how many after it.
    pub(crate) fn around(&self) -> [usize; 2] {
        let template = &self.pipeline.get_post_processor().single;
        [template.prefix.len(), template.suffix.len()]
    }

    /// Appends the ids of `text`.
    pub(crate) fn encode(
        &self,
        text: &str,
        specials: Specials,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        self.take_work(text, work)?;
        let options = EncodeOptions {
            add_special_tokens: matches!(specials, Specials::Read { add: true }),
            encode_special_tokens: matches!(specials, Specials::AreText),
            padding: Override::Off,
            truncation: Override::Off,
        };
        let mut tokens: Vec<PipelineToken> = Vec::with_capacity(text.len() / 4);
        self.pipeline
            .encode_into(text, &options, &mut tokens)
            .map_err(|error| EncodeError::Failed(error.to_string()))?;
        ids.extend_from_slice(PipelineToken::cast_slice(&tokens));
        Ok(())
    }

    /// Takes what a text costs. The library does not say how long it becomes, so it is normalized here first.
    fn take_work(&self, text: &str, work: &Work) -> Result<(), EncodeError> {
        let normalizers = Normalizers::of(self.pipeline.get_normalizers());
        let normalized = normalizers.apply(text, 0, work)?;
        let normalized = normalizers.mark_spaces(&normalized, 0, work)?;
        work.take(text.len().saturating_mul(self.prepended), self.of_byte)?;
        work.take(normalized.len(), self.of_byte)?;
        work.take(self.tokens_in_runs(&normalized), TOKEN_IN_RUN)?;
        Ok(())
    }

    /// How many tokens could start in runs of one character, if there were one of each length up to the longest.
    fn tokens_in_runs(&self, text: &str) -> usize {
        let (mut last, mut run, mut tokens) = (None, 0_usize, 0_usize);
        for character in text.chars() {
            run = if last == Some(character) {
                run.wrapping_add(1)
            } else {
                0
            };
            tokens = tokens.saturating_add(run.min(self.longest));
            last = Some(character);
        }
        tokens
    }
}

/// The library does not say how many ids its model has, so look past the highest added token, which in practice stands
/// at the end of the vocabulary, until a long gap.
fn count_ids(pipeline: &PipelineTokenizer) -> usize {
    const GAP: u32 = 1024;
    let added = pipeline.get_added_vocabulary().get_added_tokens_decoder();
    let mut size = added.keys().max().map_or(0, |id| id.saturating_add(1));
    let mut id = size;
    while id.saturating_sub(size) < GAP && id < u32::MAX {
        if pipeline.get_model().id_to_token(id).is_some() {
            size = id.saturating_add(1);
        }
        id = id.saturating_add(1);
    }
    usize::try_from(size).unwrap_or(usize::MAX)
}
