//! KV events: from a worker's socket to a sequence of exact changes.
//!
//! [`zmq`] holds the sockets of one rank, [`cursor`] decides what a message with its sequence number means for what we
//! know of the rank, and [`decode`] makes events of the bytes of those that count.

pub mod cursor;
pub mod decode;
mod raw;
pub mod replay;
pub mod zmq;

/// An engine's own name for a block: opaque, never recomputed. 64-bit integers as they are (signed ones by their
/// bits), longer digests as the xxh3-64 of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineHash(pub u64);

/// What an engine did to its device-tier cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Blocks were stored.
    Stored(Stored),
    /// Blocks were dropped.
    Removed(Vec<EngineHash>),
    /// Everything was dropped.
    Cleared,
}

/// Consecutive blocks of one sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// What stands before the first block; `None`: it is the first of its sequence.
    pub parent: Option<EngineHash>,
    /// In sequence order.
    pub blocks: Vec<EngineHash>,
    /// `block_size` for each block.
    pub tokens: Vec<u32>,
    /// Tokens per block.
    pub block_size: u32,
    /// LoRA adapter; seeds the hashes of a root block.
    pub lora: Option<String>,
    /// Cache namespace (salt); seeds the hashes of a root block.
    pub namespace: Option<String>,
}

/// One published message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// Labels of what was left out, once for each event or block run.
    pub ignored: Vec<&'static str>,
}
