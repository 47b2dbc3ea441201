//! Dynamo's event plane: frames, the envelope in them, the events or the load in that, and the view.

#![no_main]

use control_plane::dynamo::load::TOPICS;
use control_plane::dynamo::load::wire::said;
use control_plane::dynamo::wire::{Envelope, RouterEvent, envelope, envelope_of_frames, kv_events};
use control_plane::events::Event;
use fuzz::{BLOCK_SIZE, check_index, is_one_value};
use libfuzzer_sys::fuzz_target;

// Each layer is also tried without those around it.
fuzz_target!(|bytes: &[u8]| {
    let frames: [&[u8]; 4] = [b"kv-events", &[0; 8], &[0; 8], bytes];
    let in_frames = envelope_of_frames(&frames).unwrap_or(bytes);
    let payload = envelope(in_frames).map_or(in_frames, |envelope| envelope.payload);
    if let Ok(events) = kv_events(payload, BLOCK_SIZE) {
        check_index(events.iter().filter_map(|event| event.event.as_ref().ok()));
    }
    for topic in TOPICS {
        let _ = said(&Envelope {
            publisher_id: 0,
            sequence: 0,
            topic,
            payload,
        });
    }
    if is_one_value(payload) {
        check_neighbours(payload);
    }
});

/// An event gives itself only, whatever stands beside it.
fn check_neighbours(event: &[u8]) {
    let neighbour = neighbour();
    let read = |events: &[&[u8]]| {
        let list = [&[0x90 | events.len() as u8], &events.concat()[..]].concat();
        kv_events(&list, BLOCK_SIZE).ok()
    };
    let expected = read(&[event]).map(|mut alone| {
        alone.insert(0, cleared());
        alone.push(cleared());
        alone
    });
    assert_eq!(read(&[&neighbour, event, &neighbour]), expected);
}

fn neighbour() -> Vec<u8> {
    let event = serde_json::json!({"worker_id": 5, "event": {"event_id": 7, "data": "cleared", "dp_rank": 1}});
    rmp_serde::to_vec_named(&event).expect("it can be written")
}

fn cleared() -> RouterEvent {
    RouterEvent {
        worker_id: 5,
        dp_rank: 1,
        event_id: 7,
        event: Ok(Event::Cleared),
    }
}
