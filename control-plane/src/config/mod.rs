//! The configuration file. Every key, its default, unit and cost: `docs/configuration.md`.

mod dynamo;
mod etcd;
mod nats;
mod pool;
mod prompts;
mod reader;
mod secret;
mod tls;

pub use dynamo::{DynamoBackend, DynamoConfig};
pub use etcd::{EtcdConfig, EtcdLogin};
pub use nats::{NatsConfig, NatsLogin};
pub use pool::{IndexConfig, ParityConfig, ParityMode, PoolConfig, ViewConfig, WorkerConfig};
pub use prompts::{PromptsConfig, frontend};
pub use secret::Secret;
pub use tls::TlsConfig;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reader::{At, Mistakes, Node};
use serde_saphyr::NonFiniteFloatPolicy;

/// Longest configuration file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Defaults, and the bounds within which a value makes sense.
mod defaults {
    pub(super) const SYNC: &str = "127.0.0.1:9010";
    pub(super) const ADMIN: &str = "127.0.0.1:9011";
    pub(super) const MAX_STALENESS_MS: u64 = 60_000;
    pub(super) const SILENCE_MS: u64 = 5_000;
    pub(super) const DISCONNECT_GRACE_MS: u64 = 5_000;
    pub(super) const PROBE_INTERVAL_MS: u64 = 10_000;
    pub(super) const DELTA_INTERVAL_MS: u64 = 5;
    pub(super) const STATE_INTERVAL_MS: u64 = 30_000;
    pub(super) const MAX_RANK_BLOCKS: u32 = 4_000_000;
    pub(super) const MAX_POOL_BLOCKS: u32 = 32_000_000;
    pub(super) const MAX_BLOCKS_LIMIT: u32 = 1_000_000_000;
    pub(super) const VIEW_MIB: u32 = 384;
    pub(super) const PARITY_GRACE_MS: u64 = 30_000;
    pub(super) const PARITY_INTERVAL_MS: u64 = 60_000;
}

/// The whole effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the process listens.
    pub listen: Listen,
    /// Settings that every filter gets.
    pub gateway: GatewayConfig,
    /// How KV events are received.
    pub events: EventsConfig,
    /// How changes go out.
    pub sync: SyncConfig,
    /// What outlives the process.
    pub state: StateConfig,
    /// At least one.
    pub pools: Vec<PoolConfig>,
}

/// Addresses to bind; port 0 takes a free one.
#[derive(Clone, Debug, PartialEq)]
pub struct Listen {
    /// gRPC for the filters, without TLS.
    pub sync: SocketAddr,
    /// Health, readiness, metrics, status.
    pub admin: SocketAddr,
}

/// Settings that every filter gets.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayConfig {
    /// For how long after the control plane was lost a filter reads its last view.
    pub max_staleness_ms: u64,
    /// A sync stream silent for longer counts as lost.
    pub silence_ms: u64,
}

/// How KV events are received.
#[derive(Clone, Debug, PartialEq)]
pub struct EventsConfig {
    /// Where publishers connect to; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// For how long the blocks of a worker whose connection broke stay in the view.
    pub disconnect_grace_ms: u64,
    /// How long a worker may be silent before it is asked whether something was missed.
    pub probe_interval_ms: u64,
}

/// How changes go out.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncConfig {
    /// How long changes are gathered before they go out as one delta.
    pub delta_interval_ms: u64,
}

/// What outlives the process.
#[derive(Clone, Debug, PartialEq)]
pub struct StateConfig {
    /// Where it is kept; `None`: nothing is.
    pub directory: Option<PathBuf>,
    /// How often it is saved, besides at a stop.
    pub interval_ms: u64,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {why}")]
    Unreadable {
        /// As given.
        path: String,
        /// Why.
        why: String,
    },
    /// It is no YAML.
    #[error("not valid YAML: {0}")]
    Syntax(String),
    /// It says things that cannot be; one line for each.
    #[error("{} mistake(s):\n  {}", .0.len(), .0.join("\n  "))]
    Mistakes(Vec<String>),
}

impl Config {
    /// Reads and checks a file. Relative paths in it start at the file's directory.
    ///
    /// # Errors
    /// With all mistakes at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |why: String| ConfigError::Unreadable {
            path: path.display().to_string(),
            why,
        };
        let length = std::fs::metadata(path)
            .map_err(|error| unreadable(error.to_string()))?
            .len();
        if length > MAX_FILE_BYTES {
            return Err(unreadable(format!(
                "{length} bytes are more than the limit of {MAX_FILE_BYTES}"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&text, path.parent().unwrap_or_else(|| Path::new(".")))
    }

    /// Checks a document. Relative paths in it start at `directory`.
    ///
    /// # Errors
    /// With all mistakes at once.
    pub fn parse(yaml: &str, directory: &Path) -> Result<Self, ConfigError> {
        // `.nan` and `.inf` are mistakes like others, with a place and a value.
        let options = serde_saphyr::options! { non_finite_float_policy: NonFiniteFloatPolicy::PassThrough };
        let document: Node = serde_saphyr::from_str_with_options(yaml, options)
            .map_err(|error| ConfigError::Syntax(error.to_string()))?;
        let mut mistakes = Mistakes::default();
        let config = read(&At::root(&document), directory, &mut mistakes);
        match mistakes.into_lines() {
            lines if lines.is_empty() => Ok(config),
            lines => Err(ConfigError::Mistakes(lines)),
        }
    }
}

fn read(root: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> Config {
    let [listen, gateway, events, sync, state, pools] =
        root.fields(mistakes, ["listen", "gateway", "events", "sync", "state", "pools"]);
    let events = read_events(&events, mistakes);
    Config {
        listen: read_listen(&listen, mistakes),
        gateway: read_gateway(&gateway, mistakes),
        sync: read_sync(&sync, mistakes),
        state: read_state(&state, directory, mistakes),
        pools: pool::read_pools(&pools, directory, events.listen.is_some(), mistakes),
        events,
    }
}

fn read_listen(at: &At<'_>, mistakes: &mut Mistakes) -> Listen {
    let [sync, admin] = at.fields(mistakes, ["sync", "admin"]);
    let listen = Listen {
        sync: read_address(&sync, defaults::SYNC, mistakes),
        admin: read_address(&admin, defaults::ADMIN, mistakes),
    };
    if listen.sync == listen.admin && listen.sync.port() != 0 {
        mistakes.add(&admin, listen.admin, "the same address as listen.sync");
    }
    listen
}

fn read_address(at: &At<'_>, default: &str, mistakes: &mut Mistakes) -> SocketAddr {
    let text = at.text(mistakes).unwrap_or(default);
    text.parse().unwrap_or_else(|_| {
        mistakes.add(
            at,
            format!("{text:?}"),
            "must be ip:port (IPv6 in brackets); names are not resolved here",
        );
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

fn read_gateway(at: &At<'_>, mistakes: &mut Mistakes) -> GatewayConfig {
    let [max_staleness, silence] = at.fields(mistakes, ["max_staleness", "silence"]);
    GatewayConfig {
        max_staleness_ms: max_staleness.milliseconds(mistakes, 0..=86_400_000, defaults::MAX_STALENESS_MS),
        silence_ms: silence.milliseconds(mistakes, 300..=600_000, defaults::SILENCE_MS),
    }
}

fn read_events(at: &At<'_>, mistakes: &mut Mistakes) -> EventsConfig {
    let [listen, grace, probe] = at.fields(mistakes, ["listen", "disconnect_grace", "probe_interval"]);
    EventsConfig {
        listen: read_event_listen(&listen, mistakes),
        disconnect_grace_ms: grace.milliseconds(mistakes, 0..=600_000, defaults::DISCONNECT_GRACE_MS),
        probe_interval_ms: probe.milliseconds(mistakes, 100..=3_600_000, defaults::PROBE_INTERVAL_MS),
    }
}

/// As engines write it, so that both files can say the same.
fn read_event_listen(at: &At<'_>, mistakes: &mut Mistakes) -> Option<SocketAddr> {
    let text = at.text(mistakes)?;
    let address = text.strip_prefix("tcp://").map(|rest| match rest.strip_prefix('*') {
        Some(port) => format!("0.0.0.0{port}"),
        None => rest.to_owned(),
    });
    let parsed = address.and_then(|address| address.parse().ok());
    if parsed.is_none() {
        mistakes.add(
            at,
            format!("{text:?}"),
            "must be tcp://ip:port or tcp://*:port, the socket that workers connect to",
        );
    }
    parsed
}

fn read_sync(at: &At<'_>, mistakes: &mut Mistakes) -> SyncConfig {
    let [delta_interval] = at.fields(mistakes, ["delta_interval"]);
    SyncConfig {
        delta_interval_ms: delta_interval.milliseconds(mistakes, 1..=1_000, defaults::DELTA_INTERVAL_MS),
    }
}

fn read_state(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> StateConfig {
    let [dir, interval] = at.fields(mistakes, ["dir", "interval"]);
    StateConfig {
        directory: dir.text(mistakes).map(|dir| directory.join(dir)),
        interval_ms: interval.milliseconds(mistakes, 1_000..=3_600_000, defaults::STATE_INTERVAL_MS),
    }
}
