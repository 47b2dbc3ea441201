//! The ways by which KV events of Dynamo's workers come to a pool.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::broker::Brokers;
use super::direct;
use super::follower::Signal;
use super::load::{self, Loads};
use super::nats::Nats;
use super::picture::EventTransport;
use crate::admin::metrics::PoolMetrics;
use crate::config::DynamoConfig;

/// See the module.
#[derive(Debug)]
pub struct EventPlane {
    block_size: u32,
    nats: Option<Nats>,
    /// Whether it was said that there are publishers on NATS, and nobody to hear them.
    is_nats_missed: bool,
    brokers: Brokers,
    /// Takes what is said of load; `None`: nobody listens to that.
    loads: Option<Loads>,
    /// What listens to it, for each publisher's own socket.
    listeners: BTreeMap<String, JoinSet<()>>,
    metrics: PoolMetrics,
}

impl EventPlane {
    /// Connects to NATS, if it is configured.
    pub fn new(config: &DynamoConfig, block_size: u32, loads: Option<Loads>, metrics: &PoolMetrics) -> Self {
        let nats = config.nats.clone();
        Self {
            block_size,
            nats: nats.map(|config| Nats::start(config, block_size, loads.clone(), metrics.clone())),
            is_nats_missed: false,
            brokers: Brokers::new(&config.endpoint, block_size, loads.clone(), metrics.clone()),
            loads,
            listeners: BTreeMap::new(),
            metrics: metrics.clone(),
        }
    }

    /// Listens to what is said of load there, and nowhere else. (Brokers bring it together with the rest.)
    pub fn hear_load(&mut self, transports: &BTreeSet<EventTransport>) {
        let Some(loads) = &self.loads else { return };
        let is_wanted = |endpoint: &String| transports.contains(&EventTransport::Zmq(endpoint.clone()));
        self.listeners.retain(|endpoint, _| is_wanted(endpoint));
        for transport in transports {
            match transport {
                EventTransport::Zmq(endpoint) => {
                    self.listeners.entry(endpoint.clone()).or_insert_with(|| {
                        let mut listener = JoinSet::new();
                        listener.spawn(load::listen(endpoint.clone(), loads.clone(), self.metrics.clone()));
                        listener
                    });
                }
                EventTransport::Nats(subject) => {
                    if let Some(nats) = &self.nats {
                        nats.hear(subject.clone());
                    }
                }
                EventTransport::Broker => {}
            }
        }
    }

    /// Connects to these ZMQ brokers, and to no others.
    pub async fn set_brokers(&mut self, brokers: &BTreeSet<String>) {
        self.brokers.set(brokers).await;
    }

    /// Gives `signals` what comes of `publisher`, until its other end is dropped; what serves only this publisher runs in
    /// `tasks`. Returns where the events come from, for people; `None`: they cannot be had.
    pub async fn follow(
        &mut self,
        transport: EventTransport,
        publisher: u64,
        signals: mpsc::Sender<Signal>,
        tasks: &mut JoinSet<()>,
    ) -> Option<String> {
        match transport {
            EventTransport::Zmq(endpoint) => {
                tasks.spawn(direct::run(endpoint.clone(), publisher, self.block_size, signals));
                Some(endpoint)
            }
            EventTransport::Nats(subject) => {
                let Some(nats) = &self.nats else {
                    self.tell_nats_missed();
                    return None;
                };
                let source = format!("nats: {subject}");
                nats.follow(subject, publisher, signals).await;
                Some(source)
            }
            EventTransport::Broker => {
                self.brokers.follow(publisher, signals).await;
                Some("zmq broker".to_owned())
            }
        }
    }

    fn tell_nats_missed(&mut self) {
        if !std::mem::replace(&mut self.is_nats_missed, true) {
            tracing::error!(
                "workers publish their KV events over NATS, and discovery.dynamo.nats is not set: they are routed to by load"
            );
        }
    }
}
