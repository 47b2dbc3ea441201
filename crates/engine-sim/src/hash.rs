//! The engine's own block hashes. They mean nothing outside of it: a router has to map them, never to recompute them.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::images::Image;

/// What separates blocks with the same tokens (`generate_block_hash_extra_keys` in vLLM).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheKeys {
    /// LoRA adapter: part of every block.
    pub lora: Option<Lora>,
    /// Cache salt: part of the first block, and through the chain of all that follow.
    pub cache_salt: Option<String>,
    /// Images: part of the blocks that they reach into.
    pub images: Vec<Image>,
}

/// One of them, as events have it (`to_event_extra_keys`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ExtraKey {
    /// Of an adapter, or a salt.
    Name(String),
    /// An image's identity, and where it starts, counted from the start of the block.
    Image(String, i64),
}

/// A LoRA adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lora {
    /// Number, from 1.
    pub id: u64,
    /// Name under which it is served.
    pub name: String,
}

impl CacheKeys {
    /// Extra keys of the block with this index in its sequence, of blocks of `block_size` tokens.
    pub fn of_block(&self, index: usize, block_size: usize) -> Option<Vec<ExtraKey>> {
        let (start, end) = (index * block_size, (index + 1) * block_size);
        let in_block = |image: &&Image| image.tokens.start < end && start < image.tokens.end;
        let images = self.images.iter().filter(in_block).map(|image| {
            let offset = image.tokens.start as i64 - start as i64;
            ExtraKey::Image(image.identity.clone(), offset)
        });
        let name = |name: &String| ExtraKey::Name(name.clone());
        let salt = self.cache_salt.iter().filter(|_| index == 0).map(name);
        let lora = self.lora.iter().map(|lora| name(&lora.name));
        let keys: Vec<_> = lora.chain(images).chain(salt).collect();
        if keys.is_empty() { None } else { Some(keys) }
    }
}

/// Hash of a block, given the hash of the one before it. Lengths go in as well, so that no two inputs run together.
pub fn chain(parent: u64, tokens: &[u32], extra_keys: Option<&[ExtraKey]>) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&parent.to_le_bytes());
    hasher.update(&(tokens.len() as u64).to_le_bytes());
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    for key in extra_keys.unwrap_or_default() {
        let (name, offset) = match key {
            ExtraKey::Name(name) => (name, None),
            ExtraKey::Image(identity, offset) => (identity, Some(offset)),
        };
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&[u8::from(offset.is_some())]);
        hasher.update(&offset.copied().unwrap_or_default().to_le_bytes());
    }
    hasher.digest()
}
