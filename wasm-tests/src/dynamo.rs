//! Dynamo's own processes: workers (its mocker) and frontends, which find one another through a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use testbed::{Client, EtcdApi, MODEL, Process, eventually, model_dir, workspace_root};

/// Tokens of a block.
const BLOCK_SIZE: &str = "16";

/// A deployment of its own.
#[derive(Debug)]
pub struct Dynamo {
    dir: PathBuf,
    discovery: Discovery,
    model: PathBuf,
    python: PathBuf,
    env: Vec<OsString>,
}

/// Where its processes tell of themselves.
#[derive(Debug)]
enum Discovery {
    /// Files below this directory.
    Files(PathBuf),
    Etcd(Box<EtcdApi>),
}

/// A model of a worker that records prompts.
#[derive(Debug)]
pub struct RecordedModel {
    /// By which requests name it.
    pub name: &'static str,
    /// Where its files are.
    pub dir: PathBuf,
    /// With which parser of reasoning the worker runs.
    pub parser: Option<&'static str>,
}

/// A frontend, and where it listens.
#[derive(Debug)]
pub struct Frontend {
    /// Its process.
    pub process: Process,
    /// `ip:port`.
    pub address: String,
}

/// Dynamo's own KV router, and where it tells what it believes.
#[derive(Debug)]
pub struct Router {
    /// Its process.
    pub process: Process,
    address: String,
}

impl Dynamo {
    /// An empty one, whose files are in `dir`, those of its discovery, too.
    ///
    /// # Errors
    /// When Dynamo is not installed.
    pub fn new(dir: &Path) -> Result<Self> {
        let python = workspace_root().join("target/tools/venv-dynamo/bin/python");
        ensure!(python.exists(), "no {}: run scripts/setup interop", python.display());
        let _ = fs::remove_dir_all(dir);
        let (records, model) = (dir.join("discovery"), dir.join("model"));
        fs::create_dir_all(&records)?;
        write_model(&model_dir()?, &model)?;
        Ok(Self {
            dir: dir.to_owned(),
            discovery: Discovery::Files(records),
            model,
            python,
            env: Vec::new(),
        })
    }

    /// With this in its processes' environment, whatever else they would get.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}").into());
        self
    }

    /// With its discovery in an etcd.
    #[must_use]
    pub fn with_etcd(mut self, etcd: EtcdApi) -> Self {
        self.discovery = Discovery::Etcd(Box::new(etcd));
        self
    }

    /// A pool's `discovery.dynamo` that finds its workers, behind `frontend`.
    pub fn pool_discovery(&self, frontend: &str) -> Value {
        let mut keys = json!({"namespace": "dynamo", "frontend": frontend});
        match &self.discovery {
            Discovery::Files(dir) => {
                keys["backend"] = "file".into();
                keys["path"] = dir.to_string_lossy().into();
            }
            Discovery::Etcd(etcd) => {
                keys["backend"] = "etcd".into();
                keys["etcd"] = json!({"endpoints": [format!("http://{}", etcd.address())]});
            }
        }
        keys
    }

    /// Starts one worker.
    ///
    /// # Errors
    /// When it does not start.
    pub fn worker(&self, name: &str, args: &[&str]) -> Result<Process> {
        let model = self.model.to_string_lossy();
        #[rustfmt::skip]
        let mut words = vec![
            "--model-path", &model, "--model-name", MODEL, "--block-size", BLOCK_SIZE, "--speedup-ratio", "1000",
        ];
        words.extend(args);
        self.spawn_module(name, "dynamo.mocker", &words)
    }

    /// Starts one worker that serves these models and writes the token ids of every prompt into `record`, a line of JSON
    /// each.
    ///
    /// # Errors
    /// When it does not start.
    pub fn recording_worker(&self, record: &Path, models: &[RecordedModel]) -> Result<Process> {
        let mut words = vec![record.to_string_lossy().into_owned()];
        words.extend(models.iter().map(|RecordedModel { name, dir, parser }| {
            let parser = parser.map_or_else(String::new, |parser| format!("={parser}"));
            format!("{name}={}{parser}", dir.display())
        }));
        let script = workspace_root().join("wasm-tests/src/recording_worker.py");
        self.spawn("recording-worker", &[&script.to_string_lossy()], &words)
    }

    /// Starts a frontend, which need not know a worker yet.
    ///
    /// # Errors
    /// When it does not start.
    pub fn frontend(&self, name: &str, router_mode: &str) -> Result<Frontend> {
        let port = unused_port()?;
        #[rustfmt::skip]
        let process = self.spawn_module(name, "dynamo.frontend", &[
            "--http-host", "127.0.0.1", "--http-port", &port.to_string(), "--router-mode", router_mode,
            "--enable-anthropic-api",
        ])?;
        let address = format!("127.0.0.1:{port}");
        Ok(Frontend { process, address })
    }

    /// Starts Dynamo's own KV router, which follows the workers for nobody.
    ///
    /// # Errors
    /// When it does not start.
    pub fn router(&self) -> Result<Router> {
        let port = unused_port()?;
        let script = workspace_root().join("wasm-tests/src/router.py");
        let process = self.spawn(
            "router",
            &[&script.to_string_lossy()],
            &[port.to_string(), BLOCK_SIZE.to_owned()],
        )?;
        let address = format!("127.0.0.1:{port}");
        Ok(Router { process, address })
    }

    /// Ids of the workers that serve.
    ///
    /// # Errors
    /// When discovery cannot be read.
    pub async fn instances(&self) -> Result<BTreeSet<u64>> {
        let keys: Vec<String> = match &self.discovery {
            Discovery::Files(dir) => {
                let bucket = dir.join("v1/instances");
                let files = if bucket.exists() {
                    fs::read_dir(bucket)?.collect()
                } else {
                    Vec::new()
                };
                // A file's name is the key, percent-encoded.
                let name =
                    |file: std::io::Result<fs::DirEntry>| Ok(file?.file_name().to_string_lossy().replace("%2F", "/"));
                files.into_iter().map(name).collect::<Result<_>>()?
            }
            Discovery::Etcd(etcd) => etcd.records("v1/instances/").await?.into_keys().collect(),
        };
        let ids = keys.iter().filter_map(|key| key.rsplit_once("/generate/"));
        ids.map(|(_, id)| Ok(u64::from_str_radix(id, 16)?)).collect()
    }

    /// Starts one more worker, and waits until it tells of itself.
    ///
    /// # Errors
    /// When it does not.
    pub async fn new_worker(&self, name: &str, args: &[&str]) -> Result<(Process, u64)> {
        let known = self.instances().await?;
        let process = self.worker(name, args)?;
        let id = eventually(name, || async {
            Ok(self.instances().await?.difference(&known).next().copied())
        })
        .await
        .with_context(|| process.tail(20))?;
        Ok((process, id))
    }

    /// Where publishers of `topic` publish, as files tell.
    ///
    /// # Errors
    /// When discovery cannot be read.
    pub fn event_channels(&self, topic: &str) -> Result<Vec<String>> {
        let Discovery::Files(dir) = &self.discovery else {
            bail!("not in files");
        };
        let mut channels = Vec::new();
        for file in fs::read_dir(dir.join("v1/event_channels"))? {
            let record: Value = serde_json::from_slice(&fs::read(file?.path())?)?;
            if record["topic"] == topic {
                let endpoint = record["transport"]["config"]["endpoint"].as_str();
                channels.push(endpoint.context("endpoint")?.to_owned());
            }
        }
        Ok(channels)
    }

    fn spawn_module(&self, name: &str, module: &str, args: &[&str]) -> Result<Process> {
        self.spawn(name, &["-m", module], args)
    }

    fn spawn(&self, name: &str, program: &[&str], args: &[impl AsRef<OsStr>]) -> Result<Process> {
        let [backend, place] = match &self.discovery {
            Discovery::Files(dir) => ["file".to_owned(), format!("DYN_FILE_KV={}", dir.display())],
            Discovery::Etcd(etcd) => ["etcd".to_owned(), format!("ETCD_ENDPOINTS=http://{}", etcd.address())],
        };
        let mut words: Vec<OsString> = vec![
            format!("DYN_DISCOVERY_BACKEND={backend}").into(),
            place.into(),
            "DYN_REQUEST_PLANE=tcp".into(),
            "DYN_EVENT_PLANE=zmq".into(),
            "DYN_TCP_RPC_HOST=127.0.0.1".into(),
            "DYN_TCP_RESPONSE_STREAM_HOST=127.0.0.1".into(),
            "DYN_EVENT_PLANE_HOST=127.0.0.1".into(),
            "HF_HUB_OFFLINE=1".into(),
        ];
        words.extend(self.env.iter().cloned());
        words.push(self.python.clone().into());
        words.extend(program.iter().map(OsString::from));
        words.extend(args.iter().map(OsString::from));
        Process::spawn(name, Path::new("/usr/bin/env"), &words, &self.dir)
    }
}

impl Frontend {
    /// URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until it serves the tests' model.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn serves(&self) -> Result<()> {
        self.serves_all(&[MODEL]).await
    }

    /// Waits until it serves models of these names, of which it loads one after the other.
    ///
    /// # Errors
    /// When one of them takes too long.
    pub async fn serves_all(&self, names: &[&str]) -> Result<()> {
        let client = Client::new();
        let models = self.url("/v1/models");
        for count in 1..=names.len() {
            eventually("Dynamo's frontend with one more of the workers' models", || async {
                let Ok(answer) = client.get_json(&models).await else {
                    return Ok(None);
                };
                let known = answer["data"].as_array().into_iter().flatten();
                let known: BTreeSet<_> = known.filter_map(|model| model["id"].as_str()).collect();
                let served = names.iter().filter(|name| known.contains(*name)).count();
                Ok((served >= count).then_some(()))
            })
            .await
            .with_context(|| self.process.tail(20))?;
        }
        Ok(())
    }
}

impl Router {
    /// Names of the blocks that it believes each worker has.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn believes(&self) -> Result<BTreeMap<u64, BTreeSet<String>>> {
        let events = Client::new().get_json(&format!("http://{}", self.address)).await?;
        let mut believed = BTreeMap::<u64, BTreeSet<String>>::new();
        for event in events.as_array().context("events")? {
            let blocks = &event["event"]["data"]["stored"]["blocks"];
            let names = blocks.as_array().context("blocks")?.iter();
            let worker = event["worker_id"].as_u64().context("worker_id")?;
            believed
                .entry(worker)
                .or_default()
                .extend(names.map(|block| block["block_hash"].to_string()));
        }
        Ok(believed)
    }
}

/// A copy of a model of `source` as Dynamo wants it.
///
/// # Errors
/// When a file of it cannot be copied.
pub fn write_model(source: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(source.join(file), dir.join(file)).with_context(|| format!("copy {}", source.join(file).display()))?;
    }
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936,
        "max_position_embeddings": 40_960, "eos_token_id": 151_645, "bos_token_id": 151_643,
    });
    fs::write(dir.join("config.json"), config.to_string())?;
    let generation = json!({"eos_token_id": [151_645, 151_643], "bos_token_id": 151_643});
    fs::write(dir.join("generation_config.json"), generation.to_string())?;
    Ok(())
}

/// A port that nobody uses now.
///
/// # Errors
/// When there is none.
pub fn unused_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
