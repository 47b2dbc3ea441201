//! Dynamo's event plane over ZMQ, directly: each publisher has a PUB socket, whose address is in the discovery service.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::follower::Signal;
use super::wire::{KV_EVENTS, WireError, envelope, envelope_of_frames, kv_events};
use crate::events::zmtp::{Connection, Part, Role};

/// How long one attempt to connect may take, and the pause between attempts, which doubles from the first to the last.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Brings the events of publisher `id` at `endpoint` until nobody takes them any more.
pub async fn run(endpoint: String, id: u64, block_size: u32, signals: mpsc::Sender<Signal>) {
    let mut pause = FIRST_PAUSE;
    while !signals.is_closed() {
        match timeout(CONNECT_TIMEOUT, Connection::connect(&endpoint, Role::HEAR_ALL)).await {
            Ok(Ok(connection)) => {
                pause = FIRST_PAUSE;
                tracing::info!(endpoint, "subscribed to KV events");
                if follow(connection, id, block_size, &signals).await.is_none() {
                    return;
                }
                tracing::warn!(endpoint, "connection to the worker's KV events is lost");
            }
            Ok(Err(error)) => tracing::debug!(endpoint, %error, "cannot connect"),
            Err(_) => tracing::debug!(endpoint, "connecting takes too long"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
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
