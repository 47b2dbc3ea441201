//! Many gateways follow one control plane: all have the same view, and none waits for another.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use testbed::{ControlPlaneOptions, EngineOptions, Envoy, EnvoyOptions, Mode, Testbed};
use wasm_tests::crowd::request;
use wasm_tests::state::{Decisions, views_true_in};
use wasm_tests::{idle, run, settled, synced};

const GATEWAYS: usize = 8;
/// Two worker threads and the main thread.
const VMS: u64 = 3;
/// Requests under way at once.
const CLIENTS: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn eight_gateways_have_one_view() -> Result<()> {
    let engine = EngineOptions {
        // Too few for all that is asked: blocks go as well as come.
        kv_blocks: 500,
        // A control plane that comes back learns everything.
        replay_buffer: 1_000_000,
        ..EngineOptions::default()
    };
    let mut builder = Testbed::builder("gateways")
        .engines(3, engine)
        .control_plane(ControlPlaneOptions::default());
    for _ in 0..GATEWAYS {
        builder = builder.envoy(EnvoyOptions::new(Mode::Warmpath).concurrency(2));
    }
    let bed = builder.start().await?;
    let all = GATEWAYS as u64 * VMS;
    run(bed, async |bed| {
        synced(bed).await?;
        send(bed, &bed.envoys, 0..80).await?;
        idle(bed).await?;
        views_true_in(bed, all).await?;

        // One stands still, its streams open: the others' views go on, and it catches up.
        let (others, stalled) = (&bed.envoys[1..], &bed.envoys[0].process);
        stalled.pause()?;
        send(bed, others, 80..150).await?;
        idle(bed).await?;
        views_true_in(bed, all - VMS).await?;
        stalled.resume()?;
        settled(bed).await?;

        // So it is when the control plane is another one meanwhile, of which it hears late.
        bed.envoys[0].process.pause()?;
        let control_plane = bed.control_plane.as_mut().context("control plane")?;
        control_plane.restart().await?;
        send(bed, &bed.envoys[1..], 150..200).await?;
        idle(bed).await?;
        views_true_in(bed, all - VMS).await?;
        bed.envoys[0].process.resume()?;
        synced(bed).await?;
        settled(bed).await?;

        // All of them decide by what they have.
        let mut before = Vec::new();
        for envoy in &bed.envoys {
            before.push(Decisions::read(envoy).await?);
        }
        send(bed, &bed.envoys, 200..240).await?;
        for (envoy, before) in bed.envoys.iter().zip(&before) {
            let decided = Decisions::read(envoy).await?.since(before);
            assert_eq!(decided, Decisions::of([("exact.ok", 40 / GATEWAYS as i64)]));
        }
        Ok(())
    })
    .await;
    Ok(())
}

/// Sends these requests through the gateways in turn.
async fn send(bed: &Testbed, gateways: &[Envoy], numbers: Range<u64>) -> Result<()> {
    let clients = (0..CLIENTS).map(async |client| {
        for number in numbers.clone().skip(client as usize).step_by(CLIENTS as usize) {
            let gateway = &gateways[number as usize % gateways.len()];
            let url = gateway.url("/v1/chat/completions");
            let answer = bed.client.post_json(&url, &request(number)).await?;
            ensure!(answer.status == 200, "{number}: {} {}", answer.status, answer.text());
        }
        Ok(())
    });
    try_join_all(clients).await.map(drop)
}
