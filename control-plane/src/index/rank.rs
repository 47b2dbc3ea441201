//! What one rank holds.
//!
//! Memory: 40 bytes a block, plus 5 bytes in each of two tables at a load of 44 to 88 %: 51 to 63 bytes.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use router_core::hash::{BlockLayout, HashSeed, SequenceHash, chain};
use router_core::levels::Level;

use super::arena::Arena;
use super::content::locals;
use super::names::Names;
use super::node::{MAX_DEPTH, NONE, Node, ROOT, Reach, Tiers};
use super::seeds::Seeds;
use super::window::{Grid, Window};
use super::{Block, Change, Tally};
use crate::events::{EngineHash, Stored, Tier};

#[derive(Debug)]
pub(super) struct RankIndex {
    pub(super) window: Window,
    /// [`ROOT`] first.
    pub(super) nodes: Arena,
    by_hash: HashTable<u32>,
    pub(super) names: Names,
    pub(super) seeds: Seeds,
    /// Blocks that are reachable, by level.
    reachable: [usize; Level::ALL.len()],
    hasher: DefaultHashBuilder,
    /// Everything is to go, and part of it is gone.
    draining: bool,
    /// Kept from call to call for its memory.
    pending: Vec<u32>,
}

impl RankIndex {
    pub(super) fn new(window: Window) -> Self {
        let mut seeds = Seeds::default();
        let seed = seeds.acquire(HashSeed::new(None, None));
        let mut root = Node::new(SequenceHash(0), NONE, 0, seed, u8::MAX);
        root.set_tiers(Tiers::ALL);
        root.set_reach(Reach::EVERYWHERE);
        Self {
            window,
            nodes: Arena::new(root),
            by_hash: HashTable::new(),
            names: Names::default(),
            seeds,
            reachable: [0; Level::ALL.len()],
            hasher: DefaultHashBuilder::default(),
            draining: false,
            pending: Vec::new(),
        }
    }

    /// What it takes memory for: blocks, and names beyond one for each.
    pub(super) fn len(&self) -> usize {
        self.by_hash.len() + self.names.surplus()
    }

    /// Blocks that are reachable at `level`.
    pub(super) fn reachable(&self, level: Level) -> usize {
        self.reachable[level as usize]
    }

    /// What the view has of it.
    pub(super) fn shown(&self) -> impl Iterator<Item = (router_core::Slot, impl Iterator<Item = (u32, SequenceHash)>)> {
        self.window.shown(self.by_hash.iter().map(|&at| &self.nodes[at]))
    }

    /// Adds to `counts` under how many slots blocks of each generation would be shown if they were young enough.
    pub(super) fn count_by_generation(&self, counts: &mut [u64; 256]) {
        let nodes = self.by_hash.iter().map(|&at| &self.nodes[at]);
        for node in nodes.filter(|node| self.window.grid.is_on(node.depth())) {
            let slots = &self.window.slots[node.reach().index()..];
            counts[usize::from(node.stored)] += slots.iter().flatten().count() as u64;
        }
    }

    /// Makes `generation` what is stored from now on.
    pub(super) fn set_generation(&mut self, generation: u8) {
        self.window.generation = generation;
    }

    /// Makes all generations older by so many, to make room for more. The oldest become one, or two if some of them are
    /// shown and some are not.
    pub(super) fn make_older(&mut self, by: u8) {
        let old = self.window.grid.since;
        let new = self.window.grid.since_before(by);
        for node in self.nodes.iter_mut() {
            let older = node.stored.saturating_sub(by);
            node.stored = if node.stored >= old {
                older.max(new)
            } else {
                older.min(new - 1)
            };
        }
        self.window.grid.since = new;
    }

    /// Rows of up to `count` nodes from number `from` on, and the number to go on from.
    pub(super) fn blocks(&self, from: u32, count: u32) -> (Vec<Block>, Option<u32>) {
        let total = self.nodes.end();
        let (from, end) = (from.max(ROOT + 1), from.saturating_add(count).min(total));
        let mut rows = Vec::new();
        for at in from..end {
            let node = &self.nodes[at];
            let visible = self.window.shows(node);
            let parent = (node.parent != ROOT).then(|| self.nodes[node.parent].hash);
            for (engine, tiers) in self.names.of(&self.nodes, at) {
                rows.extend(tiers.iter().map(|tier| Block {
                    hash: node.hash,
                    parent,
                    engine,
                    tier,
                    depth: node.depth(),
                    visible,
                }));
            }
        }
        (rows, (end < total).then_some(end))
    }

    /// Takes what `layout` fits, at most `room` new blocks.
    pub(super) fn store(
        &mut self,
        stored: &Stored,
        layout: BlockLayout,
        room: usize,
        changes: &mut Vec<Change>,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut left = stored.blocks.len() as u64;
        let limit = self.len().saturating_add(room);
        let (mut parent, seed) = match stored.parent {
            None => (ROOT, HashSeed::new(stored.lora.as_deref(), stored.namespace.as_deref())),
            Some(name) => match self.names.find(&self.nodes, name) {
                Some(at) => (at, self.seeds.get(self.nodes[at].seed())),
                None => {
                    tally.unknown_parent = left;
                    return tally;
                }
            },
        };
        let mut locals = locals(&stored.content, layout, seed);
        for &name in &stored.blocks {
            let Some(local) = locals.next() else {
                tally.missing_tokens = left;
                break;
            };
            let parent_hash = (parent != ROOT).then(|| self.nodes[parent].hash);
            let hash = chain(parent_hash, local);
            // A name that stands for another block by now: the engine took that one out before.
            let named = self.names.find(&self.nodes, name);
            if let Some(at) = named.filter(|&at| self.nodes[at].hash != hash) {
                self.release(name, at, Tiers::ALL, changes);
                if self.nodes[parent].tiers().is_empty() {
                    tally.unknown_parent = left;
                    break;
                }
            }
            let known = self.find(hash);
            let is_held = |at: u32| !self.nodes[at].tiers().is_empty();
            let takes_memory = known.is_none_or(|at| is_held(at) && known != named);
            let is_full = self.nodes[parent].depth() == MAX_DEPTH || self.seeds.lacks_room(seed);
            if takes_memory && self.len() >= limit || is_full {
                tally.over_limit = left;
                break;
            }
            self.renew(known.unwrap_or(parent), changes);
            let at = known.unwrap_or_else(|| self.add_node(hash, parent, seed));
            self.names.add(&mut self.nodes, at, name, stored.tier.into());
            self.refresh(at, changes);
            parent = at;
            tally.stored += 1;
            left -= 1;
        }
        tally
    }

    /// Says that blocks which are known by name are on one more tier.
    pub(super) fn copy(&mut self, names: &[EngineHash], tier: Tier, changes: &mut Vec<Change>) -> Tally {
        let mut tally = Tally::default();
        for &name in names {
            match self.names.find(&self.nodes, name) {
                Some(at) => {
                    self.names.add(&mut self.nodes, at, name, tier.into());
                    self.refresh(at, changes);
                    tally.stored += 1;
                }
                None => tally.missing_tokens += 1,
            }
        }
        tally
    }

    pub(super) fn remove(&mut self, names: &[EngineHash], tier: Tier, changes: &mut Vec<Change>) -> Tally {
        let mut tally = Tally::default();
        for &name in names {
            let at = self.names.find(&self.nodes, name);
            match at.is_some_and(|at| self.release(name, at, tier.into(), changes)) {
                true => tally.removed += 1,
                false => tally.unknown_removed += 1,
            }
        }
        tally
    }

    /// Says that everything is gone; [`RankIndex::drain`] does it.
    pub(super) fn clear(&mut self) -> Tally {
        let removed = match self.draining {
            true => 0,
            false => self.names.len() as u64,
        };
        self.draining = true;
        Tally {
            removed,
            ..Tally::default()
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Takes up to `count` blocks of a cleared rank out of the view, children first. When none is left, the memory is
    /// given back.
    pub(super) fn drain(&mut self, count: usize, changes: &mut Vec<Change>) {
        let mut at = ROOT;
        let mut done = 0;
        while self.draining {
            let node = self.nodes[at];
            if node.first_child != NONE {
                at = node.first_child;
            } else if at == ROOT {
                *self = Self::new(Window {
                    closed: false,
                    ..self.window
                });
            } else if done == count {
                return;
            } else {
                self.set_reach(at, Reach::NOWHERE, changes);
                self.nodes[node.parent].first_child = node.next_sibling;
                at = node.parent;
                done += 1;
            }
        }
    }

    /// Shows as much as the grid says from now on.
    pub(super) fn set_grid(&mut self, grid: Grid, changes: &mut Vec<Change>) {
        let mut affected: Vec<&Node> = self.by_hash.iter().map(|&at| &self.nodes[at]).collect();
        let (before, after) = (self.window, Window { grid, ..self.window });
        let shows = |grid: Grid, node: &Node| grid.shows(node.depth(), node.stored);
        let leaves = |node: &Node| shows(before.grid, node) && !shows(grid, node);
        let enters = |node: &Node| !shows(before.grid, node) && shows(grid, node);
        affected.retain(|node| leaves(node) || enters(node));
        affected.sort_unstable_by_key(|node| node.depth());
        for node in affected.iter().rev().filter(|node| leaves(node)) {
            before.change(node, node.reach(), Reach::NOWHERE, changes);
        }
        for node in affected.iter().filter(|node| enters(node)) {
            after.change(node, Reach::NOWHERE, node.reach(), changes);
        }
        self.window = after;
    }

    /// Says that `name`, which stands for the block at `at`, is gone from `tiers`. False if it was not there.
    fn release(&mut self, name: EngineHash, at: u32, tiers: Tiers, changes: &mut Vec<Change>) -> bool {
        let was_there = self.names.remove(&mut self.nodes, at, name, tiers);
        self.refresh(at, changes);
        self.prune(at);
        was_there
    }

    /// Makes the block at `at` and all before it young. Parents appear before their children.
    fn renew(&mut self, mut at: u32, changes: &mut Vec<Change>) {
        let Window { grid, generation, .. } = self.window;
        let mut older = std::mem::take(&mut self.pending);
        while at != ROOT && self.nodes[at].stored != generation {
            older.push(at);
            at = self.nodes[at].parent;
        }
        while let Some(at) = older.pop() {
            let node = &mut self.nodes[at];
            let was_shown = grid.shows(node.depth(), node.stored);
            node.stored = generation;
            if !was_shown {
                self.window.change(node, Reach::NOWHERE, node.reach(), changes);
            }
        }
        self.pending = older;
    }

    /// Brings the reach of the block at `at` and of all below it up to date. Parents appear before their children and go
    /// after them.
    pub(super) fn refresh(&mut self, at: u32, changes: &mut Vec<Change>) {
        let first = changes.len();
        let mut pending = std::mem::take(&mut self.pending);
        pending.push(at);
        let mut hides = false;
        while let Some(at) = pending.pop() {
            let node = &self.nodes[at];
            let reach = node.tiers().level().max(self.nodes[node.parent].reach());
            if reach == node.reach() {
                continue;
            }
            hides |= reach > node.reach();
            let mut child = node.first_child;
            self.set_reach(at, reach, changes);
            while child != NONE {
                pending.push(child);
                child = self.nodes[child].next_sibling;
            }
        }
        self.pending = pending;
        if hides {
            changes[first..].reverse();
        }
    }

    fn set_reach(&mut self, at: u32, to: Reach, changes: &mut Vec<Change>) {
        let node = &mut self.nodes[at];
        let from = node.reach();
        node.set_reach(to);
        self.window.change(node, from, to, changes);
        for level in Level::ALL {
            let count = &mut self.reachable[level as usize];
            *count = *count + usize::from(to.is_at(level)) - usize::from(from.is_at(level));
        }
    }

    pub(super) fn add_node(&mut self, hash: SequenceHash, parent: u32, seed: HashSeed) -> u32 {
        let above = self.nodes[parent];
        let seed = match parent {
            ROOT => self.seeds.acquire(seed),
            _ => {
                self.seeds.share(above.seed());
                above.seed()
            }
        };
        let mut node = Node::new(hash, parent, above.depth() + 1, seed, self.window.generation);
        node.next_sibling = above.first_child;
        let at = self.nodes.add(node);
        if node.next_sibling != NONE {
            self.nodes[node.next_sibling].previous_sibling = at;
        }
        self.nodes[parent].first_child = at;
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let key = |at: u32| hasher.hash_one(nodes[at].hash);
        self.by_hash.insert_unique(key(at), at, |&at| key(at));
        at
    }

    /// Frees the node at `at` and the nodes above it, as far as they are neither held nor needed below.
    fn prune(&mut self, mut at: u32) {
        loop {
            let node = self.nodes[at];
            if !node.tiers().is_empty() || node.first_child != NONE {
                return;
            }
            if node.next_sibling != NONE {
                self.nodes[node.next_sibling].previous_sibling = node.previous_sibling;
            }
            match node.previous_sibling {
                NONE => self.nodes[node.parent].first_child = node.next_sibling,
                previous => self.nodes[previous].next_sibling = node.next_sibling,
            }
            let key = self.hasher.hash_one(node.hash);
            if let Ok(entry) = self.by_hash.find_entry(key, |&other| other == at) {
                entry.remove();
            }
            self.seeds.release(node.seed());
            self.nodes.free(at);
            at = node.parent;
        }
    }

    pub(super) fn find(&self, hash: SequenceHash) -> Option<u32> {
        let key = self.hasher.hash_one(hash);
        self.by_hash.find(key, |&at| self.nodes[at].hash == hash).copied()
    }
}
