//! Request bodies of a wanted length in tokens.

use anyhow::{Context, Result};
use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Value, json};
use testbed::{Client, MODEL};

use super::case::{Novelty, Size};
use crate::prose::passage;

/// Different texts of each kind, used in turn.
const TEXTS: usize = 3;

/// Stands in a text where each request gets its own mark.
const MARK: &str = "################";

/// Words of a cold prompt between two marks: less than a remembered piece, and enough for the text to stay prose.
const MARKED_WORDS: usize = 80;

/// Words of one message of a known conversation.
const MESSAGE_WORDS: usize = 600;

/// Asks an engine how long a prompt is.
pub(crate) struct Tokenize<'a> {
    pub(crate) client: &'a Client,
    pub(crate) url: String,
}

impl Tokenize<'_> {
    async fn count(&self, messages: &Value) -> Result<usize> {
        let body = json!({"model": MODEL, "messages": messages});
        let answer = self.client.post_json(&self.url, &body).await?.json()?;
        let count = answer["count"]
            .as_u64()
            .with_context(|| format!("{}: no count", self.url))?;
        Ok(usize::try_from(count)?)
    }
}

/// Bodies of one size.
pub(crate) struct Prompts {
    cold: Vec<Template>,
    known: Vec<Template>,
    /// How many bodies were made.
    made: std::sync::atomic::AtomicU64,
}

/// A body with marks to be filled in.
struct Template {
    body: Vec<u8>,
    /// Where the marks are.
    marks: Vec<usize>,
    tokens: usize,
}

impl Prompts {
    pub(crate) async fn new(seed: u64, size: Size, tokenize: &Tokenize<'_>) -> Result<Self> {
        let mut random = Rng::with_seed(seed ^ size.tokens() as u64);
        let (mut cold, mut known) = (Vec::new(), Vec::new());
        for _ in 0..TEXTS {
            cold.push(Template::new(size, tokenize, &mut random, document).await?);
            known.push(Template::new(size, tokenize, &mut random, conversation).await?);
        }
        Ok(Self {
            cold,
            known,
            made: 0.into(),
        })
    }

    /// One more body. No two have the same mark: cold prompts begin with it, known ones have it in their last message.
    pub(crate) fn next(&self, novelty: Novelty) -> Bytes {
        let number = self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let templates = self.templates(novelty);
        let index = usize::try_from(number).unwrap_or_default() % templates.len().max(1);
        templates
            .get(index)
            .map_or_else(Bytes::new, |template| template.marked(number))
    }

    /// One body for each known conversation; whoever has computed them knows the prefixes of all.
    pub(crate) fn one_of_each_known(&self) -> Vec<Bytes> {
        (0..TEXTS).map(|_| self.next(Novelty::Known)).collect()
    }

    /// Tokens and bytes of a prompt, on average.
    pub(crate) fn mean_size(&self, novelty: Novelty) -> (usize, usize) {
        let templates = self.templates(novelty);
        let mean = |of: fn(&Template) -> usize| templates.iter().map(of).sum::<usize>() / templates.len().max(1);
        (mean(|template| template.tokens), mean(|template| template.body.len()))
    }

    fn templates(&self, novelty: Novelty) -> &[Template] {
        match novelty {
            Novelty::Cold => &self.cold,
            Novelty::Known => &self.known,
        }
    }
}

impl Template {
    /// Makes messages with `make(random, words)`, of as many words as give the wanted number of tokens.
    async fn new(
        size: Size,
        tokenize: &Tokenize<'_>,
        random: &mut Rng,
        make: fn(&mut Rng, usize) -> Value,
    ) -> Result<Self> {
        // Prose has about this many tokens per word; a first text tells exactly.
        let guess = size.tokens() * 2 / 3;
        let tokens = tokenize.count(&make(&mut random.clone(), guess)).await?;
        let messages = make(random, guess * size.tokens() / tokens.max(1));
        let tokens = tokenize.count(&messages).await?;
        let body = json!({"model": MODEL, "messages": messages, "max_tokens": 1}).to_string();
        let marks = body.match_indices(MARK).map(|(place, _)| place).collect();
        Ok(Self {
            body: body.into_bytes(),
            marks,
            tokens,
        })
    }

    fn marked(&self, number: u64) -> Bytes {
        // Multiplied by an odd constant (the golden ratio's), so that successive marks differ from their first digit on.
        let mark = format!("{:016x}", number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut body = self.body.clone();
        for &place in &self.marks {
            if let Some(there) = body.get_mut(place..place + MARK.len()) {
                there.copy_from_slice(mark.as_bytes());
            }
        }
        body.into()
    }
}

/// One long user message. Every message begins with the mark and has it again every few words, so that the filter
/// remembers no piece of it either.
fn document(random: &mut Rng, words: usize) -> Value {
    let passages = words.saturating_sub(20).div_ceil(MARKED_WORDS);
    let text: String = (0..passages)
        .map(|_| format!("{MARK} {} ", passage(random, MARKED_WORDS)))
        .collect();
    json!([
        {"role": "system", "content": format!("{MARK} Answer briefly.")},
        {"role": "user", "content": text.trim_end()},
    ])
}

/// Many messages; only the last one, about one hundredth of the words, has the mark.
fn conversation(random: &mut Rng, words: usize) -> Value {
    let tail = (words / 100).max(8);
    let mut left = words.saturating_sub(tail + 16);
    let mut messages = Vec::new();
    let roles = ["user", "assistant"].into_iter().cycle();
    let mut message = |role: &str, words: usize| json!({"role": role, "content": passage(random, words)});
    messages.push(message("system", left.min(MESSAGE_WORDS) / 2));
    left -= left.min(MESSAGE_WORDS) / 2;
    for role in roles {
        // Ends with an answer, after which comes the next question.
        if role == "user" && left < 2 * MESSAGE_WORDS {
            break;
        }
        messages.push(message(role, left.min(MESSAGE_WORDS)));
        left -= left.min(MESSAGE_WORDS);
    }
    messages.push(message("user", left / 2));
    messages.push(message("assistant", left - left / 2));
    messages.push(json!({"role": "user", "content": format!("{MARK} {}", passage(random, tail))}));
    Value::Array(messages)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn template(make: fn(&mut Rng, usize) -> Value) -> Template {
        let body = make(&mut Rng::with_seed(1), 5_000).to_string();
        let marks = body.match_indices(MARK).map(|(place, _)| place).collect();
        Template {
            body: body.into_bytes(),
            marks,
            tokens: 1,
        }
    }

    #[test]
    fn marks_make_bodies_differ_where_they_should() {
        let contents = |make, number| {
            let messages: Vec<Value> = serde_json::from_slice(&template(make).marked(number)).unwrap();
            messages
                .into_iter()
                .map(|message| message["content"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        for (a, b) in contents(document, 1).iter().zip(&contents(document, 2)) {
            assert_ne!(a[..1], b[..1]);
        }
        let (a, b) = (contents(conversation, 1), contents(conversation, 2));
        let last = a.len() - 1;
        assert_eq!((&a[..last], b.len()), (&b[..last], a.len()));
        assert_ne!(a[last], b[last]);
    }

    #[test]
    fn marks_are_unique_and_lengths_as_wanted() {
        let marked = template(document);
        let bodies: BTreeSet<_> = (0..1_000).map(|number| marked.marked(number)).collect();
        assert_eq!(bodies.len(), 1_000);
        for words in [60, 1_000, 20_000] {
            for make in [document, conversation] {
                let messages = make(&mut Rng::with_seed(2), words);
                let texts = messages
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|message| message["content"].as_str().unwrap());
                let written: usize = texts.map(|text| text.split_whitespace().count()).sum();
                assert!(
                    words * 8 / 10 < written && written < words * 12 / 10 + 80,
                    "{written} for {words}"
                );
            }
        }
    }
}
