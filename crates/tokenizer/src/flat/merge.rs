//! Byte pair encoding of one word: of all neighbours that merge, those of the lowest rank do first, the leftmost of them
//! before the others, until none is left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::tables::{Meta, NO_MERGE, NO_SYMBOL, Tables};

/// Words of more symbols than this go through a queue, others are scanned again for every merge. Where the two take the
/// same time; what comes out is the same.
const SCAN_SYMBOLS: usize = 48;

/// Most symbols that one word can have: a queue takes about 32 bytes for each.
pub(crate) const MAX_WORD_SYMBOLS: usize = 12 << 20;

/// No neighbour.
const END: u32 = u32::MAX;

/// What merging a word works in; kept from word to word.
#[derive(Default)]
pub(crate) struct Merger {
    /// Before: the word's first symbols. After: its ids.
    symbols: Vec<u32>,
    /// Of each symbol with the next one.
    merges: Vec<u64>,
    links: Vec<Link>,
    queue: Vec<Reverse<u64>>,
    /// Merges looked up and taken from the queue, ever: the work that was done.
    #[cfg(test)]
    pub(crate) steps: usize,
}

/// The neighbours of a symbol that has not been merged into the one before it.
#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

impl Merger {
    /// The ids of `word`. `None` if it has more than [`MAX_WORD_SYMBOLS`].
    pub(crate) fn encode(&mut self, tables: &Tables<'_>, word: &str) -> Option<&[u32]> {
        self.symbols.clear();
        first_symbols(tables, word, &mut self.symbols);
        if self.symbols.len() > MAX_WORD_SYMBOLS {
            return None;
        }
        if self.symbols.len() > SCAN_SYMBOLS {
            self.merge_by_queue(tables);
        } else {
            self.merge_by_scan(tables);
        }
        Some(&self.symbols)
    }

    /// Gives memory back that an unusually long word took.
    pub(crate) fn shrink(&mut self, symbols: usize) {
        if self.symbols.capacity() > symbols {
            #[cfg(test)]
            let steps = self.steps;
            *self = Self::default();
            #[cfg(test)]
            {
                self.steps = steps;
            }
        }
    }

    fn look_up_neighbours(&mut self, tables: &Tables<'_>) {
        self.merges.clear();
        let pairs = self.symbols.iter().zip(self.symbols.iter().skip(1));
        self.merges
            .extend(pairs.map(|(left, right)| tables.merge(*left, *right)));
        self.merges.push(NO_MERGE);
        self.count(self.merges.len());
    }

    fn merge_by_scan(&mut self, tables: &Tables<'_>) {
        self.look_up_neighbours(tables);
        loop {
            let (mut lowest, mut at) = (NO_MERGE, 0);
            for (index, merge) in self.merges.iter().enumerate() {
                if *merge < lowest {
                    (lowest, at) = (*merge, index);
                }
            }
            let next = at.wrapping_add(1);
            if lowest == NO_MERGE || next >= self.symbols.len() {
                return;
            }
            let product = lowest as u32;
            self.symbols.remove(next);
            self.merges.remove(at);
            if let Some(symbol) = self.symbols.get_mut(at) {
                *symbol = product;
            }
            if let (Some(merge), Some(right)) = (self.merges.get_mut(at), self.symbols.get(next)) {
                *merge = tables.merge(product, *right);
            }
            let before = at.wrapping_sub(1);
            if let (Some(merge), Some(left)) = (self.merges.get_mut(before), self.symbols.get(before)) {
                *merge = tables.merge(*left, product);
            }
            self.count(2);
        }
    }

    /// The queue holds `rank << 32 | index of the left symbol`. A pair that has changed since it was queued is known by
    /// its rank: that of another pair, as ranks are unique.
    fn merge_by_queue(&mut self, tables: &Tables<'_>) {
        self.look_up_neighbours(tables);
        let count = self.symbols.len() as u32;
        self.links.clear();
        self.links.extend((0..count).map(|index| Link {
            previous: index.wrapping_sub(1),
            next: if index.wrapping_add(1) < count {
                index.wrapping_add(1)
            } else {
                END
            },
        }));
        let mut queue = std::mem::take(&mut self.queue);
        queue.clear();
        queue.extend((0..).zip(&self.merges).filter_map(|(index, merge)| key(*merge, index)));
        let mut queue = BinaryHeap::from(queue);
        while let Some(Reverse(key)) = queue.pop() {
            self.count(1);
            let current = self.merges.get(key as u32 as usize).copied().unwrap_or(NO_MERGE);
            if current != NO_MERGE && current >> 32 == key >> 32 {
                self.merge_at(tables, key as u32, current as u32, &mut queue);
            }
        }
        self.queue = queue.into_vec();
        let mut live = self.links.iter().map(|link| link.previous != MERGED);
        self.symbols.retain(|_| live.next() == Some(true));
    }

    /// Merges the symbol at `index` and the one after it into `product`.
    fn merge_at(&mut self, tables: &Tables<'_>, index: u32, product: u32, queue: &mut BinaryHeap<Reverse<u64>>) {
        let Some(&Link { previous, next: gone }) = self.links.get(index as usize) else {
            return;
        };
        let Some(after) = self.links.get(gone as usize).map(|link| link.next) else {
            return;
        };
        self.set(index, product, Link { previous, next: after });
        self.set(
            gone,
            product,
            Link {
                previous: MERGED,
                next: END,
            },
        );
        if let Some(link) = self.links.get_mut(after as usize) {
            link.previous = index;
        }
        self.set_merge(gone, NO_MERGE, queue);
        let right = self.symbols.get(after as usize);
        let merge = right.map_or(NO_MERGE, |right| tables.merge(product, *right));
        self.set_merge(index, merge, queue);
        if let Some(left) = self.symbols.get(previous as usize) {
            let merge = tables.merge(*left, product);
            self.set_merge(previous, merge, queue);
        }
        self.count(2);
    }

    fn set(&mut self, index: u32, symbol: u32, link: Link) {
        if let (Some(at), Some(links)) = (self.symbols.get_mut(index as usize), self.links.get_mut(index as usize)) {
            (*at, *links) = (symbol, link);
        }
    }

    fn set_merge(&mut self, index: u32, merge: u64, queue: &mut BinaryHeap<Reverse<u64>>) {
        if let Some(current) = self.merges.get_mut(index as usize) {
            *current = merge;
            queue.extend(key(merge, index));
        }
    }

    #[inline(always)]
    fn count(&mut self, _steps: usize) {
        #[cfg(test)]
        {
            self.steps += _steps;
        }
    }
}

/// The `previous` of a symbol that was merged into the one before it: above every index, and not [`END`].
const MERGED: u32 = u32::MAX - 1;

fn key(merge: u64, index: u32) -> Option<Reverse<u64>> {
    (merge != NO_MERGE).then_some(Reverse(merge >> 32 << 32 | u64::from(index)))
}

/// Characters that have a symbol are that symbol, others their bytes, or unknown.
fn first_symbols(tables: &Tables<'_>, word: &str, symbols: &mut Vec<u32>) {
    let Meta { flags, unknown, .. } = tables.meta;
    let mut after_unknown = false;
    for character in word.chars() {
        let symbol = tables.char(character);
        if symbol != NO_SYMBOL {
            symbols.push(symbol);
            after_unknown = false;
        } else if flags & Meta::BYTES != 0 {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                symbols.push(tables.byte(byte));
            }
            after_unknown = false;
        } else {
            if unknown != NO_SYMBOL && !(after_unknown && flags & Meta::FUSE_UNKNOWN != 0) {
                symbols.push(unknown);
            }
            after_unknown = true;
        }
    }
}
