//! One publisher over ZeroMQ: connections in, effects of the [`Cursor`](super::cursor::Cursor) out to the pool's task.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use router_core::Slot;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use xxhash_rust::xxh3::xxh3_64;

use super::Batch;
use super::cursor::{Cursor, Effect, Effects, Message};
use super::keep::{Keep, Keeping};
use super::listen::{Accepted, Expected};
use super::replay::{Answer, Replay};
use super::zmtp::{Connection, Part, Role};
use crate::admin::readiness::HoldBack;
use crate::admin::status::RankStatus;
use crate::config::EventsConfig;
use crate::sync::pool::{Input, PoolHandle};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between attempts: doubles from the first to the last. Short, as a worker that is back is wanted back.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a worker that cannot be reached holds readiness back.
const READY_GRACE: Duration = Duration::from_secs(10);
/// When a fresh subscription is looked after once more: what was published after the replay was answered and before the
/// publisher took note of the subscription came by neither way.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// One publisher, which numbers its messages by itself.
pub struct Feed {
    /// Where its messages go.
    pub pool: PoolHandle,
    /// The ranks that it tells of, at least one. Of several, each message names its own.
    pub ranks: Vec<FeedRank>,
    /// Where its connections come from.
    pub source: Source,
    /// ROUTER endpoint, if it replays.
    pub replay: Option<String>,
    /// Timeouts.
    pub config: EventsConfig,
    /// Notified with every new connection: the worker may be another than before.
    pub connected: Arc<Notify>,
    /// How its state outlives the process, if it shall and can: without a replay, nothing could show that it is still
    /// true.
    pub keeping: Option<Keeping>,
}

/// A rank that a publisher tells of.
#[derive(Clone, Debug)]
pub struct FeedRank {
    /// As messages name it.
    pub dp_rank: u32,
    /// Its number in the pool.
    pub slot: Slot,
    /// What is shown of it.
    pub status: Arc<RankStatus>,
}

/// Where a publisher's connections come from.
#[derive(Debug)]
pub enum Source {
    /// We connect to this endpoint.
    Connect(String),
    /// It connects to us.
    Accept(Expected),
}

impl Feed {
    /// Follows the publisher until the pool's task ends, or the process if state is kept. `ready` is dropped when it was
    /// contacted.
    pub async fn run(self, ready: HoldBack) {
        let Err(Stopped) = self.follow(ready).await;
    }

    async fn follow(self, ready: HoldBack) -> Result<Infallible, Stopped> {
        let can_replay = self.replay.is_some();
        let keep = self.keeping.clone().filter(|_| can_replay);
        let keep = keep.map(|keeping| {
            let ranks = self.ranks.iter().map(|rank| (rank.dp_rank, rank.slot));
            Keep::new(keeping, &self.pool, self.source.name(), ranks)
        });
        let standing = match &keep {
            Some(keep) => keep.restore(&self.pool).await,
            None => None,
        };
        let mut feeding = Feeding {
            cursor: standing.map_or_else(
                || Cursor::new(can_replay),
                |standing| Cursor::resume(can_replay, standing),
            ),
            effects: Vec::new(),
            replay: None,
            ready: Some(ready),
            keep,
            saving: None,
            last_save: Instant::now(),
            feed: self,
        };
        let mut next = timeout(READY_GRACE, feeding.connect()).await.ok().transpose()?;
        loop {
            let accepted = match next.take() {
                Some(accepted) => accepted,
                None => {
                    feeding.ready = None;
                    feeding.connect().await?
                }
            };
            next = feeding.follow(accepted).await?;
        }
    }
}

struct Feeding {
    feed: Feed,
    cursor: Cursor<Part>,
    effects: Effects<Part>,
    replay: Option<Replay>,
    /// Held until the publisher was heard for the first time, or not in time.
    ready: Option<HoldBack>,
    keep: Option<Keep>,
    /// State that is being written.
    saving: Option<JoinHandle<()>>,
    last_save: Instant,
}

/// The pool's task has ended, or the process stops.
struct Stopped;

/// What woke the loop up.
enum Wakeup {
    Live(Vec<Part>),
    Replayed(Answer),
    Idle,
    Disconnected(String),
    Replaced(Accepted),
    Save,
    Stop,
}

impl Feeding {
    async fn connect(&mut self) -> Result<Accepted, Stopped> {
        let keep = self.keep.clone();
        tokio::select! {
            accepted = self.connect_anyhow() => Ok(accepted),
            () = stopped(keep.as_ref()) => Err(Stopped),
        }
    }

    /// Waits for a connection, however long it takes. What is known of the ranks is given up when the grace is over.
    async fn connect_anyhow(&mut self) -> Accepted {
        let grace_ends = Instant::now() + Duration::from_millis(self.feed.config.disconnect_grace_ms);
        tokio::select! {
            accepted = self.feed.source.next() => return accepted,
            () = sleep_until(grace_ends) => {}
        }
        self.cursor.grace_over(&mut self.effects);
        // The loop after this notices if the pool is gone.
        let _ = self.perform().await;
        self.feed.source.next().await
    }

    /// Follows one connection to its end. Returns the one that took its place, if one did.
    async fn follow(&mut self, accepted: Accepted) -> Result<Option<Accepted>, Stopped> {
        let Accepted { mut connection, first } = accepted;
        self.feed.ranks.iter().for_each(|rank| rank.status.set_connected(true));
        self.feed.connected.notify_one();
        tracing::info!(publisher = self.feed.source.name(), "subscribed to KV events");
        self.cursor.connected(&mut self.effects);
        let mut next_probe = Instant::now() + SECOND_LOOK;
        let mut looked_twice = false;
        let mut retry = SECOND_LOOK;
        let mut dead = self.perform().await?;
        if let Some(first) = first {
            self.take_live(first);
            dead |= self.perform().await?;
        }
        let mut replaced = None;
        while !dead {
            let wakeup = tokio::select! {
                // Replays first: live messages wait for them in memory.
                biased;
                answer = next_answer(&mut self.replay) => Wakeup::Replayed(answer),
                stops = save_due(self.keep.as_ref(), self.last_save) => if stops { Wakeup::Stop } else { Wakeup::Save },
                accepted = self.feed.source.replaced() => Wakeup::Replaced(accepted),
                message = connection.recv() => match message {
                    Ok(parts) => Wakeup::Live(parts),
                    Err(error) => Wakeup::Disconnected(error.to_string()),
                },
                () = sleep_until(next_probe) => Wakeup::Idle,
            };
            match wakeup {
                Wakeup::Live(parts) => {
                    if looked_twice {
                        next_probe = Instant::now() + self.probe_interval();
                    }
                    self.take_live(parts);
                }
                Wakeup::Replayed(answer) => {
                    if matches!(answer, Answer::Failed(_)) {
                        // What it would have told may come in no other way, however lively the publisher is.
                        looked_twice = false;
                        next_probe = Instant::now() + retry;
                        retry = (retry * 2).min(self.probe_interval());
                    }
                    self.take_replayed(answer);
                }
                // Being asked already: this is no look of its own.
                Wakeup::Idle if self.replay.is_some() => next_probe = Instant::now() + SECOND_LOOK,
                Wakeup::Idle => {
                    looked_twice = true;
                    next_probe = Instant::now() + self.probe_interval();
                    self.cursor.idle(&mut self.effects);
                }
                Wakeup::Disconnected(why) => {
                    tracing::warn!(
                        publisher = self.feed.source.name(),
                        why,
                        "connection to the worker's KV events is lost"
                    );
                    break;
                }
                Wakeup::Replaced(accepted) => {
                    // Usually the old one is half open: its end did not reach us.
                    tracing::warn!(
                        publisher = self.feed.source.name(),
                        "another connection of the same publisher takes over"
                    );
                    self.count("replaced_connection");
                    replaced = Some(accepted);
                    break;
                }
                Wakeup::Save => self.save().await,
                Wakeup::Stop => {
                    self.saved().await;
                    self.save().await;
                    self.saved().await;
                    return Err(Stopped);
                }
            }
            dead = self.perform().await?;
        }
        self.replay = None;
        self.feed.ranks.iter().for_each(|rank| rank.status.set_connected(false));
        self.cursor.disconnected(&mut self.effects);
        self.perform().await?;
        Ok(replaced)
    }

    fn take_live(&mut self, parts: Vec<Part>) {
        let parsed = match <[Part; 3]>::try_from(parts) {
            Ok([Part::Bytes(_topic), Part::Bytes(sequence), payload]) => {
                sequence.as_ref().try_into().ok().map(|bytes| (bytes, payload))
            }
            _ => None,
        };
        match parsed {
            Some((sequence, payload)) => {
                let message = message(u64::from_be_bytes(sequence), payload);
                self.cursor.live(message, &mut self.effects);
            }
            None => self.effects.push(Effect::Count("bad_frames")),
        }
    }

    fn take_replayed(&mut self, answer: Answer) {
        match answer {
            Answer::Message { sequence, payload } => {
                self.cursor.replayed(message(sequence, payload), &mut self.effects);
            }
            Answer::End => {
                self.replay = None;
                self.first_status().metrics().count_replay("complete");
                self.cursor.replay_ended(true, &mut self.effects);
            }
            Answer::Failed(why) => {
                self.replay = None;
                tracing::warn!(endpoint = self.feed.replay, why, "replay failed");
                self.first_status().metrics().count_replay("failed");
                self.cursor.replay_ended(false, &mut self.effects);
            }
        }
    }

    /// Does what the cursor asked for. True if the connection is to be given up.
    async fn perform(&mut self) -> Result<bool, Stopped> {
        let mut reconnect = false;
        for effect in std::mem::take(&mut self.effects) {
            let ranks = &self.feed.ranks;
            match effect {
                Effect::Apply(batch) => self.apply(batch).await?,
                Effect::Unreadable(error) => {
                    tracing::warn!(publisher = self.feed.source.name(), %error, "message left out");
                    self.count(error.label());
                    for rank in ranks {
                        rank.status.report_trouble("undecodable: a message could not be read");
                    }
                }
                Effect::Reveal => {
                    for rank in ranks {
                        self.send(Input::Reveal(rank.slot)).await?;
                    }
                }
                Effect::Clear => {
                    for rank in ranks {
                        self.send(Input::Clear(rank.slot)).await?;
                    }
                }
                Effect::Replay { from } => {
                    self.first_status().metrics().count_replay("asked");
                    self.replay = self.feed.replay.clone().map(|endpoint| Replay::start(endpoint, from));
                }
                Effect::Reconnect => reconnect = true,
                Effect::Degraded(reason) => ranks.iter().for_each(|rank| rank.status.degrade(reason)),
                Effect::Whole => ranks.iter().for_each(|rank| rank.status.restore()),
                Effect::Count(what) => self.count(what),
            }
        }
        let sequence = self.cursor.last_sequence();
        self.feed
            .ranks
            .iter()
            .for_each(|rank| rank.status.set_last_sequence(sequence));
        if self.cursor.is_following() {
            self.ready = None;
        }
        Ok(reconnect)
    }

    /// Has the state written, unless it is uncertain or the last one is still being written.
    async fn save(&mut self) {
        let Some(keep) = &self.keep else { return };
        self.last_save = Instant::now();
        if self.saving.as_ref().is_none_or(JoinHandle::is_finished)
            && let Some(standing) = self.cursor.standing()
        {
            self.saving = Some(keep.save(&self.feed.pool, standing).await);
        }
    }

    /// Waits until state is written that is being written.
    async fn saved(&mut self) {
        if let Some(saving) = self.saving.take() {
            // It is never cancelled, and if it panicked, that is in the log.
            let _ = saving.await;
        }
    }

    async fn apply(&self, batch: Batch) -> Result<(), Stopped> {
        let Some(rank) = self.rank_of(&batch) else {
            self.count("unknown_rank");
            self.first_status().report_trouble(
                "unknown_rank: messages name a rank that the worker does not have: is data_parallel_size right?",
            );
            return Ok(());
        };
        let metrics = rank.status.metrics();
        metrics.count_message("applied");
        batch.ignored.iter().for_each(|reason| metrics.count_ignored(reason));
        self.send(Input::Apply(rank.slot, batch)).await
    }

    /// Whom a message is about. A publisher of one rank needs not name it, or may know it by another number, as where
    /// each rank of a larger engine has an endpoint of its own.
    fn rank_of(&self, batch: &Batch) -> Option<&FeedRank> {
        match self.feed.ranks.as_slice() {
            [rank] => Some(rank),
            ranks => ranks.iter().find(|rank| rank.dp_rank == batch.dp_rank.unwrap_or(0)),
        }
    }

    /// What counts for the publisher as a whole is counted for its first rank.
    fn first_status(&self) -> &RankStatus {
        &self.feed.ranks[0].status
    }

    fn count(&self, what: &'static str) {
        self.first_status().metrics().count_message(what);
    }

    async fn send(&self, input: Input) -> Result<(), Stopped> {
        if self.feed.pool.send(input).await {
            Ok(())
        } else {
            Err(Stopped)
        }
    }

    fn probe_interval(&self) -> Duration {
        Duration::from_millis(self.feed.config.probe_interval_ms)
    }
}

impl Source {
    /// For logs and the status.
    pub fn name(&self) -> &str {
        match self {
            Self::Connect(endpoint) => endpoint,
            Self::Accept(expected) => expected.name(),
        }
    }

    /// The next connection, however long it takes.
    async fn next(&mut self) -> Accepted {
        match self {
            Self::Connect(endpoint) => connect_forever(endpoint).await.into(),
            Self::Accept(expected) => expected.next().await,
        }
    }

    /// One that takes the place of a connection that stands.
    async fn replaced(&mut self) -> Accepted {
        match self {
            Self::Connect(_) => std::future::pending().await,
            Self::Accept(expected) => expected.next().await,
        }
    }
}

fn message(sequence: u64, payload: Part) -> Message<Part> {
    let (fingerprint, bytes) = match &payload {
        Part::Bytes(bytes) => (xxh3_64(bytes), bytes.len()),
        Part::TooLong(length) => (*length, 0),
    };
    Message {
        sequence,
        fingerprint,
        bytes,
        payload,
    }
}

/// Waits until the state is to be saved. True if the process stops.
async fn save_due(keep: Option<&Keep>, last: Instant) -> bool {
    match keep {
        Some(keep) => keep.due(last).await,
        None => std::future::pending().await,
    }
}

/// Waits until the process stops, if that is anything to wait for.
async fn stopped(keep: Option<&Keep>) {
    match keep {
        Some(keep) => keep.stop().await,
        None => std::future::pending().await,
    }
}

async fn next_answer(replay: &mut Option<Replay>) -> Answer {
    match replay {
        Some(replay) => replay.next().await,
        None => std::future::pending().await,
    }
}

async fn connect_forever(endpoint: &str) -> Connection {
    let mut pause = FIRST_PAUSE;
    loop {
        match timeout(CONNECT_TIMEOUT, Connection::connect(endpoint, Role::HEAR_ALL)).await {
            Ok(Ok(connection)) => return connection,
            Ok(Err(error)) => tracing::debug!(endpoint, %error, "cannot connect"),
            Err(_) => tracing::debug!(endpoint, "connecting takes too long"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
