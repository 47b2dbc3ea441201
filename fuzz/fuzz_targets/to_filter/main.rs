//! What comes to a filter over its stream: a length of two bytes before each message; at a length of 0 the stream is lost.

#![no_main]

mod host;

use filter::config::Config;
use filter::dispatch::{receive, stream_lost};
use filter::state::State;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::v1::{self, to_filter};
use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::replica::Position;
use router_core::view::holding_checksum;

fuzz_target!(|data: &[u8]| {
    let config = br#"{"control_plane_cluster": "c", "max_view_bytes": 1048576}"#;
    let mut state = State::new(Config::parse(config).expect("it is one"));
    connect(&mut state);
    let mut rest = data;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (message, behind) = behind.split_at(length);
        if message.is_empty() {
            stream_lost(&mut state, "a test");
            connect(&mut state);
        } else {
            receive(&mut state, message);
        }
        rest = behind;
    }
    check_recovery(&mut state);
});

fn connect(state: &mut State) {
    let now = state.now();
    state.link.opened(1, now);
}

/// Whatever came before: a fleet and a snapshot that are right make the view right.
fn check_recovery(state: &mut State) {
    const POOL: &str = "pool";
    let position = Position {
        epoch: 0x5eed,
        version: 3,
    };
    let hashes = [11, 12, u64::MAX];
    let held = |hash| (Slot(5), SequenceHash(hash));
    let parts = hashes.map(held).map(|(slot, hash)| holding_checksum(slot, hash));
    let pool = v1::Pool {
        name: POOL.to_owned(),
        epoch: position.epoch,
        block_size: 16,
        weights: Some(v1::CostWeights::default()),
        ..v1::Pool::default()
    };
    let run = v1::Run {
        slot: 5,
        hashes: hashes.to_vec(),
    };
    for message in [
        to_filter::Message::Fleet(v1::Fleet { pools: vec![pool] }),
        to_filter::Message::SnapshotBegin(v1::SnapshotBegin {
            position: Some(proto::view::position_to_wire(POOL.to_owned(), position)),
            blocks: 3,
        }),
        to_filter::Message::SnapshotPart(v1::SnapshotPart {
            pool: POOL.to_owned(),
            run: Some(run),
        }),
        to_filter::Message::SnapshotEnd(v1::SnapshotEnd {
            pool: POOL.to_owned(),
            checksum: parts.into_iter().fold(0, u64::wrapping_add),
        }),
    ] {
        let message = v1::ToFilter { message: Some(message) };
        assert_eq!(receive(state, &message.encode_to_vec()), None);
    }
    let replica = state.router.replica(POOL).expect("it is in the fleet");
    assert_eq!((replica.position(), replica.in_step()), (Some(position), true));
    assert_eq!((replica.view().len(), replica.refused()), (3, 0));
    assert!(
        hashes
            .map(held)
            .iter()
            .all(|&(slot, hash)| replica.view().holds(slot, hash))
    );
}
