//! Wiring, in boot order: model, sockets, ranks, HTTP.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::serve::ListenerExt;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cli::Args;
use crate::clock::unix_seconds;
use crate::events::publish::Sockets;
use crate::hash::chain;
use crate::http::{Counters, Engine, router};
use crate::model::Model;
use crate::rank::RankHandle;
use crate::scheduler::SchedulerConfig;

/// Addresses of a running engine, one KV endpoint per rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listening {
    /// `host:port`
    pub http: String,
    /// `tcp://host:port` of the PUB sockets.
    pub kv_events: Vec<String>,
    /// `tcp://host:port` of the ROUTER sockets.
    pub replay: Vec<String>,
}

/// A running engine; it ends when this is dropped (with the runtime's tasks) or when [`stopped`](Self::stopped)
/// returns.
pub struct Running {
    /// Where it listens.
    pub listening: Listening,
    server: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Waits for the HTTP server to fail, which it does not in ordinary life.
    pub async fn stopped(&mut self) -> anyhow::Result<()> {
        (&mut self.server)
            .await
            .context("HTTP server task")?
            .context("HTTP server")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Starts an engine; it is ready when this returns.
pub async fn start(args: &Args) -> anyhow::Result<Running> {
    let model = match &args.model_dir {
        Some(dir) if !args.instant => Some(Arc::new(Model::load(dir)?)),
        _ => None,
    };
    let usable_blocks = args.num_gpu_blocks - 1;
    let max_model_len = max_model_len(args, model.as_deref(), usable_blocks);
    let hash_seed = args
        .hash_seed
        .unwrap_or_else(|| RandomState::new().hash_one("hash seed"));

    let listener = TcpListener::bind((args.host, args.port))
        .await
        .with_context(|| format!("cannot bind {}", SocketAddr::new(args.host, args.port)))?;
    let address = listener.local_addr()?.to_string();
    let mut listening = Listening {
        http: address.clone(),
        kv_events: Vec::new(),
        replay: Vec::new(),
    };

    let mut ranks = Vec::new();
    for rank in 0..args.data_parallel_size.get() {
        let events = if args.no_kv_events {
            None
        } else {
            Some(publisher(args, rank, &mut listening).await?)
        };
        let config = SchedulerConfig {
            block_size: args.block_size.get(),
            num_blocks: usable_blocks,
            max_num_seqs: args.max_num_seqs.get(),
            max_num_batched_tokens: args.max_num_batched_tokens.get(),
            prefill_tokens_per_second: args.prefill_tokens_per_second,
            inter_token_latency: Duration::from_secs_f64(args.inter_token_latency_ms / 1000.0),
            hash_root: chain(hash_seed, &[rank], None),
        };
        ranks.push(RankHandle::spawn(config, events));
    }

    let engine = Engine {
        names: names(args)?,
        loras: args.lora.clone(),
        counters: ranks.iter().map(|_| Counters::default()).collect(),
        ranks,
        worker: address,
        block_size: args.block_size.get(),
        num_gpu_blocks: args.num_gpu_blocks,
        max_model_len,
        max_body_bytes: args.max_body_bytes,
        seed: args.seed,
        started: unix_seconds(),
        requests: AtomicU64::new(0),
        model,
    };
    let routes = router(Arc::new(engine), args.instant);
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let server = tokio::spawn(axum::serve(listener, routes).into_future());
    tracing::info!(?args, max_model_len, "started");
    Ok(Running { listening, server })
}

/// Binds a rank's sockets and starts publishing on them.
async fn publisher(
    args: &Args,
    rank: u32,
    listening: &mut Listening,
) -> anyhow::Result<mpsc::UnboundedSender<Vec<crate::events::KvEvent>>> {
    let events_port = port_of_rank(args.kv_events_port, rank).context("--kv-events-port")?;
    let replay_port = port_of_rank(args.replay_port, rank).context("--replay-port")?;
    let sockets = Sockets::bind(args.host, events_port, replay_port).await?;
    listening.kv_events.push(sockets.events_endpoint.clone());
    listening.replay.push(sockets.replay_endpoint.clone());
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(sockets.run(receiver, args.event_format, rank, args.replay_buffer));
    Ok(sender)
}

/// Base port plus rank; 0 stays 0, for any free port.
fn port_of_rank(base: u16, rank: u32) -> anyhow::Result<u16> {
    if base == 0 {
        return Ok(0);
    }
    let port = u16::try_from(rank).ok().and_then(|rank| base.checked_add(rank));
    port.with_context(|| format!("{base} leaves no port for rank {rank}"))
}

/// What is asked for, or the tokenizer's limit, but never more than the blocks hold: a request that is accepted can
/// always be computed.
fn max_model_len(args: &Args, model: Option<&Model>, usable_blocks: u32) -> usize {
    let wanted = args
        .max_model_len
        .map(usize::from)
        .or_else(|| model.map(|model| model.max_length))
        .unwrap_or(usize::MAX);
    wanted.min((usable_blocks as usize).saturating_mul(args.block_size.get()))
}

fn names(args: &Args) -> anyhow::Result<Vec<String>> {
    let mut names = args.served_model_name.clone();
    if names.is_empty() {
        let dir = args.model_dir.as_deref().and_then(Path::file_name);
        names.push(dir.map_or_else(|| "instant".to_owned(), |name| name.to_string_lossy().into_owned()));
    }
    ensure!(
        names.iter().chain(&args.lora).all(|name| !name.is_empty()),
        "a model name must not be empty"
    );
    Ok(names)
}
