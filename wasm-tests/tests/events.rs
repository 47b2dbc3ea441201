//! What engines say about their caches, and what they leave unsaid.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{Answer, ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Testbed, eventually};
use wasm_tests::prompts::{question, words};
use wasm_tests::state::{Blocks, Decisions, Status, Truth, held};
use wasm_tests::{gateway, run, settled, shared_tokens, synced, tokens};

async fn start(name: &str, engine: EngineOptions) -> Result<Testbed> {
    Testbed::builder(name)
        .engines(2, engine)
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_cache_is_forgotten() -> Result<()> {
    let block_size = 64;
    let engine = EngineOptions {
        block_size,
        event_format: "map",
        ..EngineOptions::default()
    };
    run(start("reset", engine).await?, async |bed| {
        synced(bed).await?;
        let prompts = prompts();
        for prompt in &prompts {
            send(bed, prompt).await?;
        }
        settled(bed).await?;
        for prompt in &prompts {
            let ids = tokens(bed, prompt).await?;
            assert_eq!(
                send(bed, prompt).await?.cached_tokens()?,
                shared_tokens(&ids, &ids, block_size as usize)
            );
        }
        settled(bed).await?;
        for engine in &bed.engines {
            let reset = bed
                .client
                .post_json(&engine.url("/reset_prefix_cache"), &Value::Null)
                .await?;
            assert_eq!(reset.status, 200, "{}", reset.text());
        }
        settled(bed).await?;
        ensure!(
            Status::read(bed).await?.index()?.values().all(|blocks| *blocks == 0),
            "blocks after a reset"
        );
        let before = Truth::read(gateway(bed)?).await?;
        for prompt in &prompts {
            assert_eq!(send(bed, prompt).await?.cached_tokens()?, 0);
        }
        let truth = Truth::read(gateway(bed)?).await?.since(before);
        assert_eq!(
            (truth.responses, truth.predicted_tokens, truth.mismatches),
            (prompts.len() as u64, 0, 0)
        );
        Ok(())
    })
    .await;
    Ok(())
}

/// A control plane that starts late, while engines no longer keep their first events, knows less than they hold, and
/// never more.
#[tokio::test(flavor = "multi_thread")]
async fn events_lost_for_good_are_not_guessed() -> Result<()> {
    let engine = EngineOptions {
        replay_buffer: 3,
        ..EngineOptions::default()
    };
    run(start("lost-events", engine).await?, async |bed| {
        synced(bed).await?;
        let old = prompts();
        for prompt in &old {
            send(bed, prompt).await?;
        }
        settled(bed).await?;
        bed.control_plane.as_mut().context("control plane")?.restart().await?;
        synced(bed).await?;
        eventually("the loss is noticed", || async {
            Ok(Status::read(bed).await?.is_degraded().then_some(()))
        })
        .await?;

        let before = Truth::read(gateway(bed)?).await?;
        let new: Vec<Value> = (100..108).map(|seed| question(&words(seed, 200), "Whence?")).collect();
        for prompt in old.iter().chain(&new).chain(&old).chain(&new) {
            send(bed, prompt).await?;
            newer_events_are_known(bed).await?;
        }
        let truth = Truth::read(gateway(bed)?).await?.since(before);
        assert_eq!((truth.responses, truth.mismatches), (32, 0), "{truth:?}");
        ensure!(truth.predicted_tokens > 0, "the new prompts were not known: {truth:?}");
        let within = |known: &Blocks, held: &Blocks| known.iter().all(|(rank, blocks)| held.get(rank) >= Some(blocks));
        let (known, held) = (Status::read(bed).await?.index()?, held(bed).await?);
        ensure!(
            within(&known, &held),
            "the index has {known:?}, the engines have {held:?}"
        );
        Ok(())
    })
    .await;
    Ok(())
}

/// The last event that an engine published has reached every VM. (That index and caches agree cannot be awaited here.)
async fn newer_events_are_known(bed: &Testbed) -> Result<()> {
    eventually("the newest version in every VM", || async {
        Status::read(bed).await?.ensure_acked(bed)?;
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_without_events_are_picked_by_load() -> Result<()> {
    let engine = EngineOptions {
        kv_events: false,
        ..EngineOptions::default()
    };
    run(start("no-events", engine).await?, async |bed| {
        eventually("the filters know the fleet", || async {
            let decisions = Decisions::read(gateway(bed)?).await?;
            send(bed, &prompts()[0]).await?;
            let decided = Decisions::read(gateway(bed)?).await?.since(&decisions);
            Ok((decided == Decisions::of([("load.no_kv_events", 1)])).then_some(()))
        })
        .await
    })
    .await;
    Ok(())
}

fn prompts() -> Vec<Value> {
    (0..8).map(|seed| question(&words(seed, 200), "Where?")).collect()
}

async fn send(bed: &Testbed, request: &Value) -> Result<Answer> {
    let answer = bed
        .client
        .post_json(&gateway(bed)?.url("/v1/chat/completions"), request)
        .await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(answer)
}
