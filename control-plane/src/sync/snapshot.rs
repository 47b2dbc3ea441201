//! A pool's view at one version, encoded once for all that want it.

use std::sync::Arc;

use proto::MAX_HASHES_PER_MESSAGE;
use proto::view::PoolUpdate;
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::replica::{Position, Run, Update};

use super::codec::Encoded;

/// See the module. Memory: 8 bytes for each block of each slot, while anyone reads it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its version.
    pub position: Position,
    /// What carries it.
    pub messages: Arc<[Encoded]>,
    /// Of all messages.
    pub bytes: usize,
}

impl Snapshot {
    /// Encodes a view. `checksum`: of all `holdings`.
    pub fn new<I: Iterator<Item = SequenceHash>>(
        pool: &str,
        position: Position,
        checksum: u64,
        holdings: impl Iterator<Item = (Slot, I)>,
    ) -> Self {
        let mut parts = Vec::new();
        let mut count = 0;
        let encode = |update, holdings| {
            let update = PoolUpdate {
                pool: pool.to_owned(),
                update,
            };
            Encoded::new(update.to_message(holdings))
        };
        for (slot, mut hashes) in holdings {
            loop {
                let chunk: Vec<_> = hashes.by_ref().take(MAX_HASHES_PER_MESSAGE).collect();
                if chunk.is_empty() {
                    break;
                }
                count += chunk.len() as u64;
                parts.push(encode(Update::Part(Run { slot, hashes: chunk }), 0));
            }
        }
        let begin = encode(Update::Begin(position), count);
        let end = encode(Update::End { checksum }, 0);
        let messages: Arc<[_]> = [begin].into_iter().chain(parts).chain([end]).collect();
        Self {
            position,
            bytes: messages.iter().map(Encoded::size).sum(),
            messages,
        }
    }
}
