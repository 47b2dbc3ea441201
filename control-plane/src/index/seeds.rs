//! Hash seeds in use, stored once each: a block needs its sequence's seed to hash its children, but most blocks of a
//! rank share a few, and 3 bytes name one where 8 would hold it.

use hashbrown::HashMap;
use router_core::hash::HashSeed;

/// Names a seed of a [`Seeds`], below [`MAX_SEEDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeedId(pub(super) u32);

/// Seeds that a rank may use at a time.
pub(super) const MAX_SEEDS: usize = 1 << 24;

#[derive(Debug, Default)]
pub(super) struct Seeds {
    entries: Vec<(HashSeed, u32)>,
    by_seed: HashMap<u64, SeedId>,
    free: Vec<SeedId>,
}

impl Seeds {
    /// The seed by its name. Names that were released for the last time have no meaning.
    pub(super) fn get(&self, id: SeedId) -> HashSeed {
        self.entries[id.0 as usize].0
    }

    /// Whether there is no room for `seed`.
    pub(super) fn lacks_room(&self, seed: HashSeed) -> bool {
        self.by_seed.len() >= MAX_SEEDS && !self.by_seed.contains_key(&seed.value())
    }

    /// One more use of `seed`, for which there is room.
    pub(super) fn acquire(&mut self, seed: HashSeed) -> SeedId {
        if let Some(&id) = self.by_seed.get(&seed.value()) {
            self.share(id);
            return id;
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id.0 as usize] = (seed, 1);
                id
            }
            None => {
                self.entries.push((seed, 1));
                SeedId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.by_seed.insert(seed.value(), id);
        id
    }

    /// One more use of a seed by its name.
    pub(super) fn share(&mut self, id: SeedId) {
        self.entries[id.0 as usize].1 += 1;
    }

    /// One use less.
    pub(super) fn release(&mut self, id: SeedId) {
        let (seed, uses) = &mut self.entries[id.0 as usize];
        *uses -= 1;
        if *uses == 0 {
            self.by_seed.remove(&seed.value());
            self.free.push(id);
        }
    }
}
