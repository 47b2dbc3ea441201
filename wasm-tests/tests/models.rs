//! Models that come and go, while requests to another one flow. The control plane reads its configuration once, so this is a
//! restart with another one.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{
    Answer, ControlPlaneOptions, Engine, EngineOptions, EnvoyOptions, MODEL, Mode, Testbed, model_dir, workspace_root,
};
use wasm_tests::crowd::Crowd;
use wasm_tests::prompts::{question, words};
use wasm_tests::state::{Decisions, Truth, views_new, vms_disconnected};
use wasm_tests::{gateway, run, synced};

const OTHER_MODEL: &str = "meta-llama/Llama-3.1-8B";
/// Engines of each model.
const EACH: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn models_come_and_go_beside_another() -> Result<()> {
    let other_dir = workspace_root().join("target/models/llama3_1");
    // So large that nothing is evicted: without a control plane, a view would tell of what is gone.
    let engine = EngineOptions {
        kv_blocks: 200_000,
        ..EngineOptions::default()
    };
    let other = EngineOptions {
        model: OTHER_MODEL,
        model_dir: Some(other_dir.clone()),
        ..engine.clone()
    };
    let mut bed = Testbed::builder("models")
        .engines(EACH, engine)
        .engines(EACH, other)
        .start()
        .await?;
    let (engines, other_engines) = bed.engines.split_at(EACH);
    let first = pool("first", MODEL, model_dir()?.to_string_lossy().into(), engines);
    let other = pool("other", OTHER_MODEL, other_dir.to_string_lossy().into(), other_engines);
    let alone = ControlPlaneOptions::default().set("/pools", json!([first]));
    // The first is found at another place then.
    let both = ControlPlaneOptions::default().set("/pools", json!([other, first]));

    bed.start_control_plane(alone.clone()).await?;
    let envoy = EnvoyOptions::new(Mode::Warmpath).concurrency(2);
    bed.start_envoy(envoy.plugin("usage_sample", 1.0)).await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let start = (Truth::read(gateway(bed)?).await?, Decisions::read(gateway(bed)?).await?);
        let crowd = Crowd::start(gateway(bed)?.url("/v1/chat/completions"));
        crowd.has_sent(100).await;
        for round in 1..=2 {
            reconfigure(bed, both.clone()).await?;
            exactly(bed, round).await?;
            crowd.has_sent(200 * round).await;
            reconfigure(bed, alone.clone()).await?;
            ask_other(bed, round, 0).await?;
            crowd.has_sent(200 * round + 100).await;
        }
        let failures = crowd.stop().await?;
        ensure!(failures.is_empty(), "{} requests failed: {failures:#?}", failures.len());
        let truth = Truth::read(gateway(bed)?).await?.since(start.0);
        ensure!(truth.responses > 300 && truth.mismatches == 0, "{truth:?}");
        // While there is no control plane, the last view serves; nothing is routed by less, but for the model that is gone.
        let decisions = Decisions::read(gateway(bed)?).await?.since(&start.1);
        let gone = decisions.count("pass.unknown_model");
        let by_less = (decisions.sum_of("load"), decisions.sum_of("pass") - gone);
        assert_eq!((by_less, gone), ((0, 0), 2), "{decisions:?}");
        Ok(())
    })
    .await;
    Ok(())
}

fn pool(name: &str, model: &str, model_dir: String, engines: &[Engine]) -> Value {
    let workers: Vec<_> = engines
        .iter()
        .map(
            |engine| json!({"endpoint": engine.endpoint(), "kv_events": engine.kv_events(), "replay": engine.replay()}),
        )
        .collect();
    json!({"name": name, "models": [model], "model_dir": model_dir, "block_size": 16, "workers": workers})
}

/// Another control plane in place of the one that runs. Returns when all VMs have what it has to give.
async fn reconfigure(bed: &mut Testbed, options: ControlPlaneOptions) -> Result<()> {
    let mut control_plane = bed.control_plane.take().context("no control plane")?;
    control_plane.process.terminate().await?;
    vms_disconnected(gateway(bed)?).await?;
    bed.start_control_plane(options).await?;
    // Until its fleet is there, they are ready with what they had.
    views_new(bed).await?;
    synced(bed).await
}

/// Every request, of either model, is routed exactly, and the new one's by its own workers.
async fn exactly(bed: &Testbed, round: u64) -> Result<()> {
    let before = Decisions::read(gateway(bed)?).await?;
    for number in 0..10 {
        let served = bed.worker_of(&ask_other(bed, round, number).await?)?;
        ensure!(served >= EACH, "worker {served} has another model");
    }
    let decisions = Decisions::read(gateway(bed)?).await?.since(&before);
    let exact = decisions.count("exact.ok");
    assert_eq!(decisions, Decisions::of([("exact.ok", exact)]));
    ensure!(exact >= 10, "{exact} decisions for 10 requests");
    Ok(())
}

async fn ask_other(bed: &Testbed, round: u64, number: u64) -> Result<Answer> {
    let mut request = question(&words(round, 200), &words(number, 20));
    request["model"] = OTHER_MODEL.into();
    bed.client
        .post_json(&gateway(bed)?.url("/v1/chat/completions"), &request)
        .await
}
