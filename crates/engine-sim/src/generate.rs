//! What the simulated model says: common words, decided by seed and prompt.
//!
//! The answer is made as one text and tokenized as one text, from words that stand on their own in any byte-pair
//! vocabulary. So a client that sends the answer back as the next turn's history gets the very same token ids, and the
//! blocks filled while generating are hit again.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::Model;

/// Answers end by themselves after this many words, unless `max_tokens` or `ignore_eos` says otherwise.
const ANSWER_WORDS: std::ops::Range<u64> = 64..512;

const WORDS: &[&str] = &[
    "the", "of", "and", "to", "in", "is", "that", "for", "with", "as", "was", "on", "are", "by", "this", "be", "from",
    "or", "an", "which", "you", "one", "we", "all", "there", "can", "more", "has", "some", "time", "when", "what",
    "about", "people", "into", "could", "first", "after", "two", "world", "over", "system", "number", "work", "part",
    "place", "case", "point", "company", "group", "problem", "fact", "water", "house", "light", "story", "music",
    "river", "green", "small", "large", "early", "young", "open", "long", "good", "new", "old", "great", "high",
    "public", "same", "able", "make", "find", "give", "tell", "feel", "leave", "call", "keep", "begin", "show", "hear",
    "play", "run", "move", "live", "hold", "bring", "write", "stand", "lose", "meet", "learn", "change", "lead",
    "watch", "follow", "stop",
];

/// A finished answer, known before its first token is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Token ids, with the end-of-sequence token if it stopped by itself.
    pub ids: Vec<u32>,
    /// What each token adds to the text.
    pub pieces: Vec<String>,
    /// Why it ends.
    pub finish_reason: FinishReason,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// By itself.
    Stop,
    /// At `max_tokens`.
    Length,
}

impl FinishReason {
    /// As the API says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What decides an answer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Token ids of the prompt.
    pub prompt: &'a [u32],
    /// Whether the answer starts a line or message (then its first word has no space before it).
    pub starts_line: bool,
    /// Most tokens, at least 1.
    pub max_tokens: usize,
    /// Go on to `max_tokens`.
    pub ignore_eos: bool,
    /// The engine's seed and the request's, combined.
    pub seed: u64,
}

/// The model's answer.
pub fn answer(model: &Model, request: Request<'_>) -> anyhow::Result<Answer> {
    let prompt: Vec<u8> = request.prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
    let mut random = SplitMix64(xxh3_64_with_seed(&prompt, request.seed));
    let natural = ANSWER_WORDS.start + random.below(ANSWER_WORDS.end - ANSWER_WORDS.start);
    let words = if request.ignore_eos {
        request.max_tokens as u64
    } else {
        natural.min(request.max_tokens as u64)
    };
    let text = prose(&mut random, words, request.starts_line);

    let mut ids = model.encode(&text, false)?;
    let finish_reason = if ids.len() >= request.max_tokens || request.ignore_eos {
        ids.truncate(request.max_tokens);
        FinishReason::Length
    } else {
        ids.extend(model.eos);
        FinishReason::Stop
    };
    Ok(Answer {
        pieces: model.pieces(&ids)?,
        ids,
        finish_reason,
    })
}

fn prose(random: &mut SplitMix64, words: u64, starts_line: bool) -> String {
    let mut text = String::new();
    for position in 0..words {
        if position > 0 {
            match random.below(16) {
                0 => text.push('.'),
                1 => text.push(','),
                _ => {}
            }
        }
        if position > 0 || !starts_line {
            text.push(' ');
        }
        let word = usize::try_from(random.below(WORDS.len() as u64))
            .ok()
            .and_then(|index| WORDS.get(index));
        text.push_str(word.unwrap_or(&"word"));
    }
    text
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests;
