//! Dynamo's event plane through ZMQ brokers: publishers give their messages to every broker (XSUB), and each publishes
//! all of them (XPUB), under the publisher's subject.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Buf;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::connect::{PAUSE, connect};
use super::direct::frames;
use super::dispatch::Dispatcher;
use super::follower::Signal;
use super::load::{self, Loads};
use super::records::Endpoint;
use super::wire::{KV_EVENTS, envelope_of_frames};
use crate::admin::metrics::PoolMetrics;
use crate::events::zmtp::{Connection, Part, Role};

/// A pool's connections, one to each broker; dropping them ends them.
#[derive(Debug)]
pub struct Brokers {
    dispatcher: Arc<Mutex<Dispatcher>>,
    subjects: Arc<[String]>,
    metrics: PoolMetrics,
    connections: BTreeMap<String, JoinSet<()>>,
}

impl Brokers {
    /// None yet. `endpoint`: whose workers' events are wanted; `loads` takes what is said of load.
    pub fn new(endpoint: &Endpoint, block_size: u32, loads: Option<Loads>, metrics: PoolMetrics) -> Self {
        let topics = loads.is_some().then_some(load::TOPICS).into_iter().flatten();
        let subjects = std::iter::once(KV_EVENTS)
            .chain(topics)
            .flat_map(|topic| subjects(endpoint, topic));
        Self {
            subjects: subjects.collect(),
            dispatcher: Arc::new(Mutex::new(Dispatcher::new(block_size, loads))),
            metrics,
            connections: BTreeMap::new(),
        }
    }

    /// Connects to these brokers, `tcp://host:port` of their XPUB sockets, and to no others.
    pub async fn set(&mut self, brokers: &BTreeSet<String>) {
        let gone = self.connections.keys().filter(|broker| !brokers.contains(*broker));
        for broker in gone.cloned().collect::<Vec<_>>() {
            if let Some(mut connection) = self.connections.remove(&broker) {
                connection.shutdown().await;
                self.dispatcher.lock().await.lost(&broker).await;
            }
        }
        for broker in brokers {
            self.connections.entry(broker.clone()).or_insert_with(|| {
                let mut connection = JoinSet::new();
                let (dispatcher, subjects) = (self.dispatcher.clone(), self.subjects.clone());
                connection.spawn(run(broker.clone(), subjects, dispatcher, self.metrics.clone()));
                connection
            });
        }
    }

    /// Gives `signals` what comes of `publisher`.
    pub async fn follow(&self, publisher: u64, signals: mpsc::Sender<Signal>) {
        self.dispatcher.lock().await.add(publisher, signals).await;
    }
}

/// Under what Dynamo publishes what it has to say of an endpoint: since July 2026, and before.
fn subjects(endpoint: &Endpoint, topic: &str) -> [String; 2] {
    let Endpoint {
        namespace,
        component,
        name,
    } = endpoint;
    [
        format!(
            "namespace.{}.component.{}.endpoint.{}.{topic}",
            encoded(namespace),
            encoded(component),
            encoded(name)
        ),
        format!("namespace.{namespace}.component.{component}.{topic}"),
    ]
}

/// One part of a subject, in which `.` and others stand for themselves no more.
fn encoded(part: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    part.bytes().map(encode).collect()
}

async fn run(broker: String, subjects: Arc<[String]>, dispatcher: Arc<Mutex<Dispatcher>>, metrics: PoolMetrics) {
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    loop {
        let connection = connect(&broker, Role::Sub(&subjects)).await;
        tracing::info!(broker, "subscribed to a broker of KV events");
        dispatcher.lock().await.connected(&broker).await;
        receive(connection, &dispatcher, &metrics).await;
        tracing::warn!(broker, "connection to a broker of KV events is lost");
        metrics.count_dynamo("broker_lost", 1);
        dispatcher.lock().await.lost(&broker).await;
        sleep(PAUSE).await;
    }
}

/// One connection to its end.
async fn receive(mut connection: Connection, dispatcher: &Mutex<Dispatcher>, metrics: &PoolMetrics) {
    while let Ok(message) = connection.recv().await {
        let mut dispatcher = dispatcher.lock().await;
        let taken = match (frames(&message), message.get(1)) {
            (Ok(frames), _) => match envelope_of_frames(&frames) {
                Ok(envelope) => dispatcher.message(envelope).await,
                Err(error) => Err(error),
            },
            // It is not kept, but says whose it is.
            (Err(_), Some(Part::Bytes(publisher))) if publisher.len() == 8 => {
                dispatcher.unreadable(publisher.clone().get_u64()).await;
                Ok(())
            }
            (Err(error), _) => Err(error),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "message left out");
            metrics.count_dynamo("unreadable_message", 1);
        }
    }
}
