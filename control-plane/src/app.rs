//! The wiring, in boot order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use proto::v1;
use router_core::Slot;
use router_core::fleet::{ModelName, Pool};
use router_core::hash::BlockLayout;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64;

use crate::admin::metrics::Metrics;
use crate::admin::readiness::Readiness;
use crate::admin::status::DiscoveryStatus;
use crate::admin::{self, Admin, PoolStatus};
use crate::config::{Config, EventsConfig, GatewayConfig, Listen, ParityMode, PoolConfig, StateConfig, SyncConfig};
use crate::discovery::fixed;
use crate::discovery::members::Members;
use crate::discovery::slots::Slots;
use crate::dynamo::pool::DynamoPool;
use crate::events::keep::Keeping;
use crate::events::listen::{self, Publishers};
use crate::events::zmq::{Feed, FeedRank, Source};
use crate::fleet::{FleetTask, Member};
use crate::index::{Grid, Shape};
use crate::model::Model;
use crate::parity::PoolParity;
use crate::parity::probes::probes;
use crate::parity::task::{Asker, Questions, end_grace};
use crate::state::Store;
use crate::sync::bound::Bound;
use crate::sync::filters::Filters;
use crate::sync::pool::{PoolHandle, PoolTask};
use crate::sync::{self, SyncService};

/// How long open connections may take to end on a stop.
const DRAIN: Duration = Duration::from_secs(5);

/// The running process.
#[derive(Debug)]
pub struct App {
    /// Where gRPC listens.
    pub sync: SocketAddr,
    /// Where HTTP listens.
    pub admin: SocketAddr,
    /// Where publishers of KV events connect to, if anywhere.
    pub events: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    servers: JoinSet<anyhow::Result<()>>,
    /// Of publishers whose state is kept.
    feeds: JoinSet<()>,
    _background: JoinSet<()>,
}

impl App {
    /// Starts everything; it listens when this returns.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let Config {
            listen,
            gateway,
            events,
            sync,
            state,
            pools,
        } = config;
        let Listen {
            sync: sync_address,
            admin: admin_address,
        } = listen;
        let GatewayConfig {
            max_staleness_ms,
            silence_ms,
        } = gateway;
        let SyncConfig { delta_interval_ms } = sync;
        let sync_listener = bind("listen.sync", sync_address).await?;
        let admin_listener = bind("listen.admin", admin_address).await?;
        let (sync_address, admin_address) = (sync_listener.local_addr()?, admin_listener.local_addr()?);
        let event_listener = match events.listen {
            Some(address) => Some(bind("events.listen", address).await?),
            None => None,
        };
        let event_address = event_listener.as_ref().map(TcpListener::local_addr).transpose()?;

        let metrics = Metrics::new();
        let readiness = Readiness::default();
        let (stop, stopped) = watch::channel(false);
        let mut background = JoinSet::new();
        let mut servers = JoinSet::new();

        let keeping = open_state(state, stopped.clone())?;
        let mut running = Pools {
            keeping,
            ..Pools::default()
        };
        for pool in pools {
            let interval = Duration::from_millis(delta_interval_ms);
            start_pool(
                pool,
                &events,
                interval,
                &metrics,
                &readiness,
                &mut running,
                &mut background,
            )
            .await?;
        }
        let Pools {
            members,
            changed,
            handles,
            statuses,
            publishers,
            keeping: _,
            feeds,
        } = running;
        if let Some(listener) = event_listener {
            background.spawn(listen::serve(listener, publishers, metrics.clone()));
        }
        let (published, fleet) = watch::channel(None);
        let task = FleetTask {
            members,
            changed,
            published,
            metrics: metrics.clone(),
        };
        background.spawn(task.run(readiness.hold_back("fleet: tokens of the workers")));

        let settings = v1::Settings {
            max_staleness_ms,
            silence_ms,
        };
        let filters = Filters::default();
        let service = SyncService::new(
            settings,
            fleet,
            handles,
            filters.clone(),
            metrics.clone(),
            stopped.clone(),
        );
        let stop_sync = wait_for_stop(stopped.clone());
        servers.spawn(async move {
            sync::serve(sync_listener, service, stop_sync)
                .await
                .context("sync server")
        });

        let router = admin::router(Admin {
            readiness,
            metrics,
            pools: statuses.into(),
            filters,
        });
        let stop_admin = wait_for_stop(stopped);
        servers.spawn(async move {
            axum::serve(admin_listener, router)
                .with_graceful_shutdown(stop_admin)
                .await
                .context("admin server")
        });
        tracing::info!(sync = %sync_address, admin = %admin_address, "listening");
        Ok(Self {
            sync: sync_address,
            admin: admin_address,
            events: event_address,
            stop,
            servers,
            feeds,
            _background: background,
        })
    }

    /// Ends streams and servers, gracefully for some seconds.
    ///
    /// # Errors
    /// When a server failed while it ran.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.stop.send_replace(true);
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(ended) = self.servers.join_next().await {
                ended.context("server task")??;
            }
            // They end when they have saved what they know.
            while self.feeds.join_next().await.is_some() {}
            Ok(())
        });
        drained.await.unwrap_or_else(|_| {
            tracing::warn!("connections did not end in time and were cut");
            Ok(())
        })
    }

    /// Runs until a server fails, which none does by itself.
    ///
    /// # Errors
    /// With what failed.
    pub async fn failed(&mut self) -> anyhow::Result<()> {
        match self.servers.join_next().await {
            Some(ended) => ended.context("server task")?,
            None => Ok(()),
        }
    }
}

#[derive(Default)]
struct Pools {
    members: Vec<Member>,
    /// Notified when the fleet may have to be published anew.
    changed: Arc<Notify>,
    handles: Vec<PoolHandle>,
    statuses: Vec<PoolStatus>,
    /// Who is expected to connect to us.
    publishers: Publishers,
    keeping: Option<Keeping>,
    /// Of publishers whose state is kept.
    feeds: JoinSet<()>,
}

/// One pool: model, ranks, index task, feeds, questions to its workers.
async fn start_pool(
    config: PoolConfig,
    events: &EventsConfig,
    delta_interval: Duration,
    metrics: &Metrics,
    readiness: &Readiness,
    running: &mut Pools,
    background: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let (directory, prompts) = (config.model_dir.clone(), config.prompts.clone());
    let model = tokio::task::spawn_blocking(move || Model::load(&directory, &prompts))
        .await
        .context("loading the model")?;
    let unusable_because = model.inexact_because();
    if let Some(because) = &unusable_because {
        tracing::error!(
            pool = config.name,
            because,
            "the model cannot be routed exactly: routing by load only"
        );
    }

    let epoch = new_epoch(&config.name);
    let pool = published(&config, &model, epoch).context("block_size must not be 0")?;
    let bound = Bound::new(config.view.max_bytes);
    let shape = Shape {
        layout: pool.layout,
        levels: pool.levels,
        grid: Grid {
            stride: config.view.stride.get(),
            ..Grid::default()
        },
        generation_blocks: bound.generation_blocks(config.view.stride.get()),
        max_rank_blocks: config.index.max_rank_blocks,
        max_pool_blocks: config.index.max_pool_blocks,
    };
    let (task, handle) = PoolTask::new(&config.name, epoch, shape, bound, delta_interval, metrics);
    background.spawn(task.run());
    let members = Members::new(handle.clone(), metrics.clone(), running.changed.clone(), pool.levels);
    let members = Arc::new(members);

    // Without a tokenizer of our own there is nothing to compare.
    let mode = match unusable_because {
        None => config.parity.mode,
        Some(_) => ParityMode::Off,
    };
    let parity = PoolParity::new(
        &config.name,
        mode,
        running.changed.clone(),
        metrics.parity(&config.name),
    );
    let parity = Arc::new(parity);
    let discovery = config.dynamo.as_ref().map(|dynamo| {
        let connected = metrics.discovery_connected(&config.name);
        let backend = dynamo.backend.label();
        Arc::new(DiscoveryStatus::new(
            &config.name,
            backend,
            connected,
            running.changed.clone(),
        ))
    });
    let hex = |id: Option<router_core::fleet::ArtefactId>| id.map(|id| format!("{:032x}", u128::from_be_bytes(id.0)));
    running.statuses.push(PoolStatus {
        handle: handle.clone(),
        ranks: members.clone(),
        discovery: discovery.clone(),
        epoch,
        models: pool.models.clone(),
        layout: pool.layout,
        levels: pool.levels,
        tokenizer: hex(pool.tokenizer),
        template: hex(pool.template),
        unusable_because: unusable_because.clone(),
        parity: parity.clone(),
    });
    running.handles.push(handle.clone());
    running.members.push(Member {
        pool,
        ranks: members.clone(),
        discovery: discovery.clone(),
        artefacts: model.artefacts().cloned().collect(),
        inexact_because: unusable_because,
        parity: parity.clone(),
    });
    let asker = (mode != ParityMode::Off).then(|| {
        let grace = Duration::from_millis(config.parity.grace_ms);
        background.spawn(end_grace(parity.clone(), grace));
        asker(&config, model, parity)
    });

    let mut slots = Slots::new(Slot::LIMIT / config.index.tiers.slots_per_rank());
    let mut connected: HashMap<SocketAddr, Arc<Notify>> = HashMap::new();
    let mut feeds: Vec<Feed> = Vec::new();
    for rank in fixed::ranks(&config, &mut slots) {
        let connected = connected.entry(rank.endpoint).or_default().clone();
        let status = members.join(rank.clone()).await;
        let Some(publisher) = rank.events else { continue };
        let of_feed = FeedRank {
            dp_rank: rank.dp_rank,
            slot: rank.slot,
            status,
        };
        match feeds.last_mut().filter(|feed| feed.source.name() == publisher) {
            Some(feed) => feed.ranks.push(of_feed),
            None => feeds.push(Feed {
                pool: handle.clone(),
                ranks: vec![of_feed],
                source: match &rank.topics {
                    Some(topics) => Source::Accept(running.publishers.expect(topics)),
                    None => Source::Connect(publisher),
                },
                replay: rank.replay,
                config: events.clone(),
                connected,
                keeping: running.keeping.clone(),
            }),
        }
    }
    for feed in feeds {
        let ready = readiness.hold_back(format!("pool {}: KV events of {}", config.name, feed.source.name()));
        let keeps_state = feed.keeping.is_some() && feed.replay.is_some();
        let tasks = if keeps_state {
            &mut running.feeds
        } else {
            &mut *background
        };
        tasks.spawn(feed.run(ready));
    }
    if let Some((dynamo, discovery)) = config.dynamo.zip(discovery) {
        let pool = DynamoPool {
            config: dynamo,
            discovery,
            layout: shape.layout,
            events: events.clone(),
            pool: handle,
            members,
            slots,
            asker: asker.clone(),
            metrics: metrics.pool(&config.name),
        };
        background.spawn(pool.run(readiness.hold_back(format!("pool {}: Dynamo's workers", config.name))));
    }
    if let Some(asker) = asker {
        for (endpoint, connected) in connected {
            background.spawn(asker.ask(endpoint, connected));
        }
    }
    Ok(())
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
        template: model.template.as_ref().ok().map(|(_, artefact)| artefact.id),
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
    let harmony = model
        .template
        .as_ref()
        .is_ok_and(|(template, _)| template.rules().harmony);
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

/// Where state is kept, if it is.
fn open_state(config: StateConfig, stopped: watch::Receiver<bool>) -> anyhow::Result<Option<Keeping>> {
    let Some(directory) = config.directory else {
        return Ok(None);
    };
    let store = Store::open(&directory)
        .with_context(|| format!("state.dir: cannot use {}: may it be written to?", directory.display()))?;
    Ok(Some(Keeping {
        store,
        interval: Duration::from_millis(config.interval_ms),
        stopped,
    }))
}

/// Differs between processes, so that no filter takes one's slots or versions for another's.
fn new_epoch(pool: &str) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    xxh3_64(format!("{pool} {} {}", std::process::id(), now.as_nanos()).as_bytes())
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{key}: cannot bind {address}: is the port taken?"))
}

async fn wait_for_stop(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}
