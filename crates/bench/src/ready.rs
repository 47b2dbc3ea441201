//! Waiting until Warmpath decides on its full knowledge.

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::{Client, Envoy, MODEL, eventually};

use crate::decisions::Decisions;

/// Asks until a request is decided on the `exact` rung: then the VM has fleet, tokenizer, template and view. The
/// prompt is shorter than a block, so that it leaves nothing in any prefix cache.
pub(crate) async fn warmpath_ready(envoy: &Envoy, client: &Client) -> Result<()> {
    let url = envoy.url("/v1/completions");
    let body = json!({"model": MODEL, "prompt": "Ready?", "max_tokens": 1});
    eventually("a decision on the exact rung", || async {
        let answer = client.post_json(&url, &body).await?;
        ensure!(answer.status.is_success(), "{url}: {} {}", answer.status, answer.text());
        let decisions = Decisions::of(envoy).await?;
        ensure!(decisions.on("exact") > 0, "decisions so far: {decisions:?}");
        Ok(Some(()))
    })
    .await
}
