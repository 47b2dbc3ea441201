//! What one rank holds.
//!
//! Memory: 40 bytes a block, plus 5 bytes in each of two tables at a load of 44 to 88 %: 51 to 63 bytes.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable, hash_table::Entry};
use router_core::Slot;
use router_core::hash::{BlockLayout, HashSeed, SequenceHash, chain};

use super::content::locals;
use super::seeds::{SeedId, Seeds};
use super::{Change, Tally};
use crate::events::{EngineHash, Stored};

/// Stands for "no node" in links.
const NONE: u32 = u32::MAX;

/// A block of the forest. A node without an engine hash is no longer held, but blocks below it are.
#[derive(Clone, Copy, Debug)]
struct Node {
    hash: SequenceHash,
    /// Meaningful while `is_held`.
    engine: EngineHash,
    parent: u32,
    first_child: u32,
    next_sibling: u32,
    previous_sibling: u32,
    seed: SeedId,
    is_held: bool,
    is_visible: bool,
    /// Whether further engine hashes stand for this block, in `SlotIndex::further`.
    has_further: bool,
}

#[derive(Debug)]
pub(super) struct SlotIndex {
    slot: Slot,
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_hash: HashTable<u32>,
    by_engine: HashTable<u32>,
    /// Engine hashes of blocks that have several: engines that tell blocks apart by what does not enter our hash.
    further: HashMap<EngineHash, u32, DefaultHashBuilder>,
    seeds: Seeds,
    visible: usize,
    hasher: DefaultHashBuilder,
}

impl SlotIndex {
    pub(super) fn new(slot: Slot) -> Self {
        Self {
            slot,
            nodes: Vec::new(),
            free: Vec::new(),
            by_hash: HashTable::new(),
            by_engine: HashTable::new(),
            further: HashMap::default(),
            seeds: Seeds::default(),
            visible: 0,
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    pub(super) fn visible(&self) -> usize {
        self.visible
    }

    pub(super) fn visible_hashes(&self) -> impl Iterator<Item = SequenceHash> {
        self.by_hash
            .iter()
            .map(|&at| self.nodes[at as usize])
            .filter(|node| node.is_visible)
            .map(|node| node.hash)
    }

    /// Takes what `layout` fits.
    pub(super) fn store(&mut self, stored: &Stored, layout: BlockLayout, changes: &mut Vec<Change>) -> Tally {
        let mut tally = Tally::default();
        let mut left = stored.blocks.len() as u64;
        let (mut parent, seed) = match stored.parent {
            None => (NONE, HashSeed::new(stored.lora.as_deref(), stored.namespace.as_deref())),
            Some(engine) => match self.find_engine(engine) {
                Some(at) => (at, self.seeds.get(self.nodes[at as usize].seed)),
                None => {
                    return Tally {
                        unknown_parent: left,
                        ..tally
                    };
                }
            },
        };
        let mut locals = locals(&stored.content, layout, seed);
        for &engine in &stored.blocks {
            let Some(local) = locals.next() else {
                tally.missing_tokens = left;
                break;
            };
            let parent_hash = (parent != NONE).then(|| self.nodes[parent as usize].hash);
            let hash = chain(parent_hash, local);
            // An engine hash that stands for another block by now: the engine took that one out before.
            match self.find_engine(engine) {
                Some(at) if self.nodes[at as usize].hash != hash => {
                    self.release(engine, at, changes);
                    if parent != NONE && !self.nodes.get(parent as usize).is_some_and(|node| node.is_held) {
                        tally.unknown_parent = left;
                        break;
                    }
                }
                _ => {}
            }
            parent = self.hold(engine, hash, parent, seed, changes);
            tally.stored += 1;
            left -= 1;
        }
        tally
    }

    pub(super) fn remove(&mut self, blocks: &[EngineHash], changes: &mut Vec<Change>) -> Tally {
        let mut tally = Tally::default();
        for &engine in blocks {
            match self.find_engine(engine) {
                Some(at) => {
                    self.release(engine, at, changes);
                    tally.removed += 1;
                }
                None => tally.unknown_removed += 1,
            }
        }
        tally
    }

    pub(super) fn clear(&mut self, changes: &mut Vec<Change>) -> Tally {
        let held = self.by_engine.len() + self.further.len();
        let roots: Vec<u32> = self
            .by_hash
            .iter()
            .copied()
            .filter(|&at| self.nodes[at as usize].parent == NONE)
            .collect();
        for root in roots {
            self.hide(root, changes);
        }
        *self = Self::new(self.slot);
        Tally {
            removed: held as u64,
            ..Tally::default()
        }
    }

    /// Says that `engine` stands for the block `hash` below `parent`. Returns its node.
    fn hold(
        &mut self,
        engine: EngineHash,
        hash: SequenceHash,
        parent: u32,
        seed: HashSeed,
        changes: &mut Vec<Change>,
    ) -> u32 {
        let at = match self.find_hash(hash) {
            Some(at) => at,
            None => self.add_node(hash, parent, seed),
        };
        let node = &mut self.nodes[at as usize];
        if node.is_held {
            if node.engine != engine {
                node.has_further = true;
                self.further.insert(engine, at);
            }
            return at;
        }
        node.is_held = true;
        node.engine = engine;
        self.name_by_engine(at);
        let parent = self.nodes[at as usize].parent;
        if parent == NONE || self.nodes[parent as usize].is_visible {
            self.show(at, changes);
        }
        at
    }

    /// Says that `engine`, which stands for the block at `at`, is gone.
    fn release(&mut self, engine: EngineHash, at: u32, changes: &mut Vec<Change>) {
        if self.further.remove(&engine).is_some() {
            return;
        }
        self.unname_by_engine(engine);
        if self.nodes[at as usize].has_further {
            let another = self
                .further
                .iter()
                .find(|&(_, &node)| node == at)
                .map(|(&engine, _)| engine);
            if let Some(another) = another {
                self.further.remove(&another);
                self.nodes[at as usize].engine = another;
                self.name_by_engine(at);
                return;
            }
        }
        self.hide(at, changes);
        let node = &mut self.nodes[at as usize];
        node.is_held = false;
        node.has_further = false;
        self.prune(at);
    }

    /// Makes the block at `at` and all held blocks below it visible, parents first.
    fn show(&mut self, at: u32, changes: &mut Vec<Change>) {
        let mut pending = vec![at];
        while let Some(at) = pending.pop() {
            let node = &mut self.nodes[at as usize];
            if !node.is_held {
                continue;
            }
            node.is_visible = true;
            changes.push(Change {
                slot: self.slot,
                hash: node.hash,
                stored: true,
            });
            self.visible += 1;
            self.push_children(at, &mut pending);
        }
    }

    /// Takes the block at `at` and all blocks below it out of the view, children first.
    fn hide(&mut self, at: u32, changes: &mut Vec<Change>) {
        let first = changes.len();
        let mut pending = vec![at];
        while let Some(at) = pending.pop() {
            let node = &mut self.nodes[at as usize];
            if !node.is_visible {
                continue;
            }
            node.is_visible = false;
            changes.push(Change {
                slot: self.slot,
                hash: node.hash,
                stored: false,
            });
            self.visible -= 1;
            self.push_children(at, &mut pending);
        }
        changes[first..].reverse();
    }

    fn push_children(&self, at: u32, pending: &mut Vec<u32>) {
        let mut child = self.nodes[at as usize].first_child;
        while child != NONE {
            pending.push(child);
            child = self.nodes[child as usize].next_sibling;
        }
    }

    fn add_node(&mut self, hash: SequenceHash, parent: u32, seed: HashSeed) -> u32 {
        let seed = match parent {
            NONE => self.seeds.acquire(seed),
            parent => {
                let seed = self.nodes[parent as usize].seed;
                self.seeds.share(seed);
                seed
            }
        };
        let next_sibling = if parent == NONE {
            NONE
        } else {
            self.nodes[parent as usize].first_child
        };
        let node = Node {
            hash,
            engine: EngineHash(0),
            parent,
            first_child: NONE,
            next_sibling,
            previous_sibling: NONE,
            seed,
            is_held: false,
            is_visible: false,
            has_further: false,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
            }
        };
        if next_sibling != NONE {
            self.nodes[next_sibling as usize].previous_sibling = at;
        }
        if parent != NONE {
            self.nodes[parent as usize].first_child = at;
        }
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let key = hasher.hash_one(hash);
        self.by_hash
            .insert_unique(key, at, |&at| hasher.hash_one(nodes[at as usize].hash));
        at
    }

    /// Frees the node at `at` and the nodes above it, as far as they are neither held nor needed below.
    fn prune(&mut self, mut at: u32) {
        while at != NONE {
            let node = self.nodes[at as usize];
            if node.is_held || node.first_child != NONE {
                return;
            }
            if node.next_sibling != NONE {
                self.nodes[node.next_sibling as usize].previous_sibling = node.previous_sibling;
            }
            if node.previous_sibling != NONE {
                self.nodes[node.previous_sibling as usize].next_sibling = node.next_sibling;
            } else if node.parent != NONE {
                self.nodes[node.parent as usize].first_child = node.next_sibling;
            }
            let key = self.hasher.hash_one(node.hash);
            if let Ok(entry) = self.by_hash.find_entry(key, |&other| other == at) {
                entry.remove();
            }
            self.seeds.release(node.seed);
            self.free.push(at);
            at = node.parent;
        }
    }

    fn find_hash(&self, hash: SequenceHash) -> Option<u32> {
        self.by_hash
            .find(self.hasher.hash_one(hash), |&at| self.nodes[at as usize].hash == hash)
            .copied()
    }

    fn find_engine(&self, engine: EngineHash) -> Option<u32> {
        let first = self.by_engine.find(self.hasher.hash_one(engine), |&at| {
            self.nodes[at as usize].engine == engine
        });
        first.or_else(|| self.further.get(&engine)).copied()
    }

    fn name_by_engine(&mut self, at: u32) {
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let key = |at: u32| hasher.hash_one(nodes[at as usize].engine);
        if let Entry::Vacant(place) = self.by_engine.entry(key(at), |&other| other == at, |&at| key(at)) {
            place.insert(at);
        }
    }

    fn unname_by_engine(&mut self, engine: EngineHash) {
        let nodes = &self.nodes;
        let found = self
            .by_engine
            .find_entry(self.hasher.hash_one(engine), |&at| nodes[at as usize].engine == engine);
        if let Ok(entry) = found {
            entry.remove();
        }
    }
}
