//! Events of Dynamo's workers that come over NATS or through ZMQ brokers: what a worker caches is known whenever it was
//! cached, and again after what carries the events was gone.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{Client, ControlPlaneOptions, MODEL, Testbed, eventually, workspace_root};
use wasm_tests::dynamo::{Dynamo, Frontend};
use wasm_tests::event_plane::Carrier;
use wasm_tests::known::{is_believed, known, sizes};
use wasm_tests::run;

/// So few that prompts drive one another out.
const CACHE_BLOCKS: &str = "64";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo and a NATS server: scripts/setup interop"]
async fn over_nats() -> Result<()> {
    let nats = Carrier::nats(&directory("nats").join("carriers")).await?;
    let server = format!("nats://127.0.0.1:{}", nats.ports()[0]);
    let dynamo = Dynamo::new(&directory("nats").join("dynamo"))?
        .with_env("DYN_EVENT_PLANE", "nats")
        .with_env("NATS_SERVER", &server);
    follows("nats", dynamo, vec![nats], json!({"nats": {"servers": server}})).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo and pyzmq: scripts/setup interop"]
async fn through_brokers() -> Result<()> {
    let carriers = directory("brokers").join("carriers");
    let brokers = vec![
        Carrier::broker("broker-a", &carriers).await?,
        Carrier::broker("broker-b", &carriers).await?,
    ];
    let ends = |end: usize| {
        brokers
            .iter()
            .map(move |broker| format!("tcp://127.0.0.1:{}", broker.ports()[end]))
    };
    let [xsub, xpub] = [0, 1].map(|end| ends(end).collect::<Vec<_>>());
    let url = format!("xsub={} , xpub={}", xsub.join(";"), xpub.join(";"));
    let dynamo = Dynamo::new(&directory("brokers").join("dynamo"))?.with_env("DYN_ZMQ_BROKER_URL", &url);
    follows("brokers", dynamo, brokers, json!({"brokers": xpub})).await
}

fn directory(name: &str) -> PathBuf {
    workspace_root().join(format!("target/testbed/event-plane-{name}-{}", std::process::id()))
}

/// Whatever carries the events of `dynamo`, of which `discovery` tells the pool.
async fn follows(name: &str, dynamo: Dynamo, mut carriers: Vec<Carrier>, discovery: Value) -> Result<()> {
    let frontend = dynamo.frontend("direct", "direct")?;
    let args = ["--num-gpu-blocks-override", CACHE_BLOCKS];
    let (_first_process, first) = dynamo.new_worker("first", &args).await?;
    let (_second_process, second) = dynamo.new_worker("second", &args).await?;
    frontend.serves().await?;
    let router = dynamo.router()?;
    let workers = [first, second];
    let mut traffic = Traffic {
        client: Client::new(),
        frontend,
        workers,
        prompts: 0,
    };
    // Cached before anybody listens.
    traffic.send(4).await?;

    let mut dynamo_config = dynamo.pool_discovery(&traffic.frontend.address);
    let keys = discovery.as_object().context("keys of discovery.dynamo")?.clone();
    dynamo_config.as_object_mut().context("discovery.dynamo")?.extend(keys);
    let options = ControlPlaneOptions::default()
        .set("/pools/0/workers", Value::Null)
        .set("/pools/0/block_size", 16)
        .set("/pools/0/parity/mode", "off")
        // Nobody is asked without a reason: what is known must have come as events, or after a loss.
        .set("/events", json!({"probe_interval": "1h"}))
        .set("/pools/0/discovery", json!({"dynamo": dynamo_config}));
    let start = async |name: &str| {
        let builder = Testbed::builder(&format!("event-plane-{name}"));
        builder.control_plane(options.clone()).start().await
    };
    let bed = start(name).await?;
    run(bed, async |bed| {
        // What is learnt from the workers' own indexes, at the start, and what came as events must be the same.
        let agrees = async |when: &str| -> Result<()> {
            let fresh = start(&format!("{name}-fresh")).await?;
            eventually(when, || async {
                let [ours, theirs] = [known(bed, &workers).await?, known(&fresh, &workers).await?];
                ensure!(ours == theirs, "{} and {}", sizes(&ours), sizes(&theirs));
                ensure!(ours.values().all(|blocks| !blocks.is_empty()), "{}", sizes(&ours));
                Ok(Some(()))
            })
            .await
        };
        agrees("what was cached before").await?;
        // Prompts drive one another out, too.
        traffic.send(40).await?;
        agrees("what was cached meanwhile").await?;
        is_believed(&router, bed, &workers).await?;
        load_is_told(bed).await?;

        // With one of several gone, the others carry on.
        let last = carriers.len() - 1;
        for carrier in &mut carriers[..last] {
            carrier.kill();
        }
        traffic.send(20).await?;
        agrees("what came by the last one left").await?;
        // Later it is no measure: what it misses it asks for only when the next event shows it a gap.
        is_believed(&router, bed, &workers).await?;
        carriers[last].kill();
        lost(bed).await?;
        traffic.send(20).await?;
        for carrier in &mut carriers {
            carrier.restart().await?;
        }
        agrees("what was cached while nothing carried events").await?;
        traffic.send(20).await?;
        agrees("what came afterwards").await
    })
    .await;
    Ok(())
}

/// Requests of which no two have a prompt in common, to one worker after the other.
struct Traffic {
    client: Client,
    frontend: Frontend,
    workers: [u64; 2],
    prompts: usize,
}

impl Traffic {
    async fn send(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let worker = self.workers[self.prompts % self.workers.len()];
            let prompt: String = (0..60).map(|n| format!("{} lanterns {n} ", self.prompts)).collect();
            self.prompts += 1;
            let nvext = json!({"backend_instance_id": worker});
            let request = json!({"model": MODEL, "max_tokens": 2, "prompt": prompt, "nvext": nvext});
            let url = self.frontend.url("/v1/completions");
            let answer = self.client.post_json(&url, &request).await?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        }
        Ok(())
    }
}

/// Waits until it is noticed that no events come.
async fn lost(bed: &Testbed) -> Result<()> {
    let url = bed.control_plane()?.url("/v1/status");
    eventually("the loss of what carries events", || async {
        let status = bed.client.get_json(&url).await?;
        let ranks = status["pools"][0]["ranks"].as_array().context("ranks")?;
        Ok(ranks.iter().all(|rank| rank["connected"] == false).then_some(()))
    })
    .await
}

/// Waits until every worker has told what fills its cache, and what runs and waits.
async fn load_is_told(bed: &Testbed) -> Result<()> {
    let url = bed.control_plane()?.url("/v1/status");
    eventually("the load of all workers", || async {
        let status = bed.client.get_json(&url).await?;
        let ranks = status["pools"][0]["ranks"].as_array().context("ranks")?.clone();
        let is_told = |rank: &Value| {
            let keys = ["kv_used_blocks", "running_requests", "queued_requests"];
            keys.iter().all(|key| rank["load"][key].is_u64())
        };
        ensure!(ranks.iter().all(is_told), "{ranks:?}");
        Ok(Some(()))
    })
    .await
}
