//! What the figures were measured on.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbed::{Client, Envoy, workspace_root};

/// The line that goes with the results.
pub(crate) async fn describe(envoy: &Envoy, client: &Client) -> Result<Value> {
    let server = client.get_json(&envoy.admin_url("/server_info")).await?;
    let module = workspace_root().join("target/wasm32-wasip1/filter/filter.wasm");
    Ok(json!({
        "bench": "e2e",
        "case": "machine",
        "cpu": field_of("/proc/cpuinfo", "model name")?,
        "cores": available_parallelism()?,
        "memory": field_of("/proc/meminfo", "MemTotal")?,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "envoy": server["version"].as_str().and_then(|version| version.split('/').nth(1)),
        "commit": commit(),
        "module_bytes": fs::metadata(module).map(|data| data.len()).ok(),
    }))
}

/// First `name : value` of a file in `/proc`.
fn field_of(path: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    Ok(value.unwrap_or_default().trim().to_owned())
}

/// Of the checkout, if it is one: what `git describe` says, with `-dirty` when there are uncommitted changes.
fn commit() -> Option<String> {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(workspace_root())
        .output()
        .ok()?;
    git.status
        .success()
        .then(|| String::from_utf8_lossy(&git.stdout).trim().to_owned())
}
