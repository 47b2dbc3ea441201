//! etcd: a cluster of one, whose API is asked through its JSON gateway.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::artefacts;
use crate::bed::unused_address;
use crate::client::Client;
use crate::process::{Process, option};
use crate::wait::eventually;

const NAME: &str = "etcd";

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    /// Its process.
    pub process: Process,
    /// What it can be asked.
    pub api: EtcdApi,
    tls_address: Option<String>,
    args: Vec<OsString>,
    dir: PathBuf,
}

/// Asks an etcd, without TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EtcdApi {
    client: Client,
    address: String,
}

/// Files for an etcd that also listens with TLS, and then asks clients for certificates.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// Its certificate.
    pub cert: PathBuf,
    /// And key.
    pub key: PathBuf,
    /// Who signs the clients' certificates.
    pub ca: PathBuf,
}

impl Etcd {
    /// Starts an empty one on free ports; it keeps log and data in `dir`.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub async fn start(dir: &Path) -> Result<Self> {
        Self::launch(dir, None).await
    }

    /// As [`Etcd::start`], with a second port for TLS.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub async fn start_with_tls(dir: &Path, tls: &EtcdTls) -> Result<Self> {
        Self::launch(dir, Some(tls)).await
    }

    async fn launch(dir: &Path, tls: Option<&EtcdTls>) -> Result<Self> {
        let (address, peer) = (unused_address()?, unused_address()?);
        let tls_address = tls.map(|_| unused_address()).transpose()?;
        let plain = format!("http://{address}");
        let urls = match &tls_address {
            Some(tls) => format!("{plain},https://{tls}"),
            None => plain.clone(),
        };
        let peer = format!("http://{peer}");
        let mut args = Vec::new();
        option(&mut args, "data-dir", dir.join("etcd-data"));
        option(&mut args, "listen-client-urls", &urls);
        option(&mut args, "advertise-client-urls", &plain);
        option(&mut args, "listen-peer-urls", &peer);
        option(&mut args, "initial-advertise-peer-urls", &peer);
        option(&mut args, "initial-cluster", format!("default={peer}"));
        if let Some(EtcdTls { cert, key, ca }) = tls {
            option(&mut args, "cert-file", cert);
            option(&mut args, "key-file", key);
            option(&mut args, "trusted-ca-file", ca);
            args.push("--client-cert-auth".into());
        }
        fs::create_dir_all(dir)?;
        let etcd = Self {
            process: spawn(&args, dir)?,
            api: EtcdApi {
                client: Client::new(),
                address,
            },
            tls_address,
            args,
            dir: dir.to_owned(),
        };
        etcd.ready().await?;
        Ok(etcd)
    }

    /// Starts it again with the data that it had, after [`Process::kill`] or instead of it.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(&self.args, &self.dir)?;
        self.ready().await
    }

    /// As [`Etcd::restart`], and it has lost its data.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_empty(&mut self) -> Result<()> {
        self.process.kill();
        fs::remove_dir_all(self.dir.join("etcd-data"))?;
        self.restart().await
    }

    /// `ip:port` where it listens with TLS, if it does.
    pub fn tls_address(&self) -> Option<&str> {
        self.tls_address.as_deref()
    }

    async fn ready(&self) -> Result<()> {
        let health = format!("http://{}/health", self.api.address);
        let waiting = eventually("etcd ready", || async {
            let health = self.api.client.get_json(&health).await?;
            Ok((health["health"] == "true").then_some(()))
        });
        waiting.await.with_context(|| self.process.tail(20))
    }
}

impl EtcdApi {
    /// `ip:port` where it listens without TLS.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Writes a record.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        let record = json!({"key": BASE64.encode(key), "value": BASE64.encode(value)});
        self.call("/v3/kv/put", &record).await.map(drop)
    }

    /// Deletes a record.
    ///
    /// # Errors
    /// When that is refused.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let key = json!({"key": BASE64.encode(key)});
        self.call("/v3/kv/deleterange", &key).await.map(drop)
    }

    /// All records whose keys begin with `prefix`, which ends in `/`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn records(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        // In ASCII, `0` follows `/`.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let range = json!({"key": BASE64.encode(prefix), "range_end": BASE64.encode(end)});
        let answer = self.call("/v3/kv/range", &range).await?;
        let records = answer["kvs"].as_array().into_iter().flatten();
        records
            .map(|record| Ok((text(&record["key"])?, text(&record["value"])?)))
            .collect()
    }

    /// Asks its JSON gateway.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let url = format!("http://{}{path}", self.address);
        let answer = self.client.post_json(&url, body).await?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        answer.json()
    }
}

fn spawn(args: &[OsString], dir: &Path) -> Result<Process> {
    Process::spawn(NAME, &artefacts::etcd()?, args, dir)
}

fn text(base64: &Value) -> Result<String> {
    let bytes = BASE64.decode(base64.as_str().unwrap_or_default())?;
    Ok(String::from_utf8(bytes)?)
}
