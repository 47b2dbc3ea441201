//! What the parts say about their state, in the metrics that `docs/metrics.md` explains.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
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

/// What of the prompts was remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recall {
    /// Bytes of prompts' texts.
    pub bytes: u64,
    /// Of these, those that were not tokenized again.
    pub remembered_bytes: u64,
}

impl Recall {
    /// The counters now.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn read(envoy: &Envoy) -> Result<Self> {
        let stats = envoy.stats().await?;
        let read = |name: &str| {
            let value = stats.get(&format!("{PREFIX}prompts.{name}")).copied().unwrap_or(0);
            u64::try_from(value).with_context(|| format!("prompts.{name}: {value}"))
        };
        Ok(Self {
            bytes: read("bytes")?,
            remembered_bytes: read("remembered_bytes")?,
        })
    }

    /// What was added since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            remembered_bytes: self.remembered_bytes - before.remembered_bytes,
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
    views_true_in(bed, vms(bed)).await
}

fn vms(bed: &Testbed) -> u64 {
    bed.envoys.iter().map(Envoy::vms).sum()
}

/// Waits until every VM has a view of each pool that the control plane has, from this control plane and not from one before it.
///
/// # Errors
/// When that takes too long.
pub async fn views_new(bed: &Testbed) -> Result<()> {
    eventually("views of this control plane", || async {
        let status = Status::read(bed).await?;
        let pools = status.0["pools"].as_array().context("pools")?;
        let filters = status.0["filters"].as_array().context("filters")?;
        ensure!(filters.len() as u64 == vms(bed), "{} VMs are connected", filters.len());
        for filter in filters {
            for pool in pools {
                let name = pool["name"].as_str().context("pool name")?;
                let acked = &filter["acked"][name]["epoch"];
                ensure!(*acked == pool["epoch"], "{name}: {acked}, not epoch {}", pool["epoch"]);
            }
        }
        Ok(Some(()))
    })
    .await
}

/// As [`views_true`], in so many of the VMs and no others.
///
/// # Errors
/// When that takes too long.
pub async fn views_true_in(bed: &Testbed, vms: u64) -> Result<()> {
    eventually("views that are what the engines' caches hold", || async {
        let status = Status::read(bed).await?;
        let (known, held) = (status.index()?, held(bed).await?);
        ensure!(known == held, "the index has {known:?}, the engines have {held:?}");
        status.ensure_acked_by(vms)?;
        Ok(Some(()))
    })
    .await
}

/// Waits until the control plane's index is, block by block, what the engines' caches hold, and every VM's view is that
/// index.
///
/// # Errors
/// When that takes too long; with the number of ghosts (blocks that only the index has) and of lost ones.
pub async fn blocks_true(bed: &Testbed) -> Result<()> {
    views_true(bed).await?;
    eventually("an index without ghosts and without losses", || async {
        let (mut ghosts, mut lost) = (0, 0);
        for engine in &bed.engines {
            for (rank, cached) in (0..).zip(engine.cached_hashes(&bed.client).await?) {
                let indexed = indexed_hashes(bed, engine.endpoint(), rank).await?;
                ghosts += indexed.difference(&cached).count();
                lost += cached.difference(&indexed).count();
            }
        }
        ensure!((ghosts, lost) == (0, 0), "{ghosts} ghosts, {lost} lost");
        Ok(Some(()))
    })
    .await
}

/// The engine's own hashes of a rank's blocks in the control plane's view.
async fn indexed_hashes(bed: &Testbed, endpoint: &str, rank: u32) -> Result<BTreeSet<String>> {
    let pool = Status::read(bed).await?.pool()["name"]
        .as_str()
        .context("pool name")?
        .to_owned();
    let path = format!("/v1/blocks?pool={pool}&endpoint={endpoint}&dp_rank={rank}");
    let text = bed.client.get(&bed.control_plane()?.url(&path)).await?.text();
    let mut hashes = BTreeSet::new();
    for line in text.lines() {
        let block: Value = serde_json::from_str(line)?;
        if block["visible"] == true {
            hashes.insert(block["engine_hash"].as_str().context("engine_hash")?.to_owned());
        }
    }
    Ok(hashes)
}

/// Blocks by endpoint and dp rank.
pub type Blocks = BTreeMap<(String, u64), u64>;

/// Blocks in the engines' caches, by their own account.
///
/// # Errors
/// When an engine does not answer.
pub async fn held(bed: &Testbed) -> Result<Blocks> {
    let mut held = Blocks::new();
    for engine in &bed.engines {
        for (rank, blocks) in (0..).zip(engine.cached_blocks(&bed.client).await?) {
            held.insert((engine.endpoint().to_owned(), rank), blocks as u64);
        }
    }
    Ok(held)
}

/// The control plane's `/v1/status`, of its first pool.
#[derive(Debug)]
pub struct Status(Value);

impl Status {
    /// As it is now.
    ///
    /// # Errors
    /// When there is no control plane or it does not answer.
    pub async fn read(bed: &Testbed) -> Result<Self> {
        let url = bed.control_plane()?.url("/v1/status");
        Ok(Self(bed.client.get_json(&url).await?))
    }

    /// Blocks in its index.
    ///
    /// # Errors
    /// When the status has another shape.
    pub fn index(&self) -> Result<Blocks> {
        let ranks = self.pool()["ranks"].as_array().context("ranks")?;
        let blocks = |rank: &Value| {
            let address = (rank["endpoint"].as_str()?.to_owned(), rank["dp_rank"].as_u64()?);
            Some((address, rank["blocks"].as_u64()?))
        };
        ranks
            .iter()
            .map(blocks)
            .collect::<Option<_>>()
            .context("endpoint, dp_rank, blocks")
    }

    /// Whether some rank's index is known to be incomplete.
    pub fn is_degraded(&self) -> bool {
        let ranks = self.pool()["ranks"].as_array();
        ranks.into_iter().flatten().any(|rank| !rank["degraded"].is_null())
    }

    /// That every VM has the newest version of the view, whole.
    ///
    /// # Errors
    /// When not.
    pub fn ensure_acked(&self, bed: &Testbed) -> Result<()> {
        self.ensure_acked_by(vms(bed))
    }

    /// That so many VMs have it and no others.
    ///
    /// # Errors
    /// When not.
    pub fn ensure_acked_by(&self, vms: u64) -> Result<()> {
        let pool = self.pool();
        let name = pool["name"].as_str().context("pool name")?;
        let is_newest = |view: &Value| {
            let same = |key: &str| view[key] == pool[key];
            same("epoch") && same("version") && view["checksum"] == pool["view"]["checksum"] && view["refused"] == 0
        };
        let filters = self.0["filters"].as_array().context("filters")?;
        let up_to_date = filters
            .iter()
            .filter(|filter| is_newest(&filter["acked"][name]))
            .count() as u64;
        ensure!(
            up_to_date == vms,
            "{up_to_date} VMs, not {vms}, have acknowledged version {} of epoch {}",
            pool["version"],
            pool["epoch"]
        );
        Ok(())
    }

    /// The first pool's part of it.
    pub fn pool(&self) -> &Value {
        &self.0["pools"][0]
    }
}
