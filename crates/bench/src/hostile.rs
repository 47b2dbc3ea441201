//! `warmpath-bench hostile`: how long requests that are made to cost much hold a worker thread of Envoy.
//!
//! Each goes through a plain route and through Warmpath, one at a time; what counts is the CPU time of the Envoys, and of
//! that Warmpath's minus the plain route's. Nothing is remembered from request to request.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use testbed::{
    Client, ControlPlaneOptions, EngineOptions, Envoy, EnvoyOptions, Mode, Payload, Request, Testbed, vision_model,
    workspace_root,
};
use work::hostile::{Hostile, requests};

use crate::cpu::cpu_time;
use crate::decisions::Decisions;
use crate::percentile::rounded;
use crate::ready::warmpath_ready;

/// Directories under `target/models`.
const MODELS: [&str; 8] = [
    "qwen3",
    VISION,
    "deepseek_v3",
    "llama3_1",
    "gptoss",
    "gemma3",
    "afaanoromo_unigram",
    "afaanoromo_wordpiece",
];

/// Qwen3 made to take images, of which all is known.
const VISION: &str = "qwen_vl";

/// Length of a body in bytes.
const BYTES: usize = 1_000_000;

/// Options of the benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// One model and small bodies, to see that it works; its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Only this model.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only requests whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// `work_ms_per_mb` of the filter's configuration.
    #[arg(long, default_value_t = 45)]
    work_ms_per_mb: u64,
}

/// Runs the benchmark and prints its results.
pub(crate) async fn run(args: Args) -> Result<()> {
    let models = match &args.model {
        Some(model) => vec![model.as_str()],
        None if args.quick => MODELS[..1].to_vec(),
        None => MODELS.to_vec(),
    };
    let (bytes, passes) = if args.quick { (50_000, 1) } else { (BYTES, 3) };
    for model in models {
        let directory = directory(model)?;
        let bed = start(&directory, args.work_ms_per_mb).await?;
        let [plain, warmpath] = &bed.envoys[..] else {
            bail!("expected two Envoys, got {}", bed.envoys.len());
        };
        warmpath_ready(warmpath).await?;
        for request in requests(bytes) {
            if !request.name.contains(&args.only) {
                continue;
            }
            let before = Decisions::of(warmpath).await?;
            let held = cost(&request, warmpath, &bed.client, passes).await?;
            let plain = cost(&request, plain, &bed.client, passes).await?;
            let decisions = Decisions::of(warmpath).await?.since(&before);
            let decision = decisions.iter().next().map(|(name, _)| name.to_owned());
            println!(
                "{}",
                json!({
                    "bench": "hostile",
                    "model": model,
                    "request": request.name,
                    "decision": decision,
                    "added_ms_per_mb": ms_per_mb(held.saturating_sub(plain), request.body.len()),
                    "plain_ms_per_mb": ms_per_mb(plain, request.body.len()),
                })
            );
        }
        let failures = warmpath.wasm_failures().await?;
        ensure!(failures.is_empty(), "the filter failed: {}", failures.join("; "));
    }
    Ok(())
}

/// The model's directory; for one that comes as a tokenizer alone, a copy with a template, and with an unknown token, so that it
/// refuses no text.
fn directory(model: &str) -> Result<PathBuf> {
    if model == VISION {
        return vision_model();
    }
    let directory = workspace_root().join("target/models").join(model);
    ensure!(directory.is_dir(), "no model {model}: run scripts/setup test");
    if directory.join("tokenizer_config.json").exists() {
        return Ok(directory);
    }
    let copy = workspace_root().join("target/testbed/models").join(model);
    fs::create_dir_all(&copy)?;
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(directory.join("tokenizer.json"))?)?;
    if let Some(unknown @ Value::Null) = tokenizer.pointer_mut("/model/unk_id") {
        *unknown = 1.into();
    }
    fs::write(copy.join("tokenizer.json"), tokenizer.to_string())?;
    let config = json!({"chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}"});
    fs::write(copy.join("tokenizer_config.json"), config.to_string())?;
    Ok(copy)
}

async fn start(model: &Path, work_ms_per_mb: u64) -> Result<Testbed> {
    let worker = EngineOptions {
        instant: true,
        ..EngineOptions::default()
    };
    let mut bed = Testbed::builder("hostile").engines(1, worker).start().await?;
    let control_plane = ControlPlaneOptions::default()
        .set("/pools/0/model_dir", &*model.to_string_lossy())
        // The workers do not have that model.
        .set("/pools/0/parity", json!({"mode": "off"}));
    bed.start_control_plane(control_plane).await?;
    bed.start_envoy(EnvoyOptions::new(Mode::RoundRobin)).await?;
    let mut options = EnvoyOptions::new(Mode::Warmpath);
    options.plugin.insert("prompt_memory_bytes".to_owned(), 0.into());
    options
        .plugin
        .insert("work_ms_per_mb".to_owned(), work_ms_per_mb.into());
    bed.start_envoy(options).await?;
    Ok(bed)
}

/// CPU time of Envoy for one such request.
async fn cost(request: &Hostile, envoy: &Envoy, client: &Client, passes: u32) -> Result<Duration> {
    let url = envoy.url(request.path);
    let body = Bytes::copy_from_slice(request.body.as_bytes());
    let before = cpu_time(envoy.process.pid())?;
    for _ in 0..passes {
        // Whatever the worker says to it.
        client
            .send(Request::post(&url, Payload::Whole(body.clone())))
            .await
            .with_context(|| format!("{} to {url}", request.name))?;
    }
    Ok(cpu_time(envoy.process.pid())?.saturating_sub(before) / passes)
}

fn ms_per_mb(time: Duration, bytes: usize) -> f64 {
    rounded(time.as_secs_f64() * 1e9 / bytes as f64, 1)
}
