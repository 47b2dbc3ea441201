//! A rank's nodes by number. They never move: memory grows by one chunk at a time, so none is kept for what may come, and
//! nothing is copied.

use std::ops::{Index, IndexMut};

use super::node::{NONE, Node};

/// Nodes in a chunk. A power of two, which the first chunk grows to by doubling.
const CHUNK: usize = 256;

#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Vec<Node>>,
    /// The first free node, which names the next one in its `next_sibling`.
    free: u32,
}

impl Arena {
    /// With one node, whose number is 0.
    pub(super) fn new(first: Node) -> Self {
        Self {
            chunks: vec![vec![first]],
            free: NONE,
        }
    }

    /// Takes a number for the node, perhaps one that was freed.
    pub(super) fn add(&mut self, node: Node) -> u32 {
        if self.free != NONE {
            let at = self.free;
            self.free = self[at].next_sibling;
            self[at] = node;
            return at;
        }
        let at = self.end();
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(node),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(node);
                self.chunks.push(chunk);
            }
        }
        at
    }

    /// Frees a node's number.
    pub(super) fn free(&mut self, at: u32) {
        self[at].next_sibling = self.free;
        self.free = at;
    }

    /// All nodes, freed ones included.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.chunks.iter_mut().flatten()
    }

    /// All numbers are below.
    pub(super) fn end(&self) -> u32 {
        let last = self.chunks.last().map_or(0, Vec::len);
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        u32::try_from(full + last).unwrap_or(NONE)
    }
}

impl Index<u32> for Arena {
    type Output = Node;

    fn index(&self, at: u32) -> &Node {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}

impl IndexMut<u32> for Arena {
    fn index_mut(&mut self, at: u32) -> &mut Node {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}
