//! The world around the control plane, in one process: engines that publish, filters that follow, a model directory.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use control_plane::app::App;
use control_plane::config::Config;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use proto::v1;
use proto::v1::to_filter::Message;
use proto::view::PoolUpdate;
use rmpv::Value;
use router_core::Slot;
use router_core::fleet::{ArtefactId, Fleet};
use router_core::hash::{BlockLayout, HashSeed, SequenceHash, local_hashes, sequence_hashes};
use router_core::replica::{Replica, Update};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use zeromq::{Endpoint, PubSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

/// After this a test that waits for something has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const BLOCK_SIZE: u32 = 4;
pub(crate) const POOL: &str = "tiny";

/// One rank of an engine: numbers its messages from 0, keeps them for replay.
pub(crate) struct Engine {
    pub(crate) events: String,
    pub(crate) replay: String,
    commands: Option<mpsc::Sender<Command>>,
    task: tokio::task::JoinHandle<()>,
}

enum Command {
    Publish {
        batch: Value,
        silently: bool,
        done: oneshot::Sender<()>,
    },
    ForgetBefore(u64, oneshot::Sender<()>),
}

impl Engine {
    /// On free ports.
    pub(crate) async fn start() -> Self {
        Self::start_at("tcp://127.0.0.1:0", "tcp://127.0.0.1:0").await
    }

    /// As the same worker again, with an empty cache, numbering from 0.
    pub(crate) async fn start_at(events: &str, replay: &str) -> Self {
        let (mut publish, events) = bind(PubSocket::new, events).await;
        let (mut router, replay) = bind(RouterSocket::new, replay).await;
        let (commands, mut received) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            let mut buffer: Vec<(u64, Bytes)> = Vec::new();
            let mut next = 0_u64;
            loop {
                tokio::select! {
                    command = received.recv() => match command {
                        None => {
                            // A dropped socket goes on accepting for a moment, into nowhere; a process that dies does not.
                            publish.close().await;
                            router.close().await;
                            return;
                        }
                        Some(Command::ForgetBefore(sequence, done)) => {
                            buffer.retain(|(number, _)| *number >= sequence);
                            done.send(()).unwrap();
                        }
                        Some(Command::Publish { batch, silently, done }) => {
                            let payload = pack(&batch);
                            buffer.push((next, payload.clone()));
                            if !silently {
                                publish.send(message(&[Bytes::new(), number(next), payload])).await.unwrap();
                            }
                            next += 1;
                            done.send(()).unwrap();
                        }
                    },
                    request = router.recv() => {
                        let Ok(request) = request else { return };
                        let frames = request.into_vec();
                        let from = u64::from_be_bytes(frames[2].as_ref().try_into().unwrap());
                        let replies = buffer.iter().filter(|(sequence, _)| *sequence >= from).cloned();
                        for (sequence, payload) in replies.chain([(u64::MAX, Bytes::new())]) {
                            let reply = [frames[0].clone(), Bytes::new(), Bytes::new(), number(sequence), payload];
                            if router.send(message(&reply)).await.is_err() {
                                break;
                            }
                        }
                    }
                }
            }
        });
        Self {
            events,
            replay,
            commands: Some(commands),
            task,
        }
    }

    /// Publishes one batch.
    pub(crate) async fn publish(&self, events: impl IntoIterator<Item = Value>) {
        self.command(0, events, false).await;
    }

    /// Publishes one batch of a rank.
    pub(crate) async fn publish_as(&self, rank: u32, events: impl IntoIterator<Item = Value>) {
        self.command(rank, events, false).await;
    }

    /// A batch that gets lost on the way, but can be replayed.
    pub(crate) async fn lose(&self, events: impl IntoIterator<Item = Value>) {
        self.command(0, events, true).await;
    }

    async fn command(&self, rank: u32, events: impl IntoIterator<Item = Value>, silently: bool) {
        // Real batches differ by their time.
        static TIME: AtomicU64 = AtomicU64::new(0);
        let time = TIME.fetch_add(1, Ordering::Relaxed);
        let batch = Value::Array(vec![
            time.into(),
            Value::Array(events.into_iter().collect()),
            rank.into(),
        ]);
        let (done, answer) = oneshot::channel();
        self.commands
            .as_ref()
            .unwrap()
            .send(Command::Publish { batch, silently, done })
            .await
            .ok()
            .unwrap();
        answer.await.unwrap();
    }

    /// Its replay buffer no longer reaches back before `sequence`.
    pub(crate) async fn forget_before(&self, sequence: u64) {
        let (done, answer) = oneshot::channel();
        self.commands
            .as_ref()
            .unwrap()
            .send(Command::ForgetBefore(sequence, done))
            .await
            .ok()
            .unwrap();
        answer.await.unwrap();
    }

    /// Dies; its ports are free again.
    pub(crate) async fn kill(mut self) -> (String, String) {
        self.commands.take();
        (&mut self.task).await.unwrap();
        (self.events, self.replay)
    }
}

/// Binds, again and again while the port is still held by a socket that is going away.
async fn bind<S: Socket>(new: impl Fn() -> S, endpoint: &str) -> (S, String) {
    let bound = async {
        loop {
            let mut socket = new();
            match socket.bind(endpoint).await {
                Ok(Endpoint::Tcp(_, port)) => return (socket, format!("tcp://127.0.0.1:{port}")),
                Ok(other) => panic!("bound {other}"),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, bound)
        .await
        .expect("the port stays taken")
}

/// Listens on a port as soon as the socket that held it is gone.
pub(crate) async fn listen(address: &str) -> tokio::net::TcpListener {
    let listening = async {
        loop {
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, listening)
        .await
        .expect("the port stays taken")
}

pub(crate) fn pack(value: &Value) -> Bytes {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes.into()
}

fn number(sequence: u64) -> Bytes {
    Bytes::copy_from_slice(&sequence.to_be_bytes())
}

fn message(frames: &[Bytes]) -> ZmqMessage {
    let mut message = ZmqMessage::from(frames[0].clone());
    frames[1..].iter().for_each(|frame| message.push_back(frame.clone()));
    message
}

/// The event of storing a whole prompt; engine hashes are `base`, `base + 1`, …
pub(crate) fn store(prompt: &[u32], base: u64) -> Value {
    store_sized(prompt, base, BLOCK_SIZE)
}

pub(crate) fn store_sized(prompt: &[u32], base: u64, block_size: u32) -> Value {
    let blocks = prompt.len() as u64 / u64::from(block_size);
    Value::Map(vec![
        ("type".into(), "BlockStored".into()),
        (
            "block_hashes".into(),
            Value::Array((0..blocks).map(|block| Value::from(base + block)).collect()),
        ),
        ("parent_block_hash".into(), Value::Nil),
        (
            "token_ids".into(),
            Value::Array(prompt.iter().map(|&token| token.into()).collect()),
        ),
        ("block_size".into(), block_size.into()),
    ])
}

pub(crate) fn remove(hashes: &[u64]) -> Value {
    let hashes = Value::Array(hashes.iter().map(|&hash| hash.into()).collect());
    Value::Map(vec![
        ("type".into(), "BlockRemoved".into()),
        ("block_hashes".into(), hashes),
    ])
}

/// A prompt of `blocks` full blocks that shares nothing with those of other `first` tokens.
pub(crate) fn prompt(first: u32, blocks: u32) -> Vec<u32> {
    (0..blocks * BLOCK_SIZE)
        .map(|index| first * 1_000_000 + index)
        .collect()
}

pub(crate) fn hashes_of(prompt: &[u32]) -> Vec<SequenceHash> {
    let layout = BlockLayout::plain(BLOCK_SIZE).unwrap();
    sequence_hashes(local_hashes(prompt, layout, HashSeed::new(None, None)))
}

/// A model directory with a byte-level tokenizer and a one-line template.
pub(crate) fn model_dir(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    // GPT-2's printable stand-ins for bytes.
    let mut stand_ins: Vec<char> = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').collect();
    stand_ins.extend((0..256 - stand_ins.len() as u32).map(|extra| char::from_u32(256 + extra).unwrap()));
    let vocab: serde_json::Map<String, serde_json::Value> = stand_ins
        .iter()
        .enumerate()
        .map(|(id, character)| (character.to_string(), id.into()))
        .collect();
    let byte_level = serde_json::json!(
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    });
    let config = serde_json::json!({"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"});
    std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(directory.join("tokenizer_config.json"), config.to_string()).unwrap();
    directory
}

/// A configuration with one worker for each engine, that nobody asks for tokens. `more`: further top-level YAML.
pub(crate) fn config(directory: &Path, engines: &[&Engine], more: &str) -> Config {
    let workers: Vec<_> = engines
        .iter()
        .enumerate()
        .map(|(index, Engine { events, replay, .. })| {
            format!("{{endpoint: 10.0.0.{index}:8000, kv_events: '{events}', replay: '{replay}'}}")
        })
        .collect();
    config_of(directory, &workers, "{mode: off}", more)
}

/// A configuration with these workers and this parity, in YAML.
pub(crate) fn config_of(directory: &Path, workers: &[String], parity: &str, more: &str) -> Config {
    let directory = directory.display();
    let yaml = format!(
        "listen: {{sync: 127.0.0.1:0, admin: 127.0.0.1:0}}\n{more}pools:\n  - name: {POOL}\n    models: [tiny]\n    \
         loras: [tuned]\n    model_dir: {directory}\n    block_size: {BLOCK_SIZE}\n    parity: {parity}\n    \
         workers: [{}]\n",
        workers.join(", ")
    );
    Config::parse(&yaml, Path::new("/")).unwrap()
}

/// A filter: follows the stream and keeps what it is told.
#[derive(Default)]
pub(crate) struct Filter {
    pub(crate) settings: Option<v1::Settings>,
    pub(crate) fleet: Fleet,
    pub(crate) artefacts: BTreeMap<ArtefactId, Vec<u8>>,
    pub(crate) replicas: HashMap<String, Replica>,
    /// Kinds of messages but heartbeats, in order, runs of the same kind as one.
    pub(crate) seen: Vec<&'static str>,
    pub(crate) heartbeats: u32,
    /// Different blocks that the snapshot under way is said to have.
    told: u64,
    stream: Option<(mpsc::Sender<v1::FromFilter>, Streaming<v1::ToFilter>)>,
}

impl Filter {
    pub(crate) async fn connect(app: &App) -> Self {
        let mut filter = Self::default();
        filter.connect_again(app.sync).await;
        filter
    }

    /// A new stream, with what is known from the last one.
    pub(crate) async fn connect_again(&mut self, address: SocketAddr) {
        self.seen.clear();
        let positions = self.replicas.iter().filter_map(|(pool, replica)| {
            let position = replica.position()?;
            Some(proto::view::position_to_wire(pool.clone(), position))
        });
        let hello = v1::Hello {
            filter_version: "test".to_owned(),
            vm: "test".to_owned(),
            artefacts: self.artefacts.keys().map(|id| Bytes::copy_from_slice(&id.0)).collect(),
            positions: positions.collect(),
        };
        let (requests, outgoing) = mpsc::channel(8);
        let hello = v1::FromFilter {
            message: Some(v1::from_filter::Message::Hello(hello)),
        };
        requests.send(hello).await.unwrap();
        let channel = Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(proto::MAX_MESSAGE_BYTES);
        client.ready().await.unwrap();
        let path = format!("/{}/{}", proto::SERVICE, proto::METHOD).parse().unwrap();
        let codec = tonic_prost::ProstCodec::default();
        let request = tonic::Request::new(ReceiverStream::new(outgoing));
        let response = client.streaming(request, path, codec).await.unwrap();
        self.stream = Some((requests, response.into_inner()));
    }

    pub(crate) async fn ask_for_snapshot(&mut self) {
        let resync = v1::Resync {
            pool: POOL.to_owned(),
            reason: "checksum".to_owned(),
        };
        self.send(v1::from_filter::Message::Resync(resync)).await;
    }

    pub(crate) async fn send(&mut self, message: v1::from_filter::Message) {
        let message = v1::FromFilter { message: Some(message) };
        self.stream.as_mut().unwrap().0.send(message).await.unwrap();
    }

    pub(crate) fn depth(&self, prompt: &[u32], slot: u16) -> u32 {
        self.replicas
            .get(POOL)
            .map_or(0, |replica| replica.view().depths(&hashes_of(prompt)).of(Slot(slot)))
    }

    /// Takes messages until `done`.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                assert!(self.take_one().await, "the stream ended");
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("waited too long for: {what}; seen {:?}", self.seen);
        }
    }

    /// Takes messages until the stream ends.
    pub(crate) async fn until_the_end(&mut self) {
        let waiting = async { while self.take_one().await {} };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("the stream does not end");
    }

    async fn take_one(&mut self) -> bool {
        let Ok(Some(message)) = self.stream.as_mut().unwrap().1.message().await else {
            return false;
        };
        let kind = match message.message.unwrap() {
            Message::Settings(settings) => {
                self.settings = Some(settings);
                "settings"
            }
            Message::Fleet(fleet) => {
                self.fleet = fleet.try_into().unwrap();
                for pool in &self.fleet.pools {
                    let known =
                        |id: &Option<ArtefactId>| id.is_none_or(|id| ArtefactId::of(&self.artefacts[&id]) == id);
                    assert!(
                        known(&pool.tokenizer) && known(&pool.template),
                        "artefacts come before the fleet"
                    );
                }
                // As the real one does.
                let pools = self.fleet.pools.iter();
                let named: Vec<_> = pools
                    .flat_map(|pool| [pool.tokenizer, pool.template])
                    .flatten()
                    .collect();
                self.artefacts.retain(|id, _| named.contains(id));
                "fleet"
            }
            Message::Artefact(chunk) => {
                assert!(chunk.data.len() <= 128 * 1024);
                let content = self
                    .artefacts
                    .entry(ArtefactId(chunk.id.as_ref().try_into().unwrap()))
                    .or_default();
                assert_eq!(content.len() as u64, chunk.offset);
                content.extend_from_slice(&chunk.data);
                "artefact"
            }
            Message::SnapshotBegin(begin) => {
                self.told = begin.blocks;
                self.apply(begin.try_into().unwrap(), "snapshot")
            }
            Message::SnapshotPart(part) => self.apply(part.try_into().unwrap(), "snapshot"),
            Message::SnapshotEnd(end) => self.apply(end.into(), "snapshot"),
            Message::Delta(delta) => self.apply(delta.try_into().unwrap(), "delta"),
            Message::Heartbeat(v1::Heartbeat {}) => {
                self.heartbeats += 1;
                return true;
            }
        };
        if self.seen.last() != Some(&kind) {
            self.seen.push(kind);
        }
        true
    }

    fn apply(&mut self, PoolUpdate { pool, update }: PoolUpdate, kind: &'static str) -> &'static str {
        assert!(
            self.fleet.pools.iter().any(|known| known.name == pool),
            "the fleet comes before its views"
        );
        let is_whole = matches!(update, Update::End { .. });
        let replica = self.replicas.entry(pool).or_default();
        replica.apply(update).unwrap();
        assert!(
            !is_whole || replica.view().len() as u64 == self.told,
            "a snapshot of {} blocks said that it had {}",
            replica.view().len(),
            self.told
        );
        kind
    }
}

/// Status and body of a GET on the admin port.
pub(crate) async fn get(app: &App, path: &str) -> (u16, String) {
    ask(app.admin, hyper::Method::GET, path, String::new()).await
}

pub(crate) async fn post(app: &App, path: &str, body: &serde_json::Value) -> (u16, String) {
    post_to(app.admin, path, body).await
}

pub(crate) async fn post_to(address: SocketAddr, path: &str, body: &serde_json::Value) -> (u16, String) {
    ask(address, hyper::Method::POST, path, body.to_string()).await
}

async fn ask(address: SocketAddr, method: hyper::Method, path: &str, body: String) -> (u16, String) {
    let client = HttpClient::builder(TokioExecutor::new()).build_http();
    let request = hyper::Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(Bytes::from(body)));
    let response = client.request(request.unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Asks for a JSON answer until it is as wanted.
pub(crate) async fn get_until(app: &App, path: &str, done: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let asking = async {
        loop {
            let (_, body) = get(app, path).await;
            let json = serde_json::from_str(&body).unwrap();
            if done(&json) {
                return json;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("{path} does not become as wanted"))
}
