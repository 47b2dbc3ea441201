//! One simulated engine.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::client::Client;
use crate::process::{Process, option};
use crate::{MODEL, artefacts};

/// Settings of one engine; see `engine-sim --help`.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// What it is called in requests.
    pub model: &'static str,
    /// Tokens per block.
    pub block_size: u32,
    /// KV blocks per rank.
    pub kv_blocks: u32,
    /// Prefill speed in tokens per second.
    pub prefill_tokens_per_second: f64,
    /// What one decode step takes, in milliseconds.
    pub inter_token_latency_ms: f64,
    /// Most requests running at once.
    pub max_num_seqs: u32,
    /// Data-parallel ranks.
    pub data_parallel_size: u32,
    /// LoRA adapters it serves.
    pub loras: Vec<String>,
    /// Decides the generated text.
    pub seed: u64,
    /// Answers at once with a fixed response; no events.
    pub instant: bool,
    /// Whether KV events are published.
    pub kv_events: bool,
    /// Event batches kept for replay.
    pub replay_buffer: u32,
    /// Hugging Face directory of what it serves; `None`: as everybody's.
    pub model_dir: Option<PathBuf>,
    /// Layout of the event batches: `array`, `map` or `mixed`.
    pub event_format: &'static str,
}

impl Default for EngineOptions {
    /// Fast, so that tests need not wait, and roomy.
    fn default() -> Self {
        Self {
            model: MODEL,
            block_size: 16,
            kv_blocks: 16_384,
            prefill_tokens_per_second: 1_000_000.0,
            inter_token_latency_ms: 1.0,
            max_num_seqs: 256,
            data_parallel_size: 1,
            loras: Vec::new(),
            seed: 0,
            instant: false,
            kv_events: true,
            replay_buffer: 10_000,
            model_dir: None,
            event_format: "mixed",
        }
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    /// Its process.
    pub process: Process,
    options: EngineOptions,
    listening: Listening,
    run_dir: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Ready {
    listening: Listening,
}

#[derive(Clone, Debug, Deserialize)]
struct Listening {
    http: String,
    #[serde(default)]
    kv_events: Vec<String>,
    #[serde(default)]
    replay: Vec<String>,
}

impl Engine {
    pub(crate) async fn start(name: &str, options: EngineOptions, run_dir: &Path) -> Result<Self> {
        let anywhere = Listening {
            http: String::new(),
            kv_events: Vec::new(),
            replay: Vec::new(),
        };
        let (process, listening) = launch(name, &options, &anywhere, run_dir).await?;
        Ok(Self {
            process,
            options,
            listening,
            run_dir: run_dir.to_owned(),
        })
    }

    /// An engine of another make, which runs already. `http`: `host:port`; the sockets as [`Self::kv_events`] and
    /// [`Self::replay`] give them. It cannot be restarted, and has none of `engine-sim`'s own paths and headers.
    pub fn foreign(
        process: Process,
        options: EngineOptions,
        http: String,
        kv_events: Vec<String>,
        replay: Vec<String>,
    ) -> Self {
        Self {
            process,
            options,
            listening: Listening {
                http,
                kv_events,
                replay,
            },
            run_dir: PathBuf::new(),
        }
    }

    /// Starts it again, after [`Process::kill`] or instead of it, on the ports that it had.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        let name = self.process.name().to_owned();
        (self.process, self.listening) = launch(&name, &self.options, &self.listening, &self.run_dir).await?;
        Ok(())
    }

    /// As [`Self::restart`], as another engine.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn replace(&mut self, options: EngineOptions) -> Result<()> {
        self.options = options;
        self.restart().await
    }

    /// `host:port` of its HTTP server: how Envoy's cluster, the control plane and `x-engine-sim-worker` name it.
    pub fn endpoint(&self) -> &str {
        &self.listening.http
    }

    /// Its settings.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// URL of a path on it, past Envoy.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listening.http)
    }

    /// KV event sockets, one for each rank; none if it publishes nothing.
    pub fn kv_events(&self) -> &[String] {
        &self.listening.kv_events
    }

    /// Replay sockets, one for each rank.
    pub fn replay(&self) -> &[String] {
        &self.listening.replay
    }

    /// What its prefix cache truly holds: `GET /debug/cache`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn cache(&self, client: &Client) -> Result<Value> {
        client.get_json(&self.url("/debug/cache")).await
    }

    /// Blocks in its prefix cache, by rank.
    ///
    /// # Errors
    /// When it does not answer, or not as expected.
    pub async fn cached_blocks(&self, client: &Client) -> Result<Vec<usize>> {
        let cache = self.cache(client).await?;
        let ranks = cache["ranks"].as_array().context("ranks")?;
        ranks
            .iter()
            .map(|rank| rank["blocks"].as_array().map(Vec::len).context("blocks"))
            .collect()
    }

    /// Its own hashes of the blocks in its prefix cache, by rank.
    ///
    /// # Errors
    /// When it does not answer, or not as expected.
    pub async fn cached_hashes(&self, client: &Client) -> Result<Vec<BTreeSet<String>>> {
        let cache = self.cache(client).await?;
        let hashes = |rank: &Value| {
            let blocks = rank["blocks"].as_array()?.iter();
            blocks.map(|block| Some(block["hash"].as_str()?.to_owned())).collect()
        };
        let ranks = cache["ranks"].as_array().context("ranks")?.iter();
        ranks.map(hashes).collect::<Option<_>>().context("blocks with hashes")
    }

    /// Requests accepted and not yet over: `GET /debug/requests`.
    ///
    /// # Errors
    /// When it does not answer, or not as expected.
    pub async fn running(&self, client: &Client) -> Result<u64> {
        let requests = client.get_json(&self.url("/debug/requests")).await?;
        requests["running"].as_u64().context("running")
    }
}

async fn launch(
    name: &str,
    options: &EngineOptions,
    wanted: &Listening,
    run_dir: &Path,
) -> Result<(Process, Listening)> {
    let args = arguments(options, wanted)?;
    let mut process = Process::spawn(name, &artefacts::engine_sim()?, &args, run_dir)?;
    let ready: Ready = serde_json::from_value(process.ready_line().await?)?;
    Ok((process, ready.listening))
}

fn arguments(options: &EngineOptions, wanted: &Listening) -> Result<Vec<OsString>> {
    let EngineOptions {
        model,
        block_size,
        kv_blocks,
        prefill_tokens_per_second,
        inter_token_latency_ms,
        max_num_seqs,
        data_parallel_size,
        loras,
        seed,
        instant,
        kv_events,
        replay_buffer,
        model_dir,
        event_format,
    } = options;
    let mut args = Vec::new();
    option(&mut args, "served-model-name", model);
    option(&mut args, "host", "127.0.0.1");
    option(&mut args, "port", port_of(Some(&wanted.http)));
    option(&mut args, "kv-events-port", port_of(wanted.kv_events.first()));
    option(&mut args, "replay-port", port_of(wanted.replay.first()));
    option(&mut args, "data-parallel-size", data_parallel_size.to_string());
    option(&mut args, "block-size", block_size.to_string());
    option(&mut args, "num-gpu-blocks", kv_blocks.to_string());
    option(
        &mut args,
        "prefill-tokens-per-second",
        prefill_tokens_per_second.to_string(),
    );
    option(&mut args, "inter-token-latency-ms", inter_token_latency_ms.to_string());
    option(&mut args, "max-num-seqs", max_num_seqs.to_string());
    option(&mut args, "seed", seed.to_string());
    option(&mut args, "replay-buffer", replay_buffer.to_string());
    option(&mut args, "event-format", event_format);
    for lora in loras {
        option(&mut args, "lora", lora);
    }
    if *instant {
        args.push("--instant".into());
    } else {
        let model_dir = model_dir.clone().map_or_else(artefacts::model_dir, Ok)?;
        option(&mut args, "model-dir", model_dir);
    }
    if !kv_events {
        args.push("--no-kv-events".into());
    }
    Ok(args)
}

/// The port at the end of an address; 0, any free one, if there is none.
fn port_of(address: Option<&String>) -> &str {
    address
        .and_then(|address| address.rsplit_once(':'))
        .map_or("0", |(_, port)| port)
}
