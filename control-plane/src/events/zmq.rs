//! One rank's subscription: sockets in, effects of the [`Cursor`](super::cursor::Cursor) out to the pool's task.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::Receiver;
use router_core::Slot;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use xxhash_rust::xxh3::xxh3_64;
use zeromq::{Socket, SocketEvent, SocketRecv, SubSocket, ZmqMessage};

use super::cursor::{Cursor, Effect, Message};
use super::decode::{MAX_PAYLOAD_BYTES, decode};
use super::replay::{Answer, Replay};
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

/// One rank that publishes.
pub struct Feed {
    /// Where its messages go.
    pub pool: PoolHandle,
    /// Its number there.
    pub slot: Slot,
    /// PUB endpoint.
    pub events: String,
    /// ROUTER endpoint, if it replays.
    pub replay: Option<String>,
    /// What is shown of it.
    pub status: Arc<RankStatus>,
    /// Timeouts.
    pub config: EventsConfig,
    /// Notified with every new connection: the worker may be another than before.
    pub connected: Arc<Notify>,
}

impl Feed {
    /// Follows the rank until the pool's task ends. `ready` is dropped when the rank was contacted.
    pub async fn run(self, ready: HoldBack) {
        let mut feeding = Feeding {
            cursor: Cursor::new(self.replay.is_some()),
            effects: Vec::new(),
            replay: None,
            ready: Some(ready),
            feed: self,
        };
        if let Ok(subscription) = timeout(READY_GRACE, feeding.connect()).await
            && feeding.follow(subscription).await.is_err()
        {
            return;
        }
        feeding.ready = None;
        loop {
            let subscription = feeding.connect().await;
            if feeding.follow(subscription).await.is_err() {
                return;
            }
        }
    }
}

struct Feeding {
    feed: Feed,
    cursor: Cursor<Bytes>,
    effects: Vec<Effect<Bytes>>,
    replay: Option<Replay>,
    /// Held until the rank was heard for the first time, or not in time.
    ready: Option<HoldBack>,
}

/// A connected socket, and what befalls it.
struct Subscription {
    socket: SubSocket,
    monitor: Receiver<SocketEvent>,
}

/// The pool's task has ended.
struct Stopped;

/// What woke the loop up.
enum Wakeup {
    Live(ZmqMessage),
    Replayed(Answer),
    Idle,
    Disconnected,
}

impl Feeding {
    /// Connects, however long it takes. What is known of the rank is given up when the grace is over.
    async fn connect(&mut self) -> Subscription {
        let grace_ends = Instant::now() + Duration::from_millis(self.feed.config.disconnect_grace_ms);
        let connecting = connect_forever(self.feed.events.clone());
        tokio::pin!(connecting);
        tokio::select! {
            subscription = &mut connecting => return subscription,
            () = sleep_until(grace_ends) => {}
        }
        self.cursor.grace_over(&mut self.effects);
        // The loop after this notices if the pool is gone.
        let _ = self.perform().await;
        connecting.await
    }

    async fn follow(
        &mut self,
        Subscription {
            mut socket,
            mut monitor,
        }: Subscription,
    ) -> Result<(), Stopped> {
        self.feed.status.set_connected(true);
        self.feed.connected.notify_one();
        tracing::info!(endpoint = self.feed.events, "subscribed to KV events");
        self.cursor.connected(&mut self.effects);
        let mut next_probe = Instant::now() + SECOND_LOOK;
        let mut looked_twice = false;
        let mut retry = SECOND_LOOK;
        let mut dead = self.perform().await?;
        while !dead {
            let wakeup = tokio::select! {
                // Replays first: live messages wait for them in memory.
                biased;
                answer = next_answer(&mut self.replay) => Wakeup::Replayed(answer),
                event = monitor.next() => match event {
                    Some(SocketEvent::Disconnected(_) | SocketEvent::Closed) | None => Wakeup::Disconnected,
                    Some(_) => continue,
                },
                message = socket.recv() => message.map_or(Wakeup::Disconnected, Wakeup::Live),
                () = sleep_until(next_probe) => Wakeup::Idle,
            };
            match wakeup {
                Wakeup::Live(message) => {
                    if looked_twice {
                        next_probe = Instant::now() + self.probe_interval();
                    }
                    self.take_live(message);
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
                Wakeup::Disconnected => break,
            }
            dead = self.perform().await?;
        }
        tracing::warn!(
            endpoint = self.feed.events,
            "connection to the worker's KV events is lost"
        );
        self.replay = None;
        self.feed.status.set_connected(false);
        self.cursor.disconnected(&mut self.effects);
        self.perform().await.map(drop)
    }

    fn take_live(&mut self, message: ZmqMessage) {
        let frames = message.into_vec();
        let parsed = match frames.as_slice() {
            [_topic, sequence, payload] => sequence.as_ref().try_into().ok().map(|bytes| (bytes, payload.clone())),
            _ => None,
        };
        match parsed {
            Some((sequence, payload)) => {
                let message = self.message(u64::from_be_bytes(sequence), payload);
                self.cursor.live(message, &mut self.effects);
            }
            None => self.effects.push(Effect::Count("bad_frames")),
        }
    }

    fn take_replayed(&mut self, answer: Answer) {
        match answer {
            Answer::Message { sequence, payload } => {
                let message = self.message(sequence, payload);
                self.cursor.replayed(message, &mut self.effects);
            }
            Answer::End => {
                self.replay = None;
                self.feed.status.metrics().count_replay("complete");
                self.cursor.replay_ended(true, &mut self.effects);
            }
            Answer::Failed(why) => {
                self.replay = None;
                tracing::warn!(endpoint = self.feed.replay, why, "replay failed");
                self.feed.status.metrics().count_replay("failed");
                self.cursor.replay_ended(false, &mut self.effects);
            }
        }
    }

    fn message(&self, sequence: u64, payload: Bytes) -> Message<Bytes> {
        // One that is too long is refused when it is decoded; until then it shall not take memory.
        let content = if payload.len() > MAX_PAYLOAD_BYTES {
            Bytes::new()
        } else {
            payload
        };
        Message {
            sequence,
            fingerprint: xxh3_64(&content),
            bytes: content.len(),
            content,
        }
    }

    /// Does what the cursor asked for. True if the connection is to be given up.
    async fn perform(&mut self) -> Result<bool, Stopped> {
        let mut reconnect = false;
        for effect in self.effects.drain(..) {
            let status = &self.feed.status;
            match effect {
                Effect::Apply(payload) => apply(&self.feed, &payload).await?,
                Effect::Clear => send(&self.feed.pool, Input::Clear(self.feed.slot)).await?,
                Effect::Replay { from } => {
                    status.metrics().count_replay("asked");
                    self.replay = self.feed.replay.clone().map(|endpoint| Replay::start(endpoint, from));
                }
                Effect::Reconnect => reconnect = true,
                Effect::Degraded(reason) => status.degrade(reason),
                Effect::Whole => status.restore(),
                Effect::Count(what) => status.metrics().count_message(what),
            }
        }
        self.feed.status.set_last_sequence(self.cursor.last_sequence());
        if self.cursor.is_following() {
            self.ready = None;
        }
        Ok(reconnect)
    }

    fn probe_interval(&self) -> Duration {
        Duration::from_millis(self.feed.config.probe_interval_ms)
    }
}

async fn apply(feed: &Feed, payload: &Bytes) -> Result<(), Stopped> {
    match decode(payload) {
        Ok(batch) => {
            feed.status.metrics().count_message("applied");
            batch
                .ignored
                .iter()
                .for_each(|reason| feed.status.metrics().count_ignored(reason));
            send(&feed.pool, Input::Apply(feed.slot, batch)).await
        }
        Err(error) => {
            tracing::warn!(endpoint = feed.events, %error, "message left out");
            feed.status.metrics().count_message("undecodable");
            feed.status.report_trouble("undecodable: a message could not be read");
            Ok(())
        }
    }
}

async fn send(pool: &PoolHandle, input: Input) -> Result<(), Stopped> {
    if pool.send(input).await { Ok(()) } else { Err(Stopped) }
}

async fn next_answer(replay: &mut Option<Replay>) -> Answer {
    match replay {
        Some(replay) => replay.next().await,
        None => std::future::pending().await,
    }
}

/// Our own loop and a new socket each time: the library's reconnection backs off to 30 s and does not say when it is
/// through.
async fn connect_forever(endpoint: String) -> Subscription {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut socket = SubSocket::new();
        // Before the connection, lest its end be missed.
        let monitor = socket.monitor();
        let connected = timeout(CONNECT_TIMEOUT, async {
            socket.subscribe("").await?;
            socket.connect(&endpoint).await
        });
        match connected.await {
            Ok(Ok(())) => return Subscription { socket, monitor },
            Ok(Err(error)) => tracing::debug!(endpoint, %error, "cannot connect"),
            Err(_) => tracing::debug!(endpoint, "connecting takes too long"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
