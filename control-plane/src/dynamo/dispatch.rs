//! Many publishers on one connection: each message goes to the follower of its publisher, and what the connection goes
//! through goes to all of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use tokio::sync::mpsc;

use super::follower::Signal;
use super::load::Loads;
use super::wire::{KV_EVENTS, WireError, envelope, kv_events};
use crate::events::zmtp::MAX_FRAME_BYTES;

/// See the module.
#[derive(Debug)]
pub struct Dispatcher {
    block_size: u32,
    /// Takes what is said of load.
    loads: Option<Loads>,
    /// Names of those that stand. With several, each brings the same messages.
    connections: BTreeSet<String>,
    followers: HashMap<u64, Follower>,
}

#[derive(Debug)]
struct Follower {
    signals: mpsc::Sender<Signal>,
    /// The publisher's number for the last message that came.
    last_sequence: Option<u64>,
}

impl Dispatcher {
    /// Nobody is followed yet, and nothing is connected. Blocks have `block_size` tokens; `loads` takes what is said of load.
    pub fn new(block_size: u32, loads: Option<Loads>) -> Self {
        Self {
            block_size,
            loads,
            connections: BTreeSet::new(),
            followers: HashMap::new(),
        }
    }

    /// From now on `signals` gets what comes of a publisher, until its other end is dropped.
    pub async fn add(&mut self, publisher: u64, signals: mpsc::Sender<Signal>) {
        self.followers.retain(|_, follower| !follower.signals.is_closed());
        if !self.connections.is_empty() && signals.send(Signal::Connected).await.is_err() {
            return;
        }
        let follower = Follower {
            signals,
            last_sequence: None,
        };
        self.followers.insert(publisher, follower);
    }

    /// A connection stands. What was published before is unknown, also if others stood: not every publisher may have
    /// reached them.
    pub async fn connected(&mut self, name: &str) {
        self.connections.insert(name.to_owned());
        self.tell_all(|| Signal::Connected).await;
    }

    /// A connection is gone, if it stood.
    pub async fn lost(&mut self, name: &str) {
        if !self.connections.remove(name) {
            return;
        }
        if self.connections.is_empty() {
            self.tell_all(|| Signal::Lost).await;
        } else {
            self.missed().await;
        }
    }

    /// Messages were lost on their way, and nobody knows whose.
    pub async fn missed(&mut self) {
        self.tell_all(|| Signal::Missed).await;
    }

    /// A message came.
    ///
    /// # Errors
    /// When it does not say whose it is, or what it says of load cannot be read.
    pub async fn message(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let message = envelope(bytes)?;
        if let Some(loads) = &self.loads
            && loads.take(&message, Instant::now())?
        {
            return Ok(());
        }
        let (publisher, sequence) = (message.publisher_id, Some(message.sequence));
        let Some(follower) = self.followers.get_mut(&publisher) else {
            return Ok(());
        };
        // Another connection has brought it already.
        if message.topic != KV_EVENTS || follower.last_sequence >= sequence {
            return Ok(());
        }
        follower.last_sequence = sequence;
        let signal = if bytes.len() as u64 > MAX_FRAME_BYTES {
            Err(WireError::TooLong(bytes.len() as u64))
        } else {
            kv_events(message.payload, self.block_size).map(Signal::Events)
        };
        let signal = signal.unwrap_or_else(|error| {
            tracing::warn!(publisher, %error, "message left out");
            Signal::Unreadable
        });
        self.tell(publisher, signal).await;
        Ok(())
    }

    /// A message came that is not kept.
    pub async fn unreadable(&mut self, publisher: u64) {
        self.tell(publisher, Signal::Unreadable).await;
    }

    async fn tell(&mut self, publisher: u64, signal: Signal) {
        let Some(follower) = self.followers.get(&publisher) else {
            return;
        };
        if follower.signals.send(signal).await.is_err() {
            self.followers.remove(&publisher);
        }
    }

    async fn tell_all(&mut self, signal: impl Fn() -> Signal) {
        for follower in self.followers.values() {
            // One that is gone is found when the next one is added.
            let _ = follower.signals.send(signal()).await;
        }
    }
}
