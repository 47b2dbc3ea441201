//! One pool's prefix view, kept in step with the control plane by a snapshot and the deltas that follow it.
//!
//! A snapshot is staged beside the serving view and swapped in whole. Anything that does not fit (a gap, a foreign
//! epoch, a checksum that differs) leaves the serving view as it was and says so; the caller asks for a new
//! snapshot.

use crate::Slot;
use crate::hash::SequenceHash;
use crate::view::PrefixView;
use alloc::vec::Vec;

/// What the control plane sends about a view, in stream order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A snapshot starts; an unfinished one is dropped.
    Begin(Position),
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
    view: PrefixView,
    position: Option<Position>,
    in_step: bool,
    staged: Option<(Position, PrefixView)>,
}

impl Replica {
    /// The serving view.
    pub fn view(&self) -> &PrefixView {
        &self.view
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
        let applied = match update {
            Update::Begin(position) => {
                self.staged = Some((position, PrefixView::new()));
                Ok(())
            }
            Update::Part(run) => self.stage(run),
            Update::End { checksum } => self.swap(checksum),
            Update::Delta(delta) => self.advance(delta),
        };
        if applied.is_err() {
            self.in_step = false;
        }
        applied
    }

    fn stage(&mut self, run: Run) -> Result<(), OutOfStep> {
        let (_, view) = self.staged.as_mut().ok_or(OutOfStep::NoSnapshot)?;
        store(view, &run);
        Ok(())
    }

    fn swap(&mut self, checksum: u64) -> Result<(), OutOfStep> {
        let (position, view) = self.staged.take().ok_or(OutOfStep::NoSnapshot)?;
        if view.checksum() != checksum {
            return Err(OutOfStep::Checksum);
        }
        self.view = view;
        self.position = Some(position);
        self.in_step = true;
        Ok(())
    }

    /// A view that is out of step stays as it is: a delta on top of a wrong base helps nobody.
    fn advance(&mut self, delta: Delta) -> Result<(), OutOfStep> {
        if !self.in_step || self.position != Some(delta.from) {
            return Err(OutOfStep::Gap);
        }
        for run in &delta.removed {
            for &hash in &run.hashes {
                self.view.remove(run.slot, hash);
            }
        }
        delta.stored.iter().for_each(|run| store(&mut self.view, run));
        let version = delta.from.version.saturating_add(1);
        self.position = Some(Position { version, ..delta.from });
        if self.view.checksum() == delta.checksum {
            Ok(())
        } else {
            Err(OutOfStep::Checksum)
        }
    }
}

fn store(view: &mut PrefixView, run: &Run) {
    for &hash in &run.hashes {
        view.insert(run.slot, hash);
    }
}
