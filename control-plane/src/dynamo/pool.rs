//! One pool of Dynamo workers: what the discovery service says becomes ranks, and each rank's publisher is followed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use router_core::hash::BlockLayout;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::follower::{self, Follower};
use super::load::Loads;
use super::picture::{Picture, Place, Publisher};
use super::plane::EventPlane;
use super::query::AT_ONCE;
use super::records::{Records, Useless, WorkerRank};
use crate::admin::metrics::PoolMetrics;
use crate::admin::readiness::HoldBack;
use crate::admin::status::{DiscoveryStatus, RankStatus};
use crate::config::{DynamoConfig, EventsConfig};
use crate::discovery::Rank;
use crate::discovery::backend::{self, Change};
use crate::discovery::members::Members;
use crate::discovery::slots::Slots;
use crate::parity::task::Asker;
use crate::sync::pool::{Input, PoolHandle};

/// Changes that wait to be taken.
const QUEUE: usize = 64;

/// See the module.
pub struct DynamoPool {
    /// Where its workers are told of.
    pub config: DynamoConfig,
    /// How prompts are cut into blocks.
    pub layout: BlockLayout,
    /// How events are received.
    pub events: EventsConfig,
    /// The pool's task.
    pub pool: PoolHandle,
    /// Its ranks.
    pub members: Arc<Members>,
    /// Their numbers.
    pub slots: Slots,
    /// What is shown of the discovery service.
    pub discovery: Arc<DiscoveryStatus>,
    /// Asks frontends for tokens; `None`: nobody is asked.
    pub asker: Option<Asker>,
    /// What is counted.
    pub metrics: PoolMetrics,
}

struct Running {
    pool: DynamoPool,
    ranks: BTreeMap<WorkerRank, Seat>,
    frontends: BTreeMap<SocketAddr, Frontend>,
    plane: EventPlane,
    loads: Option<Loads>,
    permits: Arc<Semaphore>,
    refused: BTreeMap<u64, String>,
}

/// A rank that is in the fleet.
struct Seat {
    rank: Rank,
    place: Place,
    status: Arc<RankStatus>,
    /// What follows its publisher.
    tasks: JoinSet<()>,
}

/// A frontend that ranks are reached through.
struct Frontend {
    ranks: usize,
    asking: Option<AbortHandle>,
}

impl DynamoPool {
    /// Follows the discovery service for ever. `ready` is dropped when the caches of the workers that were there at the
    /// start are known.
    pub async fn run(self, ready: HoldBack) {
        let (sender, mut changes) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(backend::run(self.config.backend.clone(), sender));
        let mut ready = Some(Arc::new(ready));
        let mut records = Records::default();
        let loads = self.config.load_events.then(Loads::default);
        let block_size = self.layout.block_size.get();
        let mut running = Running {
            plane: EventPlane::new(&self.config, block_size, loads.clone(), &self.metrics),
            loads,
            pool: self,
            ranks: BTreeMap::new(),
            frontends: BTreeMap::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            refused: BTreeMap::new(),
        };
        while let Some(first) = changes.recv().await {
            // Changes that came together make one picture.
            let mut lost = None;
            let mut useless = Useless::default();
            let mut next = Some(first);
            let mut is_read = false;
            while let Some(change) = next {
                match change {
                    Change::Lost(why) => lost = Some(why),
                    change => {
                        lost = None;
                        is_read = true;
                        records.apply(change, &mut useless);
                    }
                }
                next = changes.try_recv().ok();
            }
            let metrics = &running.pool.metrics;
            metrics.count_dynamo("unreadable_record", useless.unreadable);
            metrics.count_dynamo("over_limit", useless.over_limit);
            if is_read {
                let picture = Picture::of(&records, &running.pool.config, running.pool.layout);
                running.become_like(picture, ready.take().as_ref()).await;
                running.pool.discovery.read(records.count());
            }
            if let Some(why) = lost {
                running.pool.discovery.lost(why);
            }
        }
    }
}

impl Running {
    async fn become_like(&mut self, picture: Picture, ready: Option<&Arc<HoldBack>>) {
        let Picture {
            ranks,
            refused,
            brokers,
            load,
        } = picture;
        self.tell_refused(refused);
        self.plane.set_brokers(&brokers).await;
        let is_gone = |(id, seat): (&WorkerRank, &Seat)| {
            let place = ranks.get(id);
            place
                .is_none_or(|place| place.frontend != seat.place.frontend)
                .then_some(*id)
        };
        let gone: Vec<WorkerRank> = self.ranks.iter().filter_map(is_gone).collect();
        for id in gone {
            if let Some(seat) = self.ranks.remove(&id) {
                self.leave(id, seat).await;
            }
        }
        for (id, place) in ranks {
            match self.ranks.entry(id) {
                Entry::Occupied(mut seat) => {
                    let seat = seat.get_mut();
                    if seat.place.publisher != place.publisher {
                        stop(&self.pool, seat).await;
                        seat.place = place;
                        follow(&self.pool, &mut self.plane, &self.permits, seat, ready).await;
                    }
                }
                Entry::Vacant(free) => {
                    let Some(slot) = self.pool.slots.give(Instant::now()) else {
                        tracing::error!(
                            pool = &*self.pool.pool.name,
                            worker = id.worker_id,
                            "no slot left: rank ignored"
                        );
                        self.pool.metrics.count_dynamo("no_slot", 1);
                        continue;
                    };
                    let rank = Rank {
                        slot,
                        endpoint: place.frontend,
                        dp_rank: id.dp_rank,
                        is_named: true,
                        instance_id: Some(id.worker_id),
                        events: None,
                        replay: None,
                        topics: None,
                    };
                    let (worker, dp_rank, frontend) = (id.worker_id, id.dp_rank, place.frontend);
                    tracing::info!(pool = &*self.pool.pool.name, worker, dp_rank, %frontend, "rank is there");
                    let seat = Seat {
                        status: self.pool.members.join(rank.clone()).await,
                        rank,
                        place,
                        tasks: JoinSet::new(),
                    };
                    if let Some(loads) = &self.loads {
                        loads.join(id, seat.status.clone());
                    }
                    admit(&self.pool, &mut self.frontends, frontend);
                    let seat = free.insert(seat);
                    follow(&self.pool, &mut self.plane, &self.permits, seat, ready).await;
                }
            }
        }
        // Of ranks that are not there yet, nothing would be kept.
        self.plane.hear_load(&load);
    }

    fn tell_refused(&mut self, refused: BTreeMap<u64, String>) {
        if self.refused == refused {
            return;
        }
        for (worker, because) in &refused {
            if self.refused.get(worker) != Some(because) {
                tracing::error!(pool = &*self.pool.pool.name, worker, because, "Dynamo worker refused");
                self.pool.metrics.count_dynamo("refused_worker", 1);
            }
        }
        self.pool.members.set_refused(refused.clone());
        self.refused = refused;
    }

    async fn leave(&mut self, id: WorkerRank, mut seat: Seat) {
        let (worker, dp_rank) = (id.worker_id, id.dp_rank);
        tracing::info!(pool = &*self.pool.pool.name, worker, dp_rank, "rank is gone");
        if let Some(loads) = &self.loads {
            loads.leave(&id);
        }
        seat.tasks.shutdown().await;
        self.pool.members.leave(seat.rank.slot).await;
        self.pool.slots.take_back(seat.rank.slot, Instant::now());
        dismiss(&self.pool, &mut self.frontends, seat.place.frontend);
    }
}

/// Stops following a rank's publisher. What it told no longer counts.
async fn stop(pool: &DynamoPool, seat: &mut Seat) {
    if seat.tasks.is_empty() {
        return;
    }
    // To their ends, lest one of them still says something of the old publisher's.
    seat.tasks.shutdown().await;
    pool.pool.send(Input::Clear(seat.rank.slot)).await;
    seat.status.set_connected(false);
    seat.status.set_last_sequence(None);
    pool.members.set_source(seat.rank.slot, None, None);
}

/// Starts to follow a rank's publisher, if it is known how its events come.
async fn follow(
    pool: &DynamoPool,
    plane: &mut EventPlane,
    permits: &Arc<Semaphore>,
    seat: &mut Seat,
    ready: Option<&Arc<HoldBack>>,
) {
    let Some(Publisher {
        id,
        transport: Some(transport),
        recovery,
    }) = seat.place.publisher.clone()
    else {
        return;
    };
    let (sender, signals) = mpsc::channel(follower::QUEUE);
    let Some(source) = plane.follow(transport, id, sender, &mut seat.tasks).await else {
        return;
    };
    let shown = recovery
        .as_ref()
        .map(|target| format!("recovery query: {}", target.address));
    pool.members.set_source(seat.rank.slot, Some(source), shown);
    let follower = Follower {
        pool: pool.pool.clone(),
        slot: seat.rank.slot,
        status: seat.status.clone(),
        worker_id: seat.rank.instance_id.unwrap_or_default(),
        dp_rank: seat.rank.dp_rank,
        recovery,
        block_size: pool.layout.block_size.get(),
        permits: permits.clone(),
        config: pool.events.clone(),
    };
    seat.tasks.spawn(follower.run(signals, ready.cloned()));
}

fn admit(pool: &DynamoPool, frontends: &mut BTreeMap<SocketAddr, Frontend>, address: SocketAddr) {
    let frontend = frontends.entry(address).or_insert_with(|| Frontend {
        ranks: 0,
        asking: pool.asker.as_ref().map(|asker| {
            let asking = tokio::spawn(asker.ask(address, Arc::new(Notify::new())));
            asking.abort_handle()
        }),
    });
    frontend.ranks += 1;
}

fn dismiss(pool: &DynamoPool, frontends: &mut BTreeMap<SocketAddr, Frontend>, address: SocketAddr) {
    let Entry::Occupied(mut frontend) = frontends.entry(address) else {
        return;
    };
    frontend.get_mut().ranks -= 1;
    if frontend.get().ranks > 0 {
        return;
    }
    let Frontend { asking, .. } = frontend.remove();
    if let (Some(asking), Some(asker)) = (asking, &pool.asker) {
        asking.abort();
        asker.parity.dismiss(address);
    }
}
