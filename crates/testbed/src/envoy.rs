//! One Envoy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::artefacts;
use crate::client::Client;
use crate::engine::Engine;
use crate::manifest::{self, EnvoyPorts};
use crate::process::{Process, option};
use crate::wait::eventually;

/// What stands between client and workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `manifests/envoy.yaml` as it ships.
    Warmpath,
    /// The same without the filter; Envoy's round robin picks.
    RoundRobin,
    /// As [`Mode::RoundRobin`], with Envoy's own buffer filter, which holds a request until its body is whole.
    Buffered,
}

/// Settings of one Envoy.
#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    /// Mode.
    pub mode: Mode,
    /// Worker threads.
    pub concurrency: u32,
    /// Changes to the plugin's configuration.
    pub plugin: Map<String, Value>,
    /// Another module in the filter's place, as `target/wasm32-wasip1/filter/<name>.wasm`.
    pub module: Option<&'static str>,
    /// Where it looks for the control plane, if not where that is.
    pub sync: Option<String>,
}

impl EnvoyOptions {
    /// One worker thread, the plugin configured as it ships.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            concurrency: 1,
            plugin: Map::new(),
            module: None,
            sync: None,
        }
    }

    /// One worker thread that runs another module of the workspace in the filter's place.
    pub fn module(name: &'static str) -> Self {
        Self {
            module: Some(name),
            ..Self::new(Mode::Warmpath)
        }
    }

    /// Sets the number of worker threads.
    #[must_use]
    pub fn concurrency(mut self, threads: u32) -> Self {
        self.concurrency = threads;
        self
    }

    /// Looks for the control plane at another address.
    #[must_use]
    pub fn sync(mut self, address: &str) -> Self {
        self.sync = Some(address.to_owned());
        self
    }

    /// Changes a setting of the plugin.
    #[must_use]
    pub fn plugin(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.plugin.insert(name.to_owned(), value.into());
        self
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// Its process.
    pub process: Process,
    options: EnvoyOptions,
    listener: String,
    admin: String,
    client: Client,
    config: Value,
    run_dir: PathBuf,
}

impl Envoy {
    pub(crate) async fn start(
        name: &str,
        options: EnvoyOptions,
        engines: &[Engine],
        sync: &str,
        run_dir: &Path,
    ) -> Result<Self> {
        if options.mode == Mode::Warmpath {
            artefacts::module(options.module)?;
        }
        let sync = options.sync.as_deref().unwrap_or(sync);
        let config = manifest::envoy(&options, engines, sync, EnvoyPorts::default())?;
        let (process, admin_file) = launch(name, &options, &config, run_dir)?;
        let client = Client::new();
        let mut this = Self {
            process,
            options,
            listener: String::new(),
            admin: String::new(),
            client,
            config,
            run_dir: run_dir.to_owned(),
        };
        (this.admin, this.listener) = this.addresses(&admin_file).await?;
        Ok(this)
    }

    /// Starts it again, after [`Process::kill`] or instead of it, on the ports that it had.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        manifest::set_envoy_ports(&mut self.config, &self.listener, &self.admin)?;
        let name = self.process.name().to_owned();
        let (process, admin_file) = launch(&name, &self.options, &self.config, &self.run_dir)?;
        self.process = process;
        (self.admin, self.listener) = self.addresses(&admin_file).await?;
        Ok(())
    }

    /// URL of a path on its listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener)
    }

    /// URL of a path on its admin server.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// Its settings.
    pub fn options(&self) -> &EnvoyOptions {
        &self.options
    }

    /// Wasm VMs that it runs when all is well: one for each worker thread and one on the main thread.
    pub fn vms(&self) -> u64 {
        match self.options.mode {
            Mode::Warmpath => u64::from(self.options.concurrency) + 1,
            Mode::RoundRobin | Mode::Buffered => 0,
        }
    }

    /// Counters and gauges by name.
    ///
    /// # Errors
    /// When the admin server does not answer.
    pub async fn stats(&self) -> Result<BTreeMap<String, i64>> {
        let answer = self.client.get(&self.admin_url("/stats")).await?;
        let text = answer.text();
        // Histograms and texts have no number.
        let numbers = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(numbers.collect())
    }

    /// Sum of the counters and gauges whose name passes.
    ///
    /// # Errors
    /// When the admin server does not answer.
    pub async fn sum(&self, passes: impl Fn(&str) -> bool) -> Result<i64> {
        Ok(self
            .stats()
            .await?
            .iter()
            .filter(|(name, _)| passes(name))
            .map(|(_, value)| value)
            .sum())
    }

    /// Signs that a VM trapped, failed to load or refused its configuration; empty when all is well.
    ///
    /// # Errors
    /// When the admin server does not answer or the log cannot be read.
    pub async fn wasm_failures(&self) -> Result<Vec<String>> {
        let stats = self.stats().await?;
        // `wasm.<plugin>.vm_reload*`: VMs that trapped and were, or could not be, started again.
        let is_reload = |name: &str| name.starts_with("wasm.") && name.contains(".vm_reload");
        let reloads = stats.iter().filter(|(name, count)| is_reload(name) && **count != 0);
        let mut failures: Vec<_> = reloads.map(|(name, count)| format!("{name}: {count}")).collect();
        if self.options.mode == Mode::Warmpath {
            let active = stats.get("wasm.envoy.wasm.runtime.v8.active").copied().unwrap_or(0);
            if active < i64::try_from(self.vms())? {
                failures.push(format!("{active} VMs, expected {}", self.vms()));
            }
        }
        let log = self.process.log()?;
        let is_failure = |line: &&str| WASM_FAILURE_LINES.iter().any(|sign| line.contains(sign));
        failures.extend(log.lines().filter(is_failure).map(str::to_owned));
        Ok(failures)
    }

    /// Waits for the admin server, for initialization and for the listener's address.
    async fn addresses(&mut self, admin_file: &Path) -> Result<(String, String)> {
        let process = &mut self.process;
        let client = &self.client;
        let admin = eventually("Envoy's admin address", || {
            let address = match process.ended() {
                Some(status) => Err(anyhow::anyhow!("Envoy ended: {status}\n{}", process.tail(20))),
                None => Ok(fs::read_to_string(admin_file)
                    .ok()
                    .filter(|address| !address.is_empty())),
            };
            async { address }
        })
        .await?;
        eventually("Envoy ready", || async {
            let ready = client.get(&format!("http://{admin}/ready")).await?;
            ensure!(ready.status.is_success(), "/ready: {} {}", ready.status, ready.text());
            Ok(Some(()))
        })
        .await
        .with_context(|| process.tail(20))?;
        let listeners = client
            .get_json(&format!("http://{admin}/listeners?format=json"))
            .await?;
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let host = address["address"]
            .as_str()
            .with_context(|| format!("listener address: {listeners}"))?;
        let port = address["port_value"]
            .as_u64()
            .with_context(|| format!("listener port: {listeners}"))?;
        Ok((admin, format!("{host}:{port}")))
    }
}

/// What Envoy and its wasm host log when a module traps or cannot be used.
const WASM_FAILURE_LINES: [&str; 7] = [
    "Uncaught RuntimeError",
    "Function: proxy_",
    "Wasm VM failed",
    "Plugin configured to fail closed",
    "Failed to load Wasm",
    "Failed to initialize Wasm",
    "panicked at",
];

fn launch(name: &str, options: &EnvoyOptions, config: &Value, run_dir: &Path) -> Result<(Process, PathBuf)> {
    let config_file = run_dir.join(format!("{name}.json"));
    fs::write(&config_file, serde_json::to_string_pretty(config)?)?;
    let admin_file = run_dir.join(format!("{name}.admin"));
    // An earlier process may have left it.
    let _ = fs::remove_file(&admin_file);
    let mut args = vec!["--disable-hot-restart".into()];
    option(&mut args, "config-path", &config_file);
    option(&mut args, "admin-address-path", &admin_file);
    option(&mut args, "concurrency", options.concurrency.to_string());
    option(&mut args, "log-level", "info");
    let process = Process::spawn(name, &artefacts::envoy()?, &args, run_dir)?;
    Ok((process, admin_file))
}
