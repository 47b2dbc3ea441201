//! One pool's prefix view, kept in step with the control plane by a snapshot and the deltas that follow it.
//!
//! A snapshot is staged beside the serving view and swapped in whole. Anything that does not fit (a gap, a foreign
//! epoch, a checksum that differs) leaves the serving view as it was and says so; the caller asks for a new
//! snapshot.
//!
//! Memory is bounded: what does not fit is refused and counted, and never breaks the step. A view with holes is safe to
//! read, as every holding in it is true: depths found in it are too small at worst.

use crate::Slot;
use crate::hash::SequenceHash;
use crate::view::{PrefixView, Remains, Stored, holding_checksum};
use alloc::vec::Vec;

/// What the control plane sends about a view, in stream order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A snapshot starts; an unfinished one is dropped.
    Begin {
        /// Its version.
        position: Position,
        /// Different blocks in it, so that tables need not grow while it comes; 0 if that is not known.
        blocks: u64,
    },
    /// Part of the snapshot.
    Part(Run),
    /// The snapshot is complete and has this [`PrefixView::checksum`].
    End {
        /// Checksum of the whole view.
        checksum: u64,
    },
    /// Changes from one version to the next.
    Delta(Delta),
}

/// A version of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Numbering of slots; see [`crate::fleet::Pool::epoch`].
    pub epoch: u64,
    /// Counts deltas.
    pub version: u64,
}

/// Blocks that one slot stored or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose.
    pub slot: Slot,
    /// In order: parents before children when stored, children before parents when removed.
    pub hashes: Vec<SequenceHash>,
}

/// Changes that make `from` into the next version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The version it applies to.
    pub from: Position,
    /// Applied first.
    pub removed: Vec<Run>,
    /// Applied then.
    pub stored: Vec<Run>,
    /// Checksum of the view afterwards.
    pub checksum: u64,
}

/// Why an update did not fit; the view needs a new snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfStep {
    /// A delta for another version than the one we have.
    Gap,
    /// A part or an end without a beginning.
    NoSnapshot,
    /// The content differs from what the control plane has.
    Checksum,
}

impl OutOfStep {
    /// Label for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::NoSnapshot => "no_snapshot",
            Self::Checksum => "checksum",
        }
    }
}

/// A view and where it stands.
#[derive(Debug, Default)]
pub struct Replica {
    serving: Bounded,
    position: Option<Position>,
    in_step: bool,
    staged: Option<(Position, Bounded)>,
    remains: Remains,
}

/// A view that has perhaps not everything that it was told.
#[derive(Debug, Default)]
struct Bounded {
    view: PrefixView,
    refused: Refused,
}

/// Holdings that found no room, as far as they can be told apart without keeping them: a removal of something that
/// is not there must be of one of them.
#[derive(Debug, Default)]
struct Refused {
    count: u64,
    checksum: u64,
}

impl Bounded {
    fn store(&mut self, limit: usize, slot: Slot, hash: SequenceHash) {
        if self.view.insert_within(limit, slot, hash) != Stored::Refused {
            return;
        }
        self.refused.count = self.refused.count.saturating_add(1);
        self.refused.checksum = self.refused.checksum.wrapping_add(holding_checksum(slot, hash));
    }

    fn remove(&mut self, slot: Slot, hash: SequenceHash) {
        if !self.view.remove(slot, hash) && self.refused.count > 0 {
            self.refused.count = self.refused.count.saturating_sub(1);
            self.refused.checksum = self.refused.checksum.wrapping_sub(holding_checksum(slot, hash));
        }
    }

    /// Of everything that it was told.
    fn checksum(&self) -> u64 {
        self.view.checksum().wrapping_add(self.refused.checksum)
    }
}

impl Replica {
    /// The serving view.
    pub fn view(&self) -> &PrefixView {
        &self.serving.view
    }

    /// Of everything that the serving view was told, whether or not it found room.
    pub fn checksum(&self) -> u64 {
        self.serving.checksum()
    }

    /// Holdings of the serving view that found no room in it.
    pub fn refused(&self) -> u64 {
        self.serving.refused.count
    }

    /// Memory of the serving view and of the staged one, in bytes.
    pub fn bytes(&self) -> usize {
        let staged = self.staged.as_ref().map_or(0, |(_, staged)| staged.view.bytes());
        self.serving.view.bytes().saturating_add(staged)
    }

    /// Frees a part of a view that is no longer read. False once nothing is left.
    pub fn free_some(&mut self) -> bool {
        self.remains.free_some()
    }

    /// Version of the serving view, `None` before the first snapshot.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether the serving view is what the control plane last said.
    pub fn in_step(&self) -> bool {
        self.in_step
    }

    /// Applies one update.
    ///
    /// # Errors
    /// When it does not fit; [`Replica::in_step`] is false from then until the next complete snapshot.
    pub fn apply(&mut self, update: Update) -> Result<(), OutOfStep> {
        self.apply_within(usize::MAX, update)
    }

    /// As [`Replica::apply`], as long as [`Replica::bytes`] stays within `limit`: further holdings are refused. When a
    /// staged view finds no room beside the serving one, that is given up before its time.
    ///
    /// # Errors
    /// As [`Replica::apply`]; to refuse a holding is none.
    pub fn apply_within(&mut self, limit: usize, update: Update) -> Result<(), OutOfStep> {
        self.remains.free_some();
        let applied = match update {
            Update::Begin { position, blocks } => {
                let mut empty = Bounded::default();
                empty.view.expect(usize::try_from(blocks).unwrap_or(usize::MAX));
                let unfinished = self.staged.replace((position, empty));
                self.retire(unfinished.map(|(_, staged)| staged));
                Ok(())
            }
            Update::Part(run) => self.stage(&run, limit),
            Update::End { checksum } => self.swap(checksum),
            Update::Delta(delta) => self.advance(&delta, limit),
        };
        if applied.is_err() {
            self.in_step = false;
        }
        applied
    }

    fn stage(&mut self, run: &Run, limit: usize) -> Result<(), OutOfStep> {
        let (position, mut staged) = self.staged.take().ok_or(OutOfStep::NoSnapshot)?;
        for &hash in &run.hashes {
            let beside = limit.saturating_sub(self.serving.view.bytes());
            if staged.view.insert_within(beside, run.slot, hash) == Stored::Refused {
                self.give_up_serving();
                staged.store(limit, run.slot, hash);
            }
        }
        self.staged = Some((position, staged));
        Ok(())
    }

    fn swap(&mut self, checksum: u64) -> Result<(), OutOfStep> {
        let (position, mut staged) = self.staged.take().ok_or(OutOfStep::NoSnapshot)?;
        staged.view.expect(0);
        if staged.checksum() != checksum {
            self.retire(Some(staged));
            return Err(OutOfStep::Checksum);
        }
        let old = core::mem::replace(&mut self.serving, staged);
        self.retire(Some(old));
        self.position = Some(position);
        self.in_step = true;
        Ok(())
    }

    /// A view that is out of step stays as it is: a delta on top of a wrong base helps nobody.
    fn advance(&mut self, delta: &Delta, limit: usize) -> Result<(), OutOfStep> {
        if !self.in_step || self.position != Some(delta.from) {
            return Err(OutOfStep::Gap);
        }
        for run in &delta.removed {
            run.hashes.iter().for_each(|&hash| self.serving.remove(run.slot, hash));
        }
        let staged = self.staged.as_ref().map_or(0, |(_, staged)| staged.view.bytes());
        let limit = limit.saturating_sub(staged);
        for run in &delta.stored {
            for &hash in &run.hashes {
                self.serving.store(limit, run.slot, hash);
            }
        }
        let version = delta.from.version.saturating_add(1);
        self.position = Some(Position { version, ..delta.from });
        if self.serving.checksum() == delta.checksum {
            Ok(())
        } else {
            Err(OutOfStep::Checksum)
        }
    }

    fn give_up_serving(&mut self) {
        if !self.serving.view.is_empty() {
            let old = core::mem::take(&mut self.serving);
            self.retire(Some(old));
        }
        self.position = None;
        self.in_step = false;
    }

    /// Two that follow each other closely cost the time to free what is left of the first.
    fn retire(&mut self, old: Option<Bounded>) {
        if let Some(old) = old {
            self.remains = old.view.into();
        }
    }
}
