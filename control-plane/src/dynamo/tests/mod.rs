//! What the parts promise, against recordings of Dynamo 1.6.1 and models of its workers.

mod cursor;
mod dispatch;
mod load;
mod records;
mod wire;

use serde_json::Value;

/// Bytes in hexadecimal.
fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// The frames of a recorded message.
fn frames(sample: &Value) -> Vec<Vec<u8>> {
    sample["zmq_frames_hex"].as_array().unwrap().iter().map(bytes).collect()
}

/// Recorded from Dynamo's 1.6.1 wheels.
fn samples() -> Value {
    serde_json::from_str(include_str!("../../../tests/data/dynamo_wire_samples.json")).unwrap()
}
