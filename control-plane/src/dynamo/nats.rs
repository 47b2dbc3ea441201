//! Dynamo's event plane over NATS (core, without JetStream): one connection for a pool, which all its publishers share.
//!
//! Nobody keeps what is published while we are not connected, or do not keep up: so every new connection and every
//! message that the client had to drop is a doubt, which the followers settle by asking the workers.
//!
//! What a server can make us keep is bounded by its own `max_payload` (1 MiB if it is not configured), times
//! [`BACKLOG`] messages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber};
use futures::StreamExt;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::dispatch::Dispatcher;
use super::follower::Signal;
use super::load::Loads;
use crate::admin::metrics::PoolMetrics;
use crate::config::{NatsConfig, NatsLogin};

/// Messages that wait for us; further ones are dropped, and we are told.
pub const BACKLOG: usize = 4096;
/// How long a silent connection may be dead: it is probed so often, and given up when two probes were not answered.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// The pause between attempts to connect, which doubles from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Subjects of one pool's publishers; there is one for each endpoint and topic, and a pool has one endpoint.
const MAX_SUBJECTS: usize = 64;

/// Of the one connection.
const NAME: &str = "nats";

/// A pool's connection; dropping it ends it.
#[derive(Debug)]
pub struct Nats {
    dispatcher: Arc<Mutex<Dispatcher>>,
    subjects: mpsc::UnboundedSender<String>,
    _connection: JoinSet<()>,
}

/// What the connection goes through. Only the last state matters, so that a flood of dropped messages hides nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Link {
    is_up: bool,
    connects: u64,
    dropped: u64,
    error: Option<String>,
}

impl Nats {
    /// Connects, for as long as it takes, and again whenever the connection is lost.
    /// `loads` takes what is said of load.
    pub fn start(config: NatsConfig, block_size: u32, loads: Option<Loads>, metrics: PoolMetrics) -> Self {
        let dispatcher = Arc::new(Mutex::new(Dispatcher::new(block_size, loads)));
        let (subjects, wanted) = mpsc::unbounded_channel();
        let mut connection = JoinSet::new();
        connection.spawn(run(config, dispatcher.clone(), wanted, metrics));
        Self {
            dispatcher,
            subjects,
            _connection: connection,
        }
    }

    /// Gives `signals` what comes of `publisher` under `subject`.
    pub async fn follow(&self, subject: String, publisher: u64, signals: mpsc::Sender<Signal>) {
        self.hear(subject);
        self.dispatcher.lock().await.add(publisher, signals).await;
    }

    /// Takes what comes under `subject`, too.
    pub fn hear(&self, subject: String) {
        // It ends only with us.
        let _ = self.subjects.send(subject);
    }
}

async fn run(
    config: NatsConfig,
    dispatcher: Arc<Mutex<Dispatcher>>,
    mut subjects: mpsc::UnboundedReceiver<String>,
    metrics: PoolMetrics,
) {
    let (sender, mut link) = watch::channel(Link::default());
    let client = connect(&config, sender).await;
    let mut subscribed = BTreeSet::new();
    let mut subscriptions = JoinSet::new();
    let mut before = Link::default();
    loop {
        tokio::select! {
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = link.borrow_and_update().clone();
                take_change(&before, &now, &dispatcher, &metrics).await;
                before = now;
            }
            subject = subjects.recv() => {
                let Some(subject) = subject else { return };
                if subscribed.len() >= MAX_SUBJECTS || !subscribed.insert(subject.clone()) {
                    continue;
                }
                match client.subscribe(subject.clone()).await {
                    Ok(messages) => {
                        subscriptions.spawn(receive(messages, dispatcher.clone(), metrics.clone()));
                    }
                    Err(error) => tracing::error!(subject, %error, "cannot subscribe to NATS"),
                }
            }
        }
    }
}

/// Until somebody answers as configured. After that, the client itself connects anew.
async fn connect(config: &NatsConfig, link: watch::Sender<Link>) -> Client {
    let mut last_error = String::new();
    let mut pause = FIRST_PAUSE;
    loop {
        match try_connect(config, link.clone()).await {
            Ok(client) => return client,
            Err(error) if error == last_error => tracing::debug!(error, "cannot connect to NATS"),
            Err(error) => {
                tracing::warn!(servers = ?config.servers, error, "cannot connect to NATS; trying on");
                last_error = error;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn try_connect(config: &NatsConfig, link: watch::Sender<Link>) -> Result<Client, String> {
    let servers = config.servers.iter().map(|server| server.parse::<ServerAddr>());
    let servers: Vec<_> = servers.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let options = options(config).map_err(|error| error.to_string())?;
    let options = options.event_callback(move |event| {
        note(&link, event);
        async {}
    });
    options.connect(servers).await.map_err(|error| error.to_string())
}

/// How to connect as configured.
///
/// # Errors
/// When the credentials are none.
pub fn options(config: &NatsConfig) -> std::io::Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .name("warmpath")
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(BACKLOG)
        .require_tls(config.require_tls)
        .reconnect_delay_callback(|attempts| {
            let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
            (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
        });
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((cert, key)) = &config.tls.client_cert {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    match &config.login {
        NatsLogin::Anonymous => Ok(options),
        NatsLogin::Password { user, password } => {
            Ok(options.user_and_password(user.clone(), password.reveal().to_owned()))
        }
        NatsLogin::Token(token) => Ok(options.token(token.reveal().to_owned())),
        NatsLogin::Nkey(seed) => Ok(options.nkey(seed.reveal().to_owned())),
        NatsLogin::Credentials(credentials) => options.credentials(credentials.reveal()),
    }
}

fn note(link: &watch::Sender<Link>, event: Event) {
    link.send_modify(|link| match event {
        Event::Connected => {
            link.is_up = true;
            link.connects += 1;
            link.error = None;
        }
        Event::Disconnected | Event::Closed => link.is_up = false,
        Event::SlowConsumer(_) => link.dropped += 1,
        Event::ServerError(error) => link.error = Some(error.to_string()),
        Event::ClientError(error) => link.error = Some(error.to_string()),
        Event::LameDuckMode | Event::Draining => {}
    });
}

async fn take_change(before: &Link, now: &Link, dispatcher: &Mutex<Dispatcher>, metrics: &PoolMetrics) {
    if now.error.is_some() && now.error != before.error {
        tracing::warn!(error = now.error, "NATS");
    }
    let has_reconnected = now.connects != before.connects;
    let is_lost = before.is_up && (has_reconnected || !now.is_up);
    // Said before the dispatcher is there for us: it may be what everybody waits for.
    if is_lost {
        tracing::warn!("connection to NATS is lost");
        metrics.count_dynamo("nats_lost", 1);
    }
    metrics.count_dynamo("nats_dropped", now.dropped - before.dropped);
    let mut dispatcher = dispatcher.lock().await;
    if is_lost {
        dispatcher.lost(NAME).await;
    }
    if now.is_up && has_reconnected {
        tracing::info!("connected to NATS");
        dispatcher.connected(NAME).await;
    }
    if now.dropped != before.dropped {
        dispatcher.missed().await;
    }
}

/// Takes the messages of one subscription until there can be no more.
async fn receive(mut messages: Subscriber, dispatcher: Arc<Mutex<Dispatcher>>, metrics: PoolMetrics) {
    while let Some(message) = messages.next().await {
        if let Err(error) = dispatcher.lock().await.message(&message.payload).await {
            tracing::warn!(subject = %message.subject, %error, "message left out");
            metrics.count_dynamo("unreadable_message", 1);
        }
    }
}
