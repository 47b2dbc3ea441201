//! The built module in a real Envoy, against the real control plane and simulated engines: what the tests share.
//!
//! Each file in `tests/` is a topic. Its tests start a testbed, run several checks on it one after the other, and end
//! in [`run`], which also asserts what must hold after any traffic: no VM trapped, no 5xx was answered, nothing is
//! booked any more.

pub mod crowd;
pub mod dynamo;
pub mod event_plane;
pub mod known;
pub mod oddities;
pub mod prompts;
pub mod state;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{Envoy, Mode, Testbed, eventually};

/// Runs checks on a testbed, then those of what must hold after any traffic. On failure prints the ends of all logs and panics with the error.
///
/// # Panics
/// When a check fails.
pub async fn run(mut bed: Testbed, checks: impl AsyncFnOnce(&mut Testbed) -> Result<()>) {
    let outcome = match checks(&mut bed).await {
        Ok(()) => aftermath(&bed, true).await,
        failed => failed,
    };
    judge(outcome);
}

/// As [`run`], for tests that kill workers while these answer: Envoy says 503 for an answer that broke off before its
/// first byte, and nobody can know whether it is safe to ask again.
///
/// # Panics
/// When a check fails.
pub async fn run_with_casualties(mut bed: Testbed, checks: impl AsyncFnOnce(&mut Testbed) -> Result<()>) {
    let outcome = match checks(&mut bed).await {
        Ok(()) => aftermath(&bed, false).await,
        failed => failed,
    };
    judge(outcome);
}

fn judge(outcome: Result<()>) {
    if let Err(error) = outcome {
        // Dropping the testbed in a panicking thread prints the logs.
        panic!("{error:#}");
    }
}

/// What must hold after any traffic.
async fn aftermath(bed: &Testbed, never_5xx: bool) -> Result<()> {
    for envoy in &bed.envoys {
        let name = envoy.process.name();
        let failures = envoy.wasm_failures().await?;
        ensure!(failures.is_empty(), "{name}: {}", failures.join("\n"));
        let is_5xx = |stat: &str| {
            stat.starts_with("http.") && !stat.starts_with("http.admin.") && stat.ends_with(".downstream_rq_5xx")
        };
        let server_errors = envoy.sum(is_5xx).await?;
        ensure!(
            server_errors == 0 || !never_5xx,
            "{name}: {server_errors} requests were answered with 5xx"
        );
        if envoy.options().mode == Mode::Warmpath {
            state::nothing_booked(envoy).await?;
        }
    }
    Ok(())
}

/// Waits until every VM of every Envoy has everything that the control plane has to give.
///
/// # Errors
/// When that takes too long.
pub async fn synced(bed: &Testbed) -> Result<()> {
    for envoy in &bed.envoys {
        state::vms_ready(envoy).await?;
    }
    Ok(())
}

/// Waits until the engines are idle and every VM's view is what their caches truly hold.
///
/// # Errors
/// When that takes too long.
pub async fn settled(bed: &Testbed) -> Result<()> {
    idle(bed).await?;
    state::views_true(bed).await
}

/// Waits until no engine has anything to do.
///
/// # Errors
/// When that takes too long.
pub async fn idle(bed: &Testbed) -> Result<()> {
    eventually("idle engines", || async {
        for engine in &bed.engines {
            if engine.running(&bed.client).await? > 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// The first Envoy.
///
/// # Errors
/// When there is none.
pub fn gateway(bed: &Testbed) -> Result<&Envoy> {
    bed.envoys.first().context("no Envoy was asked for")
}

/// Token ids of a request's prompt, as an engine computes them on its own account.
///
/// # Errors
/// When the engine refuses.
pub async fn tokens(bed: &Testbed, request: &Value) -> Result<Vec<u32>> {
    let engine = bed.engines.first().context("no engine")?;
    let answer = bed.client.post_json(&engine.url("/tokenize"), request).await?.json()?;
    serde_json::from_value(answer["tokens"].clone()).context("tokens")
}

/// Tokens of the full blocks that two prompts have in common. A prompt that is cached whole still has one block
/// computed anew, for there must be something to sample from.
pub fn shared_tokens(cached: &[u32], wanted: &[u32], block_size: usize) -> u64 {
    let common = cached.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let usable = common.min(wanted.len().saturating_sub(1));
    (usable / block_size * block_size) as u64
}
