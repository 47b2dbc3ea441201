//! What carries KV events from Dynamo's workers to us, where it is not their own sockets: a NATS server, and ZMQ brokers.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testbed::{Process, eventually, workspace_root};
use tokio::net::TcpStream;

use crate::dynamo::unused_port;

/// Passes on subscriptions and messages between an XSUB and an XPUB socket.
const BROKER: &str = "
import sys, zmq
context = zmq.Context()
xsub, xpub = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
xsub.bind(sys.argv[1])
xpub.bind(sys.argv[2])
zmq.proxy(xsub, xpub)
";

/// A process that carries events, at ports that stay its own.
#[derive(Debug)]
pub struct Carrier {
    process: Process,
    program: PathBuf,
    args: Vec<OsString>,
    log_dir: PathBuf,
    ports: Vec<u16>,
}

impl Carrier {
    /// A NATS server. Its port is the only one.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn nats(log_dir: &Path) -> Result<Self> {
        let port = unused_port()?;
        let args = ["--addr", "127.0.0.1", "--port", &port.to_string()].map(OsString::from);
        Self::start("nats", installed("nats-server")?, args.to_vec(), log_dir, vec![port]).await
    }

    /// A ZMQ broker. Its ports are those of XSUB and XPUB.
    ///
    /// # Errors
    /// When Python is not installed or the broker does not start.
    pub async fn broker(name: &str, log_dir: &Path) -> Result<Self> {
        let ports = vec![unused_port()?, unused_port()?];
        let mut args: Vec<OsString> = vec!["-c".into(), BROKER.into()];
        args.extend(ports.iter().map(|port| format!("tcp://127.0.0.1:{port}").into()));
        Self::start(name, installed("python")?, args, log_dir, ports).await
    }

    /// Its ports on 127.0.0.1.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Carrier::kill`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = Process::spawn(self.process.name(), &self.program, &self.args, &self.log_dir)?;
        self.listens().await
    }

    async fn start(name: &str, program: PathBuf, args: Vec<OsString>, log_dir: &Path, ports: Vec<u16>) -> Result<Self> {
        fs::create_dir_all(log_dir)?;
        let this = Self {
            process: Process::spawn(name, &program, &args, log_dir)?,
            program,
            args,
            log_dir: log_dir.to_owned(),
            ports,
        };
        this.listens().await?;
        Ok(this)
    }

    async fn listens(&self) -> Result<()> {
        eventually(self.process.name(), || async {
            for port in &self.ports {
                TcpStream::connect(("127.0.0.1", *port)).await?;
            }
            Ok(Some(()))
        })
        .await
        .with_context(|| self.process.tail(20))
    }
}

/// A program of the Python environment that has Dynamo.
fn installed(name: &str) -> Result<PathBuf> {
    let path = workspace_root().join("target/tools/venv-dynamo/bin").join(name);
    ensure!(path.exists(), "no {}: run scripts/setup interop", path.display());
    Ok(path)
}
