//! `warmpath-bench demo`: one workload, twice through Envoy, on fresh engines each time.

mod chat;
mod drive;
mod ideal;
mod progress;
mod report;
mod workload;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, MODEL, Mode, Testbed};

use self::drive::{Exchange, drive};
use self::progress::Progress;
use self::report::{Report, Side};
use self::workload::Workload;
use crate::decisions::Decisions;
use crate::percentile::rounded;
use crate::ready::warmpath_ready;

/// Options of the demo.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Also write the results to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the Warmpath stack running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Fail unless Warmpath reaches its goals: at least 90 % of the ideal hit rate, the busiest worker at most 1.5
    /// times the mean, round robin clearly below.
    #[arg(long)]
    check: bool,
    /// Decides the workload.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of conversations, of 6 to 10 requests each.
    #[arg(long, default_value_t = 52)]
    conversations: usize,
    /// Conversations going on at the same time.
    #[arg(long, default_value_t = 14)]
    users: usize,
    /// Simulated engines.
    #[arg(long, default_value_t = 4)]
    engines: usize,
    /// KV blocks of each engine, 16 tokens each.
    #[arg(long, default_value_t = 1800)]
    kv_blocks: u32,
    /// Changes a setting of the control plane, as `/pools/0/routing/temperature=0.5`; repeat for several.
    #[arg(long, value_name = "POINTER=JSON", value_parser = setting)]
    set: Vec<(String, Value)>,
}

fn setting(text: &str) -> Result<(String, Value)> {
    let (pointer, value) = text.split_once('=').context("no '='")?;
    Ok((pointer.to_owned(), serde_json::from_str(value)?))
}

/// Runs the demo. With `--keep`, what still runs is handed back.
pub(crate) async fn run(args: Args) -> Result<Option<Testbed>> {
    let Args {
        json,
        keep,
        check,
        seed,
        conversations,
        users,
        engines,
        kv_blocks,
        set,
    } = args;
    let workload = Workload::new(seed, conversations, users);
    // A mid-sized GPU: a prompt of 2,000 tokens takes a quarter of a second to prefill.
    let engine = EngineOptions {
        kv_blocks,
        prefill_tokens_per_second: 8_000.0,
        inter_token_latency_ms: 8.0,
        max_num_seqs: 64,
        ..EngineOptions::default()
    };
    let bed = || Testbed::builder("demo").engines(engines, engine.clone());

    eprintln!(
        "{} requests in {conversations} conversations, {users} at a time, to {engines} engines of {kv_blocks} KV blocks",
        workload.requests()
    );
    let round_robin = {
        let bed = bed().envoy(EnvoyOptions::new(Mode::RoundRobin)).start().await?;
        let exchanges = run_through(&bed, "round robin", &workload).await?;
        Side::new(&exchanges, &bed.engines, None)?
    };

    let settings = set
        .into_iter()
        .fold(ControlPlaneOptions::default(), |settings, (pointer, value)| {
            settings.set(&pointer, value)
        });
    let bed = bed()
        .control_plane(settings)
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    let envoy = bed.envoys.first().context("no Envoy")?;
    warmpath_ready(envoy).await?;
    let before = Decisions::of(envoy).await?;
    let exchanges = run_through(&bed, "Warmpath", &workload).await?;
    let decisions = Decisions::of(envoy).await?.since(&before);
    let failures = envoy.wasm_failures().await?;
    ensure!(failures.is_empty(), "the filter failed: {}", failures.join("; "));
    let report = Report {
        requests: exchanges.len(),
        ideal_hit_rate: rounded(ideal::hit_rate(&exchanges, &bed.engines, &bed.client).await?, 4),
        round_robin,
        warmpath: Side::new(&exchanges, &bed.engines, Some(decisions))?,
    };

    println!("\n{}", report.table());
    if let Some(path) = json {
        let text = serde_json::to_string(&report)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if check {
        report.check()?;
    }
    if keep {
        print_how_to_try(&bed, envoy);
        return Ok(Some(bed));
    }
    Ok(None)
}

async fn run_through(bed: &Testbed, label: &'static str, workload: &Workload) -> Result<Vec<Exchange>> {
    let url = bed.envoys.first().context("no Envoy")?.url("/v1/chat/completions");
    let progress = Progress::new(label, workload.requests());
    let exchanges = drive(workload, &url, &bed.client, &progress).await?;
    progress.finish();
    Ok(exchanges)
}

fn print_how_to_try(bed: &Testbed, envoy: &testbed::Envoy) {
    let url = envoy.url("/v1/chat/completions");
    println!("Warmpath is still running; Ctrl-C ends it. Ask it something, twice:\n");
    let question = "Which worker has seen this before? It takes more than sixteen tokens to fill a block.";
    let body = json!({"model": MODEL, "max_tokens": 24, "messages": [{"role": "user", "content": question}]});
    println!("  curl -si {url} -H 'content-type: application/json' -d '{body}'\n");
    println!("x-engine-sim-worker names the engine, usage.prompt_tokens_details.cached_tokens what it remembered.");
    println!("Decisions: curl -s '{}'", envoy.admin_url("/stats?filter=warmpath"));
    if let Some(control_plane) = &bed.control_plane {
        println!("Control plane: curl -s {}", control_plane.url("/metrics"));
    }
    println!("Logs: {}", bed.run_dir().display());
}
