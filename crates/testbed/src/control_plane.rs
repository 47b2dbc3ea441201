//! The control plane.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::client::Client;
use crate::engine::Engine;
use crate::process::{Process, option};
use crate::wait::eventually;
use crate::{artefacts, manifest};

const NAME: &str = "control-plane";

/// What differs from `manifests/control-plane.yaml` besides ports, paths and workers.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    changes: Map<String, Value>,
}

impl ControlPlaneOptions {
    /// Sets the value at a JSON pointer, as `/gateway/max_staleness` or `/pools/0/routing/temperature`.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        self.changes.insert(pointer.to_owned(), value.into());
        self
    }
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// Its process.
    pub process: Process,
    config: Value,
    listening: Listening,
    run_dir: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Ready {
    listening: Listening,
}

#[derive(Debug, Deserialize)]
struct Listening {
    sync: String,
    admin: String,
}

impl ControlPlane {
    /// `sync`: address for the filters, maybe with port 0.
    pub(crate) async fn start(
        options: &ControlPlaneOptions,
        engines: &[Engine],
        sync: &str,
        run_dir: &Path,
    ) -> Result<Self> {
        let config = manifest::control_plane(engines, &options.changes, [sync, "127.0.0.1:0"])?;
        let (process, listening) = launch(&config, run_dir).await?;
        let run_dir = run_dir.to_owned();
        let this = Self {
            process,
            config,
            listening,
            run_dir,
        };
        this.ready().await?;
        Ok(this)
    }

    /// Starts it again, after [`Process::kill`] or instead of it, on the addresses that it had.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.config["listen"]["sync"] = self.listening.sync.clone().into();
        self.config["listen"]["admin"] = self.listening.admin.clone().into();
        (self.process, self.listening) = launch(&self.config, &self.run_dir).await?;
        self.ready().await
    }

    /// Address for the filters.
    pub fn sync_address(&self) -> &str {
        &self.listening.sync
    }

    /// URL of a path on its admin server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listening.admin)
    }

    /// Its metrics as Prometheus text.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, client: &Client) -> Result<String> {
        Ok(client.get(&self.url("/metrics")).await?.text())
    }

    async fn ready(&self) -> Result<()> {
        let client = Client::new();
        eventually("control plane ready", || async {
            let answer = client.get(&self.url("/readyz")).await?;
            anyhow::ensure!(
                answer.status.is_success(),
                "/readyz: {} {}",
                answer.status,
                answer.text()
            );
            Ok(Some(()))
        })
        .await
    }
}

async fn launch(config: &Value, run_dir: &Path) -> Result<(Process, Listening)> {
    let path = run_dir.join("control-plane.yaml");
    fs::write(&path, serde_json::to_string_pretty(config)?)?;
    let mut args = vec!["serve".into()];
    option(&mut args, "config", &path);
    let mut process = Process::spawn(NAME, &artefacts::warmpath()?, &args, run_dir)?;
    let ready: Ready = serde_json::from_value(process.ready_line().await?)?;
    Ok((process, ready.listening))
}
