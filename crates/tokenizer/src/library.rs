//! The tokenizer library as it is, for models that flat tables do not hold.

use tk_encode::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};
use work::Work;

use crate::EncodeError;

/// What a byte of a text costs, in nanoseconds (see [`work`]).
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
    pub(crate) fn new(pipeline: PipelineTokenizer) -> Self {
        let vocab_size = count_ids(&pipeline);
        let ids = 0..u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let lengths = ids.filter_map(|id| Some(pipeline.get_model().id_to_token(id)?.chars().count()));
        Self {
            longest: lengths.max().unwrap_or(0),
            pipeline,
            vocab_size,
        }
    }

    /// One more than the highest id.
    pub(crate) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// How many tokens the post-processor puts before a text, and how many after it.
    pub(crate) fn around(&self) -> [usize; 2] {
        self.shown_around().unwrap_or_default()
    }

    /// The library does not say, so it shows it on a text. `None` if it fails on that.
    fn shown_around(&self) -> Option<[usize; 2]> {
        let [with, without] = [true, false].map(|add| {
            let mut ids = Vec::new();
            let encoded = self.encode("a", Specials::Read { add }, &Work::unbounded(), &mut ids);
            encoded.is_ok().then_some(ids)
        });
        let (with, without) = (with?, without?);
        let added = with.len().checked_sub(without.len())?;
        let before = (0..=added).find(|&before| with.get(before..).is_some_and(|rest| rest.starts_with(&without)))?;
        Some([before, added.saturating_sub(before)])
    }

    /// Appends the ids of `text`.
    pub(crate) fn encode(
        &self,
        text: &str,
        specials: Specials,
        work: &Work,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        work.take(text.len(), BYTE)?;
        work.take(self.tokens_in_runs(text), TOKEN_IN_RUN)?;
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
