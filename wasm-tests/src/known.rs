//! What a control plane knows of the caches of Dynamo's workers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{Testbed, eventually};

use crate::dynamo::Router;

/// Blocks as the admin API lists them, by worker.
pub type Known = BTreeMap<u64, BTreeSet<String>>;

/// The blocks of each of these workers, if there are no others, all of them is known and their events come.
///
/// # Errors
/// When something is not known yet.
pub async fn known(bed: &Testbed, workers: &[u64]) -> Result<Known> {
    let control_plane = bed.control_plane()?;
    let status = bed.client.get_json(&control_plane.url("/v1/status")).await?;
    let pool = &status["pools"][0];
    let ranks = pool["ranks"].as_array().context("ranks")?;
    let is_whole = |rank: &Value| rank["connected"] == true && rank["degraded"].is_null() && rank["trouble"].is_null();
    ensure!(ranks.len() == workers.len() && ranks.iter().all(is_whole), "{ranks:?}");
    let pool = pool["name"].as_str().context("pool name")?;
    let mut known = BTreeMap::new();
    for worker in workers {
        let url = control_plane.url(&format!("/v1/blocks?pool={pool}&endpoint={worker}"));
        let answer = bed.client.get(&url).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        known.insert(*worker, answer.text().lines().map(str::to_owned).collect());
    }
    Ok(known)
}

/// Waits until what is known of these workers is what Dynamo's own router believes.
///
/// # Errors
/// When that takes too long.
pub async fn is_believed(router: &Router, bed: &Testbed, workers: &[u64]) -> Result<()> {
    eventually("an index that is Dynamo's", || async {
        let (ours, theirs) = (names(&known(bed, workers).await?)?, router.believes().await?);
        ensure!(ours == theirs, "{ours:?}, and Dynamo's router believes {theirs:?}");
        Ok(Some(()))
    })
    .await
}

/// The workers' own names of their blocks, without the workers that have none.
fn names(known: &Known) -> Result<BTreeMap<u64, BTreeSet<String>>> {
    let name = |line: &String| {
        let block: Value = serde_json::from_str(line)?;
        Ok(block["engine_hash"].as_str().context("engine_hash")?.to_owned())
    };
    let named = known.iter().filter(|(_, blocks)| !blocks.is_empty());
    named
        .map(|(worker, blocks)| Ok((*worker, blocks.iter().map(name).collect::<Result<_>>()?)))
        .collect()
}

/// How many each has.
pub fn sizes(known: &Known) -> String {
    let sizes = known.iter().map(|(worker, blocks)| (worker, blocks.len()));
    format!("{:?}", sizes.collect::<Vec<_>>())
}
