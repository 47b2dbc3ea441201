//! What is said of a request.

use std::ops::Range;

use router_core::hash::{BlockHasher, BlockLayout, HashSeed};
use router_core::ladder::Footing;
use serde::Serialize;

use crate::model::PromptTokens;

/// What Warmpath sees. Hashes are decimal texts, as JSON numbers end at 2^53.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The rung that a filter would route the request on, if its view is in step with the control plane and parity holds.
    pub rung: &'static str,
    /// Why on no better one; `ok` if there is none. Filters count by both.
    pub reason: &'static str,
    /// The reason in words, where there are any.
    pub explanation: Option<String>,
    /// The pool that was asked for.
    pub pool: Option<String>,
    /// Tokens in a block.
    pub block_size: u32,
    /// Whether each block also hashes the first token of the next one.
    pub eagle: bool,
    /// The LoRA adapter, which seeds the hashes.
    pub lora: Option<String>,
    /// The cache namespace, which seeds the hashes.
    pub cache_namespace: Option<String>,
    /// Whether the request has several prompts. All that follows is of the first, by which it is routed.
    pub is_batch: bool,
    /// The rendered prompt; `None` if the request has token ids, or there is none.
    pub prompt: Option<String>,
    /// Whether all of it counts. Otherwise it, and all below, ends where the first image or the like that is not known may have a
    /// part in what follows; or nothing counts, as on `load`.
    pub is_whole: bool,
    /// As the engine should make them.
    pub token_ids: Vec<u32>,
    /// Of every full block.
    pub local_block_hashes: Vec<String>,
    /// Of every full block.
    pub sequence_hashes: Vec<String>,
}

impl Report {
    /// Of a request of which nothing is known yet.
    pub(super) fn new(pool: Option<&str>, layout: BlockLayout) -> Self {
        Self {
            rung: Footing::EXACT.rung.name(),
            reason: Footing::EXACT.reason,
            explanation: None,
            pool: pool.map(str::to_owned),
            block_size: layout.block_size.get(),
            eagle: layout.eagle,
            lora: None,
            cache_namespace: None,
            is_batch: false,
            prompt: None,
            is_whole: false,
            token_ids: Vec::new(),
            local_block_hashes: Vec::new(),
            sequence_hashes: Vec::new(),
        }
    }

    /// It is routed so.
    pub(super) fn at(self, footing: Footing, explanation: Option<String>) -> Self {
        Self {
            rung: footing.rung.name(),
            reason: footing.reason,
            explanation,
            ..self
        }
    }

    /// It has this prompt.
    pub(super) fn of(self, tokens: PromptTokens, layout: BlockLayout) -> Self {
        let mut hasher = BlockHasher::new(self.seed());
        let starts = (0..).step_by(layout.tokens_per_block());
        let blocks = layout.blocks(&tokens.ids).zip(starts);
        let locals = blocks.map(|(block, start)| {
            let end = start + layout.tokens_per_block();
            let reaches_in = |(range, _): &&(Range<usize>, u64)| range.start < end && start < range.end;
            let images = tokens.images.iter().filter(reaches_in);
            hasher.local(block, &images.map(|(_, identity)| *identity).collect::<Vec<_>>())
        });
        let locals: Vec<_> = locals.collect();
        Self {
            prompt: tokens.text,
            is_whole: tokens.is_whole,
            token_ids: tokens.ids,
            local_block_hashes: locals.iter().map(|hash| hash.0.to_string()).collect(),
            sequence_hashes: tokens.blocks.iter().map(|hash| hash.0.to_string()).collect(),
            ..self
        }
    }

    /// What its hashes start from.
    pub(super) fn seed(&self) -> HashSeed {
        HashSeed::new(self.lora.as_deref(), self.cache_namespace.as_deref())
    }
}
