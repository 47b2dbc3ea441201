//! Token ids to workers that ask for them: what is put into the body, and that nothing else changes in it.

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Value, json};
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, MODEL, Mode, Payload, Request, Testbed};
use wasm_tests::prompts::{completion, question, words};
use wasm_tests::state::Decisions;
use wasm_tests::{gateway, run, settled, synced, tokens};
use xxhash_rust::xxh3::xxh3_64;

#[tokio::test(flavor = "multi_thread")]
async fn workers_get_the_ids_in_an_otherwise_equal_body() -> Result<()> {
    let bed = Testbed::builder("token-data")
        .engines(2, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default().set("/pools/0/inject_tokens", true))
        .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("max_prompt_bytes", 2_000_000))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        bodies_with_ids(bed).await?;
        bodies_as_they_came(bed).await?;
        ids_of_clients_are_removed(bed).await?;
        routing_is_the_same(bed).await
    })
    .await;
    Ok(())
}

/// Sends a body in every framing; the worker must get `expected`.
async fn arrives_as(bed: &Testbed, path: &str, body: &str, expected: &str) -> Result<()> {
    let (body, expected) = (Bytes::from(body.to_owned()), expected.as_bytes());
    let (first, second) = (body.slice(..body.len() / 3), body.slice(body.len() / 3..));
    for payload in [
        Payload::Whole(body.clone()),
        Payload::Pieces(vec![first.clone(), second.clone()]),
        Payload::Chunked(vec![first, second]),
    ] {
        let answer = bed
            .client
            .send(Request::post(&gateway(bed)?.url(path), payload))
            .await?;
        let arrived = (
            answer.header("x-engine-sim-body-length")?,
            answer.header("x-engine-sim-body-xxh3")?,
        );
        let wanted = (expected.len().to_string(), xxh3_64(expected).to_string());
        assert_eq!(arrived, (&*wanted.0, &*wanted.1), "{}", answer.text());
    }
    Ok(())
}

/// `before` and `after` surround what is put in.
async fn bodies_with_ids(bed: &Testbed) -> Result<()> {
    let injected = gateway(bed)?.stats().await?;
    for size in [10, 300_000] {
        let prompt = words(size, usize::try_from(size)?);
        let ids = Value::from(tokens(bed, &completion(prompt.clone())).await?);
        let head = format!(
            "\r\n {{ \"prompt\":\"{prompt}\" ,\t\"x\": -0.0E+2,\n \"model\":{}",
            json!(MODEL)
        );
        let head = format!("{head}, \"max_tokens\":1");
        for (before, replaced, put, after) in [
            (" ", "", format!(",\"nvext\":{{\"token_data\":{ids}}}"), "} \n"),
            (", \"nvext\":{ ", "", format!("\"token_data\":{ids}"), "} , \"y\":[]}"),
            (", \"nvext\":{\"a\":{}", "", format!(",\"token_data\":{ids}"), "} }"),
            (
                ", \"nvext\":{\"token_data\": ",
                "[1, 2,3]",
                ids.to_string(),
                ",\"a\":1} }",
            ),
        ] {
            let sent = [&head, before, replaced, after].concat();
            arrives_as(bed, "/v1/completions", &sent, &[&head, before, &*put, after].concat()).await?;
        }
    }
    let chat = question("Be brief.", "Hé\u{1F30A} <|im_end|>");
    let ids = Value::from(tokens(bed, &chat).await?);
    let sent = chat.to_string();
    let expected = format!("{},\"nvext\":{{\"token_data\":{ids}}}}}", &sent[..sent.len() - 1]);
    arrives_as(bed, "/v1/chat/completions", &sent, &expected).await?;
    let now = gateway(bed)?.stats().await?;
    let count = |stats: &std::collections::BTreeMap<String, i64>| {
        stats.get("wasmcustom.warmpath.tokens.injected").copied().unwrap_or(0)
    };
    assert_eq!(count(&now) - count(&injected), 27);
    Ok(())
}

async fn bodies_as_they_came(bed: &Testbed) -> Result<()> {
    for prompt in [json!([1, 22, 333]), json!(["a", "b"]), json!([[1, 2], [3]])] {
        for nvext in [json!({}), json!({"token_data": [7]})] {
            let mut body = completion(prompt.clone());
            body["nvext"] = nvext;
            let body = body.to_string();
            arrives_as(bed, "/v1/completions", &body, &body).await?;
        }
    }
    for nvext in ["null", "7", "[]", "\"{}\""] {
        let body = format!(
            "{{\"nvext\":{nvext},\"model\":{},\"prompt\":\"x\",\"max_tokens\":1}}",
            json!(MODEL)
        );
        arrives_as(bed, "/v1/completions", &body, &body).await?;
    }
    Ok(())
}

/// Where there are no ids of ours, none of anybody else's arrive either.
async fn ids_of_clients_are_removed(bed: &Testbed) -> Result<()> {
    let around = |ids: &str| {
        format!(
            "{{\"truncate_prompt_tokens\":4000,\"model\":{},\"prompt\":\"x\",\"max_tokens\":1, \"nvext\":{{\"token_data\": {ids}}}}}",
            json!(MODEL)
        )
    };
    arrives_as(bed, "/v1/completions", &around("[1]"), &around("null")).await?;
    let long = |ids: &str| {
        let filler = "x".repeat(2_000_000);
        format!(
            "{{\"nvext\":{{\"token_data\":{ids}}},\"model\":{},\"prompt\":\"x\",\"max_tokens\":1,\"filler\":\"{filler}\"}}",
            json!(MODEL)
        )
    };
    arrives_as(bed, "/v1/completions", &long("[1]"), &long("null")).await
}

async fn routing_is_the_same(bed: &Testbed) -> Result<()> {
    let before = Decisions::read(gateway(bed)?).await?;
    let request = question(&words(77, 400), "Where?");
    let url = gateway(bed)?.url("/v1/chat/completions");
    let first = bed.client.post_json(&url, &request).await?;
    settled(bed).await?;
    let again = bed.client.post_json(&url, &request).await?;
    assert_eq!(bed.worker_of(&again)?, bed.worker_of(&first)?);
    assert!(again.cached_tokens()? > 400, "{}", again.text());
    let decided = Decisions::read(gateway(bed)?).await?.since(&before);
    assert_eq!(decided, Decisions::of([("exact.ok", 2)]));
    Ok(())
}
