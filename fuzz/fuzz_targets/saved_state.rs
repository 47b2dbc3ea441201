//! Files in which state outlives the process, up to the view.

#![no_main]

use control_plane::index::{Index, SavedBlocks};
use control_plane::state::Saved;
use fuzz::{View, index};
use libfuzzer_sys::fuzz_target;
use router_core::Slot;
use xxhash_rust::xxh3::xxh3_64;

const RANK: Slot = Slot(0);

fuzz_target!(|file: &[u8]| {
    // A forged file has the right checksum.
    let Some((content, _)) = file.split_last_chunk::<8>() else {
        return;
    };
    let file = [content, &xxh3_64(content).to_le_bytes()].concat();
    let Ok(saved) = Saved::from_bytes(&file) else { return };
    let written = saved.to_bytes().expect("it was read");
    assert_eq!(Saved::from_bytes(&written).ok().as_ref(), Some(&saved));
    for blocks in &saved.blocks {
        if let Some(restored) = restore(blocks) {
            let again = restored
                .save(RANK)
                .and_then(|blocks| restore(&blocks))
                .expect("they were so");
            assert_eq!(View::of(&again), View::of(&restored));
            assert_eq!(blocks_of(&again), blocks_of(&restored));
        }
    }
});

/// An index that has the blocks, if they can be.
fn restore(blocks: &SavedBlocks) -> Option<Index> {
    let (mut index, mut view, mut changes) = (index(), View::default(), Vec::new());
    index.restore(RANK, blocks).ok()?;
    // Nothing counts before it was found to be true.
    assert_eq!((index.save(RANK), View::of(&index)), (None, View::default()));
    index.reveal(RANK, &mut changes);
    view.change(&changes);
    assert_eq!(view, View::of(&index));
    Some(index)
}

fn blocks_of(index: &Index) -> Vec<control_plane::index::Block> {
    let (mut blocks, rest) = index.blocks(RANK, 0, u32::MAX);
    assert_eq!(rest, None);
    blocks.sort_unstable();
    blocks
}
