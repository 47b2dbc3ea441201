//! Dynamo's event plane over ZMQ, directly: each publisher has a PUB socket, whose address is in the discovery service.

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::connect::{PAUSE, connect};
use super::follower::Signal;
use super::wire::{KV_EVENTS, WireError, envelope, envelope_of_frames, kv_events};
use crate::events::zmtp::{Connection, Part, Role};

/// Brings the events of publisher `id` at `endpoint` until nobody takes them any more.
pub async fn run(endpoint: String, id: u64, block_size: u32, signals: mpsc::Sender<Signal>) {
    loop {
        let connection = tokio::select! {
            connection = connect(&endpoint, Role::HEAR_ALL) => connection,
            () = signals.closed() => return,
        };
        tracing::info!(endpoint, "subscribed to KV events");
        if follow(connection, id, block_size, &signals).await.is_none() {
            return;
        }
        tracing::warn!(endpoint, "connection to the worker's KV events is lost");
        sleep(PAUSE).await;
    }
}

/// One connection to its end. `None`: nobody takes signals any more.
async fn follow(mut connection: Connection, id: u64, block_size: u32, signals: &mpsc::Sender<Signal>) -> Option<()> {
    signals.send(Signal::Connected).await.ok()?;
    while let Ok(message) = connection.recv().await {
        let signal = match read(&message, id, block_size) {
            Ok(Some(signal)) => signal,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(publisher = id, %error, "message left out");
                Signal::Unreadable
            }
        };
        signals.send(signal).await.ok()?;
    }
    signals.send(Signal::Lost).await.ok()
}

/// `None`: it is of another publisher, or about something else.
fn read(message: &[Part], id: u64, block_size: u32) -> Result<Option<Signal>, WireError> {
    let frames = frames(message)?;
    let envelope = envelope(envelope_of_frames(&frames)?)?;
    if envelope.publisher_id != id || envelope.topic != KV_EVENTS {
        return Ok(None);
    }
    Ok(Some(Signal::Events(kv_events(envelope.payload, block_size)?)))
}

/// The frames of a message, if none is too long.
pub(super) fn frames(message: &[Part]) -> Result<Vec<Bytes>, WireError> {
    let frame = |part: &Part| match part {
        Part::Bytes(bytes) => Ok(bytes.clone()),
        Part::TooLong(length) => Err(WireError::TooLong(*length)),
    };
    message.iter().map(frame).collect()
}
