//! From discovery records to the ranks of one pool: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use router_core::hash::BlockLayout;

use super::load;
use super::query::Target;
use super::records::{Card, Channel, Instance, Record, Records, Scope, Source, WorkerRank};
use super::wire::KV_EVENTS;
use crate::config::DynamoConfig;

/// Ranks of one worker beyond which its card is not believed.
const MAX_RANKS: u32 = 1024;
/// The component that ZMQ brokers are told of under.
const BROKER_COMPONENT: &str = "zmq_broker";
/// Brokers beyond which the discovery service is not believed.
const MAX_BROKERS: usize = 64;
/// Publishers of load beyond which no more are listened to: three for each of a thousand workers and as many again.
const MAX_LOAD_CHANNELS: usize = 6144;

/// What a pool's workers are, as their records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Ranks that requests may be sent to.
    pub ranks: BTreeMap<WorkerRank, Place>,
    /// Workers at the pool's endpoint that cannot be used, and why.
    pub refused: BTreeMap<u64, String>,
    /// Where ZMQ brokers publish what they are given.
    pub brokers: BTreeSet<String>,
    /// Where workers and routers say how loaded workers are.
    pub load: BTreeSet<EventTransport>,
}

/// One rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frontend that leads to it.
    pub frontend: SocketAddr,
    /// Who publishes its events, once that is known.
    pub publisher: Option<Publisher>,
}

/// Who publishes the events of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// Its id.
    pub id: u64,
    /// How its events come, once that is known.
    pub transport: Option<EventTransport>,
    /// Who answers for what was missed.
    pub recovery: Option<Target>,
}

/// How a publisher's events come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventTransport {
    /// From its own ZMQ socket, `tcp://host:port`.
    Zmq(String),
    /// Through NATS, under this subject.
    Nats(String),
    /// Through the ZMQ brokers.
    Broker,
}

impl Picture {
    /// What `records` say of the pool that `config` describes, whose prompts are cut by `layout`.
    pub fn of(records: &Records, config: &DynamoConfig, layout: BlockLayout) -> Self {
        let mut picture = Self {
            brokers: brokers(records, config),
            load: load(records, config),
            ..Self::default()
        };
        let publishers = publishers(records, config, !picture.brokers.is_empty());
        let cards: BTreeMap<u64, &Card> = records
            .iter()
            .filter_map(|(_, record)| match record {
                Record::Model {
                    endpoint,
                    instance_id,
                    card_json,
                } if *endpoint == config.endpoint => Some((*instance_id, card_json)),
                _ => None,
            })
            .collect();
        for (_, record) in records.iter() {
            let Record::Endpoint(instance) = record else { continue };
            if instance.endpoint != config.endpoint {
                continue;
            }
            // The card comes a moment after the instance.
            let Some(card) = cards.get(&instance.instance_id) else {
                continue;
            };
            match usable(instance, card, config, layout) {
                Ok((frontend, ranks)) => picture.ranks.extend(ranks.map(|dp_rank| {
                    let rank = WorkerRank {
                        worker_id: instance.instance_id,
                        dp_rank,
                    };
                    let publisher = publishers.get(&rank).cloned();
                    (rank, Place { frontend, publisher })
                })),
                Err(why) => {
                    picture.refused.insert(instance.instance_id, why);
                }
            }
        }
        picture
    }
}

/// Where something is said of the load of the pool's workers.
fn load(records: &Records, config: &DynamoConfig) -> BTreeSet<EventTransport> {
    let is_ours = |scope: &Scope| match scope {
        Scope::Endpoint { endpoint } => *endpoint == config.endpoint,
        // As before July 2026.
        Scope::Component { namespace, component } => {
            (namespace, component) == (&config.endpoint.namespace, &config.endpoint.component)
        }
        Scope::Namespace { .. } => false,
    };
    let transport = |(_, record): (u64, &Record)| match record {
        Record::EventChannel {
            scope: Some(scope),
            topic,
            transport,
            ..
        } if is_ours(scope) && load::TOPICS.contains(&topic.as_str()) => event_transport(transport, topic),
        _ => None,
    };
    records.iter().filter_map(transport).take(MAX_LOAD_CHANNELS).collect()
}

/// Frontend and ranks of a worker, or why it cannot be used.
fn usable(
    instance: &Instance,
    card: &Card,
    config: &DynamoConfig,
    layout: BlockLayout,
) -> Result<(SocketAddr, std::ops::Range<u32>), String> {
    let (theirs, block_size) = (card.kv_cache_block_size, layout.block_size.get());
    if theirs != block_size {
        return Err(format!(
            "block size {theirs}, where the pool's block_size is {block_size}"
        ));
    }
    if card.worker_type.as_deref() == Some("prefill") {
        return Err("a prefill worker, which serves no whole requests".to_owned());
    }
    let engine = &card.runtime_config;
    let eagle = engine.enable_eagle.unwrap_or(false);
    if eagle != layout.eagle {
        return Err(format!(
            "enable_eagle is {eagle}, where the pool's eagle is {}",
            layout.eagle
        ));
    }
    let frontend = match (config.frontend, instance.transport.address()) {
        (Some(frontend), _) => frontend,
        (None, Some((address, _))) => SocketAddr::new(address.ip(), config.frontend_port),
        (None, None) => {
            return Err("no TCP address to tell its frontend from: set `frontend`".to_owned());
        }
    };
    let first = engine.data_parallel_start_rank.unwrap_or(0);
    let size = engine.data_parallel_size.unwrap_or(1).max(1);
    if size > MAX_RANKS {
        return Err(format!("{size} ranks are more than {MAX_RANKS}"));
    }
    Ok((frontend, first..first.saturating_add(size)))
}

/// Where brokers publish: as configured, or else as those of the deployment say.
fn brokers(records: &Records, config: &DynamoConfig) -> BTreeSet<String> {
    if !config.brokers.is_empty() {
        return config.brokers.iter().cloned().collect();
    }
    let told = records.iter().filter_map(|(_, record)| match record {
        Record::EventChannel {
            scope: Some(Scope::Component { namespace, component }),
            transport: Channel::ZmqBroker { xpub_endpoints, .. },
            ..
        } if *namespace == config.endpoint.namespace && component == BROKER_COMPONENT => Some(xpub_endpoints),
        _ => None,
    });
    told.flatten().take(MAX_BROKERS).cloned().collect()
}

/// The publisher of each rank: the one whose record came last, if there are several.
fn publishers(records: &Records, config: &DynamoConfig, has_brokers: bool) -> BTreeMap<WorkerRank, Publisher> {
    let mut transports: BTreeMap<u64, EventTransport> = BTreeMap::new();
    let mut sources = Vec::new();
    for (arrival, record) in records.iter() {
        match record {
            Record::EventChannel {
                topic,
                publisher_id,
                transport,
                ..
            } if topic == KV_EVENTS => {
                transports.extend(event_transport(transport, topic).map(|transport| (*publisher_id, transport)));
            }
            Record::EventSource {
                topic,
                publisher_id,
                metadata,
            } if topic == KV_EVENTS => {
                let endpoint = metadata.kv_state_endpoint.as_ref();
                if endpoint.is_none_or(|endpoint| *endpoint == config.endpoint) {
                    sources.push((arrival, *publisher_id, metadata));
                }
            }
            _ => {}
        }
    }
    sources.sort_by_key(|(arrival, ..)| *arrival);
    let publisher = |(_, id, source): (u64, u64, &Source)| {
        let recovery = source.recovery_target.as_ref().and_then(|target| {
            let (address, path) = target.transport.address()?;
            Some(Target {
                address,
                path: path.to_owned(),
                worker_id: source.worker.worker_id,
                dp_rank: source.worker.dp_rank,
            })
        });
        // Who publishes through a broker has no channel of its own.
        let transport = transports.get(&id).cloned();
        let transport = transport.or_else(|| has_brokers.then_some(EventTransport::Broker));
        let publisher = Publisher {
            id,
            transport,
            recovery,
        };
        (source.worker, publisher)
    };
    sources.into_iter().map(publisher).collect()
}

fn event_transport(channel: &Channel, topic: &str) -> Option<EventTransport> {
    match channel {
        Channel::Zmq { endpoint } => Some(EventTransport::Zmq(endpoint.clone())),
        Channel::Nats { subject_prefix } => {
            // What Dynamo percent-encodes; a wildcard would bring everybody's messages.
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_%.".contains(&byte);
            let is_subject = !subject_prefix.is_empty() && subject_prefix.bytes().all(is_plain);
            is_subject.then(|| EventTransport::Nats(format!("{subject_prefix}.{topic}")))
        }
        Channel::ZmqBroker { .. } => None,
    }
}
