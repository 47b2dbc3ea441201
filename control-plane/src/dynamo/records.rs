//! What Dynamo's workers tell of themselves in its discovery service: one JSON record under each key (`dynamo-runtime`
//! 1.6.1, `discovery/mod.rs` and `kv_store.rs`). Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

/// The prefixes of the keys that are followed.
pub const BUCKETS: [&str; 4] = ["v1/instances", "v1/mdc", "v1/event_channels", "v1/event_sources"];
/// Longest record that is read, in bytes. Model cards have some 2 kB.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// A serving endpoint: where in Dynamo's tree of names something is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Endpoint {
    /// Of the deployment.
    pub namespace: String,
    /// As `backend`.
    pub component: String,
    /// As `generate`.
    #[serde(alias = "endpoint")]
    pub name: String,
}

/// One record, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum Record {
    /// A worker serves there.
    Endpoint(Instance),
    /// What it serves.
    Model {
        /// Where.
        #[serde(flatten)]
        endpoint: Endpoint,
        /// Who.
        instance_id: u64,
        /// What.
        card_json: Card,
    },
    /// A publisher publishes there; or a broker takes what publishers give it.
    EventChannel {
        /// Whose.
        #[serde(default)]
        scope: Option<Scope>,
        /// As `kv-events`.
        topic: String,
        /// The publisher's id.
        #[serde(rename = "instance_id")]
        publisher_id: u64,
        /// How.
        transport: Channel,
    },
    /// Whose events a publisher publishes.
    EventSource {
        /// As `kv-events`.
        topic: String,
        /// Who publishes.
        publisher_id: u64,
        /// Whose.
        metadata: Source,
    },
}

/// A worker at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Instance {
    /// Where.
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// Who.
    pub instance_id: u64,
    /// How it is asked.
    #[serde(default)]
    pub transport: Transport,
}

/// How an instance is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Transport {
    /// `address:port/path`; absent with other request planes.
    #[serde(default)]
    pub tcp: Option<String>,
}

/// A model card.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Card {
    /// Tokens per block.
    pub kv_cache_block_size: u32,
    /// `aggregated`, `prefill` or `decode`.
    #[serde(default)]
    pub worker_type: Option<String>,
    /// About the engine.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
}

/// What a card says of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RuntimeConfig {
    /// The first data-parallel rank behind the instance.
    #[serde(default)]
    pub data_parallel_start_rank: Option<u32>,
    /// Their number.
    #[serde(default)]
    pub data_parallel_size: Option<u32>,
    /// Blocks that also hash the first token of the next one.
    #[serde(default)]
    pub enable_eagle: Option<bool>,
}

/// What part of a deployment an event channel belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scope {
    /// All of it.
    Namespace {
        /// Its name.
        name: String,
    },
    /// One component.
    Component {
        /// Of this deployment.
        namespace: String,
        /// Its name.
        component: String,
    },
    /// One endpoint.
    Endpoint {
        /// Which.
        endpoint: Endpoint,
    },
}

/// How events are published.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", content = "config")]
pub enum Channel {
    /// The publisher's own ZMQ socket.
    Zmq {
        /// `tcp://host:port`.
        endpoint: String,
    },
    /// Through NATS.
    Nats {
        /// All but the last part of the subject.
        subject_prefix: String,
    },
    /// Through brokers.
    ZmqBroker {
        /// Where publishers connect.
        #[serde(default)]
        xsub_endpoints: Vec<String>,
        /// Where subscribers connect.
        #[serde(default)]
        xpub_endpoints: Vec<String>,
    },
}

/// Whose events a publisher publishes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Source {
    /// Where the worker serves.
    #[serde(default)]
    pub kv_state_endpoint: Option<Endpoint>,
    /// The worker.
    pub worker: WorkerRank,
    /// Where it is asked for its cache.
    #[serde(default)]
    pub recovery_target: Option<Instance>,
}

/// A worker and one of its ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct WorkerRank {
    /// Instance id.
    pub worker_id: u64,
    /// Data-parallel rank.
    #[serde(default)]
    pub dp_rank: u32,
}

/// A change in the discovery service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These are all records that there are; said first, and after every time of not knowing.
    All(BTreeMap<String, Vec<u8>>),
    /// This record is now so.
    Put(String, Vec<u8>),
    /// This one is gone.
    Delete(String),
}

/// All records, read.
#[derive(Debug, Default)]
pub struct Records {
    by_key: BTreeMap<String, Known>,
    arrivals: u64,
}

#[derive(Debug)]
struct Known {
    bytes: Vec<u8>,
    /// Rises with every new record.
    arrival: u64,
    /// `None`: it cannot be read.
    record: Option<Record>,
}

impl Records {
    /// Takes a change. Returns how many new records cannot be read.
    pub fn apply(&mut self, change: Change) -> u64 {
        match change {
            Change::Put(key, bytes) => self.put(key, bytes),
            Change::Delete(key) => {
                self.by_key.remove(&key);
                0
            }
            Change::All(all) => {
                self.by_key.retain(|key, _| all.contains_key(key));
                all.into_iter().map(|(key, bytes)| self.put(key, bytes)).sum()
            }
        }
    }

    /// Those that could be read, with a number that rises with their arrival.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Record)> {
        let known = self.by_key.values();
        known.filter_map(|known| Some((known.arrival, known.record.as_ref()?)))
    }

    fn put(&mut self, key: String, bytes: Vec<u8>) -> u64 {
        if self.by_key.get(&key).is_some_and(|known| known.bytes == bytes) {
            return 0;
        }
        let record = read(&bytes);
        if let Err(why) = &record {
            tracing::warn!(key, why, "discovery record cannot be read");
        }
        self.arrivals += 1;
        let known = Known {
            bytes,
            arrival: self.arrivals,
            record: record.ok(),
        };
        let unreadable = known.record.is_none();
        self.by_key.insert(key, known);
        unreadable.into()
    }
}

fn read(bytes: &[u8]) -> Result<Record, String> {
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(format!(
            "{} bytes are more than the limit of {MAX_RECORD_BYTES}",
            bytes.len()
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

impl Transport {
    /// Address and path of an endpoint on the TCP request plane.
    pub fn address(&self) -> Option<(SocketAddr, &str)> {
        let tcp = self.tcp.as_deref()?;
        let (address, path) = tcp.strip_prefix("tcp://").unwrap_or(tcp).split_once('/')?;
        Some((address.parse().ok()?, path))
    }
}
