//! Processes that die and come back, and some that never were there.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{Answer, ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Testbed, eventually};
use wasm_tests::prompts::{question, words};
use wasm_tests::state::{Decisions, Truth, vms_disconnected};
use wasm_tests::{gateway, run, run_with_casualties, settled, shared_tokens, synced, tokens};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_dies_and_comes_back_empty() -> Result<()> {
    let bed = Testbed::builder("worker-dies")
        .engines(3, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let prompts: Vec<Value> = (0..8).map(|seed| question(&words(seed, 200), "Where?")).collect();
        let mut homes = Vec::new();
        for prompt in &prompts {
            let answer = send(bed, prompt).await?;
            homes.push(bed.worker_of(&answer)?);
            settled(bed).await?;
        }
        let victim = homes[0];
        bed.engines[victim].process.kill();
        for _ in 0..2 {
            for (prompt, home) in prompts.iter().zip(&homes) {
                let served = bed.worker_of(&send(bed, prompt).await?)?;
                assert_ne!(served, victim, "the dead answered");
                // Those whose worker lives have no reason to move.
                ensure!(*home == victim || served == *home, "moved from {home} to {served}");
            }
        }

        bed.engines[victim].restart().await?;
        // The same sequence numbers and no blocks: what it held before must be forgotten.
        settled(bed).await?;
        let before = Truth::read(gateway(bed)?).await?;
        for prompt in &prompts {
            let ids = tokens(bed, prompt).await?;
            let answer = send(bed, prompt).await?;
            let expected = shared_tokens(&ids, &ids, 16);
            assert_eq!(
                answer.cached_tokens()?,
                expected,
                "a ghost on {}",
                bed.worker_of(&answer)?
            );
            assert_ne!(bed.worker_of(&answer)?, victim, "its cache is empty");
            settled(bed).await?;
        }
        let fresh = filled_again(bed, victim).await?;
        let truth = Truth::read(gateway(bed)?).await?.since(before);
        assert_eq!(
            (truth.mismatches, truth.responses),
            (0, prompts.len() as u64 + fresh),
            "{truth:?}"
        );
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_that_lives_is_enough() -> Result<()> {
    let bed = Testbed::builder("one-lives")
        .engines(4, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        for dead in 0..3 {
            bed.engines[dead].process.kill();
        }
        for seed in 0..40 {
            let answer = send(bed, &question(&words(seed, 50), "Anybody?")).await?;
            assert_eq!(bed.worker_of(&answer)?, 3);
        }
        let relocated = gateway(bed)?.sum(|name| name.ends_with("warmpath.relocated")).await?;
        ensure!(relocated > 0, "all 40 were meant for the one that lives");
        Ok(())
    })
    .await;
    Ok(())
}

/// Sends new prompts until the worker got one, then the same prompt once more; returns how many were sent.
async fn filled_again(bed: &Testbed, worker: usize) -> Result<u64> {
    for seed in 1_000..1_100 {
        let prompt = question(&words(seed, 200), "Whither?");
        let served = bed.worker_of(&send(bed, &prompt).await?)?;
        settled(bed).await?;
        if served == worker {
            let ids = tokens(bed, &prompt).await?;
            let again = send(bed, &prompt).await?;
            assert_eq!(
                (bed.worker_of(&again)?, again.cached_tokens()?),
                (worker, shared_tokens(&ids, &ids, 16))
            );
            settled(bed).await?;
            return Ok(seed - 1_000 + 2);
        }
    }
    anyhow::bail!("100 new prompts, and none went to the worker that came back")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_dies_and_comes_back() -> Result<()> {
    let bed = Testbed::builder("control-plane-dies")
        .engines(3, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath).concurrency(2))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let prompts: Vec<Value> = (0..8).map(|seed| question(&words(seed, 200), "Where?")).collect();
        let mut homes = Vec::new();
        for prompt in &prompts {
            homes.push(bed.worker_of(&send(bed, prompt).await?)?);
            settled(bed).await?;
        }

        control_plane(bed)?.process.kill();
        vms_disconnected(gateway(bed)?).await?;
        let before = Decisions::read(gateway(bed)?).await?;
        stay(bed, &prompts, &homes).await?;
        let decided = Decisions::read(gateway(bed)?).await?.since(&before);
        assert_eq!(
            decided,
            Decisions::of([("stale.control_plane_lost", prompts.len() as i64)])
        );

        // What the engines cached meanwhile is known after the replay.
        let meanwhile = question(&words(50, 200), "When?");
        let home = bed.worker_of(&send(bed, &meanwhile).await?)?;
        control_plane(bed)?.restart().await?;
        synced(bed).await?;
        settled(bed).await?;
        let before = Decisions::read(gateway(bed)?).await?;
        stay(bed, &prompts, &homes).await?;
        stay(bed, &[meanwhile], &[home]).await?;
        let decided = Decisions::read(gateway(bed)?).await?.since(&before);
        assert_eq!(decided, Decisions::of([("exact.ok", prompts.len() as i64 + 1)]));
        Ok(())
    })
    .await;
    Ok(())
}

/// Every prompt is served where it was, from the cache.
async fn stay(bed: &Testbed, prompts: &[Value], homes: &[usize]) -> Result<()> {
    for (prompt, home) in prompts.iter().zip(homes) {
        let ids = tokens(bed, prompt).await?;
        let answer = send(bed, prompt).await?;
        let found = (bed.worker_of(&answer)?, answer.cached_tokens()?);
        assert_eq!(found, (*home, shared_tokens(&ids, &ids, 16)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_too_old_is_not_read() -> Result<()> {
    let bed = Testbed::builder("too-old")
        .engines(2, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default().set("/gateway/max_staleness", "1s"))
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        control_plane(bed)?.process.kill();
        vms_disconnected(gateway(bed)?).await?;
        let prompt = question(&words(1, 50), "Where?");
        let before = Decisions::read(gateway(bed)?).await?;
        eventually("a decision by load", || async {
            send(bed, &prompt).await?;
            let decided = Decisions::read(gateway(bed)?).await?.since(&before);
            Ok((decided.count("load.view_too_old") > 0).then_some(()))
        })
        .await
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_control_plane_requests_pass() -> Result<()> {
    let bed = Testbed::builder("no-control-plane")
        .engines(2, EngineOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        let prompt = question(&words(1, 200), "Where?");
        let mut served = [0; 2];
        for _ in 0..6 {
            served[bed.worker_of(&send(bed, &prompt).await?)?] += 1;
        }
        assert_eq!(served, [3, 3], "Envoy's own balancer takes turns");
        assert_eq!(Decisions::read(gateway(bed)?).await?.sum_of("pass"), 6);

        bed.start_control_plane(ControlPlaneOptions::default()).await?;
        synced(bed).await?;
        settled(bed).await?;
        let before = Decisions::read(gateway(bed)?).await?;
        let ids = tokens(bed, &prompt).await?;
        assert_eq!(
            send(bed, &prompt).await?.cached_tokens()?,
            shared_tokens(&ids, &ids, 16)
        );
        let decided = Decisions::read(gateway(bed)?).await?.since(&before);
        assert_eq!(decided, Decisions::of([("exact.ok", 1)]));
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fleet_requests_are_refused_if_so_configured() -> Result<()> {
    let bed = Testbed::builder("refuse")
        .engines(1, EngineOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("no_workers", "refuse"))
        .start()
        .await?;
    run_with_casualties(bed, async |bed| {
        let url = gateway(bed)?.url("/v1/chat/completions");
        let refused = bed.client.post_json(&url, &question("Be brief.", "Where?")).await?;
        assert_eq!(refused.status, 503, "{}", refused.text());
        serde_json::from_slice::<Value>(&refused.body).context("the refusal is JSON")?;
        // Requests that are not routed are none of the filter's business.
        assert_eq!(bed.client.get(&gateway(bed)?.url("/v1/models")).await?.status, 200);
        assert_eq!(
            Decisions::read(gateway(bed)?).await?,
            Decisions::of([("pass.no_fleet", 1)])
        );
        Ok(())
    })
    .await;
    Ok(())
}

async fn send(bed: &Testbed, request: &Value) -> Result<Answer> {
    let answer = bed
        .client
        .post_json(&gateway(bed)?.url("/v1/chat/completions"), request)
        .await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(answer)
}

fn control_plane(bed: &mut Testbed) -> Result<&mut testbed::ControlPlane> {
    bed.control_plane
        .as_mut()
        .ok_or_else(|| anyhow::anyhow!("no control plane"))
}
