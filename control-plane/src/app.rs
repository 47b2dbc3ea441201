//! The wiring, in boot order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use proto::v1;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use xxhash_rust::xxh3::xxh3_64;

use crate::admin::metrics::Metrics;
use crate::admin::readiness::Readiness;
use crate::admin::status::RankStatus;
use crate::admin::{self, Admin, PoolStatus};
use crate::config::{Config, EventsConfig, GatewayConfig, Listen, ParityMode, PoolConfig, SyncConfig};
use crate::discovery::{Rank, Slots, fixed};
use crate::events::zmq::Feed;
use crate::fleet::{FleetTask, Member};
use crate::index::{Grid, Shape};
use crate::model::Model;
use crate::parity::PoolParity;
use crate::parity::probes::probes;
use crate::parity::task::{ParityTask, Questions, end_grace};
use crate::sync::filters::Filters;
use crate::sync::pool::{PoolHandle, PoolTask};
use crate::sync::{SyncServer, SyncService};

/// How long open connections may take to end on a stop.
const DRAIN: Duration = Duration::from_secs(5);
/// A connection that does not answer pings is closed, so that dead filters do not pile up.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The running process.
#[derive(Debug)]
pub struct App {
    /// Where gRPC listens.
    pub sync: SocketAddr,
    /// Where HTTP listens.
    pub admin: SocketAddr,
    stop: watch::Sender<bool>,
    servers: JoinSet<anyhow::Result<()>>,
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

        let metrics = Metrics::new();
        let readiness = Readiness::default();
        let (stop, stopped) = watch::channel(false);
        let mut background = JoinSet::new();
        let mut servers = JoinSet::new();

        let mut running = Pools::default();
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
        } = running;
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
        let server = SyncServer::new(service).max_decoding_message_size(proto::MAX_MESSAGE_BYTES);
        let incoming = TcpListenerStream::new(sync_listener);
        let stop_sync = wait_for_stop(stopped.clone());
        servers.spawn(async move {
            let server = Server::builder()
                .tcp_nodelay(true)
                .http2_keepalive_interval(Some(PING_INTERVAL))
                .http2_keepalive_timeout(Some(PING_INTERVAL))
                .add_service(server);
            server
                .serve_with_incoming_shutdown(incoming, stop_sync)
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
            stop,
            servers,
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
    let directory = config.model_dir.clone();
    let model = tokio::task::spawn_blocking(move || Model::load(&directory))
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
    let ranks = fixed::ranks(&config, &mut Slots::default());
    let pool = fixed::pool(&config, &ranks, &model, epoch).context("block_size must not be 0")?;
    let status = |rank: &Rank| {
        let metrics = metrics.rank(&config.name, &rank.endpoint.to_string(), rank.dp_rank);
        Arc::new(RankStatus::new(rank, metrics))
    };
    let statuses: Vec<_> = ranks.iter().map(status).collect();
    let (task, handle) = PoolTask::new(
        &config.name,
        epoch,
        Shape {
            layout: pool.layout,
            levels: pool.levels,
            grid: Grid::default(),
            max_rank_blocks: config.index.max_rank_blocks,
            max_pool_blocks: config.index.max_pool_blocks,
        },
        delta_interval,
        statuses.clone(),
        metrics,
    );
    background.spawn(task.run());

    let connected: HashMap<SocketAddr, Arc<Notify>> =
        ranks.iter().map(|rank| (rank.endpoint, Arc::default())).collect();
    for (rank, status) in ranks.iter().zip(&statuses) {
        let Some(endpoint) = rank.events.clone() else { continue };
        let ready = readiness.hold_back(format!("pool {}: KV events of {endpoint}", config.name));
        let feed = Feed {
            pool: handle.clone(),
            slot: rank.slot,
            events: endpoint,
            replay: rank.replay.clone(),
            status: status.clone(),
            config: events.clone(),
            connected: connected.get(&rank.endpoint).cloned().unwrap_or_default(),
        };
        background.spawn(feed.run(ready));
    }

    // Without a tokenizer of our own there is nothing to compare.
    let mode = match unusable_because {
        None => config.parity.mode,
        Some(_) => ParityMode::Off,
    };
    let endpoints = connected.keys().copied();
    let parity = PoolParity::new(
        &config.name,
        mode,
        endpoints,
        running.changed.clone(),
        metrics.parity(&config.name),
    );
    let parity = Arc::new(parity);
    let hex = |id: Option<router_core::fleet::ArtefactId>| id.map(|id| format!("{:032x}", u128::from_be_bytes(id.0)));
    running.statuses.push(PoolStatus {
        handle: handle.clone(),
        ranks: statuses,
        epoch,
        block_size: config.block_size,
        levels: pool.levels,
        tokenizer: hex(pool.tokenizer),
        template: hex(pool.template),
        unusable_because: unusable_because.clone(),
        parity: parity.clone(),
    });
    running.handles.push(handle);
    running.members.push(Member {
        pool,
        artefacts: model.artefacts().cloned().collect(),
        inexact_because: unusable_because,
        parity: parity.clone(),
    });
    if mode != ParityMode::Off {
        ask_workers(&config, model, &parity, connected, background);
    }
    Ok(())
}

/// Starts to ask a pool's workers for the tokens they make.
fn ask_workers(
    config: &PoolConfig,
    model: Model,
    parity: &Arc<PoolParity>,
    connected: HashMap<SocketAddr, Arc<Notify>>,
    background: &mut JoinSet<()>,
) {
    let questions = Arc::new(Questions {
        probes: config.models.first().map(|name| probes(name)).unwrap_or_default(),
        model,
        model_dir: config.model_dir.clone(),
    });
    for (endpoint, connected) in connected {
        let task = ParityTask {
            parity: parity.clone(),
            questions: questions.clone(),
            endpoint,
            connected,
            interval: Duration::from_millis(config.parity.interval_ms),
        };
        background.spawn(task.run());
    }
    let grace = Duration::from_millis(config.parity.grace_ms);
    background.spawn(end_grace(parity.clone(), grace));
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
