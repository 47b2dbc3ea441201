//! From a request to a decision.

use crate::artefacts::Artefacts;
use crate::state::{State, artefacts_of};
use memory::Memory;
use prompt::token_data::Splice;
use prompt::{Body, Shape};
use reading::{Blocks, Extent, Reader, Reading, Recall};
use router_core::Millis;
use router_core::fleet::Pool;
use router_core::hash::SequenceHash;
use router_core::ladder::Footing;
use router_core::router::{Decision, Prompt, Router};
use work::{Limits, Work};

/// What is there of a request when it has to be routed.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// Its whole body.
    Body {
        /// As the client sent it.
        bytes: &'a [u8],
        /// Whose request it is, where workers ask for that.
        tenant: Option<&'a str>,
    },
    /// Not its body, for a reason.
    Nothing {
        /// As a metric label.
        reason: &'static str,
        /// Known or least length of the body.
        bytes: u64,
    },
}

/// A decision and what it takes to follow the request.
#[derive(Debug)]
pub struct Routed {
    /// The decision.
    pub decision: Decision,
    /// The pool it was made in; empty if none could be told.
    pub pool: String,
    /// Full blocks of the prompt, if they are known.
    pub blocks: Vec<SequenceHash>,
    /// Length of the prompt in tokens, known or guessed.
    pub input_tokens: u64,
    /// Whether a response's usage can be held against the prediction: all of the prompt is known, and it is the only one.
    pub comparable: bool,
    /// Whether this is the first of several prompts.
    pub is_batch: bool,
    /// The body to send in place of the client's: with the prompt's token ids in it, or without the client's own.
    pub body: Option<NewBody>,
    /// What of the prompt's text was remembered.
    pub recall: Recall,
}

/// What workers get in place of what the client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum NewBody {
    /// With the prompt's token ids.
    WithTokens(Vec<u8>),
    /// Without the token ids that the client put in, as there are none of ours.
    WithoutTokens(Vec<u8>),
}

/// Decides. Never fails: whatever is wrong with the request is the reason for a lower rung.
pub fn route(state: &mut State, shape: Shape, seen: Seen<'_>) -> Routed {
    let now = state.now();
    let seed = state.random.draw();
    let knowledge = Knowledge {
        router: &state.router,
        artefacts: &state.artefacts,
        max_prompt_bytes: state.config.max_prompt_bytes,
        limits: state.config.work,
    };
    let (pool, reading) = match knowledge.read(&mut state.memory, shape, seen, now) {
        Ok((pool, reading)) => (pool.name.clone(), reading),
        Err(reason) => return passed(reason, seed),
    };
    let loads = state.load.loads(&pool);
    let extent = reading.known.as_ref().ok().map(|blocks| blocks.extent);
    let prompt = match &reading.known {
        Ok(blocks) if blocks.extent == Extent::TextBeforeMedia => Prompt::Start {
            reason: "text_before_media",
            input_tokens: reading.input_tokens,
            blocks: &blocks.hashes,
        },
        Ok(blocks) => Prompt::Known {
            input_tokens: reading.input_tokens,
            blocks: &blocks.hashes,
        },
        Err(reason) => Prompt::Unknown {
            reason,
            input_tokens: reading.input_tokens,
        },
    };
    let decision = state.router.decide(&pool, prompt, &loads, now, seed);
    let body = match seen {
        Seen::Body { bytes, .. } if reading.inject_tokens => new_body(bytes, &reading.known),
        _ => None,
    };
    let is_whole = matches!(extent, Some(Extent::Prompt | Extent::PromptWithMedia));
    let comparable = is_whole && decision.view.is_some();
    let recall = reading.known.as_ref().map(|blocks| blocks.recall).unwrap_or_default();
    Routed {
        decision,
        pool,
        blocks: reading.known.map(|blocks| blocks.hashes).unwrap_or_default(),
        input_tokens: reading.input_tokens,
        comparable,
        is_batch: extent == Some(Extent::FirstPrompt),
        body,
        recall,
    }
}

/// The request body for workers that take token ids. Batches and prompts of token ids go out as they came; of prompts with
/// images none are given.
fn new_body(body: &[u8], known: &Result<Blocks, &'static str>) -> Option<NewBody> {
    match known {
        Ok(Blocks {
            tokens: Some(tokens), ..
        }) => Splice::token_data(body, tokens)?.apply(body).map(NewBody::WithTokens),
        Ok(blocks) if matches!(blocks.extent, Extent::Prompt | Extent::FirstPrompt) => None,
        // A worker cannot tell the client's token ids from ours, and would take them for the prompt.
        Ok(_) | Err(_) => Splice::no_token_data(body)?.apply(body).map(NewBody::WithoutTokens),
    }
}

fn passed(reason: &'static str, seed: u64) -> Routed {
    Routed {
        decision: Decision {
            footing: Footing::pass(reason),
            scored: Vec::new(),
            order: Vec::new(),
            view: None,
            seed,
        },
        pool: String::new(),
        blocks: Vec::new(),
        input_tokens: 0,
        comparable: false,
        is_batch: false,
        body: None,
        recall: Recall::default(),
    }
}

/// What it takes to understand a request.
#[derive(Clone, Copy)]
struct Knowledge<'s> {
    router: &'s Router,
    artefacts: &'s Artefacts,
    max_prompt_bytes: usize,
    limits: Limits,
}

impl<'s> Knowledge<'s> {
    /// Finds the request's pool and reads its prompt. The error says why no pool can be told.
    fn read(
        self,
        memory: &mut Memory,
        shape: Shape,
        seen: Seen<'_>,
        now: Millis,
    ) -> Result<(&'s Pool, Reading), &'static str> {
        let router = self.router;
        if router.pools().next().is_none() {
            return Err("no_fleet");
        }
        let (body, tenant) = match seen {
            Seen::Nothing { reason, bytes } => {
                let pool = only_pool(router, reason)?;
                return Ok((pool, guess(pool, reason, bytes)));
            }
            Seen::Body { bytes, tenant } => (bytes, tenant),
        };
        let bytes = body.len() as u64;
        if body.len() > self.max_prompt_bytes {
            let reason = "prompt_too_large";
            let (pool, _) = pool_of(router, Body::model_of(body).as_deref(), reason)?;
            return Ok((pool, guess(pool, reason, bytes)));
        }
        let work = Work::new(self.limits, body.len());
        let body = match Body::read(shape, body) {
            Ok(body) => body,
            // The worker will say what is wrong with it.
            Err(error) => {
                let pool = only_pool(router, error.reason())?;
                return Ok((pool, guess(pool, error.reason(), bytes)));
            }
        };
        let (pool, lora) = pool_of(router, body.model(), "no_model")?;
        let reading = match router.exactness(&pool.name, now) {
            // Workers that want the token ids want them also where load decides.
            Err(reason) if !pool.inject_tokens => guess(pool, reason, bytes),
            _ => {
                let whose = Whose { lora, tenant };
                let understood = understand(self.artefacts, memory, pool, whose, &body, &work, now);
                understood.unwrap_or_else(|reason| guess(pool, reason, bytes))
            }
        };
        Ok((pool, reading))
    }
}

/// What sets a prompt's blocks apart from others with the same tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Whose<'a> {
    /// The adapter it is for.
    lora: Option<&'a str>,
    /// See [`Body::cache_namespace`].
    tenant: Option<&'a str>,
}

/// Body to prompt to tokens to blocks. The error says which step failed.
fn understand(
    artefacts: &Artefacts,
    memory: &mut Memory,
    pool: &Pool,
    whose: Whose<'_>,
    body: &Body<'_>,
    work: &Work,
    now: Millis,
) -> Result<Reading, &'static str> {
    let tokenizer_id = pool.tokenizer.ok_or("no_tokenizer")?;
    // Texts need the template, too: it says by whose rules they are read.
    if artefacts_of(pool).any(|(id, _)| !artefacts.is_loaded(id)) {
        return Err("not_loaded");
    }
    let reader = Reader {
        tokenizer: artefacts.tokenizer(tokenizer_id).ok_or("tokenizer_unusable")?,
        tokenizer_id,
        template: pool.template.and_then(|id| artefacts.template(id)),
        layout: pool.layout,
        inject_tokens: pool.inject_tokens,
        keep_tokens: false,
    };
    if let Some(template) = reader.template {
        template.set_now(i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX));
    }
    let prompt = body
        .prompt_within(reader.template, work)
        .map_err(|error| error.reason())?;
    let seed = reader.seed(body, whose.lora, whose.tenant);
    let read = reader.read(memory, body, &prompt, seed, work);
    read.map_err(|error| error.reason())
}

/// A prompt that is not read, of a body of so many bytes.
fn guess(pool: &Pool, reason: &'static str, bytes: u64) -> Reading {
    Reading::guessed(pool.inject_tokens, reason, bytes)
}

/// The pool of a model, and its adapter. Without a model, the pool if there is just one, as its workers take requests
/// without.
fn pool_of<'r>(
    router: &'r Router,
    model: Option<&str>,
    reason: &'static str,
) -> Result<(&'r Pool, Option<&'r str>), &'static str> {
    match model {
        // Some worker answers that there is no such model.
        Some(model) => router.pool_of_model(model).ok_or("unknown_model"),
        None => Ok((only_pool(router, reason)?, None)),
    }
}

fn only_pool<'r>(router: &'r Router, reason: &'static str) -> Result<&'r Pool, &'static str> {
    let mut pools = router.pools();
    let pool = pools.next().ok_or("no_fleet")?;
    match pools.next() {
        None => Ok(pool),
        Some(_) => Err(reason),
    }
}

#[cfg(test)]
mod tests;
