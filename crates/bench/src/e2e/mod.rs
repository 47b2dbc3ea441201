//! `warmpath-bench e2e`: what Warmpath adds to a plain Envoy route.
//!
//! Three Envoys stand before the same instant workers: a plain route, a plain route with Envoy's own buffer filter (what
//! holding a body costs anyway), and Warmpath. Their requests are interleaved in one run, so that whatever else happens
//! on the machine happens to all three; `added_*` is Warmpath minus the plain route.

mod case;
mod machine;
mod measure;
mod prompts;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use testbed::{
    Client, ControlPlaneOptions, Engine, EngineOptions, Envoy, EnvoyOptions, Mode, Payload, Request, Testbed,
    eventually,
};

use self::case::{Case, Novelty, Size};
use self::measure::{Target, line, measure, warm_up};
use self::prompts::{Prompts, Tokenize};
use crate::decisions::Decisions;
use crate::ready::warmpath_ready;

/// Instant workers; all of them are said to hold the known prefixes.
const WORKERS: usize = 4;

/// Options of the benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// A short run, to see that it works; its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Decides the prompts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the benchmark and prints its results.
pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { quick, only, seed } = args;
    let memory = memory().await?;
    let engine = memory.engines.first().context("no engine")?;
    let bed = start(&memory.engines).await?;
    let [plain, buffered, warmpath] = &bed.envoys[..] else {
        bail!("expected three Envoys, got {}", bed.envoys.len());
    };
    warmpath_ready(warmpath).await?;
    println!("{}", machine::describe(warmpath, &bed.client).await?);

    let tokenize = Tokenize {
        client: &bed.client,
        url: engine.url("/tokenize"),
    };
    let targets = [
        Target::new("plain", plain),
        Target::new("buffered", buffered),
        Target::new("warmpath", warmpath),
    ];
    for size in Size::ALL {
        let cases: Vec<_> = Case::of(size, quick)
            .into_iter()
            .filter(|case| case.name().contains(&only))
            .collect();
        if cases.is_empty() {
            continue;
        }
        let prompts = Arc::new(Prompts::new(seed, size, &tokenize).await?);
        make_known(&prompts, &memory.engines, warmpath, &bed.client).await?;
        warm_up(&prompts, &targets, &bed.client).await?;
        for case in cases {
            if case.novelty == Novelty::Known {
                // The cold prompts before may have pushed them out of the VM's memory.
                remind(&prompts, warmpath, &bed.client).await?;
            }
            let before = (Decisions::of(warmpath).await?, predicted_tokens(warmpath).await?);
            let recall_before = Recall::of(warmpath).await?;
            let measured = measure(&case, &prompts, &targets, &bed.client).await?;
            let decisions = Decisions::of(warmpath).await?.since(&before.0);
            let (exact, all) = (decisions.on("exact"), decisions.total());
            ensure!(
                exact == all && all > 0,
                "{}: not all on the exact rung: {decisions:?}",
                case.name()
            );
            let predicted = predicted_tokens(warmpath).await? - before.1;
            let remembered = Recall::of(warmpath).await?.share_since(&recall_before);
            let (tokens, _) = prompts.mean_size(case.novelty);
            let predicted = predicted as f64 / (all as f64 * tokens as f64);
            println!("{}", line(&case, &prompts, &measured, predicted, remembered));
        }
    }
    let failures = warmpath.wasm_failures().await?;
    ensure!(failures.is_empty(), "the filter failed: {}", failures.join("; "));
    Ok(())
}

/// Simulated engines that compute prompts at once and publish what they hold.
async fn memory() -> Result<Testbed> {
    let options = EngineOptions {
        kv_blocks: 65_536,
        prefill_tokens_per_second: 1e9,
        ..EngineOptions::default()
    };
    Testbed::builder("e2e-memory").engines(WORKERS, options).start().await
}

/// The instant workers publish nothing, so the control plane gets the events of the engines in `memory` as theirs.
async fn start(memory: &[Engine]) -> Result<Testbed> {
    let worker = EngineOptions {
        instant: true,
        kv_events: false,
        ..EngineOptions::default()
    };
    let mut bed = Testbed::builder("e2e").engines(WORKERS, worker).start().await?;
    let workers = bed.engines.iter().zip(memory);
    let workers: Vec<_> = workers
        .map(|(worker, memory)| {
            json!({"endpoint": worker.endpoint(), "kv_events": memory.kv_events(), "replay": memory.replay()})
        })
        .collect();
    bed.start_control_plane(ControlPlaneOptions::default().set("/pools/0/workers", workers))
        .await?;
    for mode in [Mode::RoundRobin, Mode::Buffered, Mode::Warmpath] {
        bed.start_envoy(EnvoyOptions::new(mode)).await?;
    }
    Ok(bed)
}

/// Makes the known conversations known to the workers, and waits until the filter sees that and has itself read each.
async fn make_known(prompts: &Prompts, memory: &[Engine], warmpath: &Envoy, client: &Client) -> Result<()> {
    let post = |url: String, body| async move {
        client
            .send(Request::post(&url, Payload::Whole(body)))
            .await?
            .json()
            .with_context(|| url)
    };
    for body in prompts.one_of_each_known() {
        for engine in memory {
            post(engine.url("/v1/chat/completions"), body.clone()).await?;
        }
    }
    let (tokens, _) = prompts.mean_size(Novelty::Known);
    eventually("the known prefixes in the filter's view", || async {
        let before = predicted_tokens(warmpath).await?;
        let bodies = prompts.one_of_each_known();
        let sent = bodies.len();
        for body in bodies {
            post(warmpath.url("/v1/chat/completions"), body).await?;
        }
        let predicted = usize::try_from(predicted_tokens(warmpath).await? - before)? / sent;
        // All but the last message and what is left of a block; the shortest prompts are mostly last message.
        ensure!(predicted * 2 >= tokens, "{predicted} of {tokens} tokens");
        Ok(Some(()))
    })
    .await
}

/// Lets the filter read each known conversation.
async fn remind(prompts: &Prompts, warmpath: &Envoy, client: &Client) -> Result<()> {
    let url = warmpath.url("/v1/chat/completions");
    for body in prompts.one_of_each_known() {
        client
            .send(Request::post(&url, Payload::Whole(body)))
            .await?
            .json()
            .context("a known conversation")?;
    }
    Ok(())
}

/// Bytes of prompts that the filter has read, and those that it remembered.
struct Recall {
    bytes: i64,
    remembered: i64,
}

impl Recall {
    async fn of(envoy: &Envoy) -> Result<Self> {
        Ok(Self {
            bytes: envoy.sum(|name| name.ends_with("warmpath.prompts.bytes")).await?,
            remembered: envoy
                .sum(|name| name.ends_with("warmpath.prompts.remembered_bytes"))
                .await?,
        })
    }

    fn share_since(&self, before: &Self) -> f64 {
        (self.remembered - before.remembered) as f64 / (self.bytes - before.bytes).max(1) as f64
    }
}

/// Tokens that the filter expected the picked workers to hold, in all.
async fn predicted_tokens(envoy: &Envoy) -> Result<i64> {
    envoy
        .sum(|name| name.ends_with("warmpath.truth.predicted_tokens"))
        .await
}
