//! Who may serve which model.

use crate::Slot;
use crate::cost::CostWeights;
use crate::hash::BlockLayout;
use crate::levels::Levels;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// All pools of a gateway. A new fleet replaces the old one as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// In the order of the configuration; names are unique.
    pub pools: Vec<Pool>,
}

/// Workers that serve one model with one tokenizer and one block layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique name.
    pub name: String,
    /// Numbering of slots and blocks: changes when the control plane that gives them out does. A view is only
    /// read together with slots of its own epoch.
    pub epoch: u64,
    /// What a request's `model` may say to get here.
    pub models: Vec<ModelName>,
    /// How the workers cut prompts into blocks.
    pub layout: BlockLayout,
    /// The cache tiers that the view tells apart.
    pub levels: Levels,
    /// Tokenizer artefact, content-addressed; `None`: none usable, so no exact routing.
    pub tokenizer: Option<ArtefactId>,
    /// Chat template artefact, as `tokenizer`.
    pub template: Option<ArtefactId>,
    /// Whether any worker publishes KV events.
    pub kv_events: bool,
    /// The view has every `stride`-th block of a prefix only.
    pub stride: NonZeroU32,
    /// Cost weights.
    pub weights: CostWeights,
    /// Softmax temperature of the pick; 0 takes the cheapest.
    pub temperature: f64,
    /// Whether workers get the prompt's token ids with the request (Dynamo's `nvext.token_data`).
    pub inject_tokens: bool,
    /// The candidates, by rising slot.
    pub candidates: Vec<Candidate>,
}

/// One served model name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    /// As requests say it.
    pub name: String,
    /// The adapter that seeds block hashes, if the name is that of a LoRA.
    pub lora: Option<String>,
}

/// One (worker, dp rank) pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number in the pool's view: the first of them, if the view has several [levels](crate::levels).
    pub slot: Slot,
    /// `ip:port`, IPv6 in brackets: how the gateway's cluster knows it.
    pub endpoint: String,
    /// Data-parallel rank; `None` when the worker has just one, and needs not be told.
    pub dp_rank: Option<u32>,
    /// Dynamo's id of the worker. The frontend at `endpoint`, which may serve many workers, is told it.
    pub instance_id: Option<u64>,
}

/// Content address of an artefact: xxh3-128 of its bytes, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtefactId(pub [u8; 16]);

impl ArtefactId {
    /// The address of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(content).to_be_bytes())
    }
}
