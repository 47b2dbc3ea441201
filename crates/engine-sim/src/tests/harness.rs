//! An engine to talk to, and a consumer of its events.

use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value as Json, json};
use zeromq::{DealerSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};

use crate::app::{self, Running};
use crate::cli::Args;
use crate::events::{BlockStored, KvEvent};
use crate::test_support::{Mirror, model_dir, token_ids};

/// Long enough for a busy machine, short enough to notice that nothing comes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Engine {
    pub(super) running: Running,
    client: Client<HttpConnector, Full<Bytes>>,
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
            .to_str()
            .expect("text")
    }
}

impl Engine {
    pub(super) async fn start(extra: &[&str]) -> Self {
        let dir = model_dir().into_os_string().into_string().expect("path");
        let fixed = [
            "engine-sim",
            "--model-dir",
            &dir,
            "--served-model-name",
            "sim,alias",
            "--lora",
            "tuned",
        ];
        let fast = [
            "--prefill-tokens-per-second",
            "1000000",
            "--inter-token-latency-ms",
            "0.1",
        ];
        let args = Args::try_parse_from([&fixed[..], &fast, extra].concat()).expect("arguments");
        let running = app::start(&args).await.expect("starts");
        Self {
            running,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub(super) fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.running.listening.http))
    }

    pub(super) async fn send(&self, request: hyper::http::request::Builder, body: impl Into<Bytes>) -> Reply {
        let request = request.body(Full::new(body.into())).expect("request");
        let response = self.client.request(request).await.expect("response");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("body").to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(super) async fn post(&self, path: &str, body: &Json) -> Reply {
        self.send(self.request("POST", path), body.to_string()).await
    }

    pub(super) async fn get(&self, path: &str) -> Json {
        self.send(self.request("GET", path), "").await.json()
    }

    /// The true cache of one rank.
    pub(super) async fn cache(&self, rank: usize) -> Mirror {
        let hash = |json: &Json| json.as_str().map(|text| text.parse().expect("hash"));
        let blocks = self.get("/debug/cache").await["ranks"][rank]["blocks"].take();
        let blocks = blocks.as_array().expect("blocks").iter();
        Mirror(
            blocks
                .map(|block| {
                    (
                        hash(&block["hash"]).expect("hash"),
                        (hash(&block["parent"]), token_ids(&block["token_ids"])),
                    )
                })
                .collect(),
        )
    }
}

pub(super) fn chat(text: &str) -> Json {
    json!({"model": "sim", "messages": [{"role": "user", "content": text}], "max_tokens": 40})
}

/// A text of this many words.
pub(super) fn words(count: usize) -> String {
    (0..count).map(|number| format!("word {number} ")).collect()
}

/// Reads a batch in any of the three layouts.
pub(super) fn decode(payload: &[u8]) -> Vec<KvEvent> {
    let batch: Json =
        serde_json::to_value(rmp_serde::from_slice::<rmpv::Value>(payload).expect("msgpack")).expect("json");
    let events = if batch.is_array() { &batch[1] } else { &batch["events"] };
    events.as_array().expect("events").iter().map(decode_event).collect()
}

pub(super) fn decode_event(event: &Json) -> KvEvent {
    let field = |name: &str, position: usize| {
        if event.is_array() {
            &event[position]
        } else {
            &event[name]
        }
    };
    let hash = |json: &Json| json.as_u64().or_else(|| json.as_i64().map(i64::cast_unsigned));
    let hashes = || {
        field("block_hashes", 1)
            .as_array()
            .expect("hashes")
            .iter()
            .map(|h| hash(h).expect("hash"))
            .collect()
    };
    match field("type", 0).as_str() {
        Some("BlockStored") => {
            let block_hashes: Vec<u64> = hashes();
            KvEvent::BlockStored(BlockStored {
                parent_block_hash: hash(field("parent_block_hash", 2)),
                token_ids: token_ids(field("token_ids", 3)),
                block_size: field("block_size", 4).as_u64().expect("size").try_into().expect("size"),
                lora_id: field("lora_id", 5).as_u64(),
                lora_name: field("lora_name", 7).as_str().map(str::to_owned),
                extra_keys: serde_json::from_value::<Option<_>>(field("extra_keys", 8).clone())
                    .expect("extra keys")
                    .unwrap_or_else(|| vec![None; block_hashes.len()]),
                block_hashes,
            })
        }
        Some("BlockRemoved") => KvEvent::BlockRemoved { block_hashes: hashes() },
        Some("AllBlocksCleared") => KvEvent::AllBlocksCleared,
        other => panic!("unknown event {other:?}"),
    }
}

pub(super) async fn receive(socket: &mut impl SocketRecv) -> Vec<Bytes> {
    tokio::time::timeout(PATIENCE, socket.recv())
        .await
        .expect("a message in time")
        .expect("a message")
        .into_vec()
}

/// All batches that a replay from `start` brings, as sequence number and payload.
pub(super) async fn replay(endpoint: &str, start: u64) -> Vec<(u64, Bytes)> {
    let mut dealer = DealerSocket::new();
    dealer.connect(endpoint).await.expect("connects");
    let frames = vec![Bytes::new(), Bytes::copy_from_slice(&start.to_be_bytes())];
    dealer
        .send(ZmqMessage::try_from(frames).expect("frames"))
        .await
        .expect("sends");
    let mut batches = Vec::new();
    loop {
        let frames = receive(&mut dealer).await;
        let [empty, topic, seq, payload] = frames.as_slice() else {
            panic!("{} frames", frames.len())
        };
        assert_eq!((empty.len(), topic.len()), (0, 0));
        let seq = u64::from_be_bytes(seq.as_ref().try_into().expect("8 bytes"));
        if seq == u64::MAX {
            assert!(payload.is_empty());
            return batches;
        }
        batches.push((seq, payload.clone()));
    }
}

/// Subscribes, and returns once the subscription has reached the engine: a reset is published until it arrives.
pub(super) async fn subscribe(engine: &Engine, rank: usize) -> (SubSocket, u64) {
    let mut socket = SubSocket::new();
    socket
        .connect(&engine.running.listening.kv_events[rank])
        .await
        .expect("connects");
    socket.subscribe("").await.expect("subscribes");
    for _ in 0..300 {
        assert_eq!(
            engine.post("/reset_prefix_cache", &Json::Null).await.status,
            StatusCode::OK
        );
        let first = tokio::time::timeout(Duration::from_millis(100), socket.recv()).await;
        if let Ok(message) = first {
            let frames = message.expect("a message").into_vec();
            return (
                socket,
                u64::from_be_bytes(frames[1].as_ref().try_into().expect("8 bytes")),
            );
        }
    }
    panic!("the subscription never arrived");
}

/// Waits until a metric of rank 0 has this value.
pub(super) async fn until(engine: &Engine, metric: &str, value: &str) {
    let wanted = format!("{metric}{{engine=\"0\",model_name=\"sim\"}} {value}");
    let waiting = async {
        loop {
            let text = engine.send(engine.request("GET", "/metrics"), "").await.body;
            if std::str::from_utf8(&text)
                .expect("text")
                .lines()
                .any(|line| line == wanted)
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never saw {wanted}"));
}
