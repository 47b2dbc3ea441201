//! The whole engine in one process, over its real sockets.

mod harness;

use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value as Json, json};
use xxhash_rust::xxh3::xxh3_64;

use self::harness::*;
use crate::events::KvEvent;
use crate::test_support::Mirror;

async fn events_tell_the_cache(format: &str) {
    // A cache so small that it evicts all the time.
    let engine = Engine::start(&["--num-gpu-blocks", "33", "--event-format", format]).await;
    let (mut subscriber, mut last_seq) = subscribe(&engine, 0).await;
    for turn in 0..12 {
        let prompt = format!("{} {turn} {}", words(turn % 3 * 20), words(turn * 4));
        let reply = engine.post("/v1/chat/completions", &chat(&prompt)).await;
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    }
    engine
        .post(
            "/v1/completions",
            &json!({"model": "tuned", "prompt": words(20), "cache_salt": "s"}),
        )
        .await;

    let truth = engine.cache(0).await;
    let replayed = replay(&engine.running.listening.replay[0], 0).await;
    let numbers: Vec<_> = replayed.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (0..replayed.len() as u64).collect::<Vec<_>>());
    let mut mirror = Mirror::default();
    replayed
        .iter()
        .flat_map(|(_, payload)| decode(payload))
        .for_each(|event| mirror.apply(&event));
    assert_eq!(mirror, truth);
    assert!(
        replayed
            .iter()
            .flat_map(|(_, p)| decode(p))
            .any(|event| matches!(event, KvEvent::BlockRemoved { .. }))
    );

    // The subscriber has been sent the very same.
    let newest = replayed.len() as u64 - 1;
    while last_seq < newest {
        let frames = receive(&mut subscriber).await;
        let [topic, seq, payload] = frames.as_slice() else {
            panic!("{} frames", frames.len())
        };
        last_seq += 1;
        assert_eq!((topic.len(), seq.as_ref()), (0, last_seq.to_be_bytes().as_slice()));
        let (_, same) = replayed.iter().find(|(seq, _)| *seq == last_seq).expect("replayed");
        assert_eq!(payload, same);
    }
    assert_eq!(
        replay(&engine.running.listening.replay[0], newest).await,
        replayed[replayed.len() - 1..]
    );
}

#[tokio::test]
async fn events_tell_the_cache_in_mixed_form() {
    events_tell_the_cache("mixed").await;
}

#[tokio::test]
async fn events_tell_the_cache_in_array_form() {
    events_tell_the_cache("array").await;
}

#[tokio::test]
async fn events_tell_the_cache_in_map_form() {
    events_tell_the_cache("map").await;
}

#[tokio::test]
async fn the_second_turn_hits_the_blocks_of_the_first() {
    let engine = Engine::start(&[]).await;
    let first = engine.post("/v1/chat/completions", &chat(&words(50))).await.json();
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let question = chat(&words(50))["messages"][0].take();
    let answer = first["choices"][0]["message"].clone();
    let second = json!({"messages": [question, answer, {"role": "user", "content": "And then?"}]});
    let tokenized = engine.post("/tokenize", &second).await.json();
    let second = engine.post("/v1/chat/completions", &second).await.json();
    // The answer's last token has been announced, but nothing has computed its keys and values.
    let computed = first["usage"]["total_tokens"].as_u64().expect("total") - 1;
    assert_eq!(
        second["usage"]["prompt_tokens_details"]["cached_tokens"],
        computed / 16 * 16
    );
    assert_eq!(second["usage"]["prompt_tokens"], tokenized["count"]);
    assert_eq!(
        tokenized["tokens"].as_array().map(Vec::len),
        tokenized["count"].as_u64().and_then(|n| n.try_into().ok())
    );
}

#[tokio::test]
async fn a_stream_says_what_the_whole_response_says() {
    let engine = Engine::start(&[]).await;
    let whole = engine.post("/v1/chat/completions", &chat("Hello")).await.json();
    let mut request = chat("Hello");
    request["stream"] = true.into();
    request["stream_options"] = json!({"include_usage": true});
    let reply = engine.post("/v1/chat/completions", &request).await;
    assert_eq!(reply.header("content-type"), "text/event-stream; charset=utf-8");
    let text = std::str::from_utf8(&reply.body).expect("text").to_owned();
    let events: Vec<_> = text
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").expect("data"))
        .collect();
    let (done, events) = events.split_last().expect("events");
    assert_eq!(*done, "[DONE]");
    let events: Vec<Json> = events
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    let content: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(whole["choices"][0]["message"]["content"], content);
    let usage = |json: &Json| (json["prompt_tokens"].clone(), json["completion_tokens"].clone());
    assert_eq!(usage(&events.last().expect("usage")["usage"]), usage(&whole["usage"]));
}

#[tokio::test]
async fn responses_tell_who_answered_and_what_arrived() {
    let engine = Engine::start(&["--data-parallel-size", "2"]).await;
    assert_eq!(engine.running.listening.kv_events.len(), 2);
    let body = chat("Hello").to_string();
    let request = engine
        .request("POST", "/v1/chat/completions")
        .header("x-data-parallel-rank", "1")
        .header("x-dynamo-anything", "1")
        .header("x-other", "1");
    let reply = engine.send(request, body.clone()).await;
    assert_eq!(reply.header("x-engine-sim-worker"), engine.running.listening.http);
    assert_eq!(reply.header("x-engine-sim-rank"), "1");
    assert_eq!(
        reply.header("x-engine-sim-saw"),
        "x-data-parallel-rank,x-dynamo-anything"
    );
    assert_eq!(reply.header("x-engine-sim-body-length"), body.len().to_string());
    assert_eq!(
        reply.header("x-engine-sim-body-xxh3"),
        xxh3_64(body.as_bytes()).to_string()
    );
    assert_eq!(
        (engine.cache(0).await.0.len(), engine.cache(1).await.0.is_empty()),
        (0, false)
    );

    let echo = engine
        .send(engine.request("PUT", "/debug/echo/a/b"), vec![0xff; 3])
        .await
        .json();
    assert_eq!(
        (&echo["length"], &echo["xxh3"], &echo["path"]),
        (
            &json!(3),
            &json!(xxh3_64(&[0xff; 3]).to_string()),
            &json!("/debug/echo/a/b")
        )
    );
}

#[tokio::test]
async fn mistakes_are_refused_in_vllms_words() {
    let engine = Engine::start(&["--max-model-len", "100", "--max-body-bytes", "1000"]).await;
    let with = |key: &str, value: Json| {
        let mut request = chat("Hello");
        request[key] = value;
        request
    };
    for (body, status, message) in [
        (with("model", "other".into()), 404, "The model `other` does not exist."),
        (
            json!({"model": "sim"}),
            400,
            "invalid request body: missing field `messages` at line 1 column 15",
        ),
        (
            with("max_tokens", 0.into()),
            400,
            "max_tokens must be at least 1, got 0.",
        ),
        (
            with("max_tokens", 95.into()),
            400,
            "This model's maximum context length is 100 tokens. However, you requested 95 output tokens and your \
             prompt contains 9 input tokens.",
        ),
        (
            with("cache_salt", "".into()),
            400,
            "Parameter 'cache_salt' must be a non-empty string if provided.",
        ),
        (
            with("messages", json!([{"content": "x"}])),
            400,
            "messages[0]: `role` must be a string",
        ),
        (
            with("stop", words(200).into()),
            413,
            "the request body exceeds 1000 bytes (--max-body-bytes)",
        ),
    ] {
        let reply = engine.post("/v1/chat/completions", &body).await;
        let error = reply.json()["error"].take();
        assert_eq!((reply.status.as_u16(), &error["message"]), (status, &json!(message)));
        assert_eq!(error["code"], status);
    }
    let bad_template = engine.post("/v1/chat/completions", &with("messages", json!([]))).await;
    assert_eq!(bad_template.status, StatusCode::BAD_REQUEST);
    let bad_json = engine.send(engine.request("POST", "/v1/completions"), "{").await;
    assert_eq!(bad_json.status, StatusCode::BAD_REQUEST);
    let bad_rank = engine
        .request("POST", "/v1/chat/completions")
        .header("x-data-parallel-rank", "1");
    assert_eq!(
        engine.send(bad_rank, chat("Hello").to_string()).await.status,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        engine.get("/debug/requests").await,
        json!({"received": 0, "completed": 0, "aborted": 0, "running": 0})
    );
}

/// Streaming and waiting clients that go away free their blocks.
#[tokio::test]
async fn a_client_that_goes_away_aborts_its_request() {
    let engine = Engine::start(&["--inter-token-latency-ms", "50"]).await;
    for stream in [true, false] {
        let mut body = chat("Hello");
        body["max_tokens"] = 100_000.into();
        body["ignore_eos"] = true.into();
        body["stream"] = stream.into();
        let request = engine
            .request("POST", "/v1/chat/completions")
            .body(Full::new(body.to_string().into()));
        // A client of its own, so that its connection closes with it.
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let sent = tokio::spawn(async move { client.request(request.expect("request")).await });
        until(&engine, "vllm:num_requests_running", "1").await;
        if stream {
            drop(sent.await.expect("task").expect("response"));
        } else {
            sent.abort();
        }
        until(&engine, "vllm:num_requests_running", "0").await;
        until(&engine, "vllm:kv_cache_usage_perc", "0").await;
    }
    assert_eq!(
        engine.get("/debug/requests").await,
        json!({"received": 2, "completed": 0, "aborted": 2, "running": 0})
    );
}

#[tokio::test]
async fn instant_mode_reads_the_body_and_says_ok() {
    let engine = Engine::start(&["--instant"]).await;
    let body = vec![b'x'; 400_000];
    let plain = engine
        .send(engine.request("POST", "/v1/chat/completions"), body.clone())
        .await;
    assert_eq!(plain.json()["choices"][0]["message"]["content"], "ok");
    assert_eq!(plain.headers.get("x-engine-sim-body-xxh3"), None);
    let request = engine
        .request("POST", "/v1/completions")
        .header("x-engine-sim-digest", "1");
    let digested = engine.send(request, body.clone()).await;
    assert_eq!(digested.json()["choices"][0]["text"], "ok");
    assert_eq!(digested.header("x-engine-sim-body-xxh3"), xxh3_64(&body).to_string());
    assert_eq!(digested.header("x-engine-sim-body-length"), "400000");
}
