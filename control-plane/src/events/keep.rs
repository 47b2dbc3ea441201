//! What is known of a publisher, kept in a file for the next process.
//!
//! A publisher's feed is the only one that tells the pool's task of its ranks, so what the task answers to it is the state
//! right after the last message that it sent: blocks and cursor belong together.

use std::time::Duration;

use router_core::Slot;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};

use super::cursor::Standing;
use crate::state::{Saved, Store, Subject};
use crate::sync::pool::{Input, PoolHandle};

/// How state is kept, of all publishers.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// Where the files are.
    pub store: Store,
    /// How often it is saved.
    pub interval: Duration,
    /// Says true when the process stops.
    pub stopped: watch::Receiver<bool>,
}

/// One publisher's.
#[derive(Clone, Debug)]
pub(super) struct Keep {
    keeping: Keeping,
    subject: Subject,
    /// Numbers of the subject's ranks in the pool, in their order.
    slots: Vec<Slot>,
}

impl Keep {
    /// Of the publisher of that name. `ranks`: numbers by themselves and in the pool.
    pub(super) fn new(
        keeping: Keeping,
        pool: &PoolHandle,
        publisher: &str,
        ranks: impl Iterator<Item = (u32, Slot)>,
    ) -> Self {
        let (dp_ranks, slots) = ranks.unzip();
        let subject = Subject {
            pool: pool.name.to_string(),
            publisher: publisher.to_owned(),
            dp_ranks,
            block_size: pool.layout.block_size.get(),
            eagle: pool.layout.eagle,
        };
        Self {
            keeping,
            subject,
            slots,
        }
    }

    /// Waits until state is to be saved again. True if the process stops.
    pub(super) async fn due(&self, last: Instant) -> bool {
        timeout_at(last + self.keeping.interval, self.stop()).await.is_ok()
    }

    /// Waits until the process stops.
    pub(super) async fn stop(&self) {
        // An error means that the sender is gone: stop as well.
        let _ = self.keeping.stopped.clone().wait_for(|stop| *stop).await;
    }

    /// Gives the pool what was saved, hidden until it is found to be true. Returns what is to be verified, if anything.
    pub(super) async fn restore(&self, pool: &PoolHandle) -> Option<Standing> {
        let (store, subject) = (self.keeping.store.clone(), self.subject.clone());
        let publisher = &self.subject.publisher;
        let refuse = |why: String| tracing::warn!(publisher, why, "saved state is not used");
        let saved = match spawn_blocking(move || store.load(&subject)).await.ok()? {
            Ok(saved) => saved?,
            Err(why) => {
                refuse(why.to_string());
                return None;
            }
        };
        let blocks = self.slots.iter().copied().zip(saved.blocks).collect();
        let (reply, answer) = oneshot::channel();
        pool.send(Input::Restore(blocks, reply)).await;
        match answer.await.ok()? {
            Ok(()) => Some(saved.standing),
            Err(why) => {
                refuse(why.to_string());
                None
            }
        }
    }

    /// Asks the pool for what it has of the ranks, as of `standing`, and has it written meanwhile. A failure costs warmth
    /// only, and is logged.
    pub(super) async fn save(&self, pool: &PoolHandle, standing: Standing) -> JoinHandle<()> {
        let (reply, answer) = oneshot::channel();
        pool.send(Input::Save(self.slots.clone(), reply)).await;
        let (store, subject) = (self.keeping.store.clone(), self.subject.clone());
        tokio::spawn(async move {
            // Of ranks that are being cleared there is nothing to keep.
            let Ok(Some(blocks)) = answer.await else { return };
            let publisher = subject.publisher.clone();
            let saved = Saved {
                subject,
                standing,
                blocks,
            };
            if let Ok(Err(error)) = spawn_blocking(move || store.save(&saved)).await {
                tracing::warn!(publisher, %error, "state cannot be saved");
            }
        })
    }
}
