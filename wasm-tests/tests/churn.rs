//! Many clients at once, caches that overflow, threads, hang-ups, and processes that die at any moment: when it is quiet
//! again, everything is exact again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{Client, ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Request, Testbed};
use tokio::task::JoinSet;
use wasm_tests::prompts::{endless, question, streaming, words};
use wasm_tests::state::{Decisions, Truth};
use wasm_tests::{gateway, run, run_with_casualties, settled, synced};
use xxhash_rust::xxh3::xxh3_64;

const CLIENTS: u64 = 8;

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

/// One of many requests, of which some share a beginning.
fn request(number: u64) -> Value {
    let random = xxh3_64(&number.to_le_bytes());
    let mut request = question(
        &words(random % 10, 200),
        &words(random % 97, 20 + usize::try_from(random % 800).unwrap_or(0)),
    );
    request["max_tokens"] = json!(1 + random % 60);
    if random.is_multiple_of(3) {
        streaming(request)
    } else {
        request
    }
}

/// Clients that keep sending; some of them hang up in the middle.
struct Crowd {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<String>>,
}

impl Crowd {
    fn start(url: String) -> Self {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (url, sent, stop) = (url.clone(), sent.clone(), stop.clone());
            clients.spawn(async move {
                let client = Client::new();
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let outcome = send(&client, &url, number).await;
                    failures.extend(outcome.err().map(|error| format!("{number}: {error:#}")));
                }
                failures
            });
        }
        Self { sent, stop, clients }
    }

    async fn has_sent(&self, count: u64) {
        while self.sent.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
    }

    /// Says which requests failed, and how.
    async fn stop(mut self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            failures.extend(client?);
        }
        Ok(failures)
    }
}

async fn send(client: &Client, url: &str, number: u64) -> Result<()> {
    if !number.is_multiple_of(7) {
        let answer = client.post_json(url, &request(number)).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        answer.usage()?;
        return Ok(());
    }
    let mut long = endless(request(number));
    // The most that fits into a cache beside the others.
    long["max_tokens"] = 3_000.into();
    let mut stream = client.open(Request::json(url, &long)).await?;
    ensure!(stream.status == 200, "{}", stream.status);
    for _ in 0..number % 5 {
        stream.chunk().await?.context("the stream ended")?;
    }
    Ok(())
}
