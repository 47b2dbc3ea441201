//! What Dynamo's workers tell of themselves in its discovery service: one JSON record under each key (`dynamo-runtime`
//! 1.6.1, `discovery/mod.rs` and `kv_store.rs`). Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::discovery::backend::{Change, MAX_RECORD_BYTES, MAX_RECORDS};

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

/// All records, read.
#[derive(Debug, Default)]
pub struct Records {
    by_key: BTreeMap<String, Known>,
    arrivals: u64,
}

/// How many new records are of no use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Useless {
    /// They cannot be read.
    pub unreadable: u64,
    /// There are [`MAX_RECORDS`] already.
    pub over_limit: u64,
}

#[derive(Debug)]
struct Known {
    /// Of its bytes.
    fingerprint: u64,
    /// Rises with every new record.
    arrival: u64,
    /// `None`: it cannot be read.
    record: Option<Record>,
}

impl Records {
    /// Takes a change, and counts what is of no use in it. Without a word of the service, all stays as it is.
    pub fn apply(&mut self, change: Change, useless: &mut Useless) {
        match change {
            Change::Put(key, bytes) => self.put(key, &bytes, useless),
            Change::Delete(key) => {
                self.by_key.remove(&key);
            }
            Change::All(all) => {
                self.by_key.retain(|key, _| all.contains_key(key));
                for (key, bytes) in all {
                    self.put(key, &bytes, useless);
                }
            }
            Change::Lost(_) => {}
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_key.len()
    }

    /// Those that could be read, with a number that rises with their arrival.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Record)> {
        let known = self.by_key.values();
        known.filter_map(|known| Some((known.arrival, known.record.as_ref()?)))
    }

    fn put(&mut self, key: String, bytes: &[u8], useless: &mut Useless) {
        let fingerprint = xxh3_64(bytes);
        match self.by_key.get(&key) {
            Some(known) if known.fingerprint == fingerprint => return,
            None if self.by_key.len() >= MAX_RECORDS => {
                tracing::warn!(key, "discovery record left out: there are {MAX_RECORDS} already");
                useless.over_limit += 1;
                return;
            }
            _ => {}
        }
        let record = read(bytes);
        if let Err(why) = &record {
            tracing::warn!(key, why, "discovery record cannot be read");
            useless.unreadable += 1;
        }
        self.arrivals += 1;
        let known = Known {
            fingerprint,
            arrival: self.arrivals,
            record: record.ok(),
        };
        self.by_key.insert(key, known);
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
