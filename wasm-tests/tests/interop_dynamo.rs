//! Dynamo's workers behind our Envoy, found through Dynamo's own discovery: they come and go, what they cache is known
//! whenever it was cached, and requests reach the worker that has it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{
    Client, ControlPlaneOptions, Engine, EngineOptions, EnvoyOptions, MODEL, Mode, Testbed, eventually, workspace_root,
};
use wasm_tests::dynamo::{Dynamo, Frontend};
use wasm_tests::known::is_believed;
use wasm_tests::state::{Decisions, Status, Truth};
use wasm_tests::{gateway, run, synced};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo: scripts/setup interop"]
async fn workers_come_and_go_and_requests_reach_the_one_that_has_the_prompt() -> Result<()> {
    let dir = workspace_root().join(format!("target/testbed/dynamo-fleet-{}", std::process::id()));
    let dynamo = Dynamo::new(&dir)?;
    let direct = dynamo.frontend("direct", "direct")?;
    // Dynamo's own router, which sees the same events: how it decides, and by what.
    let oracle = dynamo.frontend("oracle", "kv")?;
    let router = dynamo.router()?;
    let (mut first_process, first) = dynamo.new_worker("first", &[]).await?;
    let (_second_process, second) = dynamo.new_worker("second", &[]).await?;
    direct.serves().await?;
    oracle.serves().await?;

    // Cached before the control plane is there.
    let client = Client::new();
    let prompts = ["lantern", "harbour", "anchor", "compass"].map(prompt);
    for (prompt, worker) in prompts.iter().zip([first, second, first, second]) {
        place(&client, &direct, prompt, worker).await?;
    }
    let direct_address = direct.address.clone();
    let place_url = direct.url("/v1/completions");
    let engine = Engine::foreign(
        direct.process,
        EngineOptions::default(),
        direct_address.clone(),
        Vec::new(),
        Vec::new(),
    );
    let discovery = json!({"dynamo": dynamo.pool_discovery(&direct_address)});
    let bed = Testbed::builder("interop-dynamo")
        .engine(engine)
        .control_plane(
            ControlPlaneOptions::default()
                .set("/pools/0/workers", Value::Null)
                .set("/pools/0/discovery", discovery),
        )
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        ranks_are(bed, &[first, second]).await?;
        views_have_blocks_of(bed, &[first, second]).await?;
        let before = (Decisions::read(gateway(bed)?).await?, Truth::read(gateway(bed)?).await?);
        for (prompt, worker) in prompts.iter().zip([first, second, first, second]) {
            assert_eq!(would_choose(&client, &oracle, prompt).await?, worker);
            assert_eq!(serves(bed, prompt).await?, worker);
        }
        let decided = Decisions::read(gateway(bed)?).await?.since(&before.0);
        assert_eq!(decided, Decisions::of([("exact.ok", 4)]));
        let truth = Truth::read(gateway(bed)?).await?.since(before.1);
        ensure!(truth.predicted_tokens > 0 && truth.mismatches == 0, "{truth:?}");

        // One comes while we run, and its cache is known as it fills.
        let (_third_process, third) = dynamo.new_worker("third", &[]).await?;
        ranks_are(bed, &[first, second, third]).await?;
        let theirs = prompt("beacon");
        eventually("Dynamo's frontend with the third worker", || async {
            Ok(place_at(&client, &place_url, &theirs, third).await.ok())
        })
        .await?;
        views_have_blocks_of(bed, &[first, second, third]).await?;
        is_believed(&router, bed, &[first, second, third]).await?;
        assert_eq!(serves(bed, &theirs).await?, third);

        // One goes: what it had is nobody's, and whoever is left serves.
        first_process.terminate().await?;
        ranks_are(bed, &[second, third]).await?;
        let served = serves(bed, &prompts[0]).await?;
        ensure!([second, third].contains(&served), "{served}");

        // The control plane starts late once more.
        bed.control_plane
            .as_mut()
            .context("no control plane")?
            .restart()
            .await?;
        ranks_are(bed, &[second, third]).await?;
        views_have_blocks_of(bed, &[second, third]).await?;
        is_believed(&router, bed, &[second, third]).await?;
        for (prompt, worker) in [(&prompts[1], second), (&prompts[3], second), (&theirs, third)] {
            assert_eq!(serves(bed, prompt).await?, worker);
            assert_eq!(would_choose(&client, &oracle, prompt).await?, worker);
        }
        Ok(())
    })
    .await;
    Ok(())
}

/// Some twelve blocks that no other word's prompt begins with.
fn prompt(word: &str) -> String {
    (0..60).map(|n| format!("{word} {n} ")).collect()
}

async fn place(client: &Client, frontend: &Frontend, prompt: &str, worker: u64) -> Result<()> {
    place_at(client, &frontend.url("/v1/completions"), prompt, worker).await
}

/// Has a worker cache a prompt.
async fn place_at(client: &Client, url: &str, prompt: &str, worker: u64) -> Result<()> {
    let nvext = json!({"backend_instance_id": worker});
    let request = json!({"model": MODEL, "max_tokens": 2, "prompt": prompt, "nvext": nvext});
    let answer = client.post_json(url, &request).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

/// The worker that answers a prompt through the gateway, by its own account.
async fn serves(bed: &Testbed, prompt: &str) -> Result<u64> {
    let nvext = json!({"extra_fields": ["worker_id"]});
    let request = json!({"model": MODEL, "max_tokens": 2, "prompt": prompt, "nvext": nvext});
    let url = gateway(bed)?.url("/v1/completions");
    let answer = bed.client.post_json(&url, &request).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let answer = answer.json()?;
    let worker = &answer["nvext"]["worker_id"]["decode_worker_id"];
    worker.as_u64().with_context(|| format!("no worker in {answer}"))
}

/// The worker that Dynamo's own router would choose.
async fn would_choose(client: &Client, oracle: &Frontend, prompt: &str) -> Result<u64> {
    let nvext = json!({"annotations": ["query_instance_id:"], "extra_fields": ["worker_id"]});
    let request = json!({"model": MODEL, "max_tokens": 2, "prompt": prompt, "nvext": nvext});
    let answer = client.post_json(&oracle.url("/v1/completions"), &request).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let answer = answer.json()?;
    let worker = &answer["nvext"]["worker_id"]["decode_worker_id"];
    worker.as_u64().with_context(|| format!("no worker in {answer}"))
}

/// Waits until the control plane has these ranks, and knows all of each.
async fn ranks_are(bed: &Testbed, workers: &[u64]) -> Result<()> {
    let url = bed.control_plane()?.url("/v1/status");
    let expected: BTreeSet<String> = workers.iter().map(u64::to_string).collect();
    eventually("the ranks of the workers that there are", || async {
        let status = bed.client.get_json(&url).await?;
        let ranks = status["pools"][0]["ranks"].as_array().context("ranks")?;
        let id = |rank: &Value| rank["instance_id"].as_str().unwrap_or_default().to_owned();
        let whole = ranks
            .iter()
            .all(|rank| rank["connected"] == true && rank["degraded"].is_null() && rank["repair"] == "recovery_query");
        Ok((whole && ranks.iter().map(id).collect::<BTreeSet<_>>() == expected).then_some(()))
    })
    .await
}

/// Waits until every VM knows blocks of each of these workers. Asking by requests would not do: one that is answered
/// too early is cached where it went, and two workers have it from then on.
async fn views_have_blocks_of(bed: &Testbed, workers: &[u64]) -> Result<()> {
    eventually("views with blocks of every worker", || async {
        let status = Status::read(bed).await?;
        let ranks = status.pool()["ranks"].as_array().context("ranks")?;
        let has_blocks = |worker: &u64| {
            let id = worker.to_string();
            let ours = |rank: &&Value| rank["instance_id"] == id.as_str();
            ranks
                .iter()
                .find(ours)
                .is_some_and(|rank| rank["blocks"].as_u64() > Some(0))
        };
        ensure!(workers.iter().all(has_blocks), "{ranks:?}");
        status.ensure_acked(bed)?;
        Ok(Some(()))
    })
    .await
}
