//! From changes of the index to deltas: pure. A batch is reduced to its net effect, ordered so that every rank's part of
//! the view stays prefix-closed, cut into messages of bounded size, and each message gets its version and the checksum
//! after it.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};

use proto::MAX_HASHES_PER_MESSAGE;
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::replica::{Delta, Position, Run};
use router_core::view::holding_checksum;

use crate::index::Change;

/// What a run costs in a message beside its hashes, in hashes.
const RUN_COST: usize = 2;

/// Numbers the versions of one pool's view.
#[derive(Debug)]
pub struct Publisher {
    position: Position,
    checksum: u64,
}

impl Publisher {
    /// An empty view at version 0.
    pub fn new(epoch: u64) -> Self {
        Self {
            position: Position { epoch, version: 0 },
            checksum: 0,
        }
    }

    /// The last version that was made.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Checksum of the view at that version.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// The deltas that a batch of changes comes to; none if it cancels itself out.
    pub fn publish(&mut self, changes: &[Change]) -> Vec<Delta> {
        let (removed, stored) = net(changes);
        let mut parts = Vec::new();
        let mut part = Part::default();
        for (stores, runs) in [(false, removed), (true, stored)] {
            for (slot, hashes) in runs {
                let mut rest = hashes.as_slice();
                while !rest.is_empty() {
                    if part.room() == 0 {
                        parts.push(std::mem::take(&mut part));
                    }
                    let (now, later) = rest.split_at(rest.len().min(part.room()));
                    part.cost += now.len() + RUN_COST;
                    let run = Run {
                        slot,
                        hashes: now.to_vec(),
                    };
                    if stores {
                        part.stored.push(run)
                    } else {
                        part.removed.push(run)
                    }
                    rest = later;
                }
            }
        }
        if part.cost > 0 {
            parts.push(part);
        }
        parts.into_iter().map(|part| self.number(part)).collect()
    }

    fn number(&mut self, part: Part) -> Delta {
        let sum = |runs: &[Run]| {
            let hashes = runs
                .iter()
                .flat_map(|run| run.hashes.iter().map(|&hash| holding_checksum(run.slot, hash)));
            hashes.fold(0, u64::wrapping_add)
        };
        self.checksum = self
            .checksum
            .wrapping_sub(sum(&part.removed))
            .wrapping_add(sum(&part.stored));
        let from = self.position;
        self.position.version += 1;
        Delta {
            from,
            removed: part.removed,
            stored: part.stored,
            checksum: self.checksum,
        }
    }
}

/// One message in the making.
#[derive(Default)]
struct Part {
    removed: Vec<Run>,
    stored: Vec<Run>,
    cost: usize,
}

impl Part {
    fn room(&self) -> usize {
        MAX_HASHES_PER_MESSAGE.saturating_sub(self.cost + RUN_COST)
    }
}

type Runs = BTreeMap<Slot, Vec<SequenceHash>>;

/// What is removed and what is stored in the end. Each block stands where it last changed: a block is only stored under
/// a parent that is there and only removed when nothing is left below it, so this order is prefix-closed too.
fn net(changes: &[Change]) -> (Runs, Runs) {
    struct Fate {
        first_stored: bool,
        last: usize,
    }
    let mut fates: HashMap<(Slot, SequenceHash), Fate> = HashMap::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        match fates.entry((change.slot, change.hash)) {
            Entry::Occupied(mut fate) => fate.get_mut().last = index,
            Entry::Vacant(place) => {
                place.insert(Fate {
                    first_stored: change.stored,
                    last: index,
                });
            }
        }
    }
    let (mut removed, mut stored) = (Runs::new(), Runs::new());
    for (index, change) in changes.iter().enumerate() {
        // A block that goes and comes again has not changed: its first and its last change differ.
        let settles = fates
            .get(&(change.slot, change.hash))
            .is_some_and(|fate| fate.last == index && fate.first_stored == change.stored);
        if settles {
            let runs = if change.stored { &mut stored } else { &mut removed };
            runs.entry(change.slot).or_default().push(change.hash);
        }
    }
    (removed, stored)
}
