//! The testbed on its own: engines behind Envoys without the filter.

use anyhow::Result;
use bytes::Bytes;
use serde_json::json;
use testbed::{Client, EngineOptions, EnvoyOptions, Mode, Payload, Request, Testbed, eventually};

fn instant() -> EngineOptions {
    EngineOptions {
        instant: true,
        ..EngineOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_envoys_spread_requests_evenly_and_forward_bodies_whole() -> Result<()> {
    let bed = Testbed::builder("round-robin")
        .engines(2, instant())
        .envoy(EnvoyOptions::new(Mode::RoundRobin))
        .envoy(EnvoyOptions::new(Mode::Buffered))
        .start()
        .await?;
    let body = json!({"prompt": "x".repeat(300_000)}).to_string();
    let pieces: Vec<Bytes> = body.as_bytes().chunks(7_001).map(Bytes::copy_from_slice).collect();
    for envoy in &bed.envoys {
        let mut served = [0; 2];
        for payload in [
            Payload::Whole(body.clone().into()),
            Payload::Pieces(pieces.clone()),
            Payload::Chunked(pieces.clone()),
            Payload::Empty,
        ] {
            let length = if matches!(payload, Payload::Empty) {
                0
            } else {
                body.len()
            };
            let request = Request::post(&envoy.url("/v1/completions"), payload).header("x-engine-sim-digest", "1");
            let answer = bed.client.send(request).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("x-engine-sim-body-length")?, length.to_string());
            served[bed.worker_of(&answer)?] += 1;
        }
        assert_eq!(served, [2, 2]);
        assert_eq!(envoy.wasm_failures().await?, Vec::<String>::new());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_comes_back_on_its_port_and_ends_when_asked() -> Result<()> {
    let mut bed = Testbed::builder("restart").engines(1, instant()).start().await?;
    let engine = &mut bed.engines[0];
    let endpoint = engine.endpoint().to_owned();
    let first_pid = engine.process.pid();
    let url = engine.url("/health");
    assert_eq!(bed.client.get(&url).await?.status, 200);

    engine.process.kill();
    assert!(bed.client.get(&url).await.is_err(), "killed, yet answers");
    engine.restart().await?;
    assert_eq!(engine.endpoint(), endpoint);
    assert_ne!(engine.process.pid(), first_pid);
    assert_eq!(Client::new().get(&url).await?.status, 200);
    engine.process.terminate().await?;
    assert!(engine.process.ended().is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_running_after_a_drop() -> Result<()> {
    let bed = Testbed::builder("drop")
        .engines(1, instant())
        .envoy(EnvoyOptions::new(Mode::RoundRobin))
        .start()
        .await?;
    let pids: Vec<u32> = bed.processes().map(testbed::Process::pid).collect();
    assert_eq!(pids.len(), 2);
    drop(bed);
    let alive = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    eventually("processes gone", || async {
        Ok((!pids.iter().any(alive)).then_some(()))
    })
    .await
}
