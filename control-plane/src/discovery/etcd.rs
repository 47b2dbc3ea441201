//! Dynamo's discovery service in etcd (`DYN_DISCOVERY_BACKEND=etcd`): a record under each key, `<bucket>/...`, with a lease
//! that its owner keeps alive (`dynamo-runtime` 1.6.1, `storage/kv/etcd.rs`).
//!
//! A session with one of the endpoints reads everything as of one revision, then watches what comes after it. Whatever goes
//! wrong ends the session, and the next one reads everything anew: so history that etcd has compacted, an etcd that
//! comes back with other data, and a member that fell behind need no care of their own.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Response, Status, Streaming};

use super::backend::{BUCKETS, Change, MAX_RECORD_BYTES, MAX_RECORDS};
use crate::config::{EtcdConfig, EtcdLogin, TlsConfig};
use api::auth_client::AuthClient;
use api::event::EventType;
use api::kv_client::KvClient;
use api::watch_client::WatchClient;
use api::watch_request::RequestUnion;

/// What `proto/etcd.proto` says.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod api {
    tonic::include_proto!("etcdserverpb");
}

/// How long connecting, and each answer but those of a watch, may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes is pinged so often, and given up when the answer takes longer than [`TIMEOUT`]. etcd
/// itself refuses clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// The pause after a session that failed, which doubles from the first to the last while none gets to read everything.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Records in one answer.
const PAGE: i64 = 32;
/// Longest message, in bytes: etcd's own limit on a record is 1.5 MiB, and a watch's messages are split at that.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Most that all records together may have, in bytes.
const MAX_TOTAL_BYTES: usize = 256 << 20;

/// Tells of all changes until nobody listens.
pub async fn run(config: EtcdConfig, changes: mpsc::Sender<Change>) {
    let mut pause = FIRST_PAUSE;
    for endpoint in config.endpoints.iter().cycle() {
        let (failure, was_read) = match Session::start(&config, endpoint).await {
            Err(failure) => (failure, false),
            Ok((session, all, revision)) => {
                if changes.send(Change::All(all)).await.is_err() {
                    return;
                }
                match session.watch(revision, &changes).await {
                    Some(failure) => (failure, true),
                    None => return,
                }
            }
        };
        if changes
            .send(Change::Lost(format!("{endpoint}: {failure}")))
            .await
            .is_err()
        {
            return;
        }
        if was_read {
            pause = FIRST_PAUSE;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What ends a session.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect: {}", causes(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("{}: {why}", path.display())]
    Unreadable { path: PathBuf, why: std::io::Error },
    #[error("{what} failed: {}", reason(.status))]
    Refused { what: &'static str, status: Box<Status> },
    #[error("{what} failed: no answer within {} s", TIMEOUT.as_secs())]
    Slow { what: &'static str },
    #[error("the token is not in ASCII")]
    Token,
    #[error("more than {MAX_RECORDS} records, or {} MiB of them", MAX_TOTAL_BYTES >> 20)]
    TooMany,
    #[error("the watch was cancelled: {0}")]
    Cancelled(String),
    #[error("the watch ended")]
    Ended,
}

/// A connection to one member of the cluster, logged in.
struct Session {
    channel: Channel,
    token: Option<AsciiMetadataValue>,
}

type Records = BTreeMap<String, Vec<u8>>;

impl Session {
    /// Connects, logs in, and reads all records as of the returned revision.
    async fn start(config: &EtcdConfig, endpoint: &str) -> Result<(Self, Records, i64), Failure> {
        let mut session = Self {
            channel: connect(endpoint, &config.tls).await?,
            token: None,
        };
        if let Some(login) = &config.login {
            session.token = Some(session.log_in(login).await?);
        }
        let (all, revision) = session.read_all().await?;
        Ok((session, all, revision))
    }

    async fn log_in(&self, login: &EtcdLogin) -> Result<AsciiMetadataValue, Failure> {
        let request = api::AuthenticateRequest {
            name: login.user.clone(),
            password: login.password.reveal().to_owned(),
        };
        let answer = answer("log-in", AuthClient::new(self.channel.clone()).authenticate(request)).await?;
        answer.token.parse().map_err(|_| Failure::Token)
    }

    async fn read_all(&self) -> Result<(Records, i64), Failure> {
        let mut client = KvClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut all = Records::new();
        let mut bytes = 0;
        // The newest, until the first answer says which one that is.
        let mut revision = 0;
        for bucket in BUCKETS {
            let (mut key, range_end) = range(bucket);
            loop {
                let request = api::RangeRequest {
                    key,
                    range_end: range_end.clone(),
                    limit: PAGE,
                    revision,
                };
                let page = answer("reading", client.range(self.request(request))).await?;
                if revision == 0 {
                    revision = page.header.unwrap_or_default().revision;
                }
                let next = page.kvs.last().map(|record| [&record.key[..], &[0]].concat());
                for api::KeyValue { key, value } in page.kvs {
                    bytes += value.len();
                    if all.len() >= MAX_RECORDS || bytes > MAX_TOTAL_BYTES {
                        return Err(Failure::TooMany);
                    }
                    if value.len() <= MAX_RECORD_BYTES {
                        all.insert(name(&key), value);
                    }
                }
                match next {
                    Some(next) if page.more => key = next,
                    _ => break,
                }
            }
        }
        Ok((all, revision))
    }

    /// Tells of what came after `revision` until the session fails. `None`: nobody listens any more.
    async fn watch(&self, revision: i64, changes: &mpsc::Sender<Change>) -> Option<Failure> {
        let mut messages = match self.start_watch(revision).await {
            Ok(messages) => messages,
            Err(failure) => return Some(failure),
        };
        loop {
            let message = match messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Some(Failure::Ended),
                Err(status) => {
                    return Some(Failure::Refused {
                        what: "the watch",
                        status: status.into(),
                    });
                }
            };
            if message.canceled {
                let why = match message.compact_revision {
                    0 => message.cancel_reason,
                    revision => format!("etcd has forgotten what came before revision {revision}"),
                };
                return Some(Failure::Cancelled(why));
            }
            for event in message.events {
                let is_gone = event.r#type() == EventType::Delete;
                let api::KeyValue { key, value } = event.kv.unwrap_or_default();
                let change = match is_gone {
                    true => Change::Delete(name(&key)),
                    false => Change::Put(name(&key), value),
                };
                changes.send(change).await.ok()?;
            }
        }
    }

    async fn start_watch(&self, revision: i64) -> Result<Streaming<api::WatchResponse>, Failure> {
        let watches = BUCKETS.map(|bucket| {
            let (key, range_end) = range(bucket);
            let create = api::WatchCreateRequest {
                key,
                range_end,
                start_revision: revision + 1,
                fragment: true,
            };
            api::WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            }
        });
        // etcd ends the watches when we have said all that we have to say: so we never do.
        let requests = tokio_stream::iter(watches).chain(tokio_stream::pending());
        let mut client = WatchClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        answer("watching", client.watch(self.request(requests))).await
    }

    /// As whom we ask; and that a member that has lost the others says so, rather than that nothing happens.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("hasleader", AsciiMetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
        request
    }
}

async fn connect(endpoint: &str, tls: &TlsConfig) -> Result<Channel, Failure> {
    let mut channel = Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(TIMEOUT)
        .keep_alive_while_idle(true);
    if endpoint.starts_with("https:") {
        channel = channel.tls_config(client_tls(tls)?)?;
    }
    // The handshakes after connecting may take their time, too.
    let connecting = timeout(TIMEOUT, channel.connect()).await;
    Ok(connecting.map_err(|_| Failure::Slow { what: "connecting" })??)
}

fn client_tls(config: &TlsConfig) -> Result<ClientTlsConfig, Failure> {
    let mut tls = ClientTlsConfig::new();
    tls = match &config.ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_native_roots(),
    };
    if let Some((cert, key)) = &config.client_cert {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(tls)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|why| Failure::Unreadable {
        path: path.to_owned(),
        why,
    })
}

/// First key of a bucket, and the first one behind it.
fn range(bucket: &str) -> (Vec<u8>, Vec<u8>) {
    // In ASCII, `0` follows `/`.
    (format!("{bucket}/").into_bytes(), format!("{bucket}0").into_bytes())
}

/// Dynamo's keys are ASCII; others in the same place are of no use whatever they are called.
fn name(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

async fn answer<T>(what: &'static str, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
    match timeout(TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::Refused {
            what,
            status: status.into(),
        }),
        Err(_) => Err(Failure::Slow { what }),
    }
}

/// What etcd says, or why it was not heard.
fn reason(status: &Status) -> String {
    match status.source() {
        Some(source) => causes(source),
        None => status.message().to_owned(),
    }
}

/// An error and what it comes from: the outermost says little.
fn causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| Error::source(*error));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
