//! Everything together.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{process, thread};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;

use crate::client::{Answer, Client};
use crate::control_plane::{ControlPlane, ControlPlaneOptions};
use crate::engine::{Engine, EngineOptions};
use crate::envoy::{Envoy, EnvoyOptions};
use crate::process::Process;
use crate::workspace_root;

/// What to start.
#[derive(Debug)]
pub struct Builder {
    name: String,
    engines: Vec<EngineOptions>,
    foreign: Vec<Engine>,
    control_plane: Option<ControlPlaneOptions>,
    envoys: Vec<EnvoyOptions>,
}

/// Running processes. Dropping it kills and reaps them; in a panicking thread it prints the ends of their logs first.
#[derive(Debug)]
pub struct Testbed {
    /// Envoys, in the order asked for.
    pub envoys: Vec<Envoy>,
    /// The control plane, if there is one.
    pub control_plane: Option<ControlPlane>,
    /// Engines, in the order asked for.
    pub engines: Vec<Engine>,
    /// For requests to any of them.
    pub client: Client,
    /// Where Envoys look for the control plane, there or not.
    sync: String,
    run_dir: PathBuf,
}

impl Builder {
    /// Adds `count` equal engines.
    #[must_use]
    pub fn engines(mut self, count: usize, options: EngineOptions) -> Self {
        self.engines.extend((0..count).map(|_| options.clone()));
        self
    }

    /// Adds an engine that runs already, after those to start: see [`Engine::foreign`].
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.foreign.push(engine);
        self
    }

    /// Adds a control plane.
    #[must_use]
    pub fn control_plane(mut self, options: ControlPlaneOptions) -> Self {
        self.control_plane = Some(options);
        self
    }

    /// Adds an Envoy in front of all engines.
    #[must_use]
    pub fn envoy(mut self, options: EnvoyOptions) -> Self {
        self.envoys.push(options);
        self
    }

    /// Starts everything and waits until each process is ready. What was started is stopped again if not all is.
    ///
    /// # Errors
    /// When something is not ready in time; with the end of its log.
    pub async fn start(self) -> Result<Testbed> {
        let Self {
            name,
            engines,
            foreign,
            control_plane,
            envoys,
        } = self;
        let mut bed = Testbed {
            envoys: Vec::new(),
            control_plane: None,
            engines: Vec::new(),
            client: Client::new(),
            sync: String::new(),
            run_dir: fresh_run_dir(&name)?,
        };
        let run_dir = &bed.run_dir;
        let starting = engines
            .into_iter()
            .enumerate()
            .map(|(number, options)| async move { Engine::start(&format!("engine-{number}"), options, run_dir).await });
        bed.engines = try_join_all(starting).await?;
        bed.engines.extend(foreign);
        match control_plane {
            Some(options) => bed.start_control_plane(options).await?,
            None => bed.sync = unused_address()?,
        }
        for options in envoys {
            bed.start_envoy(options).await?;
        }
        Ok(bed)
    }
}

impl Testbed {
    /// Says what to start. `name` is part of the log directory's name.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            engines: Vec::new(),
            foreign: Vec::new(),
            control_plane: None,
            envoys: Vec::new(),
        }
    }

    /// Starts the control plane, at the address where Envoys that run already look for it.
    ///
    /// # Errors
    /// When it does not come up, or when there is one.
    pub async fn start_control_plane(&mut self, options: ControlPlaneOptions) -> Result<()> {
        ensure!(self.control_plane.is_none(), "there is a control plane already");
        let sync = if self.sync.is_empty() {
            "127.0.0.1:0"
        } else {
            &self.sync
        };
        let started = ControlPlane::start(&options, &self.engines, sync, &self.run_dir).await?;
        self.sync = started.sync_address().to_owned();
        self.control_plane = Some(started);
        Ok(())
    }

    /// Starts one more Envoy.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_envoy(&mut self, options: EnvoyOptions) -> Result<&Envoy> {
        let name = format!("envoy-{}", self.envoys.len());
        let started = Envoy::start(&name, options, &self.engines, &self.sync, &self.run_dir).await?;
        self.envoys.push(started);
        self.envoys.last().context("just pushed")
    }

    /// The control plane.
    ///
    /// # Errors
    /// When there is none.
    pub fn control_plane(&self) -> Result<&ControlPlane> {
        self.control_plane.as_ref().context("no control plane was asked for")
    }

    /// The engine that gave this answer, as a place in [`Self::engines`].
    ///
    /// # Errors
    /// When no engine gave it.
    pub fn worker_of(&self, answer: &Answer) -> Result<usize> {
        let worker = answer.header("x-engine-sim-worker")?;
        let place = self.engines.iter().position(|engine| engine.endpoint() == worker);
        place.with_context(|| format!("no such engine: {worker}"))
    }

    /// Directory of logs and configurations.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Every process.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let engines = self.engines.iter().map(|engine| &engine.process);
        let control_plane = self.control_plane.iter().map(|control_plane| &control_plane.process);
        engines
            .chain(control_plane)
            .chain(self.envoys.iter().map(|envoy| &envoy.process))
    }

    /// Prints the last lines of every process' log.
    pub fn print_logs(&self) {
        for process in self.processes() {
            eprintln!(
                "\n--- {} ({})\n{}",
                process.name(),
                process.log_path().display(),
                process.tail(60)
            );
        }
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_logs();
        }
    }
}

fn fresh_run_dir(name: &str) -> Result<PathBuf> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let dir = workspace_root().join(format!("target/testbed/{name}-{}-{run}", process::id()));
    // Left by an earlier process of the same id.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

/// An address of this machine where nobody listens.
pub(crate) fn unused_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
