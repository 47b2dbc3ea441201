//! `warmpath-bench tokenizer`: the tokenizer in Envoy's V8 beside the same library natively.
//!
//! Each line has a VM of its own. Into a fresh one the artefact is loaded, which gives `load_ms`, and the text is encoded
//! once, which gives `vm_mib`. Then the VM's code is warm. *Cold* is a text whose words this tokenizer has not seen: the
//! artefact is loaded anew before each pass. *Warm* is the same text again. Both are the fastest of several passes, as
//! whatever else the machine does can only slow one down, and native passes take turns with those in the VM.

mod texts;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use serde_json::json;
use testbed::workspace_root;
use tokenizer::{EncodeError, Library, Tokenizer};

use self::texts::Kind;
use crate::percentile::rounded;
use crate::vm::Vm;

/// Directories under `target/models`.
const MODELS: [&str; 5] = ["qwen3", "deepseek_v3", "llama3_1", "gptoss", "gemma3"];

/// Options of the benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// One model and few passes over short texts, to see that it works; its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Only this model.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Take `tokenizer.json` and the tokenizer library instead of flat tables, to compare.
    #[arg(long)]
    library: bool,
    /// Decides the texts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    /// Length of each text in bytes; 400 kB are about 100,000 tokens of English.
    text_bytes: usize,
    cold_passes: usize,
    warm_passes: usize,
}

/// Runs the benchmark and prints its results.
pub(crate) async fn run(args: Args) -> Result<()> {
    let effort = match args.quick {
        true => Effort {
            text_bytes: 50_000,
            cold_passes: 1,
            warm_passes: 2,
        },
        false => Effort {
            text_bytes: 400_000,
            cold_passes: 7,
            warm_passes: 30,
        },
    };
    let models = match &args.model {
        Some(model) => vec![model.as_str()],
        None if args.quick => MODELS[..1].to_vec(),
        None => MODELS.to_vec(),
    };
    for name in models {
        let directory = workspace_root().join("target/models").join(name);
        let model = Model::read(&directory, args.library)
            .with_context(|| format!("{}; run: scripts/setup test", directory.display()))?;
        for kind in Kind::ALL {
            let text = kind.text(args.seed, effort.text_bytes)?;
            let measured = measure(&model, &text, effort).await?;
            let mb_s = |time: Duration| rounded(text.len() as f64 / 1e6 / time.as_secs_f64(), 1);
            let name = if args.library {
                format!("{name}/library")
            } else {
                name.to_owned()
            };
            println!(
                "{}",
                json!({
                    "bench": "tokenizer",
                    "model": name,
                    "text": kind.name(),
                    "wasm_cold_mb_s": mb_s(measured.cold),
                    "wasm_warm_mb_s": mb_s(measured.warm),
                    "native_warm_mb_s": mb_s(measured.native),
                    "load_ms": rounded(measured.load.as_secs_f64() * 1e3, 1),
                    "vm_mib": rounded(measured.memory as f64 / (1 << 20) as f64, 1),
                })
            );
        }
    }
    Ok(())
}

/// What the VM loads, and how.
struct Model {
    job: &'static str,
    artefact: Bytes,
    native: Native,
}

/// Encodes a text, without special tokens around it.
type Native = Box<dyn Fn(&str, &mut Vec<u32>) -> Result<(), EncodeError>>;

impl Model {
    fn read(directory: &Path, library: bool) -> Result<Self> {
        let json = fs::read(directory.join("tokenizer.json"))?;
        let mut json = serde_json::from_slice(&json)?;
        tk_convert::canonicalize_value(&mut json).map_err(|error| anyhow!("{error}"))?;
        let json = serde_json::to_vec(&json)?;
        if library {
            let library = Library::from_json(&json)?;
            return Ok(Self {
                job: "load-json",
                native: Box::new(move |text, ids| library.encode_into(text, false, ids)),
                artefact: json.into(),
            });
        }
        let artefact = tokenizer::build(&json)?;
        let tokenizer = Tokenizer::load(artefact.clone())?;
        Ok(Self {
            job: "load",
            native: Box::new(move |text, ids| tokenizer.encode_into(text, false, ids)),
            artefact: artefact.into(),
        })
    }
}

struct Measured {
    load: Duration,
    memory: u64,
    cold: Duration,
    warm: Duration,
    native: Duration,
}

async fn measure(model: &Model, text: &str, effort: Effort) -> Result<Measured> {
    let vm = Vm::start().await?;
    let body = Bytes::copy_from_slice(text.as_bytes());
    let load = vm.run(model.job, model.artefact.clone()).await?.time();
    let memory = vm.run("encode", body.clone()).await?.memory();
    let (mut warm, mut native, mut cold) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for _ in 0..effort.warm_passes {
        warm = warm.min(vm.run("encode", body.clone()).await?.time());
        native = native.min(encode(&model.native, text)?);
    }
    for _ in 0..effort.cold_passes {
        vm.run(model.job, model.artefact.clone()).await?;
        cold = cold.min(vm.run("encode", body.clone()).await?.time());
    }
    Ok(Measured {
        load,
        memory,
        cold,
        warm,
        native,
    })
}

fn encode(native: &Native, text: &str) -> Result<Duration> {
    let mut ids = Vec::new();
    let start = Instant::now();
    native(text, &mut ids)?;
    Ok(start.elapsed())
}
