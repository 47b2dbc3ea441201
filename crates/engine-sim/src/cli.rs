//! The command line: every setting of one simulated engine.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// A simulated LLM engine that speaks like vLLM.
#[derive(Clone, Debug, Parser)]
#[command(name = "engine-sim", version, args_override_self = true)]
pub struct Args {
    /// Hugging Face model directory: `tokenizer.json`, `tokenizer_config.json` and, where there is one,
    /// `chat_template.jinja`. Required unless `--instant`.
    #[arg(long, required_unless_present = "instant")]
    pub model_dir: Option<PathBuf>,
    /// Name of the served model; several, separated by commas, are aliases. Default: the directory's name.
    #[arg(long, value_delimiter = ',')]
    pub served_model_name: Vec<String>,
    /// Name of a LoRA adapter served beside the model; repeat for several.
    #[arg(long)]
    pub lora: Vec<String>,
    /// Address of all listening sockets.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// HTTP port; 0: any free one.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Port of rank 0's KV event socket (PUB); rank r uses this plus r. 0: any free ones.
    #[arg(long, default_value_t = 0)]
    pub kv_events_port: u16,
    /// Port of rank 0's replay socket (ROUTER); rank r uses this plus r. 0: any free ones.
    #[arg(long, default_value_t = 0)]
    pub replay_port: u16,
    /// Number of data-parallel ranks, each with its own scheduler, cache and sockets.
    #[arg(long, default_value = "1")]
    pub data_parallel_size: NonZeroU32,
    /// Tokens per KV block.
    #[arg(long, default_value = "16")]
    pub block_size: NonZeroUsize,
    /// KV blocks per rank. As in vLLM, one of them is set aside.
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(2..))]
    pub num_gpu_blocks: u32,
    /// Longest prompt plus answer, in tokens. Default: the tokenizer's `model_max_length`. Never more than the
    /// KV blocks can hold.
    #[arg(long)]
    pub max_model_len: Option<NonZeroUsize>,
    /// Speed of prefill, in tokens per second.
    #[arg(long, default_value_t = 8000.0, value_parser = positive)]
    pub prefill_tokens_per_second: f64,
    /// What one decode step takes, in milliseconds.
    #[arg(long, default_value_t = 8.0, value_parser = not_negative)]
    pub inter_token_latency_ms: f64,
    /// Most requests running at once, per rank.
    #[arg(long, default_value = "64")]
    pub max_num_seqs: NonZeroUsize,
    /// Most tokens computed in one step, per rank (the chunk of chunked prefill).
    #[arg(long, default_value = "8192")]
    pub max_num_batched_tokens: NonZeroUsize,
    /// Decides the generated text, together with the request.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Root of the block hashes. Default: random, so that no two processes agree on a hash (as vLLM without
    /// `PYTHONHASHSEED`).
    #[arg(long)]
    pub hash_seed: Option<u64>,
    /// Event batches kept for replay, per rank.
    #[arg(long, default_value_t = 10_000)]
    pub replay_buffer: usize,
    /// Publish no KV events and open no sockets for them.
    #[arg(long)]
    pub no_kv_events: bool,
    /// Layout of the event batches.
    #[arg(long, value_enum, default_value_t = EventFormat::Mixed)]
    pub event_format: EventFormat,
    /// Largest request body, in bytes.
    #[arg(long, default_value_t = 64 << 20)]
    pub max_body_bytes: usize,
    /// Answer every completion at once with a small fixed response: no tokens, no time model, no events.
    #[arg(long)]
    pub instant: bool,
}

/// The layouts of an event batch found in the wild.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventFormat {
    /// Batch and events as arrays, block hashes signed: older vLLM.
    Array,
    /// Batch and events as maps, keys with a default value left out: vLLM since it dropped `array_like`.
    Map,
    /// Batch as an array, events as maps with every key: as captured from vLLM 0.32.
    Mixed,
}

fn positive(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| {
        if value > 0.0 {
            Ok(value)
        } else {
            Err("must be greater than 0".to_owned())
        }
    })
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| {
        if value >= 0.0 {
            Ok(value)
        } else {
            Err("must not be negative".to_owned())
        }
    })
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("must be a finite number".to_owned()),
    }
}
