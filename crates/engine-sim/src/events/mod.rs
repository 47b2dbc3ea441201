//! KV-cache events: what they say (here), how they are written (`encode`) and how they travel (`publish`).

pub mod encode;
pub mod publish;

use crate::hash::ExtraKey;

/// One change of a rank's prefix cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// Full blocks became cached.
    BlockStored(BlockStored),
    /// Blocks were evicted.
    BlockRemoved {
        /// Chained hashes.
        block_hashes: Vec<u64>,
    },
    /// The cache was reset.
    AllBlocksCleared,
}

/// A run of blocks, chained in order from the parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockStored {
    /// Chained hashes, opaque to consumers.
    pub block_hashes: Vec<u64>,
    /// Hash of the block before the run; `None` at the root.
    pub parent_block_hash: Option<u64>,
    /// `block_size` tokens for each hash.
    pub token_ids: Vec<u32>,
    /// Tokens per block.
    pub block_size: usize,
    /// Number of the LoRA adapter (deprecated in vLLM, still sent).
    pub lora_id: Option<u64>,
    /// Name of the LoRA adapter.
    pub lora_name: Option<String>,
    /// What else went into each block's hash: the LoRA name, images, and in the first block of a
    /// prompt the cache salt.
    pub extra_keys: Vec<Option<Vec<ExtraKey>>>,
}
