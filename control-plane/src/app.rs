//! The wiring, in boot order.

mod pools;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use proto::v1;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::metrics::Metrics;
use crate::admin::readiness::Readiness;
use crate::admin::{self, Admin};
use crate::config::{Config, GatewayConfig, Listen, StateConfig, SyncConfig};
use crate::events::keep::Keeping;
use crate::events::listen;
use crate::fleet::FleetTask;
use crate::state::Store;
use crate::sync::filters::Filters;
use crate::sync::{self, SyncService};
use pools::{Pools, Shared};

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

        let shared = Shared {
            delta_interval: Duration::from_millis(delta_interval_ms),
            keeping: open_state(state, stopped.clone())?,
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            events,
        };
        let mut running = Pools::default();
        for pool in pools {
            running.start(pool, &shared, &mut background).await?;
        }
        let Pools {
            members,
            changed,
            handles,
            statuses,
            publishers,
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

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{key}: cannot bind {address}: is the port taken?"))
}

async fn wait_for_stop(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}
