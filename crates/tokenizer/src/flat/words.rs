//! Cutting a text into words.
//!
//! Each pre-tokenizer of a sequence cuts what the one before it has left, and has character classes of its own ([`Classes`]).

use tk_encode::pipeline::{PipelinePreTokenizer, PreTokenizer, PreTokenizerScratch, Span};
use work::Work;

use super::classes::Classes;
use super::failed;
use super::normalize::price_of_search;
use crate::EncodeError;
use crate::limits::{pattern, pre_tokenizers};

/// What a byte of a text, and a word, cost that are looked at by one more pre-tokenizer, in nanoseconds (see [`work`]).
const BYTE: u64 = 2;
const WORD: u64 = 30;

/// What cutting works in.
#[derive(Default)]
pub(super) struct Words {
    spans: Vec<Span>,
    /// Those that are being cut.
    wholes: Vec<Span>,
    library: PreTokenizerScratch,
}

impl Words {
    /// Cuts `text` into words.
    pub(super) fn cut(
        &mut self,
        text: &str,
        pre_tokenizer: &PipelinePreTokenizer,
        work: &Work,
    ) -> Result<&[Span], EncodeError> {
        let end = u32::try_from(text.len()).map_err(|_| EncodeError::TooLong { len: text.len() })?;
        let mut each = one_after_the_other(pre_tokenizer);
        let whole = Span { start: 0, end };
        self.wholes.clear();
        self.wholes.push(whole);
        let Some(first) = each.next() else {
            self.spans.clear();
            self.spans.push(whole);
            return Ok(&self.spans);
        };
        self.cut_wholes(text, first, work)?;
        for one in each {
            work.take(text.len(), BYTE)?;
            work.take(self.spans.len(), WORD)?;
            std::mem::swap(&mut self.spans, &mut self.wholes);
            self.cut_wholes(text, one, work)?;
        }
        Ok(&self.spans)
    }

    /// Cuts each of `wholes`, which leaves them in `spans`.
    fn cut_wholes(&mut self, text: &str, pre_tokenizer: &PipelinePreTokenizer, work: &Work) -> Result<(), EncodeError> {
        work.take(text.len(), pattern(pre_tokenizer).map_or(0, price_of_search))?;
        let text = Classes::of(pre_tokenizer).as_classified(text);
        self.spans.clear();
        for whole in &self.wholes {
            let before = self.spans.len();
            let part = text.get(whole.start as usize..whole.end as usize).unwrap_or_default();
            pre_tokenizer
                .pre_tokenize(part, &mut self.library, &mut self.spans)
                .map_err(failed)?;
            if whole.start > 0 {
                for span in self.spans.get_mut(before..).unwrap_or_default() {
                    span.start = span.start.wrapping_add(whole.start);
                    span.end = span.end.wrapping_add(whole.start);
                }
            }
        }
        Ok(())
    }

    /// Gives memory back that texts of more than so many words took.
    pub(super) fn shrink(&mut self, words: usize) {
        if self.spans.capacity().max(self.wholes.capacity()) > words {
            *self = Self::default();
        }
    }
}

/// The pre-tokenizers that change something. The library knows DeepSeek's, and cuts as they do together at once.
fn one_after_the_other(all: &PipelinePreTokenizer) -> impl Iterator<Item = &PipelinePreTokenizer> {
    let each = match all {
        PipelinePreTokenizer::Sequence(sequence) if sequence.is_deepseek() => std::slice::from_ref(all),
        _ => pre_tokenizers(all),
    };
    each.iter().filter(|one| !matches!(one, PipelinePreTokenizer::None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tk_encode::pipeline::PipelineTokenizer;
    use tk_encode::utils::DEEPSEEK_PATTERNS;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper};

    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    fn split(pattern: Value) -> Value {
        json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
    }

    fn sequence(all: &[Value]) -> Value {
        json!({"type": "Sequence", "pretokenizers": all})
    }

    /// Every character beside letters, digits, white space and punctuation: cut as by the older line, whichever classes a
    /// pre-tokenizer has.
    #[test]
    fn every_character_is_cut_as_by_the_older_line() {
        let [digits, each_digit] =
            [false, true].map(|individual| json!({"type": "Digits", "individual_digits": individual}));
        let [whitespace, bert] = ["Whitespace", "BertPreTokenizer"].map(|name| json!({"type": name}));
        let punctuation = |behavior: &str| json!({"type": "Punctuation", "behavior": behavior});
        let [gpt2, cl100k, o200k] = [GPT2, CL100K, O200K].map(|regex| split(json!({"Regex": regex})));
        let deepseek = DEEPSEEK_PATTERNS.map(|regex| split(json!({"Regex": regex})));
        let all = [
            digits.clone(),
            each_digit.clone(),
            whitespace.clone(),
            json!({"type": "WhitespaceSplit"}),
            bert,
            punctuation("Isolated"),
            punctuation("MergedWithNext"),
            split(json!({"String": "\u{a7ce}"})),
            gpt2.clone(),
            cl100k,
            o200k,
            sequence(&deepseek),
            // Command R+.
            sequence(&[each_digit, gpt2.clone()]),
            // Falcon's parts.
            sequence(&[punctuation("Contiguous"), gpt2, digits.clone(), whitespace.clone()]),
            sequence(&[whitespace, digits, punctuation("Removed")]),
        ];
        let pairs: Vec<_> = all.iter().map(|json| (json, ours(json), theirs(json))).collect();
        // Planes that have characters.
        let characters = (0..0x3_4000).chain(0xe_0000..0xe_0200).filter_map(char::from_u32);
        let characters: Vec<char> = characters.collect();
        let mut words = Words::default();
        for some in characters.chunks(64) {
            let around = |c: &char| format!("x{c}1{c} {c}{c}B.{c}\n");
            let text: String = some.iter().map(around).collect();
            for (json, ours, theirs) in &pairs {
                let cut = words.cut(&text, ours.get_pre_tokenizer(), &Work::unbounded()).unwrap();
                let cut: Vec<_> = cut
                    .iter()
                    .map(|span| &text[span.start as usize..span.end as usize])
                    .collect();
                let mut expected = PreTokenizedString::from(text.as_str());
                theirs.pre_tokenize(&mut expected).unwrap();
                let expected = expected.get_splits(OffsetReferential::Original, OffsetType::Byte);
                let expected: Vec<_> = expected
                    .iter()
                    .map(|(_, (start, end), _)| &text[*start..*end])
                    .collect();
                assert_eq!(cut, expected, "{json}");
            }
        }
    }

    fn ours(json: &Value) -> PipelineTokenizer {
        let whole = json!({"version": "2.0", "pre_tokenizer": json,
            "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}});
        crate::read_json(whole.to_string().as_bytes()).unwrap()
    }

    fn theirs(json: &Value) -> PreTokenizerWrapper {
        serde_json::from_value(json.clone()).unwrap()
    }
}
