//! The control plane's part, as its pool task has it: the index and the publisher of its changes.

use anyhow::{Context, Result};
use control_plane::events::{Content, EngineHash, Event, Stored, Tier};
use control_plane::index::{Change, Index, Shape};
use control_plane::sync::publisher::Publisher;
use control_plane::sync::snapshot::Snapshot;
use kv_trace::BLOCK_SIZE;
use router_core::Slot;
use router_core::hash::BlockLayout;
use router_core::replica::Delta;

/// Numbering of slots; any will do.
pub(crate) const EPOCH: u64 = 1;

/// A pool's index and what is to be told of it.
pub(crate) struct Ours {
    index: Index,
    publisher: Publisher,
    pending: Vec<Change>,
}

/// How a pool of traces' workers cuts prompts.
pub(crate) fn layout() -> Result<BlockLayout> {
    BlockLayout::plain(BLOCK_SIZE as u32).context("a block size")
}

impl Ours {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            index: Index::new(Shape::plain(layout()?)),
            publisher: Publisher::new(EPOCH),
            pending: Vec::new(),
        })
    }

    /// Changes that are not published.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn apply(&mut self, worker: u16, event: &Event) {
        self.index.apply(Slot(worker), event, &mut self.pending);
    }

    pub(crate) fn publish(&mut self) -> Vec<Delta> {
        let deltas = self.publisher.publish(&self.pending);
        self.pending.clear();
        deltas
    }

    /// What a filter gets that has nothing yet; `blocks`: how many different ones are in it.
    pub(crate) fn snapshot(&self, pool: &str, blocks: usize) -> Snapshot {
        let (position, checksum) = (self.publisher.position(), self.publisher.checksum());
        Snapshot::new(pool, position, blocks, checksum, self.index.holdings())
    }
}

/// As the decoders make it of an engine's message.
pub(crate) fn event(event: kv_trace::Event) -> (u16, Event) {
    let hashes = |blocks: Vec<kv_trace::BlockHash>| blocks.into_iter().map(|block| EngineHash(block.0)).collect();
    let change = match event.change {
        kv_trace::Change::Stored { parent, blocks, tokens } => Event::Stored(Stored {
            parent: parent.map(|parent| EngineHash(parent.0)),
            blocks: hashes(blocks),
            content: Content::text(tokens),
            block_size: BLOCK_SIZE as u32,
            ..Stored::default()
        }),
        kv_trace::Change::Removed(blocks) => Event::Removed {
            tier: Tier::Device,
            blocks: hashes(blocks),
        },
    };
    (event.worker, change)
}
