//! Views between wire and core.

use crate::{BadMessage, v1};
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::replica::{Delta, Position, Replica, Run, Update};

/// An update of one pool's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUpdate {
    /// The pool's name.
    pub pool: String,
    /// The update.
    pub update: Update,
}

impl PoolUpdate {
    /// Wraps the update for the stream.
    pub fn to_message(&self) -> v1::to_filter::Message {
        use v1::to_filter::Message;
        let pool = || self.pool.clone();
        match &self.update {
            Update::Begin { position, blocks } => Message::SnapshotBegin(v1::SnapshotBegin {
                position: Some(position_to_wire(pool(), *position)),
                blocks: *blocks,
            }),
            Update::Part(run) => Message::SnapshotPart(v1::SnapshotPart {
                pool: pool(),
                run: Some(run.into()),
            }),
            Update::End { checksum } => Message::SnapshotEnd(v1::SnapshotEnd {
                pool: pool(),
                checksum: *checksum,
            }),
            Update::Delta(delta) => Message::Delta(v1::Delta {
                from: Some(position_to_wire(pool(), delta.from)),
                removed: delta.removed.iter().map(v1::Run::from).collect(),
                stored: delta.stored.iter().map(v1::Run::from).collect(),
                checksum: delta.checksum,
            }),
        }
    }
}

impl TryFrom<v1::SnapshotBegin> for PoolUpdate {
    type Error = BadMessage;

    fn try_from(begin: v1::SnapshotBegin) -> Result<Self, BadMessage> {
        let (pool, position) = position_from_wire("snapshot_begin.position", begin.position)?;
        Ok(Self {
            pool,
            update: Update::Begin {
                position,
                blocks: begin.blocks,
            },
        })
    }
}

impl TryFrom<v1::SnapshotPart> for PoolUpdate {
    type Error = BadMessage;

    fn try_from(part: v1::SnapshotPart) -> Result<Self, BadMessage> {
        let run = part.run.ok_or_else(|| BadMessage::missing("snapshot_part.run"))?;
        Ok(Self {
            pool: part.pool,
            update: Update::Part(run.try_into()?),
        })
    }
}

impl From<v1::SnapshotEnd> for PoolUpdate {
    fn from(end: v1::SnapshotEnd) -> Self {
        Self {
            pool: end.pool,
            update: Update::End { checksum: end.checksum },
        }
    }
}

impl TryFrom<v1::Delta> for PoolUpdate {
    type Error = BadMessage;

    fn try_from(delta: v1::Delta) -> Result<Self, BadMessage> {
        let (pool, from) = position_from_wire("delta.from", delta.from)?;
        let runs = |runs: Vec<v1::Run>| runs.into_iter().map(Run::try_from).collect::<Result<Vec<_>, _>>();
        let update = Update::Delta(Delta {
            from,
            removed: runs(delta.removed)?,
            stored: runs(delta.stored)?,
            checksum: delta.checksum,
        });
        Ok(Self { pool, update })
    }
}

impl From<&Run> for v1::Run {
    fn from(run: &Run) -> Self {
        Self {
            slot: u32::from(run.slot.0),
            hashes: run.hashes.iter().map(|hash| hash.0).collect(),
        }
    }
}

impl TryFrom<v1::Run> for Run {
    type Error = BadMessage;

    fn try_from(run: v1::Run) -> Result<Self, BadMessage> {
        let slot = slot("run.slot", run.slot)?;
        Ok(Self {
            slot,
            hashes: run.hashes.into_iter().map(SequenceHash).collect(),
        })
    }
}

/// A pool's position for the wire.
pub fn position_to_wire(pool: String, position: Position) -> v1::PoolPosition {
    v1::PoolPosition {
        pool,
        epoch: position.epoch,
        version: position.version,
    }
}

/// What a filter says of a pool's view; `None` while it has none.
pub fn acknowledgement(pool: &str, replica: &Replica) -> Option<v1::Ack> {
    Some(v1::Ack {
        position: Some(position_to_wire(pool.to_owned(), replica.position()?)),
        checksum: replica.checksum(),
        entries: replica.view().len() as u64,
        bytes: replica.bytes() as u64,
        refused: replica.refused(),
    })
}

/// A pool's name and position from the wire.
///
/// # Errors
/// When it is absent.
pub fn position_from_wire(
    field: &'static str,
    position: Option<v1::PoolPosition>,
) -> Result<(String, Position), BadMessage> {
    let position = position.ok_or_else(|| BadMessage::missing(field))?;
    Ok((
        position.pool,
        Position {
            epoch: position.epoch,
            version: position.version,
        },
    ))
}

pub(crate) fn slot(field: &'static str, slot: u32) -> Result<Slot, BadMessage> {
    let number = u16::try_from(slot).ok().filter(|&number| number < Slot::LIMIT);
    number
        .map(Slot)
        .ok_or_else(|| BadMessage::new(field, slot, "beyond the largest slot number"))
}
