//! What the parts say about their state, in the metrics that `docs/metrics.md` explains.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::{Envoy, Testbed, eventually};

const PREFIX: &str = "wasmcustom.warmpath.";

/// Counters of the responses' usage against what was predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Responses whose usage was read.
    pub responses: u64,
    /// Tokens that were expected to be cached.
    pub predicted_tokens: u64,
    /// Tokens that were.
    pub cached_tokens: u64,
    /// Prompt lengths by the engine's count.
    pub prompt_tokens: u64,
    /// Responses that contradict the prediction.
    pub mismatches: u64,
}

impl Truth {
    /// The counters now.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn read(envoy: &Envoy) -> Result<Self> {
        let stats = envoy.stats().await?;
        let read = |name: &str| {
            let value = stats.get(&format!("{PREFIX}truth.{name}")).copied().unwrap_or(0);
            u64::try_from(value).with_context(|| format!("truth.{name}: {value}"))
        };
        Ok(Self {
            responses: read("responses")?,
            predicted_tokens: read("predicted_tokens")?,
            cached_tokens: read("cached_tokens")?,
            prompt_tokens: read("prompt_tokens")?,
            mismatches: read("mismatches")?,
        })
    }

    /// What was added since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            responses: self.responses - before.responses,
            predicted_tokens: self.predicted_tokens - before.predicted_tokens,
            cached_tokens: self.cached_tokens - before.cached_tokens,
            prompt_tokens: self.prompt_tokens - before.prompt_tokens,
            mismatches: self.mismatches - before.mismatches,
        }
    }
}

/// Decisions by `<rung>.<reason>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions(BTreeMap<String, i64>);

impl Decisions {
    /// The counters now.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn read(envoy: &Envoy) -> Result<Self> {
        let stats = envoy.stats().await?;
        let prefix = format!("{PREFIX}decisions.");
        let named = stats
            .iter()
            .filter_map(|(name, count)| Some((name.strip_prefix(&prefix)?.to_owned(), *count)));
        Ok(Self(named.collect()))
    }

    /// These counts and no others.
    pub fn of<const N: usize>(counts: [(&str, i64); N]) -> Self {
        Self(counts.map(|(name, count)| (name.to_owned(), count)).into())
    }

    /// What was added since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let change = |(name, count): (&String, &i64)| (name.clone(), count - before.0.get(name).unwrap_or(&0));
        Self(self.0.iter().map(change).filter(|(_, count)| *count != 0).collect())
    }

    /// How many were on a rung, for any reason.
    pub fn sum_of(&self, rung: &str) -> i64 {
        let on_rung = |name: &str| name.split('.').next() == Some(rung);
        self.0
            .iter()
            .filter(|(name, _)| on_rung(name))
            .map(|(_, count)| count)
            .sum()
    }

    /// How many there are of `<rung>.<reason>`.
    pub fn count(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// Waits until every VM, alive and connected, has all views and artefacts.
///
/// # Errors
/// When that takes too long.
pub async fn vms_ready(envoy: &Envoy) -> Result<()> {
    let expected = i64::try_from(envoy.vms())?;
    eventually("VMs ready", || async {
        let ready = envoy
            .stats()
            .await?
            .get(&format!("{PREFIX}vms.ready"))
            .copied()
            .unwrap_or(0);
        Ok((ready == expected).then_some(()))
    })
    .await
}

/// Waits until no VM is connected to the control plane.
///
/// # Errors
/// When that takes too long.
pub async fn vms_disconnected(envoy: &Envoy) -> Result<()> {
    eventually("VMs disconnected", || async {
        let connected = envoy.stats().await?.get(&format!("{PREFIX}vms.connected")).copied();
        Ok((connected == Some(0)).then_some(()))
    })
    .await
}

/// Gauges of load in flight that are not 0.
///
/// # Errors
/// When Envoy does not answer.
pub async fn booked(envoy: &Envoy) -> Result<BTreeMap<String, i64>> {
    let prefix = format!("{PREFIX}load.");
    let stats = envoy.stats().await?.into_iter();
    Ok(stats
        .filter(|(name, value)| name.starts_with(&prefix) && *value != 0)
        .collect())
}

/// Requests in flight on a worker, as the VMs have booked them.
///
/// # Errors
/// When Envoy does not answer.
pub async fn requests_on(envoy: &Envoy, endpoint: &str) -> Result<i64> {
    // Envoy writes `_` for the colon of an address.
    let endpoint = endpoint.replace(':', "_");
    let is_ours =
        |name: &str| name.starts_with(&format!("{PREFIX}load.")) && name.replace(':', "_").contains(&endpoint);
    envoy.sum(|name| is_ours(name) && name.ends_with(".requests")).await
}

/// Waits until nothing is booked.
///
/// # Errors
/// When something stays booked; names it.
pub async fn nothing_booked(envoy: &Envoy) -> Result<()> {
    eventually("nothing booked", || async {
        let booked = booked(envoy).await?;
        anyhow::ensure!(booked.is_empty(), "booked: {booked:?}");
        Ok(Some(()))
    })
    .await
}

/// Waits until the control plane's index is what the engines' caches hold, and every VM's view is that index.
///
/// # Errors
/// When that takes too long.
pub async fn views_true(bed: &Testbed) -> Result<()> {
    let control_plane = bed.control_plane()?;
    eventually("views that are what the engines' caches hold", || async {
        let status = bed.client.get_json(&control_plane.url("/v1/status")).await?;
        let pool = &status["pools"][0];
        let pool_name = pool["name"].as_str().context("pool name")?;
        let ranks = pool["ranks"].as_array().context("ranks")?;
        let known: BTreeMap<(&str, u64), u64> = ranks
            .iter()
            .filter_map(|rank| {
                let address = (rank["endpoint"].as_str()?, rank["dp_rank"].as_u64()?);
                Some((address, rank["blocks"].as_u64()?))
            })
            .collect();
        let mut held = BTreeMap::new();
        for engine in &bed.engines {
            for (rank, blocks) in (0..).zip(engine.cached_blocks(&bed.client).await?) {
                held.insert((engine.endpoint(), rank), blocks as u64);
            }
        }
        ensure!(known == held, "the index has {known:?}, the engines have {held:?}");
        let acked = status["filters"]
            .as_array()
            .context("filters")?
            .iter()
            .map(|filter| &filter["acked"][pool_name]);
        let wanted = json!({"epoch": pool["epoch"], "version": pool["version"]});
        let vms = bed.envoys.iter().map(Envoy::vms).sum::<u64>();
        let up_to_date = acked.filter(|acked| **acked == wanted).count();
        ensure!(
            up_to_date as u64 == vms,
            "{up_to_date} of {vms} VMs have acknowledged {wanted}"
        );
        Ok(Some(()))
    })
    .await
}
