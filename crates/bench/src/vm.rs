//! Envoy with `crates/bench-module`, which says what its jobs are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use testbed::{Client, EnvoyOptions, Payload, Request, Testbed};

/// One worker thread's VM.
pub(crate) struct Vm {
    bed: Testbed,
    client: Client,
}

/// What every job but `/decide` tells.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Done {
    ns: u64,
    memory: u64,
    /// Entries of the view, for `/apply`.
    #[serde(default)]
    pub(crate) entries: u64,
}

#[derive(Deserialize)]
struct Times {
    ns: Vec<u64>,
}

impl Done {
    pub(crate) fn time(self) -> Duration {
        Duration::from_nanos(self.ns)
    }

    /// High-water mark of the VM's memory, in bytes.
    pub(crate) fn memory(self) -> u64 {
        self.memory
    }
}

impl Vm {
    /// A fresh one.
    pub(crate) async fn start() -> Result<Self> {
        let options = EnvoyOptions::module("bench_module");
        let bed = Testbed::builder("vm").envoy(options).start().await?;
        let client = bed.client.clone();
        Ok(Self { bed, client })
    }

    pub(crate) async fn run(&self, job: &str, body: impl Into<Bytes>) -> Result<Done> {
        self.job(job, body.into()).await
    }

    /// How long each decision took.
    pub(crate) async fn decide(&self, queries: impl Into<Bytes>) -> Result<Vec<Duration>> {
        let Times { ns } = self.job("decide", queries.into()).await?;
        Ok(ns.into_iter().map(Duration::from_nanos).collect())
    }

    async fn job<T: DeserializeOwned>(&self, job: &str, body: Bytes) -> Result<T> {
        let envoy = self.bed.envoys.first().context("no Envoy")?;
        let request = Request::post(&envoy.url(&format!("/{job}")), Payload::Whole(body));
        let answer = self.client.send(request).await?;
        ensure!(answer.status.is_success(), "{job}: {} {}", answer.status, answer.text());
        serde_json::from_slice(&answer.body).with_context(|| format!("{job}: {}", answer.text()))
    }
}
