//! A pool's view at one version, encoded once for all that want it.
//!
//! What stands shallow goes first: a VM that has no room for all of it refuses what comes last, and more prompts reach
//! shallow blocks than deep ones. Of a slot's blocks that come together, hashes rise: a part of them is in one or two of the
//! view's shards, which the VM fills while it has them at hand.

use std::sync::Arc;

use proto::view::PoolUpdate;
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::replica::{Position, Run, Update};

use super::codec::Encoded;

/// Block hashes in a part. A VM takes some 0.2 ms for so many.
pub const PART_HASHES: usize = 1_600;
/// The last depth of every band but the deepest. Bands follow each other; depth counts no further within one.
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
    /// Encodes a view: depth and hash of each block of each slot. `blocks`: how many different ones there are; `checksum`: of
    /// all `holdings`.
    pub fn new<I: Iterator<Item = (u32, SequenceHash)>>(
        pool: &str,
        position: Position,
        blocks: usize,
        checksum: u64,
        holdings: impl Iterator<Item = (Slot, I)>,
    ) -> Self {
        let mut bands: [Vec<Encoded>; BANDS] = Default::default();
        let encode = |update| {
            let update = PoolUpdate {
                pool: pool.to_owned(),
                update,
            };
            Encoded::new(update.to_message())
        };
        for (slot, held) in holdings {
            let mut by_band: [Vec<SequenceHash>; BANDS] = Default::default();
            for (depth, hash) in held {
                by_band[BAND_ENDS.partition_point(|&end| end < depth)].push(hash);
            }
            for (parts, mut hashes) in bands.iter_mut().zip(by_band) {
                hashes.sort_unstable();
                let run = |hashes: &[SequenceHash]| Run {
                    slot,
                    hashes: hashes.to_vec(),
                };
                parts.extend(
                    hashes
                        .chunks(PART_HASHES)
                        .map(|hashes| encode(Update::Part(run(hashes)))),
                );
            }
        }
        let blocks = blocks as u64;
        let begin = encode(Update::Begin { position, blocks });
        let end = encode(Update::End { checksum });
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
    fn shallow_blocks_go_first_and_hashes_rise_within_their_bands() {
        let position = Position { epoch: 1, version: 2 };
        let blocks = |held: &[(u32, u64)]| {
            held.iter()
                .map(|&(depth, hash)| (depth, SequenceHash(hash)))
                .collect::<Vec<_>>()
        };
        let holdings = [
            (
                Slot(0),
                blocks(&[(5_000, 1), (1, 9), (513, 4), (64, 3), (65, 7), (2, 5)]),
            ),
            (Slot(7), blocks(&[(512, 6), (2, 9)])),
        ];
        let holdings = holdings.map(|(slot, blocks)| (slot, blocks.into_iter()));
        let snapshot = Snapshot::new("p", position, 7, 8, holdings.into_iter());
        let encoded = snapshot.messages.iter();
        let messages: Vec<_> = encoded
            .map(|message| ToFilter::decode(message.bytes().clone()).unwrap().message.unwrap())
            .collect();
        let message = |update| {
            let pool = "p".to_owned();
            PoolUpdate { pool, update }.to_message()
        };
        let part = |slot, hashes: &[u64]| {
            let hashes = hashes.iter().copied().map(SequenceHash).collect();
            let slot = Slot(slot);
            message(Update::Part(Run { slot, hashes }))
        };
        let expected = [
            message(Update::Begin { position, blocks: 7 }),
            part(0, &[3, 5, 9]),
            part(7, &[9]),
            part(0, &[7]),
            part(7, &[6]),
            part(0, &[4]),
            part(0, &[1]),
            message(Update::End { checksum: 8 }),
        ];
        assert_eq!(messages, expected);
    }
}
