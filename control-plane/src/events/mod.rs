//! KV events: from a worker's socket to a sequence of exact changes.
//!
//! [`zmq`] follows one publisher over [`zmtp`] connections, [`cursor`] decides what a message with its sequence number
//! means for what we know of its ranks, and [`decode`] makes events of the bytes of those that count.

pub mod cursor;
pub mod decode;
mod extra_keys;
pub mod keep;
pub mod listen;
mod raw;
pub mod replay;
pub mod zmq;
pub mod zmtp;

use router_core::hash::LocalHash;

/// An engine's own name for a block: opaque, never recomputed. 64-bit integers as they are (signed ones by their
/// bits), longer digests as the xxh3-64 of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineHash(pub u64);

/// Where a worker keeps a block, nearest first. What is on a nearer tier costs less to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The accelerator's memory; what engines mean that name none.
    #[default]
    Device,
    /// The host's memory.
    HostPinned,
    /// A disk of the worker's.
    Disk,
    /// Storage that other workers may share.
    External,
}

impl Tier {
    /// Nearest first.
    pub const ALL: [Self; 4] = [Self::Device, Self::HostPinned, Self::Disk, Self::External];

    /// As Dynamo spells it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::HostPinned => "host_pinned",
            Self::Disk => "disk",
            Self::External => "external",
        }
    }
}

/// What an engine did to its cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Blocks were stored on one tier.
    Stored(Stored),
    /// Blocks were dropped from one tier.
    Removed {
        /// Which.
        tier: Tier,
        /// In any order.
        blocks: Vec<EngineHash>,
    },
    /// Everything was dropped, from every tier.
    Cleared,
}

/// Consecutive blocks of one sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Where they are now; other tiers keep what they have.
    pub tier: Tier,
    /// What stands before the first block; `None`: it is the first of its sequence.
    pub parent: Option<EngineHash>,
    /// In sequence order.
    pub blocks: Vec<EngineHash>,
    /// What is in them.
    pub content: Content,
    /// Tokens per block.
    pub block_size: u32,
    /// LoRA adapter; seeds the hashes of a root block.
    pub lora: Option<String>,
    /// Cache namespace (salt); seeds the hashes of a root block.
    pub namespace: Option<String>,
}

/// What is in consecutive blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// As engines tell it.
    Tokens {
        /// `block_size` for each block, and one more at the end if `bigrams`.
        ids: Vec<u32>,
        /// Whether each block also hashes the first token of the next one (eagle workers).
        bigrams: bool,
        /// Identities of each block's multimodal objects; blocks beyond the end have none.
        media: Vec<Vec<u64>>,
    },
    /// As Dynamo's event plane tells it: hashed by the publisher, adapter and namespace included.
    Hashed(Vec<LocalHash>),
}

impl Content {
    /// Text only, in plain blocks.
    pub fn text(ids: Vec<u32>) -> Self {
        Self::Tokens {
            ids,
            bigrams: false,
            media: Vec::new(),
        }
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::text(Vec::new())
    }
}

/// One published message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// Whose events they are, where the publisher says so.
    pub dp_rank: Option<u32>,
    /// Labels of what was left out, once for each event or block run.
    pub ignored: Vec<&'static str>,
}
