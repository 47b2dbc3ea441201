//! A pool's view at one version, encoded once for all that want it.
//!
//! What stands shallow goes first: a VM that has no room for all of it refuses what comes last, and more prompts reach
//! shallow blocks than deep ones.

use std::sync::Arc;

use proto::view::PoolUpdate;
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::replica::{Position, Run, Update};

use super::codec::Encoded;

/// Block hashes in a part. A VM takes some 0.7 ms for so many.
pub const PART_HASHES: usize = 1_600;
/// The last depth of every band but the deepest. Bands follow each other; within one, blocks stand in any order.
const BAND_ENDS: [u32; BANDS - 1] = [64, 512, 4_096];
const BANDS: usize = 4;

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
    /// Encodes a view: depth and hash of each block of each slot. `checksum`: of all `holdings`.
    pub fn new<I: Iterator<Item = (u32, SequenceHash)>>(
        pool: &str,
        position: Position,
        checksum: u64,
        holdings: impl Iterator<Item = (Slot, I)>,
    ) -> Self {
        let mut bands: [Vec<Encoded>; BANDS] = Default::default();
        let mut count = 0;
        let encode = |update, holdings| {
            let update = PoolUpdate {
                pool: pool.to_owned(),
                update,
            };
            Encoded::new(update.to_message(holdings))
        };
        let part = |slot, hashes| encode(Update::Part(Run { slot, hashes }), 0);
        for (slot, blocks) in holdings {
            let mut open: [Vec<SequenceHash>; BANDS] = Default::default();
            for (depth, hash) in blocks {
                let band = BAND_ENDS.partition_point(|&end| end < depth);
                count += 1;
                open[band].push(hash);
                if open[band].len() == PART_HASHES {
                    bands[band].push(part(slot, std::mem::take(&mut open[band])));
                }
            }
            for (parts, hashes) in bands.iter_mut().zip(open) {
                if !hashes.is_empty() {
                    parts.push(part(slot, hashes));
                }
            }
        }
        let begin = encode(Update::Begin(position), count);
        let end = encode(Update::End { checksum }, 0);
        let parts = bands.into_iter().flatten();
        let messages: Arc<[_]> = [begin].into_iter().chain(parts).chain([end]).collect();
        Self {
            position,
            bytes: messages.iter().map(Encoded::size).sum(),
            messages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use proto::v1::ToFilter;

    #[test]
    fn shallow_blocks_go_first() {
        let position = Position { epoch: 1, version: 2 };
        let blocks = |depths: &[u32]| {
            depths
                .iter()
                .map(|&depth| (depth, SequenceHash(depth.into())))
                .collect::<Vec<_>>()
        };
        let holdings = [
            (Slot(0), blocks(&[5_000, 1, 513, 64, 65])),
            (Slot(7), blocks(&[512, 2])),
        ];
        let holdings = holdings.map(|(slot, blocks)| (slot, blocks.into_iter()));
        let snapshot = Snapshot::new("p", position, 9, holdings.into_iter());
        let encoded = snapshot.messages.iter();
        let messages: Vec<_> = encoded
            .map(|message| ToFilter::decode(message.bytes().clone()).unwrap().message.unwrap())
            .collect();
        let message = |update, holdings| {
            let pool = "p".to_owned();
            PoolUpdate { pool, update }.to_message(holdings)
        };
        let part = |slot, hashes: &[u64]| {
            let hashes = hashes.iter().copied().map(SequenceHash).collect();
            let slot = Slot(slot);
            message(Update::Part(Run { slot, hashes }), 0)
        };
        let expected = [
            message(Update::Begin(position), 7),
            part(0, &[1, 64]),
            part(7, &[2]),
            part(0, &[65]),
            part(7, &[512]),
            part(0, &[513]),
            part(0, &[5_000]),
            message(Update::End { checksum: 9 }, 0),
        ];
        assert_eq!(messages, expected);
    }
}
