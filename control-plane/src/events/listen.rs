//! The socket that publishers connect to, instead of us to them: one for all pools. Which worker a connection belongs to
//! its first message tells, by its topic (`kv@<pod ip or name>@<model>`, as llm-d has it) and its rank.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::cursor::Payload;
use super::zmtp::{Connection, Part, Role};
use crate::admin::metrics::Metrics;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;
/// How long a connection that nobody expects is left alone before it is closed: publishers come back at once, and the
/// worker may become known in the meantime.
const UNEXPECTED_PAUSE: Duration = Duration::from_secs(5);
/// Longest topic, in bytes.
const MAX_TOPIC_BYTES: usize = 512;
/// Unknown topics that are told of in the log, each once.
const MAX_TOLD: usize = 1000;
/// Pause after a failed accept, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection to a publisher.
#[derive(Debug)]
pub struct Accepted {
    /// After its handshake.
    pub connection: Connection,
    /// Its first message, where that was needed to know whose it is.
    pub first: Option<Vec<Part>>,
}

impl From<Connection> for Accepted {
    fn from(connection: Connection) -> Self {
        Self {
            connection,
            first: None,
        }
    }
}

/// Who connects to us, and where that goes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Publishers {
    expected: Arc<Mutex<ByTopic>>,
}

type ByTopic = HashMap<(String, Option<u32>), mpsc::Sender<Accepted>>;

/// How a publisher that connects to us is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Its topic, or the pod in its topic, is one of these; at least one.
    pub names: Vec<String>,
    /// Only connections whose first message names this rank (none names 0); `None`: all.
    pub rank: Option<u32>,
}

impl Topics {
    /// For logs and the status.
    pub fn name(&self) -> String {
        let topic = self.names.first().map_or("", String::as_str);
        match self.rank {
            Some(rank) => format!("{topic} rank {rank}"),
            None => topic.to_owned(),
        }
    }
}

/// The connections of one publisher; dropping it ends the expectation.
#[derive(Debug)]
pub struct Expected {
    name: String,
    connections: mpsc::Receiver<Accepted>,
}

impl Expected {
    /// For logs and the status.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next connection, however long it takes.
    pub async fn next(&mut self) -> Accepted {
        match self.connections.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }
}

impl Publishers {
    /// Expects a publisher. One that is expected twice goes to the last who does.
    pub fn expect(&self, topics: &Topics) -> Expected {
        let (sender, connections) = mpsc::channel(1);
        let mut expected = self.lock();
        for name in &topics.names {
            expected.insert((name.clone(), topics.rank), sender.clone());
        }
        Expected {
            name: topics.name(),
            connections,
        }
    }

    fn find(&self, topic: &str, rank: u32) -> Option<mpsc::Sender<Accepted>> {
        let mut expected = self.lock();
        expected.retain(|_, sender| !sender.is_closed());
        let names = [Some(topic), pod_of(topic)];
        let keys = names
            .into_iter()
            .flatten()
            .flat_map(|name| [None, Some(rank)].map(|rank| (name.to_owned(), rank)));
        keys.filter_map(|key| expected.get(&key).cloned()).next()
    }

    fn lock(&self) -> MutexGuard<'_, ByTopic> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `kv@<pod>@<model>`: the pod's address or name. Models may have an `@`, pods none.
fn pod_of(topic: &str) -> Option<&str> {
    Some(topic.strip_prefix("kv@")?.split_once('@')?.0)
}

/// Accepts publishers for as long as it is polled.
pub async fn serve(listener: TcpListener, publishers: Publishers, metrics: Metrics) {
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let door = Arc::new(Door {
        publishers,
        metrics,
        told: Mutex::default(),
    });
    loop {
        let Ok(permit) = limit.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let door = door.clone();
                tokio::spawn(async move {
                    door.let_in(stream, peer).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a publisher");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Door {
    publishers: Publishers,
    metrics: Metrics,
    told: Mutex<HashSet<String>>,
}

impl Door {
    async fn let_in(&self, stream: TcpStream, peer: SocketAddr) {
        let mut connection = match timeout(HANDSHAKE_TIMEOUT, Connection::open(stream, Role::HEAR_ALL)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "no publisher");
                return self.metrics.count_connection("no_publisher");
            }
            Err(_) => return self.metrics.count_connection("handshake_timeout"),
        };
        // What is passed over here is missed by the cursor, which counts it as lost.
        let (topic, rank, first) = loop {
            match connection.recv().await {
                Ok(parts) => {
                    if let Some((topic, rank)) = sender_of(&parts) {
                        break (topic, rank, parts);
                    }
                    self.metrics.count_connection("unreadable_message");
                }
                Err(_) => return self.metrics.count_connection("closed_before_first_message"),
            }
        };
        let first = Some(first);
        match self.publishers.find(&topic, rank) {
            Some(sender) => {
                self.metrics.count_connection("accepted");
                // Fails when the worker has just gone.
                let _ = sender.send(Accepted { connection, first }).await;
            }
            None => {
                self.metrics.count_connection("unknown_topic");
                self.tell(&topic, rank, peer);
                sleep(UNEXPECTED_PAUSE).await;
            }
        }
    }

    fn tell(&self, topic: &str, rank: u32, peer: SocketAddr) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_TOLD && told.insert(format!("{topic} {rank}")) {
            tracing::warn!(
                topic, rank, %peer,
                "KV events of a worker that nobody expects here: is its kv_topic, or its endpoint's address, what the topic says?"
            );
        }
    }
}

/// Topic and rank of a message that can be read.
fn sender_of(parts: &[Part]) -> Option<(String, u32)> {
    let [Part::Bytes(topic), _, payload] = parts else {
        return None;
    };
    if topic.len() > MAX_TOPIC_BYTES {
        return None;
    }
    let batch = payload.read().ok()?;
    Some((String::from_utf8_lossy(topic).into_owned(), batch.dp_rank.unwrap_or(0)))
}
