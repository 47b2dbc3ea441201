//! Block changes per second that the control plane takes on one core, and the memory that it needs for them, beside
//! Dynamo's radix tree and kv-index on the same events.
//!
//! Ours does what the pool's task does: index, and deltas for the filters. Theirs is the index alone. All hash the tokens
//! of each event. Time is the thread's CPU time, so that the rest of the machine counts little.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kv_trace::{Event, Request};
use serde_json::{Value, json};
use testbed::workspace_root;

use super::Load;
use super::ours::{self, Ours};
use crate::HEAP;
use crate::cpu::cpu_time;
use crate::percentile::rounded;

/// Changes that go into one batch of deltas.
const BATCH: usize = 5_000;

pub(crate) fn run(trace: &Path, requests: &[Request], quick: bool) -> Result<Value> {
    let load = Load {
        workers: 64,
        capacity: if quick { 1_000 } else { 20_000 },
        changes: if quick { 200_000 } else { 3_000_000 },
    };
    let mut fleet = load.fleet();
    let events = kv_trace::events(&mut fleet, requests, load.changes);
    let blocks: usize = events.iter().map(Event::blocks).sum();
    let held = fleet.blocks();
    let events: Vec<_> = events.into_iter().map(ours::event).collect();
    let mut ours = Ours::new()?;
    let memory = HEAP.current_usage();
    let start = cpu_time(std::process::id())?;
    for (worker, event) in &events {
        ours.apply(*worker, event);
        if ours.pending() >= BATCH {
            ours.publish();
        }
    }
    let time = cpu_time(std::process::id())? - start;
    let bytes = HEAP.current_usage().saturating_sub(memory) as f64 / held as f64;
    let rate = |time: Duration| (blocks as f64 / time.as_secs_f64()) as u64;
    let peers = peers(trace, load)?;
    Ok(json!({
        "bench": "index",
        "case": "ingest",
        "warmpath_block_ops_s": rate(time),
        "dynamo_block_ops_s": peers["dynamo_block_ops_s"],
        "kv_index_block_ops_s": peers["kv_index_block_ops_s"],
        "bytes_per_block": rounded(bytes, 1),
    }))
}

/// What `crates/bench-peers` measures; nulls if it is not built, as `--quick` does not build it.
fn peers(trace: &Path, load: Load) -> Result<Value> {
    let binary = workspace_root().join("target/peers/release/bench-peers");
    if !binary.exists() {
        return Ok(Value::Null);
    }
    let output = Command::new(&binary)
        .arg(trace)
        .args([load.workers.into(), load.capacity, load.changes].map(|number: usize| number.to_string()))
        .output()
        .with_context(|| format!("run {}", binary.display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
