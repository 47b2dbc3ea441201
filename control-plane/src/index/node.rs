//! A block of a rank's forest, in 40 bytes.

use router_core::hash::SequenceHash;
use router_core::levels::Level;

use super::level_of;
use super::seeds::SeedId;
use crate::events::{EngineHash, Tier};

/// Stands for "no node" in links.
pub(super) const NONE: u32 = u32::MAX;
/// The node above all first blocks: held and reachable always, and no block itself.
pub(super) const ROOT: u32 = 0;

/// See the module. A node without tiers is no longer held, but blocks below it are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) hash: SequenceHash,
    /// Its name, unless it has several or none.
    pub(super) engine: EngineHash,
    pub(super) parent: u32,
    pub(super) first_child: u32,
    pub(super) next_sibling: u32,
    pub(super) previous_sibling: u32,
    /// Number of its seed.
    seed: [u8; 3],
    /// The generation in which something was last stored at or below it.
    pub(super) stored: u8,
    depth: [u8; 3],
    /// Tiers in bits 0 to 3, reach in 4 and 5, [`SEVERAL`].
    state: u8,
}

const _: () = assert!(size_of::<Node>() == 40);

/// The deepest that a block can stand.
pub(super) const MAX_DEPTH: u32 = (1 << 24) - 1;

const TIERS: u8 = 0b1111;
const REACH: u8 = 0b11 << REACH_AT;
const REACH_AT: u32 = 4;
const SEVERAL: u8 = 1 << 7;

impl Node {
    /// A block that nobody holds yet.
    pub(super) fn new(hash: SequenceHash, parent: u32, depth: u32, seed: SeedId, stored: u8) -> Self {
        Self {
            hash,
            engine: EngineHash(0),
            parent,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
            seed: low_bytes(seed.0),
            stored,
            depth: low_bytes(depth.min(MAX_DEPTH)),
            state: Reach::NOWHERE.0 << REACH_AT,
        }
    }

    /// How many blocks stand from the root down to this one, itself included.
    pub(super) fn depth(&self) -> u32 {
        from_low_bytes(self.depth)
    }

    /// What its sequence is hashed with.
    pub(super) fn seed(&self) -> SeedId {
        SeedId(from_low_bytes(self.seed))
    }

    /// Where it is held.
    pub(super) fn tiers(&self) -> Tiers {
        Tiers(self.state & TIERS)
    }

    pub(super) fn set_tiers(&mut self, tiers: Tiers) {
        self.state = self.state & !TIERS | tiers.0;
    }

    /// The first level at which it is reachable from the root.
    pub(super) fn reach(&self) -> Reach {
        Reach((self.state & REACH) >> REACH_AT)
    }

    pub(super) fn set_reach(&mut self, reach: Reach) {
        self.state = self.state & !REACH | reach.0 << REACH_AT;
    }

    /// Whether the engine has several names for it.
    pub(super) fn has_several(&self) -> bool {
        self.state & SEVERAL != 0
    }

    pub(super) fn set_several(&mut self, several: bool) {
        self.state = self.state & !SEVERAL | if several { SEVERAL } else { 0 };
    }
}

/// Of a number below 2^24.
fn low_bytes(number: u32) -> [u8; 3] {
    let [a, b, c, _] = number.to_le_bytes();
    [a, b, c]
}

fn from_low_bytes([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0])
}

/// A set of tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tiers(u8);

impl Tiers {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self(0b1111);

    /// One bit for each.
    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// A set of at least one.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        (bits != 0 && bits & !TIERS == 0).then_some(Self(bits))
    }

    /// Whether none is in it.
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `tier` is in it.
    pub(super) fn has(self, tier: Tier) -> bool {
        self.0 & Self::from(tier).0 != 0
    }

    /// Those in it, nearest first.
    pub(super) fn iter(self) -> impl Iterator<Item = Tier> {
        Tier::ALL.into_iter().filter(move |&tier| self.has(tier))
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The first level at which a block that is on these tiers is held.
    pub(super) fn level(self) -> Reach {
        let nearest = self.iter().next();
        nearest.map_or(Reach::NOWHERE, |tier| Reach(level_of(tier) as u8))
    }
}

impl From<Tier> for Tiers {
    fn from(tier: Tier) -> Self {
        Self(1 << tier as u8)
    }
}

/// The number of the first level at which something is so; beyond all levels if at none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reach(u8);

impl Reach {
    pub(super) const EVERYWHERE: Self = Self(0);
    pub(super) const NOWHERE: Self = Self(Level::ALL.len() as u8);

    /// As an index of levels.
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether it is so at `level`.
    pub(super) fn is_at(self, level: Level) -> bool {
        self.0 <= level as u8
    }
}
