//! Everything the core can say survives the wire; what the wire must not say is refused by name.

use proptest::prelude::*;
use prost::Message;
use proto::view::PoolUpdate;
use proto::{BadMessage, MAX_HASHES_PER_MESSAGE, MAX_MESSAGE_BYTES, v1};
use router_core::Slot;
use router_core::cost::CostWeights;
use router_core::fleet::{ArtefactId, Candidate, Fleet, ModelName, Pool};
use router_core::hash::{BlockLayout, SequenceHash};
use router_core::levels::Levels;
use router_core::replica::{Delta, Position, Run, Update};
use std::num::NonZeroU32;

fn fleet() -> Fleet {
    let pool = Pool {
        name: "qwen".into(),
        epoch: u64::MAX,
        models: vec![
            ModelName {
                name: "base".into(),
                lora: None,
            },
            ModelName {
                name: "tuned".into(),
                lora: Some("tuned".into()),
            },
        ],
        layout: BlockLayout {
            eagle: true,
            ..BlockLayout::plain(64).unwrap()
        },
        levels: Levels {
            host: true,
            disk: false,
        },
        tokenizer: Some(ArtefactId::of(b"t")),
        template: None,
        kv_events: true,
        stride: NonZeroU32::new(4).unwrap(),
        weights: CostWeights {
            overlap_credit: 0.5,
            host_cache_hit_weight: 0.6,
            disk_cache_hit_weight: 0.1,
            ..CostWeights::default()
        },
        temperature: 0.25,
        inject_tokens: true,
        candidates: vec![
            Candidate {
                slot: Slot(0),
                endpoint: "[::1]:8000".into(),
                dp_rank: Some(0),
                instance_id: Some(u64::MAX),
            },
            Candidate {
                slot: Slot(4095),
                endpoint: "10.0.0.1:8000".into(),
                dp_rank: None,
                instance_id: None,
            },
        ],
    };
    Fleet { pools: vec![pool] }
}

#[test]
fn a_fleet_survives() {
    let bytes = v1::Fleet::from(&fleet()).encode_to_vec();
    assert_eq!(Fleet::try_from(v1::Fleet::decode(&bytes[..]).unwrap()), Ok(fleet()));
}

#[test]
fn impossible_fleets_are_refused_by_field() {
    type Break = fn(&mut v1::Pool);
    let cases: [(Break, &str); 4] = [
        (|pool| pool.block_size = 0, "pool.block_size: 0: must be positive"),
        (|pool| pool.weights = None, "pool.weights: absent: required"),
        (
            |pool| pool.tokenizer = vec![1; 15].into(),
            "pool.tokenizer: 15: an artefact id has 16 bytes",
        ),
        (
            |pool| pool.candidates[0].slot = 4096,
            "pool.candidates.slot: 4096: beyond the largest slot number",
        ),
    ];
    for (break_it, message) in cases {
        let mut wire = v1::Fleet::from(&fleet());
        break_it(&mut wire.pools[0]);
        assert_eq!(
            Fleet::try_from(wire).map_err(|bad| bad.to_string()),
            Err(message.to_owned())
        );
    }
}

fn run() -> impl Strategy<Value = Run> {
    let hashes = prop::collection::vec(any::<u64>().prop_map(SequenceHash), 0..20);
    (0..Slot::LIMIT, hashes).prop_map(|(slot, hashes)| Run {
        slot: Slot(slot),
        hashes,
    })
}

fn update() -> impl Strategy<Value = Update> {
    let position = (any::<u64>(), any::<u64>()).prop_map(|(epoch, version)| Position { epoch, version });
    let runs = || prop::collection::vec(run(), 0..4);
    let delta = (position.clone(), runs(), runs(), any::<u64>()).prop_map(|(from, removed, stored, checksum)| {
        Update::Delta(Delta {
            from,
            removed,
            stored,
            checksum,
        })
    });
    prop_oneof![
        (position, any::<u64>()).prop_map(|(position, blocks)| Update::Begin { position, blocks }),
        run().prop_map(Update::Part),
        any::<u64>().prop_map(|checksum| Update::End { checksum }),
        delta
    ]
}

fn back(bytes: &[u8]) -> Result<PoolUpdate, BadMessage> {
    use v1::to_filter::Message as M;
    match v1::ToFilter::decode(bytes).unwrap().message.unwrap() {
        M::SnapshotBegin(begin) => begin.try_into(),
        M::SnapshotPart(part) => part.try_into(),
        M::SnapshotEnd(end) => Ok(end.into()),
        M::Delta(delta) => delta.try_into(),
        other => panic!("not an update: {other:?}"),
    }
}

proptest! {
    #[test]
    fn updates_survive(update in update()) {
        let update = PoolUpdate { pool: "p".into(), update };
        let bytes = v1::ToFilter { message: Some(update.to_message()) }.encode_to_vec();
        prop_assert_eq!(back(&bytes), Ok(update));
    }
}

#[test]
fn the_largest_part_stays_within_a_message() {
    let run = Run {
        slot: Slot(4095),
        hashes: vec![SequenceHash(u64::MAX); MAX_HASHES_PER_MESSAGE],
    };
    let update = PoolUpdate {
        pool: "p".repeat(253),
        update: Update::Part(run),
    };
    let size = v1::ToFilter {
        message: Some(update.to_message()),
    }
    .encoded_len();
    assert!(size <= MAX_MESSAGE_BYTES, "{size}");
}
