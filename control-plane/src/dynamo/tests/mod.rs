//! What the parts promise, against recordings of Dynamo 1.6.1 and models of its workers.

mod cursor;
mod dispatch;
mod records;
mod wire;

use serde_json::Value;

/// Recorded from Dynamo's 1.6.1 wheels.
fn samples() -> Value {
    serde_json::from_str(include_str!("../../../tests/data/dynamo_wire_samples.json")).unwrap()
}
