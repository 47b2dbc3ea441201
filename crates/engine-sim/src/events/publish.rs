//! The two sockets of a rank: PUB sends every batch as it happens, ROUTER replays the recent ones on request.
//! Frames as vLLM's `ZmqEventPublisher` (`vllm/distributed/kv_events.py`) sends them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::mpsc;
use zeromq::{Endpoint, PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use super::KvEvent;
use super::encode::encode_batch;
use crate::cli::EventFormat;

/// Sequence number of the end mark: -1.
const END_OF_REPLAY: [u8; 8] = [0xff; 8];
/// A subscriber that takes longer than this over one batch loses the rest of its replay.
const REPLAY_SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The bound sockets of one rank.
pub struct Sockets {
    publish: PubSocket,
    replay: RouterSocket,
    /// Where subscribers connect.
    pub events_endpoint: String,
    /// Where subscribers ask for a replay.
    pub replay_endpoint: String,
}

impl Sockets {
    /// Binds both; port 0 takes a free one.
    pub async fn bind(host: IpAddr, events_port: u16, replay_port: u16) -> anyhow::Result<Self> {
        let mut publish = PubSocket::new();
        let mut replay = RouterSocket::new();
        Ok(Self {
            events_endpoint: bind(&mut publish, host, events_port).await.context("KV event socket")?,
            replay_endpoint: bind(&mut replay, host, replay_port).await.context("replay socket")?,
            publish,
            replay,
        })
    }

    /// Publishes what arrives on `batches` (the events of one scheduler step each) until the sender is gone.
    pub async fn run(
        self,
        mut batches: mpsc::UnboundedReceiver<Vec<KvEvent>>,
        format: EventFormat,
        rank: u32,
        buffer_len: usize,
    ) {
        let Self {
            mut publish, replay, ..
        } = self;
        let buffer = Arc::new(Buffer::new(buffer_len));
        let replaying = tokio::spawn(serve_replays(replay, buffer.clone()));
        while let Some(events) = batches.recv().await {
            let payload = match encode_batch(format, unix_seconds(), &events, rank) {
                Ok(payload) => Bytes::from(payload),
                Err(error) => {
                    tracing::error!(%error, "cannot encode an event batch");
                    continue;
                }
            };
            // Into the buffer first: whoever subscribes and then asks for a replay misses nothing in between.
            let seq = buffer.push(payload.clone());
            if let Err(error) = publish.send(message([Bytes::new(), seq_frame(seq), payload])).await {
                tracing::warn!(%error, seq, "cannot publish an event batch");
            }
        }
        replaying.abort();
    }
}

async fn bind(socket: &mut impl Socket, host: IpAddr, port: u16) -> anyhow::Result<String> {
    let host = if host.is_ipv6() {
        format!("[{host}]")
    } else {
        host.to_string()
    };
    let wanted = format!("tcp://{host}:{port}");
    match socket
        .bind(&wanted)
        .await
        .with_context(|| format!("cannot bind {wanted}"))?
    {
        Endpoint::Tcp(_, port) => Ok(format!("tcp://{host}:{port}")),
        other => anyhow::bail!("bound {other} instead of {wanted}"),
    }
}

/// Answers `[identity, empty, start_seq]` with `[identity, empty, topic, seq, payload]` for each buffered batch from
/// `start_seq` on, then an end mark with an empty payload.
async fn serve_replays(mut socket: RouterSocket, buffer: Arc<Buffer>) {
    loop {
        let request = match socket.recv().await {
            Ok(request) => request.into_vec(),
            Err(error) => {
                tracing::warn!(%error, "replay socket closed");
                return;
            }
        };
        let Some((identity, start_seq)) = parse_request(&request) else {
            tracing::warn!(
                frames = request.len(),
                "invalid replay request: want [empty, 8-byte sequence number]"
            );
            continue;
        };
        let batches = buffer.from(start_seq);
        tracing::debug!(start_seq, batches = batches.len(), "replay");
        let frames = batches.into_iter().map(|(seq, payload)| (seq_frame(seq), payload));
        let end = (Bytes::from_static(&END_OF_REPLAY), Bytes::new());
        for (seq, payload) in frames.chain([end]) {
            let reply = message([identity.clone(), Bytes::new(), Bytes::new(), seq, payload]);
            match tokio::time::timeout(REPLAY_SEND_TIMEOUT, socket.send(reply)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "replay client is gone");
                    break;
                }
                Err(_) => {
                    tracing::warn!("replay client does not read");
                    break;
                }
            }
        }
    }
}

fn parse_request(frames: &[Bytes]) -> Option<(&Bytes, u64)> {
    match frames {
        [identity, empty, seq] if empty.is_empty() => {
            Some((identity, u64::from_be_bytes(seq.as_ref().try_into().ok()?)))
        }
        _ => None,
    }
}

/// The most recent batches with their sequence numbers, which count up from 0.
struct Buffer {
    capacity: usize,
    state: Mutex<BufferState>,
}

#[derive(Default)]
struct BufferState {
    next_seq: u64,
    batches: VecDeque<(u64, Bytes)>,
}

impl Buffer {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::default(),
        }
    }

    fn push(&self, payload: Bytes) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = state.next_seq;
        state.next_seq += 1;
        state.batches.push_back((seq, payload));
        while state.batches.len() > self.capacity {
            state.batches.pop_front();
        }
        seq
    }

    fn from(&self, start_seq: u64) -> Vec<(u64, Bytes)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .batches
            .iter()
            .filter(|(seq, _)| *seq >= start_seq)
            .cloned()
            .collect()
    }
}

fn message<const N: usize>(frames: [Bytes; N]) -> ZmqMessage {
    let [first, rest @ ..] = &frames[..] else {
        return ZmqMessage::from(Bytes::new());
    };
    let mut message = ZmqMessage::from(first.clone());
    for frame in rest {
        message.push_back(frame.clone());
    }
    message
}

fn seq_frame(seq: u64) -> Bytes {
    Bytes::copy_from_slice(&seq.to_be_bytes())
}

fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}
