//! The paged prefix cache of one rank: blocks, reference counts, and eviction in vLLM's order
//! (`vllm/v1/core/block_pool.py`).
//!
//! A block is *cached* once it is full: it can then be found by its chained hash. A block is *free* while nobody
//! references it; a free block keeps its content, and can still be hit, until its turn in the free queue comes and it
//! is given to somebody else. The queue is ordered by the moment of freeing, so the least recently used goes first.

use std::collections::{BTreeMap, HashMap};

use crate::events::{BlockStored, KvEvent};

/// Index of a block of the pool that handed it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u32);

/// One cached block as `/debug/cache` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedBlock {
    /// Chained hash.
    pub hash: u64,
    /// Hash of the block before it; `None` at the root.
    pub parent: Option<u64>,
    /// The block's tokens, `block_size` of them.
    pub token_ids: Vec<u32>,
}

/// The blocks of one rank.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    free: FreeQueue,
    cached: HashMap<u64, Cached>,
    events: Vec<KvEvent>,
}

#[derive(Clone, Debug, Default)]
struct Block {
    ref_count: u32,
    hash: Option<u64>,
    /// Key in the free queue, while the block is in it.
    ticket: Option<u64>,
}

#[derive(Debug)]
struct Cached {
    parent: Option<u64>,
    token_ids: Vec<u32>,
    /// Blocks with this content. More than one when a whole prompt was hit: its last block is always recomputed.
    copies: Vec<BlockId>,
}

impl BlockPool {
    /// A pool of `capacity` blocks, all free.
    pub fn new(capacity: u32) -> Self {
        let mut pool = Self {
            blocks: vec![Block::default(); capacity as usize],
            free: FreeQueue::default(),
            cached: HashMap::new(),
            events: Vec::new(),
        };
        for id in (0..capacity).map(BlockId) {
            pool.push_free(id);
        }
        pool
    }

    /// Blocks that nobody references, cached or not.
    pub fn free_count(&self) -> usize {
        self.free.queue.len()
    }

    /// Blocks in all.
    pub fn capacity(&self) -> usize {
        self.blocks.len()
    }

    /// A block with this chained hash.
    pub fn lookup(&self, hash: u64) -> Option<BlockId> {
        self.cached.get(&hash).and_then(|cached| cached.copies.first().copied())
    }

    /// How many of these blocks are free, so that taking them makes the free queue shorter.
    pub fn count_free(&self, blocks: &[BlockId]) -> usize {
        blocks
            .iter()
            .filter(|id| self.blocks[id.0 as usize].ref_count == 0)
            .count()
    }

    /// References blocks found by [`lookup`](Self::lookup).
    pub fn touch(&mut self, blocks: &[BlockId]) {
        for id in blocks {
            let block = &mut self.blocks[id.0 as usize];
            block.ref_count += 1;
            if let Some(ticket) = block.ticket.take() {
                self.free.queue.remove(&ticket);
            }
        }
    }

    /// Takes `count` blocks from the head of the free queue, evicting what they held; `None`, and nothing taken, if
    /// there are fewer.
    pub fn allocate(&mut self, count: usize) -> Option<Vec<BlockId>> {
        if count > self.free_count() {
            return None;
        }
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let (_, id) = self.free.queue.pop_first()?;
            self.evict(id);
            let block = &mut self.blocks[id.0 as usize];
            block.ticket = None;
            block.ref_count = 1;
            taken.push(id);
        }
        Some(taken)
    }

    /// Makes full blocks findable and reports them. `ids` and the event's hashes and tokens run in parallel.
    pub fn store(&mut self, ids: &[BlockId], stored: BlockStored) {
        let mut parent = stored.parent_block_hash;
        let contents = stored.token_ids.chunks_exact(stored.block_size);
        for ((&id, &hash), token_ids) in ids.iter().zip(&stored.block_hashes).zip(contents) {
            self.blocks[id.0 as usize].hash = Some(hash);
            self.cached
                .entry(hash)
                .or_insert_with(|| Cached {
                    parent,
                    token_ids: token_ids.to_vec(),
                    copies: Vec::new(),
                })
                .copies
                .push(id);
            parent = Some(hash);
        }
        self.events.push(KvEvent::BlockStored(stored));
    }

    /// Gives up one reference to each block. Blocks that nobody references any more join the free queue in the order
    /// given: a sequence is freed from its tail, so that its tail is evicted first.
    pub fn free(&mut self, blocks: impl IntoIterator<Item = BlockId>) {
        for id in blocks {
            let block = &mut self.blocks[id.0 as usize];
            block.ref_count = block.ref_count.saturating_sub(1);
            if block.ref_count == 0 && block.ticket.is_none() {
                self.push_free(id);
            }
        }
    }

    /// Forgets all content and reports it. Refused (false) while any block is referenced.
    pub fn reset(&mut self) -> bool {
        if self.free_count() != self.capacity() {
            return false;
        }
        for block in &mut self.blocks {
            block.hash = None;
        }
        self.cached.clear();
        self.events.push(KvEvent::AllBlocksCleared);
        true
    }

    /// What happened since the last call, in order.
    pub fn take_events(&mut self) -> Vec<KvEvent> {
        std::mem::take(&mut self.events)
    }

    /// All cached blocks, ordered by hash.
    pub fn contents(&self) -> Vec<CachedBlock> {
        let mut blocks: Vec<_> = self
            .cached
            .iter()
            .map(|(&hash, cached)| CachedBlock {
                hash,
                parent: cached.parent,
                token_ids: cached.token_ids.clone(),
            })
            .collect();
        blocks.sort_unstable_by_key(|block| block.hash);
        blocks
    }

    fn push_free(&mut self, id: BlockId) {
        let ticket = self.free.next_ticket;
        self.free.next_ticket += 1;
        self.free.queue.insert(ticket, id);
        self.blocks[id.0 as usize].ticket = Some(ticket);
    }

    /// Reports a removal only when the last copy goes. (vLLM reports one for every copy, which tells a consumer that
    /// a block is gone while it can still be hit.)
    fn evict(&mut self, id: BlockId) {
        let Some(hash) = self.blocks[id.0 as usize].hash.take() else {
            return;
        };
        let Some(cached) = self.cached.get_mut(&hash) else {
            return;
        };
        cached.copies.retain(|&copy| copy != id);
        if cached.copies.is_empty() {
            self.cached.remove(&hash);
            self.events.push(KvEvent::BlockRemoved {
                block_hashes: vec![hash],
            });
        }
    }
}

/// Free blocks in eviction order: by ever-growing ticket, so that one can leave from the middle when it is hit.
#[derive(Debug, Default)]
struct FreeQueue {
    queue: BTreeMap<u64, BlockId>,
    next_ticket: u64,
}

#[cfg(test)]
mod tests;
