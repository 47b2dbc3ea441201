//! The same engines followed by us and by Dynamo's standalone indexer (wheel 1.6.1) over real ZMQ: overlaps are equal.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::*;
use control_plane::app::App;
use serde_json::{Value, json};

struct Indexer {
    process: Child,
    address: SocketAddr,
}

impl Drop for Indexer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Indexer {
    async fn start(engines: &[&Engine]) -> Self {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/venv-dynamo/bin/python");
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let process = Command::new(&python)
            .args(["-m", "dynamo.indexer", "--port", &free.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: run `scripts/setup interop`", python.display()));
        let indexer = Self { process, address: free };
        let listening = async {
            while tokio::net::TcpStream::connect(free).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.unwrap();
        for (number, engine) in engines.iter().enumerate() {
            let worker = json!({
                "instance_id": number, "dp_rank": 0, "model_name": "tiny", "block_size": BLOCK_SIZE,
                "endpoint": engine.events,
            });
            let (status, answer) = post_to(free, "/register", &worker).await;
            assert!((200..300).contains(&status), "{answer}");
        }
        indexer
    }

    /// Leading blocks of the prompt that each engine holds.
    async fn overlaps(&self, prompt: &[u32]) -> BTreeMap<String, u64> {
        let query = json!({"model_name": "tiny", "token_ids": prompt});
        let (_, answer) = post_to(self.address, "/query", &query).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let scores = answer["scores"].as_object().unwrap().iter();
        let blocks = |ranks: &Value| ranks["0"].as_u64().unwrap_or_default() / u64::from(BLOCK_SIZE);
        scores.map(|(worker, ranks)| (worker.clone(), blocks(ranks))).collect()
    }
}

async fn ours(app: &App, prompt: &[u32]) -> BTreeMap<String, u64> {
    let (_, answer) = post(app, "/v1/overlap", &json!({"model": "tiny", "token_ids": prompt})).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let ranks = answer["overlap"].as_array().unwrap().iter().enumerate();
    let blocks = ranks.map(|(number, rank)| (number.to_string(), rank["blocks"].as_u64().unwrap()));
    blocks.filter(|(_, blocks)| *blocks > 0).collect()
}

/// Asks both until they say the same.
async fn agree(app: &App, indexer: &Indexer, prompt: &[u32], engine: &str, blocks: u64) {
    let agreeing = async {
        loop {
            let (ours, theirs) = (ours(app, prompt).await, indexer.overlaps(prompt).await);
            if ours == theirs && ours.get(engine).copied().unwrap_or_default() == blocks {
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, agreeing).await.is_err() {
        let (ours, theirs) = (ours(app, prompt).await, indexer.overlaps(prompt).await);
        panic!("{blocks} on {engine}; ours {ours:?}, Dynamo's {theirs:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo's wheel: scripts/setup interop"]
async fn both_find_the_same_overlaps_of_the_same_engines() {
    let engines = [Engine::start().await, Engine::start().await];
    let followed: Vec<_> = engines.iter().collect();
    let app = App::start(config(&model_dir("indexer"), &followed, "")).await.unwrap();
    let indexer = Indexer::start(&followed).await;
    // A PUB socket sends nothing to a subscription that it has not taken note of yet.
    for (number, engine) in engines.iter().enumerate() {
        let heard = async {
            while !indexer.overlaps(&prompt(90, 1)).await.contains_key(&number.to_string()) {
                engine.publish([store(&prompt(90, 1), 9_000)]).await;
            }
        };
        tokio::time::timeout(PATIENCE, heard)
            .await
            .expect("the indexer hears nothing");
    }
    // How many leading blocks of each prompt an engine holds; it evicts from the tail.
    let mut held = [[0_u32; 8]; 2];
    let mut random = 7_u64;
    for _ in 0..60 {
        random = xxhash_rust::xxh3::xxh3_64(&random.to_le_bytes());
        let [engine, first, blocks, ..] = random.to_le_bytes().map(u32::from);
        let (engine, first, blocks) = ((engine % 2) as usize, (first % 8) as usize, blocks % 7);
        let (number, base) = (first as u32 * 10, first as u64 * 100);
        let held = &mut held[engine][first];
        if blocks < *held {
            let evicted: Vec<_> = (blocks..*held).rev().map(|block| base + u64::from(block)).collect();
            engines[engine].publish([remove(&evicted)]).await;
        } else if blocks > 0 {
            engines[engine].publish([store(&prompt(number, blocks), base)]).await;
        }
        *held = blocks;
    }
    for (engine, held) in held.iter().enumerate() {
        for (first, &blocks) in held.iter().enumerate() {
            let prompt = prompt(first as u32 * 10, 7);
            agree(&app, &indexer, &prompt, &engine.to_string(), blocks.into()).await;
        }
    }
}
