//! Follows one publisher: what its event plane brings and what its worker answers go through the
//! [`Cursor`](super::cursor::Cursor) to the pool's task.

use std::sync::Arc;
use std::time::Duration;

use router_core::Slot;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::cursor::{Cursor, Effect, Recovered};
use super::query::{Target, recover};
use super::wire::RouterEvent;
use crate::admin::readiness::HoldBack;
use crate::admin::status::RankStatus;
use crate::config::EventsConfig;
use crate::events::Batch;
use crate::sync::pool::{Input, PoolHandle};

/// Signals that wait for one follower. What does not fit waits in the connection that brings it, or is dropped there, and
/// then found missing by its number.
pub const QUEUE: usize = 1024;
/// When a fresh subscription is looked after once more: what was published after the worker had answered and before the
/// event plane took note of the subscription came by neither way.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// How long a worker that cannot be reached holds readiness back.
const READY_GRACE: Duration = Duration::from_secs(10);

/// What the event plane says of one publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// From now on its events come.
    Connected,
    /// They no longer do.
    Lost,
    /// Some of them.
    Events(Vec<RouterEvent>),
    /// A message that could not be read.
    Unreadable,
    /// Some may have been lost on their way.
    Missed,
}

/// One publisher to follow.
pub struct Follower {
    /// Where its events go.
    pub pool: PoolHandle,
    /// The number of its rank there.
    pub slot: Slot,
    /// What is shown of it.
    pub status: Arc<RankStatus>,
    /// Whose events it may publish.
    pub worker_id: u64,
    /// Which of its ranks.
    pub dp_rank: u32,
    /// Who is asked for what was missed.
    pub recovery: Option<Target>,
    /// Tokens per block.
    pub block_size: u32,
    /// Limits the recoveries under way.
    pub permits: Arc<Semaphore>,
    /// Timeouts.
    pub config: EventsConfig,
}

struct Following {
    follower: Follower,
    cursor: Cursor<RouterEvent>,
    effects: Vec<Effect<RouterEvent>>,
    recovery: Option<Recovery>,
}

/// A recovery that runs; dropping it ends it.
struct Recovery(JoinHandle<Recovered<RouterEvent>>);

impl Drop for Recovery {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Nobody is left to follow for.
struct Stopped;

impl Follower {
    /// Follows until the signals end. `ready` is dropped when the cache is known, or cannot be.
    pub async fn run(self, mut signals: mpsc::Receiver<Signal>, ready: Option<Arc<HoldBack>>) {
        let mut following = Following {
            cursor: Cursor::new(self.recovery.is_some()),
            effects: Vec::new(),
            recovery: None,
            follower: self,
        };
        // The loop ends with the pool or with the signals.
        let _ = following.follow(&mut signals, ready).await;
    }
}

impl Following {
    async fn follow(
        &mut self,
        signals: &mut mpsc::Receiver<Signal>,
        mut ready: Option<Arc<HoldBack>>,
    ) -> Result<(), Stopped> {
        let probe_interval = Duration::from_millis(self.follower.config.probe_interval_ms);
        let grace = Duration::from_millis(self.follower.config.disconnect_grace_ms);
        let mut grace_ends: Option<Instant> = None;
        let mut next_probe = Instant::now() + probe_interval;
        let mut looked_twice = false;
        let ready_ends = Instant::now() + READY_GRACE;
        loop {
            tokio::select! {
                signal = signals.recv() => match signal.ok_or(Stopped)? {
                    Signal::Connected => {
                        self.follower.status.set_connected(true);
                        grace_ends = None;
                        looked_twice = false;
                        next_probe = Instant::now() + SECOND_LOOK;
                        self.cursor.connected(&mut self.effects);
                    }
                    Signal::Lost => {
                        self.follower.status.set_connected(false);
                        self.recovery = None;
                        grace_ends = Some(Instant::now() + grace);
                        self.cursor.disconnected(&mut self.effects);
                    }
                    Signal::Events(events) => {
                        if looked_twice {
                            next_probe = Instant::now() + probe_interval;
                        }
                        self.take(events);
                    }
                    Signal::Unreadable => {
                        let status = &self.follower.status;
                        status.metrics().count_message("undecodable");
                        status.report_trouble("undecodable: a message could not be read");
                    }
                    // Not at once: where many are lost, one question will do.
                    Signal::Missed => next_probe = next_probe.min(Instant::now() + SECOND_LOOK),
                },
                answer = answer(&mut self.recovery) => {
                    self.recovery = None;
                    let outcome = if answer == Recovered::Failed { "failed" } else { "complete" };
                    self.follower.status.metrics().count_replay(outcome);
                    self.cursor.recovered(answer, &mut self.effects);
                }
                () = sleep_until(next_probe) => {
                    looked_twice = true;
                    next_probe = Instant::now() + probe_interval;
                    self.cursor.idle(&mut self.effects);
                }
                () = sleep_until(ready_ends), if ready.is_some() => drop(ready.take()),
                () = sleep_until(grace_ends.unwrap_or(next_probe)), if grace_ends.is_some() => {
                    grace_ends = None;
                    self.cursor.grace_over(&mut self.effects);
                }
            }
            self.perform().await?;
            if self.cursor.is_following() {
                drop(ready.take());
            }
        }
    }

    fn take(&mut self, events: Vec<RouterEvent>) {
        for event in events {
            // A publisher is believed about its own rank only.
            if (event.worker_id, event.dp_rank) == (self.follower.worker_id, self.follower.dp_rank) {
                self.cursor.live(event.event_id, event, &mut self.effects);
            } else {
                self.effects.push(Effect::Count("foreign"));
            }
        }
    }

    /// Does what the cursor asked for. Events that follow one another go to the pool together.
    async fn perform(&mut self) -> Result<(), Stopped> {
        let mut batch = Batch::default();
        for effect in std::mem::take(&mut self.effects) {
            let status = self.follower.status.clone();
            match effect {
                Effect::Apply(event) => match event.event {
                    Ok(event) => {
                        status.metrics().count_message("applied");
                        batch.events.push(event);
                    }
                    Err(reason) => status.metrics().count_ignored(reason),
                },
                Effect::Clear => {
                    self.apply(&mut batch).await?;
                    self.send(Input::Clear(self.follower.slot)).await?;
                }
                Effect::Recover(from) => {
                    status.metrics().count_replay("asked");
                    self.recovery = self.start_recovery(from);
                }
                Effect::Degraded(reason) => status.degrade(reason),
                Effect::Whole => status.restore(),
                Effect::Count(what) => status.metrics().count_message(what),
            }
        }
        self.apply(&mut batch).await?;
        self.follower.status.set_last_sequence(self.cursor.last_event());
        Ok(())
    }

    fn start_recovery(&self, from: Option<u64>) -> Option<Recovery> {
        let target = self.follower.recovery.clone()?;
        let (block_size, permits) = (self.follower.block_size, self.follower.permits.clone());
        let asking = async move { recover(&target, from, block_size, &permits).await };
        Some(Recovery(tokio::spawn(asking)))
    }

    async fn apply(&self, batch: &mut Batch) -> Result<(), Stopped> {
        if batch.events.is_empty() {
            return Ok(());
        }
        self.send(Input::Apply(self.follower.slot, std::mem::take(batch))).await
    }

    async fn send(&self, input: Input) -> Result<(), Stopped> {
        if self.follower.pool.send(input).await {
            Ok(())
        } else {
            Err(Stopped)
        }
    }
}

async fn answer(recovery: &mut Option<Recovery>) -> Recovered<RouterEvent> {
    match recovery {
        // It is aborted only by dropping it.
        Some(Recovery(task)) => task.await.unwrap_or(Recovered::Failed),
        None => std::future::pending().await,
    }
}
