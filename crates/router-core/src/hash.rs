//! Block identities, equal to those of Dynamo's KV router.
//!
//! Format: Dynamo 1.6.1, `lib/kv-router/src/protocols.rs` and `lib/kv-hashing/src/salt.rs`.
//!
//! - local hash: xxh3-64, seeded, over the block's token ids as u32 little-endian, then the block's multimodal
//!   hashes as u64 little-endian in ascending order;
//! - multimodal hash: of an identifier of 64 hexadecimal digits the first 16, of any other its xxh3-64 (seed 0);
//! - seed: 1337, plus xxh3-64 (seed 0) of a LoRA name, plus xxh3-64 (seed 1) of a cache namespace, wrapping;
//! - sequence hash: the first block's local hash, then xxh3-64 (seed 1337) over parent and local hash.

use alloc::vec::Vec;
use core::num::NonZeroU32;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const BASE_SEED: u64 = 1337;

/// Identity of one block's content, without what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalHash(pub u64);

/// Identity of one block and everything before it: what a KV cache can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceHash(pub u64);

/// The identity of an image or the like in block hashes, by the identifier that engines publish for it.
///
/// Of a digest the first 16 digits count: they are all there is where an identity of Dynamo is padded with zeros.
pub fn media_hash(identifier: &str) -> u64 {
    let digest = identifier.get(..16).filter(|_| is_media_digest(identifier));
    digest
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .unwrap_or_else(|| xxh3_64(identifier.as_bytes()))
}

/// Whether an identifier is the digest of a medium: 64 hexadecimal digits.
pub fn is_media_digest(identifier: &str) -> bool {
    identifier.len() == 64 && identifier.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Equal tokens, one after the other, that stand for an image or the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaRun {
    /// Its [`media_hash`].
    pub identity: u64,
    /// The token.
    pub token: u32,
    /// How many of it.
    pub count: usize,
}

/// A medium in a prompt that blocks are yet to be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    identity: u64,
    /// Its first token, counted from where the next block starts; 0 if before that.
    start: usize,
    /// The token after its last.
    end: usize,
}

/// What keeps equal tokens apart: the adapter and the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashSeed(u64);

impl HashSeed {
    /// Of no adapter and no tenant.
    pub const PLAIN: Self = Self(BASE_SEED);

    /// Empty names count as absent.
    pub fn new(lora: Option<&str>, cache_namespace: Option<&str>) -> Self {
        let lora = lora
            .filter(|name| !name.is_empty())
            .map_or(0, |name| xxh3_64(name.as_bytes()));
        let namespace = cache_namespace
            .filter(|name| !name.is_empty())
            .map_or(0, |name| xxh3_64_with_seed(name.as_bytes(), 1));
        Self(BASE_SEED.wrapping_add(lora).wrapping_add(namespace))
    }

    /// A seed that was taken apart by [`HashSeed::value`].
    pub fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The seed as xxh3 takes it.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// How a pool's workers cut a prompt into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLayout {
    /// Tokens per block.
    pub block_size: NonZeroU32,
    /// Eagle (bigram) workers: each block also hashes the first token of the next one.
    pub eagle: bool,
}

impl BlockLayout {
    /// Plain blocks of `block_size` tokens; `None` if it is 0.
    pub fn plain(block_size: u32) -> Option<Self> {
        Some(Self {
            block_size: NonZeroU32::new(block_size)?,
            eagle: false,
        })
    }

    /// Tokens per block as a length.
    pub fn tokens_per_block(self) -> usize {
        self.block_size.get() as usize
    }

    /// The tokens that each full block hashes, in order; a partial tail yields nothing.
    pub fn blocks<'t>(self, tokens: &'t [u32]) -> impl Iterator<Item = &'t [u32]> + use<'t> {
        tokens.windows(self.window()).step_by(self.tokens_per_block())
    }

    /// Tokens that a block hashes.
    fn window(self) -> usize {
        self.tokens_per_block().saturating_add(usize::from(self.eagle))
    }
}

/// Hashes blocks one after the other; holds the byte buffer that they share.
#[derive(Debug)]
pub struct BlockHasher {
    seed: HashSeed,
    bytes: Vec<u8>,
}

impl BlockHasher {
    /// A hasher for one adapter and namespace.
    pub fn new(seed: HashSeed) -> Self {
        Self {
            seed,
            bytes: Vec::new(),
        }
    }

    /// Local hash of one full block. `mm_hashes` are the block's multimodal identities in any order.
    pub fn local(&mut self, tokens: &[u32], mm_hashes: &[u64]) -> LocalHash {
        let mut sorted = mm_hashes.to_vec();
        sorted.sort_unstable();
        self.local_of_sorted(tokens, &sorted)
    }

    /// The same, of identities in ascending order.
    fn local_of_sorted(&mut self, tokens: &[u32], mm_hashes: &[u64]) -> LocalHash {
        self.bytes.clear();
        self.bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        self.bytes.extend(mm_hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        LocalHash(xxh3_64_with_seed(&self.bytes, self.seed.0))
    }
}

/// Sequence hash of a block from its parent's (`None` at the root) and its own content.
pub fn chain(parent: Option<SequenceHash>, local: LocalHash) -> SequenceHash {
    let Some(SequenceHash(parent)) = parent else {
        return SequenceHash(local.0);
    };
    let mut bytes = [0; 16];
    let (head, tail) = bytes.split_at_mut(8);
    head.copy_from_slice(&parent.to_le_bytes());
    tail.copy_from_slice(&local.0.to_le_bytes());
    SequenceHash(xxh3_64_with_seed(&bytes, BASE_SEED))
}

/// The blocks of one prompt, hashed as its tokens come.
#[derive(Debug)]
pub struct BlockChain {
    layout: BlockLayout,
    hasher: BlockHasher,
    /// The last full block.
    last: Option<SequenceHash>,
    /// Tokens that the next block starts with; fewer than it hashes.
    tail: Vec<u32>,
    /// Media that reach into the next block or beyond it.
    media: Vec<Reach>,
}

impl BlockChain {
    /// Before the first token.
    pub fn new(layout: BlockLayout, seed: HashSeed) -> Self {
        Self {
            layout,
            hasher: BlockHasher::new(seed),
            last: None,
            tail: Vec::new(),
            media: Vec::new(),
        }
    }

    /// Goes on by `tokens`, and appends the blocks that they complete to `blocks`.
    pub fn extend(&mut self, tokens: &[u32], blocks: &mut Vec<SequenceHash>) {
        let mut rest = tokens;
        if !self.tail.is_empty() {
            let missing = self.layout.window().saturating_sub(self.tail.len());
            let Some((head, _)) = tokens.split_at_checked(missing) else {
                self.tail.extend_from_slice(tokens);
                return;
            };
            let mut first = core::mem::take(&mut self.tail);
            first.extend_from_slice(head);
            self.push(&first, blocks);
            // What it hashes beyond its end belongs to the next one too.
            let beyond = self.layout.window().saturating_sub(self.layout.tokens_per_block());
            rest = tokens.get(missing.saturating_sub(beyond)..).unwrap_or_default();
            first.clear();
            self.tail = first;
        }
        let before = blocks.len();
        let layout = self.layout;
        layout.blocks(rest).for_each(|block| self.push(block, blocks));
        let hashed = blocks
            .len()
            .saturating_sub(before)
            .saturating_mul(layout.tokens_per_block());
        self.tail.extend_from_slice(rest.get(hashed..).unwrap_or_default());
    }

    /// Goes on by the tokens of a medium, which enters the blocks that they reach into.
    pub fn extend_by_medium(&mut self, run: MediaRun, blocks: &mut Vec<SequenceHash>) {
        const SOME: usize = 64;
        let start = self.tail.len();
        self.media.push(Reach {
            identity: run.identity,
            start,
            end: start.saturating_add(run.count),
        });
        let tokens = [run.token; SOME];
        let mut left = run.count;
        while let Some(some) = tokens.get(..left.min(SOME)).filter(|some| !some.is_empty()) {
            self.extend(some, blocks);
            left = left.saturating_sub(SOME);
        }
    }

    /// Goes on as [`BlockChain::extend`] and [`BlockChain::extend_by_medium`] did when they appended `blocks` and left
    /// `tail` and `media`.
    pub fn go_on(&mut self, blocks: &[SequenceHash], tail: &[u32], media: &[Reach]) {
        self.last = blocks.last().copied().or(self.last);
        self.tail.clear();
        self.tail.extend_from_slice(tail);
        self.media.clear();
        self.media.extend_from_slice(media);
    }

    /// Tokens that are in no full block yet. (Eagle workers' blocks are full once the first token after them is there.)
    pub fn tail(&self) -> &[u32] {
        &self.tail
    }

    /// Media that the next block will have in its hash, or blocks after it.
    pub fn media(&self) -> &[Reach] {
        &self.media
    }

    fn push(&mut self, block: &[u32], blocks: &mut Vec<SequenceHash>) {
        let identities = self.identities_of_next_block();
        let hash = chain(self.last, self.hasher.local_of_sorted(block, &identities));
        self.last = Some(hash);
        blocks.push(hash);
    }

    /// In ascending order. They are few, so the module is spared another sort.
    fn identities_of_next_block(&mut self) -> Vec<u64> {
        let size = self.layout.tokens_per_block();
        let mut identities = Vec::new();
        for reach in self.media.iter().filter(|reach| reach.start < size) {
            let place = identities.partition_point(|identity| *identity < reach.identity);
            identities.insert(place, reach.identity);
        }
        for reach in &mut self.media {
            reach.start = reach.start.saturating_sub(size);
            reach.end = reach.end.saturating_sub(size);
        }
        self.media.retain(|reach| reach.end > 0);
        identities
    }
}

/// Local hashes of every full block of a prompt without multimodal parts.
pub fn local_hashes(tokens: &[u32], layout: BlockLayout, seed: HashSeed) -> Vec<LocalHash> {
    let mut hasher = BlockHasher::new(seed);
    layout
        .blocks(tokens)
        .map(|block| hasher.local_of_sorted(block, &[]))
        .collect()
}

/// Sequence hashes of consecutive blocks that start at the root.
pub fn sequence_hashes(locals: impl IntoIterator<Item = LocalHash>) -> Vec<SequenceHash> {
    let chained = locals.into_iter().scan(None, |parent, local| {
        let hash = chain(*parent, local);
        *parent = Some(hash);
        Some(hash)
    });
    chained.collect()
}
