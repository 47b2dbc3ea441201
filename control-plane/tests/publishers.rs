//! Publishers that connect to us, and publishers of several ranks.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::*;
use control_plane::app::App;
use rmpv::Value;
use serde_json::json;
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage};

/// A publisher that connects to us. What it says before we hear it is lost.
struct Publisher {
    socket: PubSocket,
    topic: &'static str,
    rank: u32,
    next: u64,
}

impl Publisher {
    async fn connect(app: &App, topic: &'static str, rank: u32) -> Self {
        let mut socket = PubSocket::new();
        socket.connect(&format!("tcp://{}", app.events.unwrap())).await.unwrap();
        Self {
            socket,
            topic,
            rank,
            next: 0,
        }
    }

    async fn publish(&mut self, event: Value) {
        let batch = Value::Array(vec![self.next.into(), Value::Array(vec![event]), self.rank.into()]);
        let mut message = ZmqMessage::from(self.topic);
        message.push_back(Bytes::copy_from_slice(&self.next.to_be_bytes()));
        message.push_back(pack(&batch));
        self.socket.send(message).await.unwrap();
        self.next += 1;
    }

    /// Stores a prompt again and again until it is known.
    async fn publish_until_known(&mut self, filter: &mut Filter, prompt: &[u32], slot: u16) {
        let heard = async {
            while filter.depth(prompt, slot) == 0 {
                self.publish(store(prompt, 10)).await;
                let known = filter.until("the prompt", |filter| filter.depth(prompt, slot) > 0);
                let _ = tokio::time::timeout(Duration::from_millis(100), known).await;
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("nobody hears it");
    }
}

async fn start(name: &str, workers: &[&str], events: &str) -> (App, Filter) {
    let workers: Vec<_> = workers.iter().map(|worker| (*worker).to_owned()).collect();
    let config = config_of(&model_dir(name), &workers, "{mode: off}", events);
    let app = App::start(config).await.unwrap();
    let filter = Filter::connect(&app).await;
    (app, filter)
}

const LISTEN: &str = "events: {listen: 'tcp://127.0.0.1:0', disconnect_grace: 10m, probe_interval: 1h}\n";

#[tokio::test(flavor = "multi_thread")]
async fn workers_connect_and_are_known_by_topic_and_rank() {
    let workers = [
        "{endpoint: 10.0.0.0:8000}",
        "{endpoint: 10.0.0.1:8000, kv_topic: pod-1, data_parallel_size: 2}",
    ];
    let (app, mut filter) = start("listen", &workers, LISTEN).await;
    let mut by_address = Publisher::connect(&app, "kv@10.0.0.0@tiny", 0).await;
    by_address.publish_until_known(&mut filter, &prompt(1, 3), 0).await;
    let mut rank_1 = Publisher::connect(&app, "kv@pod-1@org/tiny@v2", 1).await;
    rank_1.publish_until_known(&mut filter, &prompt(2, 2), 2).await;
    let mut rank_0 = Publisher::connect(&app, "pod-1", 0).await;
    rank_0.publish_until_known(&mut filter, &prompt(3, 1), 1).await;
    let depths = [1, 2, 3].map(|first| [0, 1, 2].map(|slot| filter.depth(&prompt(first, 3), slot)));
    assert_eq!(depths, [[3, 0, 0], [0, 0, 2], [0, 1, 0]]);
    let status = get_until(&app, "/v1/status", |_| true).await;
    let ranks = status["pools"][0]["ranks"].as_array().unwrap();
    let shown: Vec<_> = ranks.iter().map(|rank| [&rank["kv_events"], &rank["repair"]]).collect();
    let expected = json!([["10.0.0.0", "none"], ["pod-1 rank 0", "none"], ["pod-1 rank 1", "none"]]);
    assert_eq!(json!(shown), expected);

    // Another incarnation of a worker takes over, though the end of the old one was not heard.
    let mut restarted = Publisher::connect(&app, "kv@10.0.0.0@tiny", 0).await;
    restarted.publish_until_known(&mut filter, &prompt(4, 2), 0).await;
    assert_eq!([1, 4].map(|first| filter.depth(&prompt(first, 2), 0)), [0, 2]);
    let (_, metrics) = get(&app, "/metrics").await;
    assert!(metrics.contains("reason=\"replaced_connection\"} 1"), "{metrics}");
    drop(by_address);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_topics_are_counted() {
    let (app, _filter) = start("unknown", &["{endpoint: 10.0.0.0:8000}"], LISTEN).await;
    let mut stranger = Publisher::connect(&app, "kv@10.9.9.9@tiny", 0).await;
    let counted = async {
        while !get(&app, "/metrics")
            .await
            .1
            .contains("kv_connections_total{reason=\"unknown_topic\"} 1")
        {
            stranger.publish(store(&prompt(1, 1), 10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted)
        .await
        .expect("it is not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publisher_tells_of_all_ranks() {
    let engine = Engine::start().await;
    let worker = format!(
        "{{endpoint: 10.0.0.0:8000, kv_events: '{}', replay: '{}', kv_shared: true, data_parallel_size: 2}}",
        engine.events, engine.replay
    );
    let (app, mut filter) = start(
        "shared",
        &[&worker],
        "events: {disconnect_grace: 10m, probe_interval: 1h}\n",
    )
    .await;
    engine.publish_as(0, [store(&prompt(1, 3), 10)]).await;
    engine.publish_as(1, [store(&prompt(2, 2), 10)]).await;
    engine.publish_as(7, [store(&prompt(3, 1), 10)]).await;
    engine.publish_as(1, [remove(&[11])]).await;
    filter
        .until("both ranks", |filter| {
            (filter.depth(&prompt(1, 3), 0), filter.depth(&prompt(2, 2), 1)) == (3, 1)
        })
        .await;
    let (_, metrics) = get(&app, "/metrics").await;
    assert!(metrics.contains("reason=\"unknown_rank\"} 1"), "{metrics}");
    // A restart empties both.
    let (events, replay) = engine.kill().await;
    let engine = Engine::start_at(&events, &replay).await;
    engine.publish_as(0, [store(&prompt(4, 1), 10)]).await;
    filter
        .until("the new engine's", |filter| filter.depth(&prompt(4, 1), 0) == 1)
        .await;
    assert_eq!((filter.depth(&prompt(1, 3), 0), filter.depth(&prompt(2, 2), 1)), (0, 0));
}
