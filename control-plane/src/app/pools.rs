//! The pools' part of the wiring: model, index task, ranks and their feeds, questions to the workers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use router_core::Slot;
use router_core::fleet::{ArtefactId, ModelName, Pool};
use router_core::hash::BlockLayout;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use xxhash_rust::xxh3::xxh3_64;

use crate::admin::PoolStatus;
use crate::admin::metrics::Metrics;
use crate::admin::readiness::Readiness;
use crate::admin::status::DiscoveryStatus;
use crate::config::{EventsConfig, ParityMode, PoolConfig};
use crate::discovery::fixed;
use crate::discovery::members::Members;
use crate::discovery::slots::Slots;
use crate::dynamo::pool::DynamoPool;
use crate::events::keep::Keeping;
use crate::events::listen::Publishers;
use crate::events::zmq::{Feed, FeedRank, Source};
use crate::fleet::Member;
use crate::index::{Grid, Shape};
use crate::model::{INEXACT, Model};
use crate::parity::PoolParity;
use crate::parity::probes::probes;
use crate::parity::task::{Asker, Questions, end_grace};
use crate::sync::bound::Bound;
use crate::sync::pool::{PoolHandle, PoolTask};

/// What is the same for all pools.
pub(super) struct Shared {
    pub(super) events: EventsConfig,
    pub(super) delta_interval: Duration,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
    pub(super) keeping: Option<Keeping>,
}

/// The pools that run.
#[derive(Default)]
pub(super) struct Pools {
    pub(super) members: Vec<Member>,
    /// Notified when the fleet may have to be published anew.
    pub(super) changed: Arc<Notify>,
    pub(super) handles: Vec<PoolHandle>,
    pub(super) statuses: Vec<PoolStatus>,
    /// Who is expected to connect to us.
    pub(super) publishers: Publishers,
    /// Of publishers whose state is kept.
    pub(super) feeds: JoinSet<()>,
}

/// A pool whose index task runs.
struct Started {
    handle: PoolHandle,
    members: Arc<Members>,
    discovery: Option<Arc<DiscoveryStatus>>,
    parity: Arc<PoolParity>,
}

impl Pools {
    /// Starts one more.
    pub(super) async fn start(
        &mut self,
        config: PoolConfig,
        shared: &Shared,
        background: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let model = load(&config).await?;
        let pool = published(&config, &model, new_epoch(&config.name)).context("block_size must not be 0")?;
        // Without a tokenizer of our own there is nothing to compare.
        let mode = match &model.tokenizer {
            Ok(_) => config.parity.mode,
            Err(_) => ParityMode::Off,
        };
        let started = self.start_index(&config, mode, &pool, shared, background);
        self.show(&started, &model, pool);
        let asker = (mode != ParityMode::Off).then(|| {
            let grace = Duration::from_millis(config.parity.grace_ms);
            background.spawn(end_grace(started.parity.clone(), grace));
            asker(&config, model, started.parity.clone())
        });
        let mut slots = Slots::new(Slot::LIMIT / config.index.tiers.slots_per_rank());
        let connected = self
            .follow_fixed(&config, &started, &mut slots, shared, background)
            .await;
        if let Some(asker) = &asker {
            for (endpoint, connected) in connected {
                background.spawn(asker.ask(endpoint, connected));
            }
        }
        follow_dynamo(config, started, slots, asker, shared, background);
        Ok(())
    }

    fn start_index(
        &self,
        config: &PoolConfig,
        mode: ParityMode,
        pool: &Pool,
        shared: &Shared,
        background: &mut JoinSet<()>,
    ) -> Started {
        let Shared {
            metrics,
            delta_interval,
            ..
        } = shared;
        let (name, changed) = (&config.name, &self.changed);
        let bound = Bound::new(config.view.max_bytes);
        let shape = shape(config, pool, &bound);
        let (task, handle) = PoolTask::new(name, pool.epoch, shape, bound, *delta_interval, metrics);
        background.spawn(task.run());
        let parity = PoolParity::new(name, mode, changed.clone(), metrics.parity(name));
        let discovery = config.dynamo.as_ref().map(|dynamo| {
            let (backend, connected) = (dynamo.backend.label(), metrics.discovery_connected(name));
            Arc::new(DiscoveryStatus::new(name, backend, connected, changed.clone()))
        });
        let members = Members::new(handle.clone(), metrics.clone(), changed.clone(), pool.levels);
        Started {
            handle,
            members: Arc::new(members),
            discovery,
            parity: Arc::new(parity),
        }
    }

    /// To the filters, and on the admin port.
    fn show(&mut self, started: &Started, model: &Model, pool: Pool) {
        let Started {
            handle,
            members,
            discovery,
            parity,
        } = started;
        let hex = |id: Option<ArtefactId>| id.map(|id| format!("{:032x}", u128::from_be_bytes(id.0)));
        self.statuses.push(PoolStatus {
            handle: handle.clone(),
            ranks: members.clone(),
            discovery: discovery.clone(),
            epoch: pool.epoch,
            models: pool.models.clone(),
            layout: pool.layout,
            levels: pool.levels,
            tokenizer: hex(pool.tokenizer),
            template: hex(pool.template),
            unusable_because: model.inexact_because(),
            parity: parity.clone(),
        });
        self.handles.push(handle.clone());
        self.members.push(Member {
            pool,
            ranks: members.clone(),
            discovery: discovery.clone(),
            artefacts: model.artefacts().cloned().collect(),
            inexact_because: model.inexact_because(),
            parity: parity.clone(),
        });
    }

    /// The workers that the configuration lists. Returns what is notified when one of them connects anew.
    async fn follow_fixed(
        &mut self,
        config: &PoolConfig,
        started: &Started,
        slots: &mut Slots,
        shared: &Shared,
        background: &mut JoinSet<()>,
    ) -> HashMap<SocketAddr, Arc<Notify>> {
        let mut connected: HashMap<SocketAddr, Arc<Notify>> = HashMap::new();
        let mut feeds: Vec<Feed> = Vec::new();
        for rank in fixed::ranks(config, slots) {
            let connected = connected.entry(rank.endpoint).or_default().clone();
            let status = started.members.join(rank.clone()).await;
            let Some(publisher) = rank.events else { continue };
            let of_feed = FeedRank {
                dp_rank: rank.dp_rank,
                slot: rank.slot,
                status,
            };
            match feeds.last_mut().filter(|feed| feed.source.name() == publisher) {
                Some(feed) => feed.ranks.push(of_feed),
                None => feeds.push(Feed {
                    pool: started.handle.clone(),
                    ranks: vec![of_feed],
                    source: match &rank.topics {
                        Some(topics) => Source::Accept(self.publishers.expect(topics)),
                        None => Source::Connect(publisher),
                    },
                    replay: rank.replay,
                    config: shared.events.clone(),
                    connected,
                    keeping: shared.keeping.clone(),
                }),
            }
        }
        for feed in feeds {
            let waits = format!("pool {}: KV events of {}", config.name, feed.source.name());
            let ready = shared.readiness.hold_back(waits);
            let keeps_state = feed.keeping.is_some() && feed.replay.is_some();
            let tasks = if keeps_state { &mut self.feeds } else { &mut *background };
            tasks.spawn(feed.run(ready));
        }
        connected
    }
}

/// The workers that Dynamo's discovery service tells of, if the pool has one.
fn follow_dynamo(
    config: PoolConfig,
    started: Started,
    slots: Slots,
    asker: Option<Asker>,
    shared: &Shared,
    background: &mut JoinSet<()>,
) {
    let Some((dynamo, discovery)) = config.dynamo.zip(started.discovery) else {
        return;
    };
    let pool = DynamoPool {
        config: dynamo,
        discovery,
        layout: started.handle.layout,
        events: shared.events.clone(),
        pool: started.handle,
        members: started.members,
        slots,
        asker,
        metrics: shared.metrics.pool(&config.name),
    };
    let waits = format!("pool {}: Dynamo's workers", config.name);
    background.spawn(pool.run(shared.readiness.hold_back(waits)));
}

async fn load(config: &PoolConfig) -> anyhow::Result<Model> {
    let (directory, prompts) = (config.model_dir.clone(), config.prompts.clone());
    let model = spawn_blocking(move || Model::load(&directory, &prompts))
        .await
        .context("loading the model")?;
    if let Some(because) = model.inexact_because() {
        tracing::error!(pool = config.name, because, "{INEXACT}");
    }
    Ok(model)
}

fn shape(config: &PoolConfig, pool: &Pool, bound: &Bound) -> Shape {
    let stride = config.view.stride.get();
    Shape {
        layout: pool.layout,
        levels: pool.levels,
        grid: Grid {
            stride,
            ..Grid::default()
        },
        generation_blocks: bound.generation_blocks(stride),
        max_rank_blocks: config.index.max_rank_blocks,
        max_pool_blocks: config.index.max_pool_blocks,
    }
}

/// The pool as filters see it, without ranks. `None` if its block size is 0, which the configuration refuses.
fn published(config: &PoolConfig, model: &Model, epoch: u64) -> Option<Pool> {
    let base = config.models.iter().map(|name| ModelName {
        name: name.clone(),
        lora: None,
    });
    let loras = config.loras.iter().map(|name| ModelName {
        name: name.clone(),
        lora: Some(name.clone()),
    });
    Some(Pool {
        name: config.name.clone(),
        epoch,
        models: base.chain(loras).collect(),
        layout: BlockLayout {
            block_size: NonZeroU32::new(config.block_size)?,
            eagle: config.eagle,
        },
        levels: config.index.tiers,
        tokenizer: model.tokenizer.as_ref().ok().map(|(_, artefact)| artefact.id),
        template: Some(model.template.artefact.id),
        kv_events: false,
        stride: config.view.stride,
        weights: config.weights,
        temperature: config.temperature,
        inject_tokens: config.inject_tokens,
        candidates: Vec::new(),
    })
}

/// Asks a pool's workers for the tokens they make.
fn asker(config: &PoolConfig, model: Model, parity: Arc<PoolParity>) -> Asker {
    let harmony = model.template.compiled.rules().harmony;
    let questions = Questions {
        probes: config
            .models
            .first()
            .map(|name| probes(name, harmony))
            .unwrap_or_default(),
        model,
        model_dir: config.model_dir.clone(),
    };
    Asker {
        parity,
        questions: Arc::new(questions),
        interval: Duration::from_millis(config.parity.interval_ms),
    }
}

/// Differs between processes, so that no filter takes one's slots or versions for another's.
fn new_epoch(pool: &str) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    xxh3_64(format!("{pool} {} {}", std::process::id(), now.as_nanos()).as_bytes())
}
