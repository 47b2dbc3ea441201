//! Load: shared by the worker threads of an Envoy, given back when a request ends in whatever way, per rank.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{
    Client, ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Request, Streaming, Testbed, eventually,
};
use wasm_tests::prompts::{completion, endless, question, words};
use wasm_tests::state::{booked, nothing_booked, requests_on};
use wasm_tests::{gateway, run, settled, shared_tokens, synced, tokens};

#[tokio::test(flavor = "multi_thread")]
async fn two_threads_share_their_load() -> Result<()> {
    let bed = Testbed::builder("threads")
        .engines(3, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath).concurrency(2))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        both_threads_know_the_view(bed).await?;
        streams_spread_evenly(bed).await?;
        every_end_frees(bed).await
    })
    .await;
    Ok(())
}

/// New connections until both threads have had some: which thread gets one is up to the kernel.
async fn both_threads_know_the_view(bed: &Testbed) -> Result<()> {
    let prompt = question(&words(1, 200), "Which?");
    let ids = tokens(bed, &prompt).await?;
    let url = gateway(bed)?.url("/v1/chat/completions");
    let home = bed.worker_of(&bed.client.post_json(&url, &prompt).await?)?;
    settled(bed).await?;
    eventually("both threads served", || async {
        let answer = Client::new().post_json(&url, &prompt).await?;
        assert_eq!(
            (bed.worker_of(&answer)?, answer.cached_tokens()?),
            (home, shared_tokens(&ids, &ids, 16))
        );
        Ok(threads_used(bed).await?.then_some(()))
    })
    .await
}

/// Whether both threads had connections of clients.
async fn threads_used(bed: &Testbed) -> Result<bool> {
    let stats = gateway(bed)?.stats().await?;
    let connections = |worker: u32| {
        let is_it = |name: &str| {
            name.starts_with("listener.")
                && !name.starts_with("listener.admin.")
                && name.ends_with(&format!(".worker_{worker}.downstream_cx_total"))
        };
        stats
            .iter()
            .filter(|(name, _)| is_it(name))
            .map(|(_, count)| *count)
            .sum::<i64>()
    };
    Ok(connections(0) > 0 && connections(1) > 0)
}

/// One stream after the other, all equally long, each over a connection of its own: a thread that did not see the
/// other's bookings would soon take a worker that is busier than another.
async fn streams_spread_evenly(bed: &Testbed) -> Result<()> {
    let mut streams = Vec::new();
    let mut on = vec![0_i64; bed.engines.len()];
    for number in 0..18_u32 {
        // 200 token ids, different from the first on.
        let ids: Vec<u32> = (0..200).map(|place| 1_000 + number * 300 + place).collect();
        let mut stream = open(bed, &Client::new(), "/v1/completions", &endless(completion(json!(ids)))).await?;
        stream.chunk().await?.context("the stream ended")?;
        on[worker_of(bed, &stream)?] += 1;
        streams.push(stream);
        let (least, most) = (on.iter().min(), on.iter().max());
        ensure!(
            most.copied() <= least.map(|least| least + 1),
            "streams per worker after {number}: {on:?}"
        );
    }
    ensure!(threads_used(bed).await?, "one thread got all connections");
    for (engine, expected) in bed.engines.iter().zip(&on) {
        assert_eq!(
            requests_on(gateway(bed)?, engine.endpoint()).await?,
            *expected,
            "{}",
            engine.endpoint()
        );
    }
    drop(streams);
    nothing_booked(gateway(bed)?).await?;
    settled(bed).await
}

/// A request books, and whether it ends by itself, by the client's going away before or after the first token, or by
/// the worker's death, it frees what it booked.
async fn every_end_frees(bed: &mut Testbed) -> Result<()> {
    let long = question(&words(2, 3_000), "And so on?");
    let plain = bed
        .client
        .post_json(&gateway(bed)?.url("/v1/chat/completions"), &long)
        .await?;
    assert_eq!(plain.status, 200);
    nothing_booked(gateway(bed)?).await?;

    let mut stream = open(bed, &Client::new(), "/v1/chat/completions", &endless(long.clone())).await?;
    stream.chunk().await?.context("the stream ended")?;
    let busy = booked(gateway(bed)?).await?;
    ensure!(busy.keys().any(|name| name.ends_with(".requests")), "{busy:?}");
    ensure!(busy.keys().any(|name| name.ends_with(".decode_blocks")), "{busy:?}");
    ensure!(
        !busy.keys().any(|name| name.ends_with(".prefill_tokens")),
        "the first token is there: {busy:?}"
    );
    drop(stream);
    nothing_booked(gateway(bed)?).await?;
    settled(bed).await?;

    let mut stream = open(bed, &Client::new(), "/v1/chat/completions", &endless(long)).await?;
    stream.chunk().await?.context("the stream ended")?;
    let worker = worker_of(bed, &stream)?;
    bed.engines[worker].process.kill();
    while let Ok(Some(_)) = stream.chunk().await {}
    nothing_booked(gateway(bed)?).await?;
    bed.engines[worker].restart().await
}

/// Engines so slow that nothing here ever sees a first token.
#[tokio::test(flavor = "multi_thread")]
async fn prefill_is_load_until_the_first_token() -> Result<()> {
    let slow = EngineOptions {
        prefill_tokens_per_second: 10.0,
        ..EngineOptions::default()
    };
    let bed = Testbed::builder("prefill")
        .engines(2, slow)
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let prompts = [
            question(&words(1, 3_000), "Whole?"),
            endless(question(&words(2, 3_000), "Streamed?")),
        ];
        let mut lengths = Vec::new();
        for prompt in &prompts {
            lengths.push(tokens(bed, prompt).await?.len() as i64);
        }
        let waiting: Vec<_> = prompts
            .into_iter()
            .map(|prompt| {
                let request = Request::json(&bed.envoys[0].url("/v1/chat/completions"), &prompt);
                let client = Client::new();
                tokio::spawn(async move { client.send(request).await })
            })
            .collect();
        let gateway = gateway(bed)?;
        eventually("both prompts booked as prefill", || async {
            let prefill = gateway.sum(|name| name.ends_with(".prefill_tokens")).await?;
            Ok((prefill == lengths.iter().sum::<i64>()).then_some(()))
        })
        .await?;
        for engine in &bed.engines {
            assert_eq!(
                requests_on(gateway, engine.endpoint()).await?,
                1,
                "{}",
                engine.endpoint()
            );
        }
        // Nothing has come yet but, of one, the response head.
        for request in waiting {
            ensure!(!request.is_finished(), "answered already");
            request.abort();
        }
        nothing_booked(gateway).await
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_are_workers_of_their_own() -> Result<()> {
    let bed = Testbed::builder("ranks")
        .engines(
            2,
            EngineOptions {
                data_parallel_size: 2,
                ..EngineOptions::default()
            },
        )
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let url = gateway(bed)?.url("/v1/chat/completions");
        let mut places = std::collections::BTreeSet::new();
        for seed in 0..12 {
            let prompt = question(&words(seed, 200), "Which rank?");
            let ids = tokens(bed, &prompt).await?;
            let cold = bed.client.post_json(&url, &prompt).await?;
            let place = (bed.worker_of(&cold)?, cold.header("x-engine-sim-rank")?.to_owned());
            settled(bed).await?;
            // What a client says about ranks does not count.
            let again = Request::json(&url, &prompt)
                .header("x-data-parallel-rank", "1")
                .header("x-dp-rank", "0");
            let warm = bed.client.send(again).await?;
            assert_eq!(
                (bed.worker_of(&warm)?, warm.header("x-engine-sim-rank")?.to_owned()),
                place
            );
            assert_eq!(warm.cached_tokens()?, shared_tokens(&ids, &ids, 16));
            assert_eq!(
                warm.header("x-engine-sim-saw")?,
                "x-gateway-destination-endpoint,x-data-parallel-rank"
            );
            places.insert(place);
            settled(bed).await?;
        }
        // 12 picks at random among equals miss one of four with a chance of 1 in 8.
        ensure!(places.len() > 1, "always the same rank");
        ranks_share_nothing(bed).await
    })
    .await;
    Ok(())
}

/// As many long streams as there are ranks: each gets its own.
async fn ranks_share_nothing(bed: &Testbed) -> Result<()> {
    let mut streams = Vec::new();
    let mut places = std::collections::BTreeSet::new();
    for number in 0..4_u32 {
        let ids: Vec<u32> = (0..160).map(|place| 20_000 + number * 300 + place).collect();
        let mut stream = open(bed, &bed.client, "/v1/completions", &endless(completion(json!(ids)))).await?;
        stream.chunk().await?.context("the stream ended")?;
        let rank = stream
            .headers
            .get("x-engine-sim-rank")
            .context("x-engine-sim-rank")?
            .to_str()?
            .to_owned();
        places.insert((worker_of(bed, &stream)?, rank));
        streams.push(stream);
    }
    assert_eq!(places.len(), 4, "{places:?}");
    Ok(())
}

async fn open(bed: &Testbed, client: &Client, path: &str, request: &Value) -> Result<Streaming> {
    let stream = client.open(Request::json(&gateway(bed)?.url(path), request)).await?;
    ensure!(stream.status == 200, "{}", stream.status);
    Ok(stream)
}

fn worker_of(bed: &Testbed, stream: &Streaming) -> Result<usize> {
    let worker = stream
        .headers
        .get("x-engine-sim-worker")
        .context("x-engine-sim-worker")?;
    bed.engines
        .iter()
        .position(|engine| worker == engine.endpoint())
        .context("no such engine")
}
