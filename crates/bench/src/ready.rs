//! Waiting until Warmpath decides on its full knowledge.

use anyhow::{Result, ensure};
use testbed::{Envoy, eventually};

/// Waits until every VM has fleet, tokenizer, template and view: the gauge `warmpath.vms.ready` of docs/metrics.md.
pub(crate) async fn warmpath_ready(envoy: &Envoy) -> Result<()> {
    eventually("all VMs ready", || async {
        let (ready, expected) = (
            envoy.sum(|name| name.ends_with("warmpath.vms.ready")).await?,
            envoy.vms(),
        );
        ensure!(u64::try_from(ready)? >= expected, "{ready} of {expected} VMs are ready");
        Ok(Some(()))
    })
    .await
}
