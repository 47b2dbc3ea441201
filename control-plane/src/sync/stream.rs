//! One filter's stream, from its hello to its end.

use std::collections::HashSet;
use std::time::Duration;

use proto::fleet::artefact_id;
use proto::v1;
use proto::v1::from_filter::Message as FromFilter;
use proto::v1::to_filter::Message as ToFilter;
use proto::view::position_from_wire;
use router_core::fleet::ArtefactId;
use router_core::replica::Position;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at};
use tokio_stream::{StreamExt, StreamMap};
use tonic::{Status, Streaming};

use super::SyncService;
use super::codec::Encoded;
use super::filters::{Acked, Connected};
use super::log::Deltas;
use super::pool::{Start, artefact_messages};
use super::snapshot::{PART_HASHES, Snapshot};
use crate::fleet::Published;

/// How long a filter may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a filter may take no message before its stream is given up.
const STALLED: Duration = Duration::from_secs(10);
/// A snapshot is sent in turns, between which the VM serves requests: so many bytes,
const TURN_BYTES: usize = 8 * PART_HASHES;
/// and no more before so long.
const TURN: Duration = Duration::from_millis(1);
/// Positions in a hello that are read.
const MAX_POSITIONS: usize = 4096;

pub(super) struct FilterStream {
    service: SyncService,
    requests: Streaming<v1::FromFilter>,
    outbox: mpsc::Sender<Result<Encoded, Status>>,
    /// By the pool's place in the service's list.
    deltas: StreamMap<usize, Deltas>,
    /// Artefacts that the filter has.
    held: HashSet<ArtefactId>,
}

/// The stream is over; nothing is left to be said.
struct Ended;

impl FilterStream {
    pub(super) fn new(
        service: SyncService,
        requests: Streaming<v1::FromFilter>,
        outbox: mpsc::Sender<Result<Encoded, Status>>,
    ) -> Self {
        Self {
            service,
            requests,
            outbox,
            deltas: StreamMap::new(),
            held: HashSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let hello = match tokio::time::timeout(HELLO_TIMEOUT, self.requests.message()).await {
            Ok(Ok(Some(v1::FromFilter {
                message: Some(FromFilter::Hello(hello)),
            }))) => hello,
            Ok(Ok(_)) => {
                return self
                    .refuse(Status::invalid_argument("the first message must be a hello"))
                    .await;
            }
            Ok(Err(status)) => return self.refuse(status).await,
            Err(_) => return self.refuse(Status::deadline_exceeded("no hello came")).await,
        };
        tracing::info!(vm = hello.vm, version = hello.filter_version, "filter connected");
        let listed = self.service.filters.add(&hello.vm);
        let connected = self.service.metrics.filters.clone();
        connected.inc();
        let mut shutdown = self.service.shutdown.clone();
        tokio::select! {
            _ = self.serve(&hello, &listed) => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
        connected.dec();
        tracing::info!(vm = hello.vm, "filter gone");
    }

    async fn refuse(self, status: Status) {
        tracing::warn!(%status, "filter refused");
        let _ = self.outbox.send(Err(status)).await;
    }

    async fn serve(&mut self, hello: &v1::Hello, listed: &Connected) -> Result<(), Ended> {
        self.send(self.service.settings()).await?;
        self.held = hello
            .artefacts
            .iter()
            .filter_map(|id| artefact_id("hello.artefacts", id).ok())
            .collect();
        let mut positions = Some(known_positions(hello));
        let mut fleet = self.service.fleet.clone();
        fleet.mark_changed();
        let mut heartbeat = self.heartbeat();
        loop {
            tokio::select! {
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.answer(request, listed).await?,
                    Ok(None) | Err(_) => return Err(Ended),
                },
                changed = fleet.changed() => {
                    changed.map_err(|_| Ended)?;
                    let Some(published) = fleet.borrow_and_update().clone() else { continue };
                    self.send_fleet(&published).await?;
                    // Views come after the fleet that their pools belong to.
                    if let Some(positions) = positions.take() {
                        self.follow_all(&positions).await?;
                    }
                }
                Some((index, delta)) = self.deltas.next() => match delta {
                    Some(delta) => self.send(delta).await?,
                    None => {
                        self.service.metrics.count_resync(&self.service.pools[index].name, "lagging");
                        self.follow(index, None).await?;
                    }
                },
                _ = heartbeat.tick() => self.send(Encoded::new(ToFilter::Heartbeat(v1::Heartbeat {}))).await?,
            }
        }
    }

    fn heartbeat(&self) -> Interval {
        let period = self.service.heartbeat_interval();
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat
    }

    /// The artefacts that the filter lacks, then the fleet. A filter drops artefacts that the fleet no longer names.
    async fn send_fleet(&mut self, published: &Published) -> Result<(), Ended> {
        for artefact in &published.artefacts {
            if !self.held.contains(&artefact.id) {
                for message in artefact_messages(&artefact.id.0, &artefact.content) {
                    self.send(message).await?;
                }
            }
        }
        self.held = published.artefacts.iter().map(|artefact| artefact.id).collect();
        self.send(Encoded::new(ToFilter::Fleet((&published.fleet).into())))
            .await
    }

    async fn follow_all(&mut self, positions: &[(String, Position)]) -> Result<(), Ended> {
        for index in 0..self.service.pools.len() {
            let name = self.service.pools[index].name.clone();
            let known = positions
                .iter()
                .find(|(pool, _)| **pool == *name)
                .map(|(_, position)| *position);
            self.follow(index, known).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, request: v1::FromFilter, listed: &Connected) -> Result<(), Ended> {
        let resync = match request.message {
            Some(FromFilter::Resync(resync)) => resync,
            Some(FromFilter::Ack(ack)) => {
                self.note(ack, listed);
                return Ok(());
            }
            // A repeated hello asks for nothing.
            _ => return Ok(()),
        };
        let Some(index) = self.service.pools.iter().position(|pool| *pool.name == resync.pool) else {
            return Ok(());
        };
        let reason = match resync.reason.as_str() {
            "gap" => "gap",
            "no_snapshot" => "no_snapshot",
            "checksum" => "checksum",
            _ => "other",
        };
        tracing::warn!(pool = resync.pool, reason, "filter asks for a new snapshot");
        self.service.metrics.count_resync(&resync.pool, reason);
        self.follow(index, None).await
    }

    /// Acknowledgements of pools that are not ours say nothing, and could be any number.
    fn note(&self, ack: v1::Ack, listed: &Connected) {
        let view = Acked::from(&ack);
        if let Ok((pool, position)) = position_from_wire("ack.position", ack.position)
            && self.service.pools.iter().any(|known| *known.name == pool)
        {
            listed.ack(&pool, position, view);
        }
    }

    /// Brings the filter up to date with one pool, and goes on from there.
    async fn follow(&mut self, index: usize, known: Option<Position>) -> Result<(), Ended> {
        self.deltas.remove(&index);
        let pool = self.service.pools[index].clone();
        let Start { snapshot, deltas } = pool.subscribe(known).await.ok_or(Ended)?;
        if let Some(snapshot) = snapshot {
            self.send_snapshot(&snapshot).await?;
        }
        self.deltas.insert(index, deltas);
        Ok(())
    }

    async fn send_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Ended> {
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sent = 0;
        for message in snapshot.messages.iter() {
            if sent >= TURN_BYTES {
                turns.tick().await;
                sent = 0;
            }
            sent += message.size();
            self.send(message.clone()).await?;
        }
        Ok(())
    }

    /// A filter that takes nothing for too long is given up: it would hold its snapshot's memory.
    async fn send(&mut self, message: Encoded) -> Result<(), Ended> {
        self.service.metrics.sync_bytes.inc_by(message.size() as u64);
        match self.outbox.send_timeout(Ok(message), STALLED).await {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Timeout(_)) => {
                self.service.metrics.sync_stalled.inc();
                tracing::warn!("filter given up: it takes no messages");
                Err(Ended)
            }
            Err(SendTimeoutError::Closed(_)) => Err(Ended),
        }
    }
}

/// Where the filter's views stand from an earlier stream.
fn known_positions(hello: &v1::Hello) -> Vec<(String, Position)> {
    let positions = hello.positions.iter().take(MAX_POSITIONS);
    positions
        .filter_map(|position| position_from_wire("hello.positions", Some(position.clone())).ok())
        .collect()
}
