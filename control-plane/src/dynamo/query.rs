//! Asks a worker for what is in its cache, over Dynamo's request plane (TCP), as Dynamo's own router does when events are
//! missing. Formats of Dynamo 1.6.1: `dynamo-runtime`, `pipeline/network/{codec,tcp}.rs`; `dynamo-kv-router`,
//! `indexer/types.rs`.
//!
//! The question goes out on a connection of ours; the answer comes on one that the worker opens, to the address that the
//! question names. So each question has a listener of its own, on the address from which the worker was reached, and takes
//! the connection that knows its subject.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::cursor::Recovered;
use super::wire::{RouterEvent, WireEvent, read};

/// How often a worker is asked before it counts as unable to answer, and the pause before the second time, which doubles.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long one answer may take; a large cache is walked and sent in one piece.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at once, over all workers of a pool.
pub const AT_ONCE: usize = 16;
/// Longest answer, in bytes: about 3 million blocks.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// Longest header of a frame, and longest acknowledgement of a question.
const MAX_CONTROL_BYTES: u64 = 64 << 10;
/// Connections of others that are turned away while one answer is waited for.
const MAX_STRANGERS: usize = 8;

/// Where one publisher's worker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Of its request plane.
    pub address: SocketAddr,
    /// Of the endpoint there.
    pub path: String,
    /// Whose cache is asked for.
    pub worker_id: u64,
    /// Which of its ranks.
    pub dp_rank: u32,
}

/// Asks until there is an answer or too many attempts have failed. `from`: see
/// [`Effect::Recover`](super::cursor::Effect::Recover).
pub async fn recover(
    target: &Target,
    from: Option<u64>,
    block_size: u32,
    permits: &Arc<Semaphore>,
) -> Recovered<RouterEvent> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=ATTEMPTS {
        let asked = async {
            // Never closed.
            let _permit = permits.acquire().await;
            timeout(TIMEOUT, ask(target, from, block_size))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
        };
        match asked.await {
            Ok(recovered) => return recovered,
            Err(why) => {
                let (worker, rank, address) = (target.worker_id, target.dp_rank, target.address);
                tracing::warn!(worker, rank, %address, attempt, why, "recovery query failed");
            }
        }
        if attempt < ATTEMPTS {
            sleep(pause).await;
            pause *= 2;
        }
    }
    Recovered::Failed
}

async fn ask(target: &Target, from: Option<u64>, block_size: u32) -> Result<Recovered<RouterEvent>, String> {
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(target.address)).await;
    let mut request = connecting.map_err(|_| "cannot connect".to_owned())?.map_err(told)?;
    let home = request.local_addr().map_err(told)?.ip();
    let listener = TcpListener::bind((home, 0)).await.map_err(told)?;
    let id = unguessable();
    let question = question(target, from, &id, listener.local_addr().map_err(told)?)?;
    request.write_all(&question).await.map_err(told)?;
    // The acknowledgement must be waited for: a worker drops what it was asked on a connection that is gone. It is empty,
    // or says why there will be no answer.
    let acknowledged = acknowledgement(&mut request).await?;
    if !acknowledged.is_empty() {
        return Err(String::from_utf8_lossy(&acknowledged).chars().take(300).collect());
    }
    answer(&listener, &id, block_size).await
}

/// The request plane's frame: path, headers as JSON, and as payload a two-part message of control message and question.
fn question(target: &Target, from: Option<u64>, id: &str, home: SocketAddr) -> Result<Vec<u8>, String> {
    let connection = json!({
        "address": home.to_string(), "subject": id, "context": id, "stream_type": "response",
    });
    let control = json!({
        "id": id,
        "request_type": "single_in",
        "response_type": "many_out",
        "payload_codec": "msgpack",
        "connection_info": {"transport": "tcp_server", "info": connection.to_string()},
    });
    let body = rmp_serde::to_vec_named(&json!({
        "worker_id": target.worker_id,
        "dp_rank": target.dp_rank,
        "start_event_id": from,
        "end_event_id": null,
        "supports_tree_dump_failed": true,
    }));
    let payload = two_part(
        control.to_string().as_bytes(),
        &body.map_err(|error| error.to_string())?,
    );
    let headers = json!({"request-id": id, "x-endpoint-path": target.path}).to_string();
    let mut frame = Vec::with_capacity(payload.len() + headers.len() + target.path.len() + 8);
    for part in [target.path.as_bytes(), headers.as_bytes()] {
        let length = u16::try_from(part.len()).map_err(|_| "the endpoint's path is too long".to_owned())?;
        frame.extend(length.to_be_bytes());
        frame.extend(part);
    }
    let length = u32::try_from(payload.len()).map_err(|_| "the question is too long".to_owned())?;
    frame.extend(length.to_be_bytes());
    frame.extend(payload);
    Ok(frame)
}

/// Two lengths, a checksum (0: none), header, data.
fn two_part(header: &[u8], data: &[u8]) -> Vec<u8> {
    let lengths = [header.len() as u64, data.len() as u64, 0];
    let mut message: Vec<u8> = lengths.iter().flat_map(|length| length.to_be_bytes()).collect();
    message.extend(header);
    message.extend(data);
    message
}

async fn acknowledgement(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let length = stream.read_u32().await.map_err(told)?;
    read_bytes(stream, u64::from(length), MAX_CONTROL_BYTES).await
}

/// The answer on the connection that the worker opens.
async fn answer(listener: &TcpListener, subject: &str, block_size: u32) -> Result<Recovered<RouterEvent>, String> {
    #[derive(Deserialize)]
    struct Handshake {
        subject: String,
    }
    for _ in 0..MAX_STRANGERS {
        let (mut stream, _) = listener.accept().await.map_err(told)?;
        let (handshake, _) = read_two_part(&mut stream).await?;
        let handshake: Option<Handshake> = serde_json::from_slice(&handshake).ok();
        if handshake.is_some_and(|handshake| handshake.subject == subject) {
            return read_answer(&mut stream, block_size).await;
        }
    }
    Err("too many connections that know nothing of the question".to_owned())
}

/// Reads what a worker sends after its handshake. Blocks have `block_size` tokens.
///
/// # Errors
/// When that is no answer, or one that says why there is none.
pub async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
    block_size: u32,
) -> Result<Recovered<RouterEvent>, String> {
    #[derive(Deserialize)]
    struct Prologue {
        error: Option<String>,
    }
    /// One item of the stream of answers, which has just one.
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        data: Option<Answer>,
    }
    let (prologue, _) = read_two_part(stream).await?;
    let prologue: Prologue = serde_json::from_slice(&prologue).map_err(|error| format!("prologue: {error}"))?;
    if let Some(error) = prologue.error {
        return Err(error);
    }
    loop {
        let (control, data) = read_two_part(stream).await?;
        if !data.is_empty() {
            let item: Item = read("answer", &data).map_err(|error| error.to_string())?;
            // The rest, so that the worker's stream ends in good order: that there is no more, and its end mark.
            while read_two_part(stream).await.is_ok_and(|(control, _)| control.is_empty()) {}
            let answer = item.data.ok_or_else(|| "the stream of answers is empty".to_owned())?;
            return answer.into_recovered(block_size);
        }
        if control.is_empty() || control == b"\"sentinel\"" {
            return Err("the stream ended without an answer".to_owned());
        }
    }
}

async fn read_two_part(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Vec<u8>, Vec<u8>), String> {
    let header_length = stream.read_u64().await.map_err(told)?;
    let data_length = stream.read_u64().await.map_err(told)?;
    let _checksum = stream.read_u64().await.map_err(told)?;
    let header = read_bytes(stream, header_length, MAX_CONTROL_BYTES).await?;
    let data = read_bytes(stream, data_length, MAX_ANSWER_BYTES).await?;
    Ok((header, data))
}

/// Takes memory as bytes come, not as they are promised.
async fn read_bytes(stream: &mut (impl AsyncRead + Unpin), length: u64, limit: u64) -> Result<Vec<u8>, String> {
    if length > limit {
        return Err(format!("{length} bytes are more than the limit of {limit}"));
    }
    let mut bytes = Vec::new();
    stream.take(length).read_to_end(&mut bytes).await.map_err(told)?;
    if bytes.len() as u64 == length {
        Ok(bytes)
    } else {
        Err("the connection ended early".to_owned())
    }
}

/// Names a question. The standard library's hashers have keys of the system's randomness.
fn unguessable() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn told(error: std::io::Error) -> String {
    error.to_string()
}

/// As it is on the wire.
#[derive(Debug, Deserialize)]
enum Answer {
    Events {
        events: Vec<WireEvent>,
    },
    TreeDump {
        events: Vec<WireEvent>,
        last_event_id: u64,
        #[serde(default)]
        reset_scope: Scope,
    },
    TreeDumpFailed {
        message: String,
    },
    TooNew {
        newest_available: u64,
    },
    InvalidRange {
        start_id: u64,
        end_id: u64,
    },
    Error(String),
}

/// What a dump is about.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    #[default]
    All,
    Domain(String),
}

impl Answer {
    fn into_recovered(self, block_size: u32) -> Result<Recovered<RouterEvent>, String> {
        let read = |event: WireEvent| event.into_event(block_size);
        match self {
            Self::Events { events } => {
                let events = events.into_iter().map(read).map(|event| (event.event_id, event));
                Ok(Recovered::Events(events.collect()))
            }
            Self::TreeDump {
                reset_scope: Scope::Domain(domain),
                ..
            } if domain != "worker" => Err(format!("a dump of the domain {domain:?} instead of the worker's")),
            Self::TreeDump {
                events, last_event_id, ..
            } => Ok(Recovered::Everything {
                events: events.into_iter().map(read).collect(),
                last: last_event_id,
            }),
            // The worker's own index lags behind what it has published, or asks us to forget where we are.
            Self::TooNew { newest_available } => {
                tracing::debug!(newest_available, "the worker has no such events");
                Ok(Recovered::Nothing)
            }
            Self::InvalidRange { start_id, end_id } => Err(format!("invalid range {start_id} to {end_id}")),
            Self::TreeDumpFailed { message } => Err(format!("no dump: {message}")),
            Self::Error(error) => Err(error),
        }
    }
}
