//! What a tokenizer may ask for. Real ones stay far below: what is beyond would make each request expensive.

use tk_encode::normalizers::replace::ReplacePattern;
use tk_encode::pipeline::{PipelineNormalizer, PipelinePreTokenizer, PipelineTokenizer};
use tk_encode::pre_tokenizers::split::SplitPattern;

use crate::LoadError;
use crate::flat::charsmap::Charsmap;

/// Normalizers in a row, and pre-tokenizers.
const MAX_STEPS: usize = 16;
/// Bytes that one of them looks for, or puts in the place of something or before a text.
pub(crate) const MAX_TEXT: usize = 256;
/// Ids that the post-processor puts before a text, and behind it.
const MAX_AROUND: usize = 64;
/// Bytes of all added tokens together.
const MAX_ADDED: usize = 4 << 20;

/// Checks what stands before the model and behind it.
pub(crate) fn check(tokenizer: &PipelineTokenizer) -> Result<(), LoadError> {
    let template = &tokenizer.get_post_processor().single;
    check_around(template.prefix.len())?;
    check_around(template.suffix.len())?;
    let normalizers = tokenizer.get_normalizers();
    at_most(MAX_STEPS, normalizers.len(), "normalizer: in a row")?;
    normalizers.iter().try_for_each(check_normalizer)?;
    let pre_tokenizers = pre_tokenizers(tokenizer.get_pre_tokenizer());
    at_most(MAX_STEPS, pre_tokenizers.len(), "pre_tokenizer: in a row")?;
    pre_tokenizers.iter().try_for_each(|one| {
        let length = pattern(one).map_or(0, str::len);
        at_most(MAX_TEXT, length, "pre_tokenizer Split: bytes of pattern")
    })
}

fn check_normalizer(normalizer: &PipelineNormalizer) -> Result<(), LoadError> {
    match normalizer {
        PipelineNormalizer::Replace(replace) => {
            let (ReplacePattern::String(pattern) | ReplacePattern::Regex(pattern)) = replace.pattern();
            at_most(MAX_TEXT, pattern.len(), "normalizer Replace: bytes of pattern")?;
            at_most(MAX_TEXT, replace.content.len(), "normalizer Replace: bytes of content")
        }
        PipelineNormalizer::Prepend(prepend) => {
            at_most(MAX_TEXT, prepend.prepend.len(), "normalizer Prepend: bytes of prepend")
        }
        PipelineNormalizer::Precompiled(map) => check_charsmap(map.charsmap().unwrap_or_default()),
        _ => Ok(()),
    }
}

/// Checks a character map.
pub(crate) fn check_charsmap(bytes: &[u8]) -> Result<(), LoadError> {
    let longest = Charsmap::read(bytes).map_or(0, Charsmap::longest_text);
    let what = "normalizer Precompiled: bytes of a text in precompiled_charsmap";
    at_most(MAX_TEXT, longest, what)
}

/// Checks the number of ids before or behind a text.
pub(crate) fn check_around(ids: usize) -> Result<(), LoadError> {
    at_most(MAX_AROUND, ids, "post_processor: ids before or behind a text")
}

/// Checks the length of all added tokens together.
pub(crate) fn check_added(bytes: usize) -> Result<(), LoadError> {
    at_most(MAX_ADDED, bytes, "added_tokens: bytes of all content")
}

/// Checks the length of a text that tokens begin or end with inside of words.
pub(crate) fn check_affix(bytes: usize) -> Result<(), LoadError> {
    let what = "model: bytes of continuing_subword_prefix or end_of_word_suffix";
    at_most(MAX_TEXT, bytes, what)
}

fn at_most(most: usize, number: usize, what: &str) -> Result<(), LoadError> {
    match number <= most {
        true => Ok(()),
        false => Err(LoadError::Unsupported(format!(
            "{what}: {number}, more than {most}; the file is damaged, or made to take up memory and time"
        ))),
    }
}

/// The pre-tokenizers of a sequence, or the one that there is.
pub(crate) fn pre_tokenizers(all: &PipelinePreTokenizer) -> &[PipelinePreTokenizer] {
    match all {
        PipelinePreTokenizer::Sequence(sequence) => sequence.pre_tokenizers(),
        one => std::slice::from_ref(one),
    }
}

/// The text that a pre-tokenizer looks for.
pub(crate) fn pattern(pre_tokenizer: &PipelinePreTokenizer) -> Option<&str> {
    match pre_tokenizer {
        PipelinePreTokenizer::Split(split) => match &split.pattern {
            SplitPattern::String(pattern) => Some(pattern),
            SplitPattern::Regex(_) => None,
        },
        _ => None,
    }
}
