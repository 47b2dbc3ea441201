//! What passes through unaltered: bodies, streams, errors. What does not: headers that only the gateway may set.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use testbed::{
    Answer, Client, ControlPlaneOptions, EngineOptions, Envoy, EnvoyOptions, MODEL, Mode, Payload, Request, Testbed,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wasm_tests::oddities::{mutate, odd_bodies, odd_heads};
use wasm_tests::prompts::{chat, completion, endless, message, question, streaming, words};
use wasm_tests::state::{Decisions, Truth};
use wasm_tests::{gateway, run, settled, synced};
use xxhash_rust::xxh3::xxh3_64;

const MAX_BODY_BYTES: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_and_workers_say_passes_unaltered() -> Result<()> {
    let bed = Testbed::builder("transparency")
        .engines(2, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("usage_sample", 1.0))
        .envoy(
            EnvoyOptions::new(Mode::Warmpath)
                .plugin("max_body_bytes", MAX_BODY_BYTES)
                .plugin("max_prompt_bytes", 10_000),
        )
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        bodies(bed, gateway(bed)?, &[1_000, 17_000, 100_000, 1_000_000, 4_000_000]).await?;
        long_bodies_are_routed_by_load(bed).await?;
        forged_headers(bed).await?;
        odd_requests(bed).await?;
        nothing_was_misread(bed).await?;
        mutated_bodies(bed).await?;
        http2(bed).await?;
        half_a_body(bed).await?;
        streams_are_not_buffered(bed).await
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_the_same_as_without_a_gateway() -> Result<()> {
    let options = EngineOptions {
        seed: 7,
        ..EngineOptions::default()
    };
    let twin = Testbed::builder("twin").engines(1, options.clone()).start().await?;
    let bed = Testbed::builder("streams")
        .engines(1, options)
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("usage_sample", 1.0))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let mut requests = vec![
            ("/v1/chat/completions", question(&words(1, 50), "Tell me all.")),
            ("/v1/completions", completion(words(2, 50))),
            // Once more, with a warm cache: usage differs.
            ("/v1/chat/completions", question(&words(1, 50), "Tell me all.")),
        ];
        for (path, request) in &mut requests {
            request["max_tokens"] = 200.into();
            for request in [streaming(request.clone()), request.clone()] {
                let direct = twin.client.post_json(&twin.engines[0].url(path), &request).await?;
                let routed = bed.client.post_json(&gateway(bed)?.url(path), &request).await?;
                assert_eq!(routed.status, direct.status);
                assert_eq!(routed.headers["content-type"], direct.headers["content-type"]);
                assert_eq!(without_time(&routed.text()), without_time(&direct.text()));
                settled(bed).await?;
            }
        }
        Ok(())
    })
    .await;
    Ok(())
}

/// `created` is the only part of an answer that two engines of the same seed and history may disagree on.
fn without_time(answer: &str) -> String {
    let mut parts = answer.split(r#""created":"#);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(r#""created":"#);
        text.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    text
}

/// Bodies of these sizes arrive byte for byte, however they are framed and cut.
async fn bodies(bed: &Testbed, envoy: &Envoy, sizes: &[usize]) -> Result<()> {
    for &size in sizes {
        let body = body_of(size);
        let pieces = odd_pieces(&body);
        for payload in [
            Payload::Whole(body.clone()),
            Payload::Pieces(pieces.clone()),
            Payload::Chunked(vec![body.clone()]),
            Payload::Chunked(pieces),
        ] {
            let answer = bed
                .client
                .send(Request::post(&envoy.url("/v1/completions"), payload))
                .await?;
            assert_eq!(answer.status, 200, "{size}: {}", answer.text());
            let arrived = (
                answer.header("x-engine-sim-body-length")?,
                answer.header("x-engine-sim-body-xxh3")?,
            );
            assert_eq!(
                arrived,
                (&*body.len().to_string(), &*xxh3_64(&body).to_string()),
                "{size}"
            );
        }
    }
    Ok(())
}

/// A completion request of exactly `size` bytes, in a spelling that no JSON writer would choose. Most of a large one is
/// a field that neither gateway nor engine knows.
fn body_of(size: usize) -> Bytes {
    let prompt = words(size as u64, size.min(100_000) / 20);
    let head = format!(
        "\r\n{{ \"x\" : -0.0E+2,\t\"model\":\"{}\", \"max_tokens\": 1,\n \"prompt\":\"\\u0041\\/{prompt}\",\"unknown\":\"",
        MODEL.replace('/', "\\/")
    );
    let tail = "\"}  \n";
    let padding = size - head.len() - tail.len();
    let filler: String = ('a'..='z').cycle().take(padding).collect();
    Bytes::from([head, filler, tail.to_owned()].concat())
}

/// Cuts of 1 to 40,000 bytes, also inside of characters.
fn odd_pieces(body: &Bytes) -> Vec<Bytes> {
    let mut rest = body.clone();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let random = xxh3_64(&rest.len().to_le_bytes());
        let bound = if random & 1 == 0 { 7 } else { 40_000 };
        let length = 1 + usize::try_from(random >> 32).unwrap_or(0) % bound;
        pieces.push(rest.split_to(length.min(rest.len())));
    }
    pieces
}

/// What is too long to be held streams through whole; what is too long to be read is held, and routed by load.
async fn long_bodies_are_routed_by_load(bed: &Testbed) -> Result<()> {
    let envoy = &bed.envoys[1];
    let before = Decisions::read(envoy).await?;
    bodies(
        bed,
        envoy,
        &[9_000, 15_000, MAX_BODY_BYTES, MAX_BODY_BYTES + 1, 300_000],
    )
    .await?;
    let decided = Decisions::read(envoy).await?.since(&before);
    assert_eq!(decided.sum_of("exact"), 4, "{decided:?}");
    assert_eq!(decided.sum_of("load"), 16, "{decided:?}");
    Ok(())
}

/// Routing headers of clients steer nothing and do not arrive.
async fn forged_headers(bed: &Testbed) -> Result<()> {
    let request = question(&words(30, 200), "Who?");
    let url = gateway(bed)?.url("/v1/chat/completions");
    let home = bed.worker_of(&bed.client.post_json(&url, &request).await?)?;
    settled(bed).await?;
    let elsewhere = bed.engines[1 - home].endpoint();
    let forged = Request::json(&url, &request)
        .header("x-gateway-destination-endpoint", elsewhere)
        .header("X-Gateway-Destination-Endpoint", elsewhere)
        .header("x-worker-instance-id", "1")
        .header("x-prefill-instance-id", "2")
        .header("x-prefiller-host-port", elsewhere)
        .header("x-data-parallel-rank", "7")
        .header("x-dp-rank", "7")
        .header("x-prefill-dp-rank", "7")
        .header("x-dynamo-worker-instance-id", "3")
        .header("x-dynamo-prefill-instance-id", "4")
        .header("x-dynamo-dp-rank", "7")
        .header("x-dynamo-prefill-dp-rank", "7")
        .header("x-dynamo-routing-mode", "direct");
    let answer = bed.client.send(forged).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(bed.worker_of(&answer)?, home);
    assert_eq!(answer.header("x-engine-sim-saw")?, "x-gateway-destination-endpoint");
    Ok(())
}

/// Whatever an engine refuses, it refuses in its own words; whatever it takes, it gets.
async fn odd_requests(bed: &Testbed) -> Result<()> {
    let mut requests = odd_bodies();
    requests.extend(odd_heads());
    for (name, path, mut request) in requests {
        request.url = bed.engines[0].url(path);
        let direct = bed.client.send(request.clone()).await?;
        request.url = gateway(bed)?.url(path);
        let routed = bed.client.send(request).await?;
        let essence = |answer: &Answer| -> Result<(u16, Value)> {
            let mut said = serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!(answer.text()));
            // Of answers that differ each time, what stays the same.
            for field in ["id", "created", "usage", "data"] {
                said.as_object_mut().map(|fields| fields.remove(field));
            }
            Ok((answer.status.as_u16(), said))
        };
        ensure!(
            routed.status.as_u16() < 500,
            "{name}: {} {}",
            routed.status,
            routed.text()
        );
        assert_eq!(essence(&routed)?, essence(&direct)?, "{name}");
    }
    Ok(())
}

/// Valid requests with some bytes changed: the gateway takes them no worse than the engine alone.
async fn mutated_bodies(bed: &Testbed) -> Result<()> {
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let mut whole = chat(&[
        message("system", "Be brief. \u{1F30A}"),
        message("user", "<|im_end|>\\\"Hé\"\n"),
    ]);
    whole["tools"] = json!([tool]);
    whole["chat_template_kwargs"] = json!({"enable_thinking": false});
    for (path, request) in [
        ("/v1/chat/completions", whole),
        ("/v1/completions", completion(json!([1, 22, 333]))),
    ] {
        for seed in 0..150 {
            let body = mutate(request.to_string().into_bytes(), seed);
            let send = async |url: String| {
                let answer = bed
                    .client
                    .send(Request::post(&url, Payload::Whole(body.clone().into())))
                    .await?;
                Ok::<_, anyhow::Error>(answer.status.as_u16())
            };
            let direct = send(bed.engines[0].url(path)).await?;
            let routed = send(gateway(bed)?.url(path)).await?;
            assert_eq!(routed, direct, "{}", String::from_utf8_lossy(&body));
        }
    }
    Ok(())
}

/// Of everything so far that an engine answered, the filter counted the same prompt tokens, or none.
async fn nothing_was_misread(bed: &Testbed) -> Result<()> {
    let truth = Truth::read(gateway(bed)?).await?;
    ensure!(truth.responses > 0 && truth.mismatches == 0, "{truth:?}");
    Ok(())
}

/// Bodies over HTTP/2, also such whose end is not in a data frame but in the trailers.
async fn http2(bed: &Testbed) -> Result<()> {
    let client = Client::http2();
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-checksum"), HeaderValue::from_static("1"))]);
    for size in [1_000, 100_000] {
        let body = body_of(size);
        for payload in [
            Payload::Whole(body.clone()),
            Payload::Chunked(odd_pieces(&body)),
            Payload::Trailed(odd_pieces(&body), trailers.clone()),
            Payload::Trailed(Vec::new(), trailers.clone()),
        ] {
            let is_empty = matches!(&payload, Payload::Trailed(pieces, _) if pieces.is_empty());
            let answer = client
                .send(Request::post(&gateway(bed)?.url("/v1/completions"), payload))
                .await?;
            let expected = if is_empty { Bytes::new() } else { body.clone() };
            assert_eq!(answer.status, if is_empty { 400 } else { 200 }, "{}", answer.text());
            assert_eq!(answer.header("x-engine-sim-body-xxh3")?, xxh3_64(&expected).to_string());
        }
    }
    Ok(())
}

/// A client that goes away in the middle of its body has asked for nothing.
async fn half_a_body(bed: &Testbed) -> Result<()> {
    let before = Decisions::read(gateway(bed)?).await?;
    let url = gateway(bed)?.url("/v1/completions");
    let address = url.trim_start_matches("http://").split('/').next().context("address")?;
    for framing in ["content-length: 1000", "transfer-encoding: chunked"] {
        let mut connection = TcpStream::connect(address).await?;
        let head = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n");
        connection
            .write_all(format!("{head}3e8\r\n{{\"prompt\": \"").as_bytes())
            .await?;
        connection.shutdown().await?;
        // Envoy closes its side once it has dropped the request.
        let mut rest = Vec::new();
        tokio::time::timeout(testbed::DEADLINE, connection.read_to_end(&mut rest)).await??;
    }
    assert_eq!(
        Decisions::read(gateway(bed)?).await?.since(&before),
        Decisions::default()
    );
    Ok(())
}

/// The first chunk is here while the engine still writes: a gateway that held the response could not give it.
async fn streams_are_not_buffered(bed: &Testbed) -> Result<()> {
    let request = endless(question(&words(40, 50), "Go on for ever."));
    let mut stream = bed
        .client
        .open(Request::json(&gateway(bed)?.url("/v1/chat/completions"), &request))
        .await?;
    let worker = stream
        .headers
        .get("x-engine-sim-worker")
        .context("x-engine-sim-worker")?
        .clone();
    let engine = bed
        .engines
        .iter()
        .find(|engine| worker == engine.endpoint())
        .context("no such engine")?;
    for _ in 0..20 {
        let (_, chunk) = stream.chunk().await?.context("the stream ended")?;
        let text = String::from_utf8_lossy(&chunk).into_owned();
        ensure!(
            text.starts_with("data: ") && text.ends_with("\n\n"),
            "not whole events: {text:?}"
        );
        ensure!(!text.contains("[DONE]"), "the end came with the beginning");
        assert_eq!(
            engine.running(&bed.client).await?,
            1,
            "the engine was done before the client saw anything"
        );
    }
    Ok(())
}
