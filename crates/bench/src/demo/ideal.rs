//! The ideal that hit rates are compared with: one cache that all workers share and that never forgets.
//!
//! Definition. The requests are taken in the order in which they were sent, each as if all earlier ones were over. The
//! cache holds every full block of every earlier prompt and of its answer (without the answer's last token, whose KV no
//! engine computes). A request hits the longest prefix of its prompt that is in the cache, in whole blocks, and, as in
//! vLLM, never its last token. So no router and no engine can do better, and with several workers none can reach it:
//! the first request of each system prompt misses once here, but once per worker in any real fleet.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use testbed::{Client, Engine, MODEL};

use super::chat::Finish;
use super::drive::Exchange;

/// Tokenize requests in flight per engine.
const TOKENIZE_AT_ONCE: usize = 2;

/// Share of the prompt tokens that the ideal cache holds.
pub(crate) async fn hit_rate(exchanges: &[Exchange], engines: &[Engine], client: &Client) -> Result<f64> {
    let block_size = engines.first().context("no engines")?.options().block_size as usize;
    let mut in_order: Vec<_> = exchanges.iter().collect();
    in_order.sort_by_key(|exchange| exchange.sent);
    let tokenized: Vec<_> = stream::iter(in_order.iter().zip(engines.iter().cycle()))
        .map(|(exchange, engine)| Tokens::of(exchange, engine, client))
        .buffered(TOKENIZE_AT_ONCE * engines.len())
        .try_collect()
        .await?;

    let mut cache = UnlimitedCache::new(block_size);
    let (mut hit, mut all) = (0, 0);
    for tokens in tokenized {
        hit += cache.hit(&tokens.prompt);
        all += tokens.prompt.len();
        cache.insert(&tokens.computed);
    }
    Ok(hit as f64 / all as f64)
}

/// One request as the engine saw it.
struct Tokens {
    prompt: Vec<u32>,
    /// The prompt and what was generated, as far as its KV was computed.
    computed: Vec<u32>,
}

impl Tokens {
    async fn of(exchange: &Exchange, engine: &Engine, client: &Client) -> Result<Self> {
        let url = engine.url("/tokenize");
        let chat = json!({"model": MODEL, "messages": exchange.messages, "add_generation_prompt": true});
        let prompt = token_ids(client.post_json(&url, &chat).await?.json()?)?;
        let told = exchange.reply.usage.prompt_tokens;
        ensure!(
            prompt.len() as u64 == told,
            "/tokenize finds {} tokens where usage said {told}",
            prompt.len()
        );

        let text = json!({"model": MODEL, "prompt": exchange.reply.content, "add_special_tokens": false});
        let mut answer = token_ids(client.post_json(&url, &text).await?.json()?)?;
        if exchange.reply.finish == Finish::Length {
            // At its natural end the last token is the end-of-sequence token, which is not in the text.
            answer.pop();
        }
        let computed = [prompt.as_slice(), &answer].concat();
        Ok(Self { prompt, computed })
    }
}

fn token_ids(mut answer: Value) -> Result<Vec<u32>> {
    serde_json::from_value(answer["tokens"].take()).context("tokens of /tokenize")
}

/// A prefix cache without limits: a tree of blocks.
struct UnlimitedCache {
    block_size: usize,
    /// Parent's number and tokens to the block's own number. The root is 0.
    blocks: HashMap<(usize, Box<[u32]>), usize>,
}

impl UnlimitedCache {
    fn new(block_size: usize) -> Self {
        Self {
            block_size,
            blocks: HashMap::new(),
        }
    }

    /// Prompt tokens found, always whole blocks and never the last token.
    fn hit(&self, prompt: &[u32]) -> usize {
        let usable = prompt.get(..prompt.len().saturating_sub(1)).unwrap_or_default();
        let mut parent = 0;
        let mut found = 0;
        for block in usable.chunks_exact(self.block_size) {
            let Some(&number) = self.blocks.get(&(parent, block.into())) else {
                break;
            };
            parent = number;
            found += self.block_size;
        }
        found
    }

    fn insert(&mut self, tokens: &[u32]) {
        let mut parent = 0;
        for block in tokens.chunks_exact(self.block_size) {
            let next = self.blocks.len() + 1;
            parent = *self.blocks.entry((parent, block.into())).or_insert(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whole blocks of the longest common prefix with any earlier sequence.
    fn hit_by_definition(earlier: &[Vec<u32>], prompt: &[u32], block_size: usize) -> usize {
        let usable = &prompt[..prompt.len() - 1];
        let common = |tokens: &Vec<u32>| {
            let full = tokens.len() / block_size * block_size;
            usable.iter().zip(&tokens[..full]).take_while(|(a, b)| a == b).count() / block_size * block_size
        };
        earlier.iter().map(common).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn hits_what_the_definition_says(
            // Few different tokens, so that prefixes meet.
            prompts in prop::collection::vec(prop::collection::vec(0u32..2, 1..24), 1..24),
            block_size in 1usize..5,
        ) {
            let mut cache = UnlimitedCache::new(block_size);
            for (number, prompt) in prompts.iter().enumerate() {
                prop_assert_eq!(cache.hit(prompt), hit_by_definition(&prompts[..number], prompt, block_size));
                cache.insert(prompt);
            }
        }
    }
}
