//! Publishers of Dynamo's workers that take each other's place: what one told is never believed of another.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use control_plane::app::App;
use control_plane::config::Config;
use serde_json::{Value, json};
use zeromq::{Endpoint, PubSocket, Socket, SocketSend, ZmqMessage};

/// The worker of the recorded instance and card.
const WORKER: u64 = 0xf338_e281_4c13_2e55;

/// Dynamo's discovery service in a directory.
struct Directory(PathBuf);

impl Directory {
    /// With the worker, of whose events nobody tells yet.
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("warmpath-dynamo-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let directory = Self(path);
        directory.add_worker();
        directory
    }

    fn add_worker(&self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dynamo_wire_samples.json");
        let samples: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for bucket in ["v1/instances", "v1/mdc"] {
            let key = format!("{bucket}/dynamo/backend/generate/{WORKER:x}");
            self.put(bucket, "worker", &samples["discovery_records_disagg_pair"][key]);
        }
    }

    fn remove_worker(&self) {
        self.remove("v1/instances", "worker");
    }

    fn put(&self, bucket: &str, name: &str, record: &Value) {
        let bucket = self.0.join(bucket);
        std::fs::create_dir_all(&bucket).unwrap();
        // Complete at once, as Dynamo does it.
        let unfinished = bucket.join(format!(".tmp_{name}"));
        std::fs::write(&unfinished, record.to_string()).unwrap();
        std::fs::rename(unfinished, bucket.join(name)).unwrap();
    }

    fn remove(&self, bucket: &str, name: &str) {
        std::fs::remove_file(self.0.join(bucket).join(name)).unwrap();
    }

    async fn app(&self) -> App {
        let yaml = format!(
            "listen: {{sync: 127.0.0.1:0, admin: 127.0.0.1:0}}\npools:\n  - name: {POOL}\n    models: [tiny]\n    model_dir: {}\n    \
             block_size: 16\n    parity: {{mode: off}}\n    discovery:\n      dynamo: {{backend: file, path: {}, namespace: dynamo}}\n",
            model_dir("dynamo").display(),
            self.0.display()
        );
        App::start(Config::parse(&yaml, Path::new("/")).unwrap()).await.unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Publishes events of the worker's rank 0. Nobody answers for what was missed.
struct Publisher {
    id: u64,
    socket: PubSocket,
    next: u64,
}

impl Publisher {
    /// One that tells the discovery service of itself.
    async fn start(id: u64, directory: &Directory) -> Self {
        let mut socket = PubSocket::new();
        let Ok(Endpoint::Tcp(_, port)) = socket.bind("tcp://127.0.0.1:0").await else {
            panic!("no port");
        };
        let scope = json!({"kind": "endpoint", "endpoint": {"namespace": "dynamo", "component": "backend", "name": "generate"}});
        let channel = json!({
            "type": "EventChannel", "scope": scope, "topic": "kv-events", "instance_id": id,
            "transport": {"kind": "Zmq", "config": {"endpoint": format!("tcp://127.0.0.1:{port}")}},
        });
        let source = json!({
            "type": "EventSource", "scope": scope, "topic": "kv-events", "publisher_id": id,
            "metadata": {"worker": {"worker_id": WORKER, "dp_rank": 0}, "publisher_id": id},
        });
        let name = format!("publisher-{id}");
        directory.put("v1/event_channels", &name, &channel);
        directory.put("v1/event_sources", &name, &source);
        Self { id, socket, next: 0 }
    }

    /// Publishes that these blocks, each by itself, were stored.
    async fn store(&mut self, blocks: &[u64]) {
        for block in blocks {
            let stored = json!({"blocks": [{"block_hash": block, "tokens_hash": block}]});
            let event = json!({
                "worker_id": WORKER, "event": {"event_id": self.next, "data": {"stored": stored}, "dp_rank": 0},
            });
            let envelope = rmp_serde::to_vec_named(&Envelope {
                publisher_id: self.id,
                sequence: self.next,
                published_at: 0,
                topic: "kv-events",
                payload: rmp_serde::to_vec_named(&[event]).unwrap(),
            })
            .unwrap();
            let framed = [&[1][..], &(envelope.len() as u32).to_be_bytes(), &envelope].concat();
            let mut message = ZmqMessage::from("kv-events");
            message.push_back(self.id.to_be_bytes().to_vec().into());
            message.push_back(self.next.to_be_bytes().to_vec().into());
            message.push_back(framed.into());
            self.socket.send(message).await.unwrap();
            self.next += 1;
        }
    }

    /// Publishes the same again and again until it is heard and nothing else is known: a PUB socket sends nothing to a
    /// subscription that it has not taken note of yet.
    async fn store_until_known(&mut self, app: &App, blocks: &[u64]) {
        let known = async {
            while names(app).await != blocks {
                self.store(blocks).await;
            }
        };
        tokio::time::timeout(PATIENCE, known)
            .await
            .expect("what is published does not become what is known");
    }
}

#[derive(serde::Serialize)]
struct Envelope {
    publisher_id: u64,
    sequence: u64,
    published_at: u64,
    topic: &'static str,
    #[serde(serialize_with = "as_bytes")]
    payload: Vec<u8>,
}

fn as_bytes<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Names of the worker's blocks, in order; none while there is no such worker.
async fn names(app: &App) -> Vec<u64> {
    let (_, lines) = get(app, &format!("/v1/blocks?pool={POOL}&endpoint={WORKER}")).await;
    let name = |line: &str| {
        let block: Value = serde_json::from_str(line).ok()?;
        block["engine_hash"].as_str()?.parse().ok()
    };
    let mut names: Vec<u64> = lines.lines().filter_map(name).collect();
    names.sort_unstable();
    names
}

async fn ranks(app: &App, count: usize) {
    let ranks = |status: &Value| status["pools"][0]["ranks"].as_array().unwrap().len();
    get_until(app, "/v1/status", |status| ranks(status) == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_for_one_worker_the_later_one_counts_alone() {
    let directory = Directory::new("two");
    let app = directory.app().await;
    let mut first = Publisher::start(1, &directory).await;
    first.store_until_known(&app, &[10, 11]).await;

    // What the first one told goes at once, before the second has said anything.
    let mut second = Publisher::start(2, &directory).await;
    get_until(&app, "/v1/status", |status| {
        status["pools"][0]["ranks"][0]["blocks"] == 0
    })
    .await;
    first.store(&[12]).await;
    second.store_until_known(&app, &[20]).await;
    first.store(&[13]).await;
    second.store_until_known(&app, &[20, 21]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_id_that_is_used_again_starts_from_nothing() {
    let directory = Directory::new("again");
    let app = directory.app().await;
    let mut before = Publisher::start(1, &directory).await;
    before.store_until_known(&app, &[10, 11]).await;
    directory.remove_worker();
    ranks(&app, 0).await;
    for bucket in ["v1/event_channels", "v1/event_sources"] {
        directory.remove(bucket, "publisher-1");
    }
    directory.add_worker();
    ranks(&app, 1).await;
    assert_eq!(names(&app).await, [0_u64; 0]);
    let mut after = Publisher::start(2, &directory).await;
    before.store(&[12]).await;
    after.store_until_known(&app, &[20]).await;
}
