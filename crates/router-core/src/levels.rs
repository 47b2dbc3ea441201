//! Cache tiers in a prefix view.
//!
//! A view knows slots and blocks, nothing of tiers. So a rank has one slot for each *level*: the blocks that are reachable
//! from the root through blocks of that level's tiers and all nearer ones. Each level is prefix-closed, like any slot, and
//! what a level reaches beyond the one before it is what its own tiers add to a prompt's prefix.
//!
//! Dynamo counts a farther tier only directly behind the device prefix, host before disk. So do we, but a chain that
//! comes back to a nearer tier goes on: with a block on the device, one on the host and one on the device again, Dynamo
//! sees 1 + 1 blocks, we see 1 + 2, of which the last two are credited as the host's.

use crate::Slot;
use crate::view::Depths;

/// What a rank holds on some tier and all nearer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// On the device.
    Device,
    /// There or in the host's memory.
    Host,
    /// Anywhere. Disk and external storage weigh the same.
    Disk,
}

impl Level {
    /// From the nearest on.
    pub const ALL: [Self; 3] = [Self::Device, Self::Host, Self::Disk];
}

/// The levels that a pool's view tells apart. Each takes a slot for every rank, and its blocks' changes travel besides
/// those of the levels before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Whether there is one for the host's memory.
    pub host: bool,
    /// Whether there is one for disks and external storage.
    pub disk: bool,
}

impl Levels {
    /// Whether the view has this level.
    pub fn has(self, level: Level) -> bool {
        match level {
            Level::Device => true,
            Level::Host => self.host,
            Level::Disk => self.disk,
        }
    }

    /// Slots of the view that one rank takes.
    pub fn slots_per_rank(self) -> u16 {
        u16::from(self.host)
            .saturating_add(u16::from(self.disk))
            .saturating_add(1)
    }

    /// First slot, that of the device, of the pool's rank with this number. A rank's slots follow one another, so that
    /// sets of them stay short.
    pub fn first_slot(self, rank: u16) -> Slot {
        Slot(rank.saturating_mul(self.slots_per_rank()))
    }

    /// The slot for a level of the rank whose first slot is `first`; `None` where the view does not have it.
    pub fn slot(self, first: Slot, level: Level) -> Option<Slot> {
        let nearer = Level::ALL.into_iter().filter(|&other| other < level && self.has(other));
        let offset = u16::try_from(nearer.count()).unwrap_or(0);
        self.has(level).then_some(Slot(first.0.saturating_add(offset)))
    }

    /// What the rank whose first slot is `first` has of a prompt, tier by tier.
    pub fn overlap(self, first: Slot, depths: &Depths) -> Overlap {
        let device = depths.of(first);
        let reach = |level, nearer: u32| {
            self.slot(first, level)
                .map_or(nearer, |slot| depths.of(slot).max(nearer))
        };
        let host = reach(Level::Host, device);
        let disk = reach(Level::Disk, host);
        Overlap {
            device,
            host: host.saturating_sub(device),
            disk: disk.saturating_sub(host),
        }
    }
}

/// Leading blocks of a prompt that a rank has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// On the device.
    pub device: u32,
    /// Behind them, with what is in the host's memory.
    pub host: u32,
    /// Behind those, with what is on disk or external storage.
    pub disk: u32,
}

impl Overlap {
    /// On the device alone.
    pub fn device(blocks: u32) -> Self {
        Self {
            device: blocks,
            ..Self::default()
        }
    }

    /// All of them.
    pub fn blocks(self) -> u32 {
        self.device.saturating_add(self.host).saturating_add(self.disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::SequenceHash;
    use crate::view::PrefixView;

    #[test]
    fn levels_follow_one_another_and_what_is_missing_takes_no_room() {
        let slots = |host, disk| {
            let levels = Levels { host, disk };
            Level::ALL.map(|level| levels.slot(levels.first_slot(5), level).map(|slot| slot.0))
        };
        assert_eq!(slots(false, false), [Some(5), None, None]);
        assert_eq!(slots(true, false), [Some(10), Some(11), None]);
        assert_eq!(slots(false, true), [Some(10), None, Some(11)]);
        assert_eq!(slots(true, true), [Some(15), Some(16), Some(17)]);
    }

    #[test]
    fn a_tier_adds_what_it_reaches_beyond_nearer_ones() {
        let prompt: std::vec::Vec<_> = (1..=9).map(|n| SequenceHash(n << 40)).collect();
        let mut view = PrefixView::new();
        for (slot, depth) in [(0, 2), (1, 5), (2, 9), (4, 3), (5, 3)] {
            for hash in prompt.iter().take(depth) {
                view.insert(Slot(slot), *hash);
            }
        }
        let levels = Levels { host: true, disk: true };
        let overlap = |rank| levels.overlap(levels.first_slot(rank), &view.depths(&prompt));
        assert_eq!(
            overlap(0),
            Overlap {
                device: 2,
                host: 3,
                disk: 4
            }
        );
        assert_eq!(
            overlap(1),
            Overlap {
                device: 0,
                host: 3,
                disk: 0
            }
        );
        assert_eq!(overlap(0).blocks(), 9);
    }
}
