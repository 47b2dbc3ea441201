//! What a Dynamo worker sends in answer to a recovery query, up to the view.

#![no_main]

use control_plane::dynamo::cursor::Recovered;
use control_plane::dynamo::query::read_answer;
use futures::executor::block_on;
use fuzz::{BLOCK_SIZE, check_index};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| {
    let events = match block_on(read_answer(&mut &stream[..], BLOCK_SIZE)) {
        Ok(Recovered::Events(events)) => events.into_iter().map(|(_, event)| event).collect(),
        Ok(Recovered::Everything { events, .. }) => events,
        Ok(Recovered::Nothing | Recovered::Failed) | Err(_) => Vec::new(),
    };
    check_index(events.iter().filter_map(|event| event.event.as_ref().ok()));
});
