//! KV events of engines, from a message's payload to the view.

#![no_main]

use control_plane::events::decode::decode;
use control_plane::events::{EngineHash, Event, Tier};
use fuzz::{check_index, is_one_value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(batch) = decode(payload) {
        check_index(&batch.events);
    }
    if is_one_value(payload) {
        check_neighbours(payload);
    }
});

/// An event costs or gives itself only, whatever stands beside it and in whichever form of batch.
fn check_neighbours(event: &[u8]) {
    let expected = decode(&array(&[event])).ok().map(|mut alone| {
        alone.events.insert(0, neighbour());
        alone.events.push(neighbour());
        alone
    });
    let events = [NEIGHBOUR, event, NEIGHBOUR];
    for batch in [array(&events), map(&events)] {
        assert_eq!(decode(&batch).ok(), expected);
    }
}

/// `["BlockRemoved", [7]]`.
const NEIGHBOUR: &[u8] = b"\x92\xacBlockRemoved\x91\x07";

fn neighbour() -> Event {
    Event::Removed {
        tier: Tier::Device,
        blocks: vec![EngineHash(7)],
    }
}

/// `[nil, events, 3]`.
fn array(events: &[&[u8]]) -> Vec<u8> {
    [b"\x93\xc0", &list(events)[..], b"\x03"].concat()
}

/// `{"ts": nil, "events": events, "data_parallel_rank": 3}`.
fn map(events: &[&[u8]]) -> Vec<u8> {
    [
        b"\x83\xa2ts\xc0\xa6events",
        &list(events)[..],
        b"\xb2data_parallel_rank\x03",
    ]
    .concat()
}

fn list(events: &[&[u8]]) -> Vec<u8> {
    [&[0x90 | events.len() as u8], &events.concat()[..]].concat()
}
