//! The local hashes of a store's blocks, whichever way the store tells what is in them.

use router_core::hash::{BlockHasher, BlockLayout, HashSeed, LocalHash};

use crate::events::{Content, Stored};

/// Whether the store cuts prompts as the pool does. Of content that is hashed already, only its size can be told.
pub(super) fn fits(stored: &Stored, layout: BlockLayout) -> bool {
    let same_windows = match &stored.content {
        Content::Tokens { bigrams, .. } => *bigrams == layout.eagle,
        Content::Hashed(_) => true,
    };
    stored.block_size == layout.block_size.get() && same_windows
}

/// The local hash of each block, as far as there is content. `layout` fits.
pub(super) fn locals(content: &Content, layout: BlockLayout, seed: HashSeed) -> impl Iterator<Item = LocalHash> {
    let (ids, media, hashed): (&[u32], &[Vec<u64>], &[LocalHash]) = match content {
        Content::Tokens { ids, media, .. } => (ids, media, &[]),
        Content::Hashed(hashed) => (&[], &[], hashed),
    };
    let mut hasher = BlockHasher::new(seed);
    let media = media.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
    let of_tokens = layout.blocks(ids).zip(media);
    let of_tokens = of_tokens.map(move |(tokens, media)| hasher.local(tokens, media));
    of_tokens.chain(hashed.iter().copied())
}
