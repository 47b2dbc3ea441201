//! Many clients at once, caches that overflow, threads, hang-ups, and processes that die at any moment: when it is quiet
//! again, everything is exact again.

use anyhow::{Context, Result, ensure};
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Testbed};
use wasm_tests::crowd::{Crowd, request};
use wasm_tests::state::{Decisions, Truth};
use wasm_tests::{gateway, run, run_with_casualties, settled, synced};

fn builder(name: &str) -> testbed::Builder {
    let small = EngineOptions {
        kv_blocks: 500,
        ..EngineOptions::default()
    };
    let mut builder = Testbed::builder(name);
    for event_format in ["array", "map", "mixed"] {
        builder = builder.engines(
            1,
            EngineOptions {
                event_format,
                ..small.clone()
            },
        );
    }
    builder.control_plane(ControlPlaneOptions::default()).envoy(
        EnvoyOptions::new(Mode::Warmpath)
            .concurrency(2)
            .plugin("usage_sample", 1.0),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_again_after_caches_overflowed() -> Result<()> {
    run(builder("overflow").start().await?, async |bed| {
        synced(bed).await?;
        let crowd = Crowd::start(gateway(bed)?.url("/v1/chat/completions"));
        crowd.has_sent(300).await;
        let failures = crowd.stop().await?;
        ensure!(failures.is_empty(), "{} requests failed: {failures:#?}", failures.len());
        for engine in &bed.engines {
            let cached = engine.cached_blocks(&bed.client).await?[0];
            ensure!(
                cached > 400,
                "{}: only {cached} blocks cached, so nothing was evicted",
                engine.endpoint()
            );
        }
        exact_again(bed).await
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_again_after_processes_died() -> Result<()> {
    run_with_casualties(builder("deaths").start().await?, async |bed| {
        synced(bed).await?;
        let crowd = Crowd::start(gateway(bed)?.url("/v1/chat/completions"));
        let mut sent = 0;
        for round in 0..4 {
            sent += 40;
            crowd.has_sent(sent).await;
            let victim = round % bed.engines.len();
            bed.engines[victim].process.kill();
            sent += 20;
            crowd.has_sent(sent).await;
            bed.engines[victim].restart().await?;
            if round % 2 == 1 {
                let control_plane = bed.control_plane.as_mut().context("control plane")?;
                control_plane.process.kill();
                sent += 20;
                crowd.has_sent(sent).await;
                control_plane.restart().await?;
            }
        }
        crowd.stop().await?;
        synced(bed).await?;
        exact_again(bed).await
    })
    .await;
    Ok(())
}

/// When all is quiet, views are what the caches hold, and predictions what the engines find.
async fn exact_again(bed: &Testbed) -> Result<()> {
    settled(bed).await?;
    let before = (Truth::read(gateway(bed)?).await?, Decisions::read(gateway(bed)?).await?);
    let url = gateway(bed)?.url("/v1/chat/completions");
    for number in 0..20 {
        let answer = bed.client.post_json(&url, &request(number)).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        settled(bed).await?;
    }
    let truth = Truth::read(gateway(bed)?).await?.since(before.0);
    let expected = Truth {
        responses: 20,
        predicted_tokens: truth.cached_tokens,
        mismatches: 0,
        ..truth
    };
    assert_eq!(truth, expected);
    ensure!(truth.cached_tokens > 0, "nothing was in any cache: {truth:?}");
    assert_eq!(
        Decisions::read(gateway(bed)?).await?.since(&before.1),
        Decisions::of([("exact.ok", 20)])
    );
    Ok(())
}
