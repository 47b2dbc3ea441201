//! The engine's names for blocks: which block each stands for, and on which tiers.
//!
//! Nearly every block has one name. Those with several (engines that tell blocks apart by what does not enter our hash)
//! have them in lists beside the table.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::arena::Arena;
use super::node::Tiers;
use crate::events::EngineHash;

#[derive(Debug, Default)]
pub(super) struct Names {
    /// Nodes with one name, by it.
    single: HashTable<u32>,
    /// Nodes with several, by each of them.
    further: HashMap<EngineHash, u32, DefaultHashBuilder>,
    /// Their names.
    lists: HashMap<u32, Vec<(EngineHash, Tiers)>, DefaultHashBuilder>,
    hasher: DefaultHashBuilder,
}

impl Names {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.single.len() + self.further.len()
    }

    /// How many there are beyond one for each block.
    pub(super) fn surplus(&self) -> usize {
        self.further.len()
    }

    /// The node that `name` stands for.
    pub(super) fn find(&self, nodes: &Arena, name: EngineHash) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let single = self.single.find(hash, |&at| nodes[at].engine == name);
        single.or_else(|| self.further.get(&name)).copied()
    }

    /// A node's names and where each is held.
    pub(super) fn of<'a>(&'a self, nodes: &'a Arena, at: u32) -> impl Iterator<Item = (EngineHash, Tiers)> + use<'a> {
        let node = &nodes[at];
        let list = self.lists.get(&at).map_or(&[][..], Vec::as_slice);
        let single = (!node.has_several() && !node.tiers().is_empty()).then_some((node.engine, node.tiers()));
        single.into_iter().chain(list.iter().copied())
    }

    /// Says that `name`, which stands for the node at `at` or for nothing, is held on `tiers`.
    pub(super) fn add(&mut self, nodes: &mut Arena, at: u32, name: EngineHash, tiers: Tiers) {
        let node = &mut nodes[at];
        let held = node.tiers();
        node.set_tiers(held.with(tiers));
        if held.is_empty() {
            node.engine = name;
            return self.add_single(nodes, at);
        }
        if !node.has_several() {
            if node.engine == name {
                return;
            }
            let first = node.engine;
            node.set_several(true);
            self.remove_single(nodes, first);
            self.further.insert(first, at);
            self.lists.insert(at, vec![(first, held)]);
        }
        let list = self.lists.entry(at).or_default();
        match list.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = known.with(tiers),
            None => list.push((name, tiers)),
        }
        self.further.insert(name, at);
    }

    /// Says that `name`, which stands for the node at `at`, is not held on `tiers`. False if it was not.
    pub(super) fn remove(&mut self, nodes: &mut Arena, at: u32, name: EngineHash, tiers: Tiers) -> bool {
        let node = &mut nodes[at];
        let held = node.tiers();
        if !node.has_several() {
            let left = held.without(tiers);
            node.set_tiers(left);
            if left.is_empty() {
                self.remove_single(nodes, name);
            }
            return left != held;
        }
        let Some(list) = self.lists.get_mut(&at) else {
            return false;
        };
        let mut removed = false;
        list.retain_mut(|(known, held)| {
            if *known != name {
                return true;
            }
            let left = held.without(tiers);
            removed = left != *held;
            *held = left;
            !left.is_empty()
        });
        node.set_tiers(list.iter().fold(Tiers::NONE, |all, (_, tiers)| all.with(*tiers)));
        if !list.iter().any(|(known, _)| *known == name) {
            self.further.remove(&name);
        }
        if let [(last, _)] = list[..] {
            self.lists.remove(&at);
            self.further.remove(&last);
            node.set_several(false);
            node.engine = last;
            self.add_single(nodes, at);
        }
        removed
    }

    fn add_single(&mut self, nodes: &Arena, at: u32) {
        let hasher = &self.hasher;
        let key = |at: u32| hasher.hash_one(nodes[at].engine);
        self.single.insert_unique(key(at), at, |&at| key(at));
    }

    fn remove_single(&mut self, nodes: &Arena, name: EngineHash) {
        let hash = self.hasher.hash_one(name);
        if let Ok(entry) = self.single.find_entry(hash, |&at| nodes[at].engine == name) {
            entry.remove();
        }
    }
}
