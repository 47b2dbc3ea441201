//! Dynamo's own KV router beside us: what it tells other routers is read, and its hashes are ours.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use control_plane::config::PromptsConfig;
use control_plane::dynamo::connect::connect;
use control_plane::dynamo::load::wire::{Said, SequenceChange, said};
use control_plane::dynamo::wire::{envelope, envelope_of_frames};
use control_plane::events::zmtp::{Part, Role};
use control_plane::model::{Manner, Model};
use http::HeaderValue;
use prompt::{Body, Frontend, Shape};
use router_core::hash::{BlockLayout, HashSeed, local_hashes, sequence_hashes};
use serde_json::{Value, json};
use testbed::{Client, ControlPlaneOptions, MODEL, Request, Testbed, eventually, model_dir, workspace_root};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wasm_tests::dynamo::Dynamo;
use wasm_tests::run;

/// How long Dynamo may take to tell of a request.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo: scripts/setup interop"]
async fn what_workers_and_routers_say_of_load_is_shown() -> Result<()> {
    let dir = workspace_root().join(format!("target/testbed/dynamo-load-{}", std::process::id()));
    // Routers tell one another what they have in flight.
    let dynamo = Dynamo::new(&dir)?.with_env("DYN_ROUTER_REPLICA_SYNC", "true");
    let router = dynamo.frontend("router", "kv")?;
    // As slow as a real one.
    let (_process, _worker) = dynamo.new_worker("slow", &["--speedup-ratio", "1"]).await?;
    router.serves().await?;
    let discovery = json!({"dynamo": dynamo.pool_discovery(&router.address)});
    let bed = Testbed::builder("interop-load")
        .control_plane(
            ControlPlaneOptions::default()
                .set("/pools/0/workers", Value::Null)
                .set("/pools/0/block_size", 16)
                .set("/pools/0/parity/mode", "off")
                .set("/pools/0/discovery", discovery),
        )
        .start()
        .await?;
    run(bed, async |bed| {
        let load_becomes = async |what: &str, keys: [(&str, std::ops::Range<u64>); 4]| -> Result<()> {
            let url = bed.control_plane()?.url("/v1/status");
            eventually(what, || async {
                let status = bed.client.get_json(&url).await?;
                let load = &status["pools"][0]["ranks"][0]["load"];
                let is_so = |(key, range): &(&str, std::ops::Range<u64>)| {
                    load[key].as_u64().is_some_and(|value| range.contains(&value))
                };
                ensure!(keys.iter().all(is_so), "{load}");
                Ok(Some(()))
            })
            .await
        };
        let url = router.url("/v1/completions");
        let send: JoinHandle<Result<()>> = tokio::spawn(async move {
            let request = json!({"model": MODEL, "max_tokens": 300, "ignore_eos": true, "prompt": prompt("beacon")});
            // Again and again, as what was said before anybody listened is not said again.
            let client = Client::new();
            loop {
                let answer = client.post_json(&url, &request).await?;
                ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
            }
        });
        let some = 1..u64::MAX;
        let busy = [
            ("kv_used_blocks", some.clone()),
            ("running_requests", some.clone()),
            ("queued_requests", 0..1),
            ("dynamo_routers_requests", some),
        ];
        load_becomes("a request that is told of", busy).await?;
        send.abort();
        let idle = [
            ("running_requests", 0..1),
            ("queued_requests", 0..1),
            ("dynamo_routers_requests", 0..1),
            ("dynamo_routers_prefill_tokens", 0..1),
        ];
        load_becomes("its end", idle).await
    })
    .await;
    Ok(())
}

/// By the sequence hashes that it tells other routers of.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo: scripts/setup interop"]
async fn tenants_and_salts_enter_the_hashes_as_they_enter_dynamos() -> Result<()> {
    let dir = workspace_root().join(format!("target/testbed/dynamo-tenants-{}", std::process::id()));
    let dynamo = Dynamo::new(&dir)?.with_env("DYN_ROUTER_REPLICA_SYNC", "true");
    let router = dynamo.frontend("router", "kv")?;
    let (_process, _worker) = dynamo.new_worker("worker", &[]).await?;
    router.serves().await?;
    let client = Client::new();
    let model = Model::load(&model_dir()?, &PromptsConfig::of(Frontend::Dynamo));

    // The worker and the router each have one.
    let channels = eventually("the channels of sequences", || async {
        let channels = dynamo.event_channels("active_sequences_events")?;
        Ok((channels.len() == 2).then_some(channels))
    });
    let (sender, mut told) = mpsc::channel(64);
    for channel in channels.await? {
        tokio::spawn(tell_of_sequences(channel, sender.clone()));
    }
    // Nothing is sent to a subscription that was not taken note of yet.
    eventually("a request that is told of", || async {
        let less_than_a_block = json!({"model": MODEL, "max_tokens": 1, "prompt": "a"});
        client
            .post_json(&router.url("/v1/completions"), &less_than_a_block)
            .await?;
        let told = sender.capacity() < sender.max_capacity();
        Ok(told.then_some(()))
    })
    .await?;
    let prompt = prompt("lantern");
    let of_shape = |shape: Shape| match shape {
        Shape::Completions => json!({"prompt": prompt, "max_tokens": 1}),
        Shape::Responses => json!({"input": prompt, "max_output_tokens": 1}),
        _ => json!({"messages": [{"role": "user", "content": prompt}], "max_tokens": 1}),
    };
    let nvext = |salt: Value| json!({"nvext": {"cache_salt": salt}});
    let cases: [(&[&'static str], Value); 10] = [
        (&[], json!({})),
        (&["a"], json!({})),
        (&["a", " b ", " "], json!({})),
        (&[], nvext("a".into())),
        (&[], nvext(" a".into())),
        (&[" "], nvext("a".into())),
        (&["b"], nvext("a".into())),
        (&[], json!({"cache_salt": "c"})),
        (&[], json!({"cache_salt": "c", "nvext": {"cache_salt": ""}})),
        (&["b"], json!({"cache_salt": "c", "nvext": {"cache_salt": "a"}})),
    ];
    let mut hashes = BTreeSet::new();
    for shape in [Shape::Completions, Shape::Chat, Shape::Messages, Shape::Responses] {
        for (tenants, fields) in &cases {
            let mut body = of_shape(shape);
            body["model"] = MODEL.into();
            body.as_object_mut()
                .context("body")?
                .extend(fields.as_object().context("fields")?.clone());
            let mut request = Request::json(&router.url(shape.path()), &body);
            for tenant in *tenants {
                request.headers.append("x-tenant-id", HeaderValue::from_static(tenant));
            }
            let answer = client.send(request).await?;
            ensure!(
                answer.status == 200,
                "{shape:?} {body}: {} {}",
                answer.status,
                answer.text()
            );
            let theirs = timeout(PATIENCE, next_blocks(&mut told))
                .await
                .context("nothing is told of")?
                .context("a router")?;

            let bytes = body.to_string();
            let read = Body::read(shape, bytes.as_bytes())?;
            let ids = model.read(&read, Manner::default(), &read.work())?.ids;
            // As `filter/src/headers.rs` reads them.
            let tenant = tenants
                .iter()
                .map(|tenant| tenant.trim())
                .rfind(|tenant| !tenant.is_empty());
            let seed = HashSeed::new(None, read.cache_namespace(Frontend::Dynamo, tenant));
            let layout = BlockLayout::plain(16).context("block size")?;
            let ours = sequence_hashes(local_hashes(&ids, layout, seed));
            let ours: Vec<u64> = ours.into_iter().map(|hash| hash.0).collect();
            ensure!(
                theirs == ours,
                "{shape:?} {tenants:?} {body}: {theirs:?}, and ours {ours:?}"
            );
            hashes.insert(ours);
        }
    }
    // Text and conversation; without a namespace, and of a, " a", b and c.
    assert_eq!(hashes.len(), 2 * 5);
    Ok(())
}

/// Sends the sequence hashes of each request that a router tells of.
async fn tell_of_sequences(channel: String, sequences: mpsc::Sender<Vec<u64>>) -> Result<()> {
    let mut connection = connect(&channel, Role::HEAR_ALL).await;
    loop {
        let message = connection.recv().await?;
        let frames = message.iter().filter_map(|part| match part {
            Part::Bytes(bytes) => Some(bytes),
            Part::TooLong(_) => None,
        });
        let frames: Vec<_> = frames.collect();
        let Some(Said::Sequences(events)) = said(&envelope(envelope_of_frames(&frames)?)?)? else {
            continue;
        };
        for event in events {
            if let SequenceChange::AddRequest { token_sequence, .. } = event.data {
                sequences.send(token_sequence.unwrap_or_default()).await?;
            }
        }
    }
}

/// Of the next request that has blocks: those that asked whether anything is told of have none, and are told of late.
async fn next_blocks(told: &mut mpsc::Receiver<Vec<u64>>) -> Option<Vec<u64>> {
    loop {
        let sequences = told.recv().await?;
        if !sequences.is_empty() {
            return Some(sequences);
        }
    }
}

/// Some twelve blocks.
fn prompt(word: &str) -> String {
    (0..60).map(|n| format!("{word} {n} ")).collect()
}
