use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::test_support::Mirror;

const BLOCK_SIZE: usize = 2;

/// A run of blocks with these hashes; each block's tokens are made from its hash.
fn run(parent: Option<u64>, hashes: &[u64]) -> BlockStored {
    BlockStored {
        block_hashes: hashes.to_vec(),
        parent_block_hash: parent,
        token_ids: hashes.iter().flat_map(|&hash| tokens(hash)).collect(),
        block_size: BLOCK_SIZE,
        lora_id: None,
        lora_name: None,
        extra_keys: vec![None; hashes.len()],
    }
}

fn tokens(hash: u64) -> [u32; BLOCK_SIZE] {
    let hash = u32::try_from(hash).expect("small hash");
    [hash, hash + 1000]
}

fn cached(hash: u64, parent: Option<u64>) -> CachedBlock {
    CachedBlock {
        hash,
        parent,
        token_ids: tokens(hash).to_vec(),
    }
}

fn removed(hash: u64) -> KvEvent {
    KvEvent::BlockRemoved {
        block_hashes: vec![hash],
    }
}

/// Allocates and caches one chain from the root.
fn fill(pool: &mut BlockPool, hashes: &[u64]) -> Vec<BlockId> {
    let blocks = pool.allocate(hashes.len()).expect("free blocks");
    pool.store(&blocks, run(None, hashes));
    blocks
}

fn free_tail_first(pool: &mut BlockPool, blocks: Vec<BlockId>) {
    pool.free(blocks.into_iter().rev());
}

#[test]
fn evicts_the_tail_of_the_sequence_freed_first() {
    let mut pool = BlockPool::new(5);
    let first = fill(&mut pool, &[1, 2, 3]);
    let second = fill(&mut pool, &[4, 5]);
    free_tail_first(&mut pool, first);
    free_tail_first(&mut pool, second);
    pool.take_events();
    pool.allocate(4).expect("free blocks");
    assert_eq!(pool.take_events(), [removed(3), removed(2), removed(1), removed(5)]);
    assert_eq!(pool.contents(), [cached(4, None)]);
}

#[test]
fn never_used_blocks_go_before_cached_ones() {
    let mut pool = BlockPool::new(3);
    let blocks = fill(&mut pool, &[1]);
    free_tail_first(&mut pool, blocks);
    pool.take_events();
    pool.allocate(2).expect("free blocks");
    assert_eq!(pool.take_events(), []);
    pool.allocate(1).expect("free blocks");
    assert_eq!(pool.take_events(), [removed(1)]);
}

#[test]
fn a_hit_takes_a_block_out_of_the_queue_and_freeing_it_puts_it_last() {
    let mut pool = BlockPool::new(3);
    let blocks = fill(&mut pool, &[1, 2, 3]);
    free_tail_first(&mut pool, blocks);
    let hit = [pool.lookup(3).expect("cached")];
    assert_eq!(pool.count_free(&hit), 1);
    pool.touch(&hit);
    pool.touch(&hit);
    assert_eq!((pool.count_free(&hit), pool.free_count()), (0, 2));
    pool.free(hit);
    assert_eq!(pool.free_count(), 2, "still referenced once");
    pool.free(hit);
    pool.take_events();
    pool.allocate(3).expect("free blocks");
    assert_eq!(pool.take_events(), [removed(2), removed(1), removed(3)]);
}

#[test]
fn too_few_blocks_take_nothing() {
    let mut pool = BlockPool::new(2);
    let blocks = fill(&mut pool, &[1, 2]);
    free_tail_first(&mut pool, blocks);
    pool.take_events();
    assert_eq!(pool.allocate(3), None);
    assert_eq!(
        (pool.free_count(), pool.take_events(), pool.contents().len()),
        (2, vec![], 2)
    );
}

#[test]
fn a_removal_is_reported_when_the_last_copy_goes() {
    let mut pool = BlockPool::new(2);
    let first = fill(&mut pool, &[1]);
    let second = fill(&mut pool, &[1]);
    free_tail_first(&mut pool, first);
    free_tail_first(&mut pool, second);
    pool.take_events();
    pool.allocate(1).expect("free blocks");
    assert_eq!(pool.take_events(), []);
    assert_eq!(pool.contents(), [cached(1, None)]);
    pool.allocate(1).expect("free blocks");
    assert_eq!(pool.take_events(), [removed(1)]);
}

#[test]
fn reset_waits_for_every_reference() {
    let mut pool = BlockPool::new(2);
    let blocks = fill(&mut pool, &[1]);
    assert!(!pool.reset());
    free_tail_first(&mut pool, blocks);
    pool.take_events();
    assert!(pool.reset());
    assert_eq!(pool.take_events(), [KvEvent::AllBlocksCleared]);
    assert_eq!((pool.lookup(1), pool.contents()), (None, vec![]));
}

/// The same pool, done the slow and obvious way.
struct Naive {
    /// Reference count and content per block.
    blocks: Vec<(u32, Option<u64>)>,
    /// Free blocks, next to be taken first.
    queue: VecDeque<usize>,
    /// For each content, its blocks in the order they were cached.
    copies: HashMap<u64, Vec<usize>>,
}

impl Naive {
    fn new(capacity: usize) -> Self {
        Self {
            blocks: vec![(0, None); capacity],
            queue: (0..capacity).collect(),
            copies: HashMap::new(),
        }
    }

    fn allocate(&mut self, count: usize) -> Option<Vec<usize>> {
        if self.queue.len() < count {
            return None;
        }
        let taken: Vec<_> = self.queue.drain(..count).collect();
        for &id in &taken {
            if let Some(hash) = self.blocks[id].1.take() {
                self.copies.get_mut(&hash).expect("copies").retain(|&copy| copy != id);
            }
            self.blocks[id].0 = 1;
        }
        Some(taken)
    }

    fn lookup(&self, hash: u64) -> Option<usize> {
        self.copies.get(&hash)?.first().copied()
    }

    fn touch(&mut self, id: usize) {
        self.queue.retain(|&free| free != id);
        self.blocks[id].0 += 1;
    }

    fn free(&mut self, id: usize) {
        self.blocks[id].0 -= 1;
        if self.blocks[id].0 == 0 {
            self.queue.push_back(id);
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// Take blocks for a chain from the root: hits first, then new ones.
    Start { chain: u64, len: usize },
    /// Give up one of the sequences, tail first.
    Finish { which: usize },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0..4u64, 1..8usize).prop_map(|(chain, len)| Action::Start { chain, len }),
        (0..8usize).prop_map(|which| Action::Finish { which }),
    ]
}

proptest! {
    /// Chains share their first two blocks, so that sequences share, duplicate and evict each other's blocks.
    #[test]
    fn behaves_like_the_naive_pool(actions in prop::collection::vec(action(), 1..80)) {
        const CAPACITY: u32 = 12;
        let mut pool = BlockPool::new(CAPACITY);
        let mut naive = Naive::new(CAPACITY as usize);
        let mut mirror = Mirror::default();
        let mut sequences: Vec<Vec<BlockId>> = Vec::new();
        for action in actions {
            match action {
                Action::Start { chain, len } => {
                    let hashes: Vec<u64> = (0..len as u64).map(|i| if i < 2 { i } else { 10 * (chain + 1) + i }).collect();
                    // As the scheduler does: the last block is never a hit.
                    let hit: Vec<_> = hashes[..len - 1].iter().map_while(|&hash| pool.lookup(hash)).collect();
                    let naive_hit: Vec<_> =
                        hashes[..len - 1].iter().map_while(|&hash| naive.lookup(hash)).collect();
                    prop_assert_eq!(hit.iter().map(|id| id.0 as usize).collect::<Vec<_>>(), naive_hit.clone());
                    pool.touch(&hit);
                    naive_hit.iter().for_each(|&id| naive.touch(id));
                    let new = pool.allocate(len - hit.len());
                    let naive_new = naive.allocate(len - hit.len());
                    prop_assert_eq!(
                        new.as_ref().map(|ids| ids.iter().map(|id| id.0 as usize).collect::<Vec<_>>()),
                        naive_new.clone()
                    );
                    let first = hit.len();
                    let mut blocks = hit;
                    if let Some(new) = new {
                        let parent = first.checked_sub(1).map(|index| hashes[index]);
                        pool.store(&new, run(parent, &hashes[first..]));
                        for (&id, &hash) in naive_new.iter().flatten().zip(&hashes[first..]) {
                            naive.blocks[id].1 = Some(hash);
                            naive.copies.entry(hash).or_default().push(id);
                        }
                        blocks.extend(new);
                    }
                    sequences.push(blocks);
                }
                Action::Finish { which } => {
                    if which < sequences.len() {
                        let blocks = sequences.remove(which);
                        blocks.iter().rev().for_each(|id| naive.free(id.0 as usize));
                        free_tail_first(&mut pool, blocks);
                    }
                }
            }
            prop_assert_eq!(pool.free_count(), naive.queue.len());
            pool.take_events().iter().for_each(|event| mirror.apply(event));
            let contents = pool.contents();
            let shown = contents.iter().map(|block| (block.hash, (block.parent, block.token_ids.clone())));
            prop_assert_eq!(Mirror(shown.collect()), Mirror(std::mem::take(&mut mirror.0)));
            mirror.0 = contents.into_iter().map(|block| (block.hash, (block.parent, block.token_ids))).collect();
            let mut naive_hashes: Vec<_> =
                naive.copies.iter().filter(|(_, copies)| !copies.is_empty()).map(|(&hash, _)| hash).collect();
            naive_hashes.sort_unstable();
            prop_assert_eq!(mirror.0.keys().copied().collect::<Vec<_>>(), naive_hashes);
        }
    }
}
