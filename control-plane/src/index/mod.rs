//! What every rank of one pool holds on every tier, exactly: pure, and written by one task only.
//!
//! A rank's holdings form a forest; the prefix view gets the blocks that are reachable from a root, level by level
//! ([`router_core::levels`]). So removing a block in the middle hides what stands below it, and storing it again shows that again,
//! without a token in between.
//!
//! What is stored is counted in generations, so that a view with too little room for all shows what is young.
//!
//! A rank that is cleared is taken out of the view piece by piece ([`Index::drain`]), as it may hold millions of blocks
//! and other ranks wait.

mod arena;
mod content;
mod names;
mod node;
mod rank;
mod saved;
mod seeds;
mod window;

use router_core::Slot;
use router_core::hash::{BlockLayout, SequenceHash};
use router_core::levels::{Level, Levels};

use crate::events::{Content, EngineHash, Event, Stored, Tier};
use rank::RankIndex;
pub use saved::{NotBlocks, SavedBlocks};
pub use window::Grid;
use window::Window;

/// One change of the prefix view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose block.
    pub slot: Slot,
    /// Which.
    pub hash: SequenceHash,
    /// Whether it appeared; it is gone otherwise.
    pub stored: bool,
}

/// How an event was taken, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stored, known ones again included.
    pub stored: u64,
    /// Removed.
    pub removed: u64,
    /// Not stored, as what stands before them is not known.
    pub unknown_parent: u64,
    /// Not stored, as their block size or layout is not the pool's.
    pub wrong_block_size: u64,
    /// Not stored, as the event has too few tokens.
    pub missing_tokens: u64,
    /// Not stored, as the rank or the pool holds as many as it may.
    pub over_limit: u64,
    /// Stored on a tier that the view does not show.
    pub unshown_tier: u64,
    /// Removals of blocks that were not known.
    pub unknown_removed: u64,
}

/// A block on one tier, under one of the engine's names for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// Itself and all before it.
    pub hash: SequenceHash,
    /// The block before it; `None`: it is the first of its sequence.
    pub parent: Option<SequenceHash>,
    /// The engine's name for it.
    pub engine: EngineHash,
    /// Where it is.
    pub tier: Tier,
    /// How many blocks its sequence has up to it, itself included.
    pub depth: u32,
    /// Whether it is in the view, on any level.
    pub visible: bool,
}

/// How a pool's index is made.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How its workers cut prompts.
    pub layout: BlockLayout,
    /// The levels of its view.
    pub levels: Levels,
    /// What the view shows of them.
    pub grid: Grid,
    /// Blocks that are stored until another generation begins.
    pub generation_blocks: usize,
    /// Blocks that one rank may have.
    pub max_rank_blocks: usize,
    /// Blocks that all ranks together may have.
    pub max_pool_blocks: usize,
}

impl Shape {
    /// A view of the device tier, all of it, without bounds.
    pub fn plain(layout: BlockLayout) -> Self {
        Self {
            layout,
            levels: Levels::default(),
            grid: Grid::default(),
            generation_blocks: usize::MAX,
            max_rank_blocks: usize::MAX,
            max_pool_blocks: usize::MAX,
        }
    }
}

/// See the module. Ranks are named by their number in the pool, which is not their slot in the view if that has several
/// levels ([`Levels::first_slot`]).
#[derive(Debug)]
pub struct Index {
    shape: Shape,
    ranks: Vec<RankIndex>,
    /// What they have in all.
    blocks: usize,
    /// Ranks, from the first on, that show what `shape.grid` says.
    regridded: usize,
    generation: u8,
    /// Blocks that were stored in it.
    stored: usize,
}

impl Index {
    /// An empty index.
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            ranks: Vec::new(),
            blocks: 0,
            regridded: 0,
            generation: 0,
            stored: 0,
        }
    }

    /// Takes one event of one rank. Appends the changes of the view, in an order in which the view is prefix-closed
    /// after each of them. After [`Event::Cleared`], see [`Index::drain`].
    pub fn apply(&mut self, rank: Slot, event: &Event, changes: &mut Vec<Change>) -> Tally {
        let shape = self.shape;
        if self.rank_mut(rank).is_draining() {
            self.drain(rank, usize::MAX, changes);
        }
        let room = self.room(rank);
        let others = self.blocks - self.rank_mut(rank).len();
        let index = self.rank_mut(rank);
        let mut tally = match event {
            Event::Stored(stored) if is_copy(stored) => index.copy(&stored.blocks, stored.tier, changes),
            Event::Stored(stored) if !content::fits(stored, shape.layout) => Tally {
                wrong_block_size: stored.blocks.len() as u64,
                ..Tally::default()
            },
            Event::Stored(stored) => index.store(stored, shape.layout, room, changes),
            Event::Removed { tier, blocks } => index.remove(blocks, *tier, changes),
            Event::Cleared => index.clear(),
        };
        if let Event::Stored(stored) = event
            && !shape.levels.has(level_of(stored.tier))
        {
            tally.unshown_tier = tally.stored;
        }
        self.blocks = others + self.rank_mut(rank).len();
        self.grow_older(tally.stored as usize);
        tally
    }

    /// Drops all that one rank holds; see [`Index::drain`].
    pub fn clear(&mut self, rank: Slot) {
        self.rank_mut(rank).clear();
    }

    /// Takes up to `count` blocks of a cleared rank out of the view. True when none is left, and the memory is given
    /// back. Any other event of the rank needs that, and does it at once if it has to.
    pub fn drain(&mut self, rank: Slot, count: usize, changes: &mut Vec<Change>) -> bool {
        let others = self.blocks - self.rank_mut(rank).len();
        let index = self.rank_mut(rank);
        index.drain(count, changes);
        let done = !index.is_draining();
        self.blocks = others + self.rank_mut(rank).len();
        done
    }

    /// Changes what the view shows; see [`Index::regrid`].
    pub fn set_grid(&mut self, grid: Grid) {
        self.shape.grid = grid;
        self.regridded = 0;
    }

    /// Shows nothing older than of generation `since`; see [`Index::set_grid`].
    pub fn show_since(&mut self, since: u8) {
        self.set_grid(Grid {
            since,
            ..self.shape.grid
        });
    }

    /// Shows of one more rank what [`Index::set_grid`] said. Takes time in proportion to what it holds. True when all of them
    /// are done.
    pub fn regrid(&mut self, changes: &mut Vec<Change>) -> bool {
        if let Some(rank) = self.ranks.get_mut(self.regridded) {
            rank.set_grid(self.shape.grid, changes);
            self.regridded += 1;
        }
        self.is_regridded()
    }

    /// Whether all ranks show what [`Index::set_grid`] said.
    pub fn is_regridded(&self) -> bool {
        self.regridded >= self.ranks.len()
    }

    /// The oldest generation that is shown.
    pub fn since(&self) -> u8 {
        self.shape.grid.since
    }

    /// How many (slot, block) pairs of each generation would be shown if they were young enough. Takes time in proportion
    /// to what all ranks hold.
    pub fn reachable_by_generation(&self) -> [u64; 256] {
        let mut counts = [0; 256];
        for rank in &self.ranks {
            rank.count_by_generation(&mut counts);
        }
        counts
    }

    /// Blocks of one rank that are reachable at a level.
    pub fn reachable(&self, rank: Slot, level: Level) -> usize {
        self.rank(rank).map_or(0, |index| index.reachable(level))
    }

    /// What one rank holds, `count` blocks or so at a time: from `from` on (0 first), and where to go on. Every block is
    /// told that is held all the while; of those that come or go meanwhile, some.
    pub fn blocks(&self, rank: Slot, from: u32, count: u32) -> (Vec<Block>, Option<u32>) {
        self.rank(rank)
            .map_or((Vec::new(), None), |index| index.blocks(from, count))
    }

    /// Blocks that memory is taken for, of all ranks.
    pub fn len(&self) -> usize {
        self.blocks
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// The view as it is: depth and hash of the blocks of every slot.
    pub fn holdings(&self) -> impl Iterator<Item = (Slot, impl Iterator<Item = (u32, SequenceHash)>)> {
        self.ranks.iter().flat_map(RankIndex::shown)
    }

    /// How many more blocks a rank may have.
    fn room(&mut self, rank: Slot) -> usize {
        let own = self.rank_mut(rank).len();
        let of_rank = self.shape.max_rank_blocks.saturating_sub(own);
        of_rank.min(self.shape.max_pool_blocks.saturating_sub(self.blocks))
    }

    /// So many more blocks were stored.
    fn grow_older(&mut self, stored: usize) {
        self.stored += stored;
        if self.stored < self.shape.generation_blocks {
            return;
        }
        self.stored = 0;
        self.generation += 1;
        if self.generation == u8::MAX {
            const HALF: u8 = u8::MAX / 2;
            self.ranks.iter_mut().for_each(|rank| rank.make_older(HALF));
            self.shape.grid.since = self.shape.grid.since_before(HALF);
            self.generation -= HALF;
        }
        for rank in &mut self.ranks {
            rank.set_generation(self.generation);
        }
    }

    fn replace(&mut self, rank: Slot, by: RankIndex) {
        let index = self.rank_mut(rank);
        let before = std::mem::replace(index, by).len();
        self.blocks = self.blocks - before + self.rank_mut(rank).len();
    }

    fn rank(&self, rank: Slot) -> Option<&RankIndex> {
        self.ranks.get(usize::from(rank.0))
    }

    fn rank_mut(&mut self, rank: Slot) -> &mut RankIndex {
        let index = usize::from(rank.0);
        while self.ranks.len() <= index {
            let next = u16::try_from(self.ranks.len()).unwrap_or(u16::MAX);
            self.ranks.push(RankIndex::new(Window {
                slots: {
                    let levels = self.shape.levels;
                    Level::ALL.map(|level| levels.slot(levels.first_slot(next), level))
                },
                grid: self.shape.grid,
                closed: false,
                generation: self.generation,
            }));
        }
        &mut self.ranks[index]
    }
}

/// The first level that has this tier's blocks.
fn level_of(tier: Tier) -> Level {
    match tier {
        Tier::Device => Level::Device,
        Tier::HostPinned => Level::Host,
        Tier::Disk | Tier::External => Level::Disk,
    }
}

/// Whether a store says only where blocks are that are known by name: so vLLM's offloading tells of the host's copies.
fn is_copy(stored: &Stored) -> bool {
    let says_nothing = match &stored.content {
        Content::Tokens { ids, .. } => ids.is_empty(),
        Content::Hashed(hashes) => hashes.is_empty(),
    };
    stored.tier != Tier::Device && says_nothing
}

#[cfg(test)]
mod tests;
