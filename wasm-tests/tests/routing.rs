//! Which worker a request goes to, and that the engine's own cache agrees.

use std::cell::Cell;

use anyhow::{Context, Result, ensure};
use http::HeaderValue;
use serde_json::{Value, json};
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, MODEL, Mode, Request, Streaming, Testbed};
use wasm_tests::prompts::{chat, completion, endless, message, question, streaming, words};
use wasm_tests::state::{Decisions, Truth};
use wasm_tests::{gateway, run, settled, shared_tokens, synced, tokens};

const LORAS: [&str; 2] = ["adapter-a", "adapter-b"];
const BLOCK_SIZE: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_where_their_prefix_is() -> Result<()> {
    let engine = EngineOptions {
        loras: LORAS.map(str::to_owned).to_vec(),
        ..EngineOptions::default()
    };
    let bed = Testbed::builder("routing")
        .engines(4, engine)
        // At 1, less load is needed to draw the conversation away from its worker.
        .control_plane(ControlPlaneOptions::default().set("/pools/0/routing/prefill_load_scale", 1.0))
        .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("usage_sample", 1.0))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        shared_prefixes(bed).await?;
        loras_and_salts_are_worlds_of_their_own(bed).await?;
        token_id_prompts(bed).await?;
        every_kind_of_chat(bed).await?;
        a_long_prompt(bed).await?;
        predictions_come_true(bed).await?;
        conversation(bed).await
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_worlds_of_their_own_where_dynamos_frontend_is_asked() -> Result<()> {
    // The engine separates by what the body says: it is told there what the header says, or something else.
    for (frontend, expected) in [("dynamo", [true, false, true]), ("vllm", [true, true, true])] {
        let bed = Testbed::builder(&format!("tenants-{frontend}"))
            .engines(1, EngineOptions::default())
            .control_plane(
                ControlPlaneOptions::default()
                    .set("/pools/0/prompts/frontend", frontend)
                    .set("/pools/0/parity/mode", "off"),
            )
            .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("usage_sample", 1.0))
            .start()
            .await?;
        run(bed, async |bed| {
            synced(bed).await?;
            let send = async |tenants: &[&'static str]| -> Result<bool> {
                let mut body = completion(words(7, 200));
                body["cache_salt"] = "a".into();
                let mut request = Request::json(&gateway(bed)?.url("/v1/completions"), &body);
                for tenant in tenants {
                    request.headers.append("x-tenant-id", HeaderValue::from_static(tenant));
                }
                let before = Truth::read(gateway(bed)?).await?;
                let answer = bed.client.send(request).await?;
                ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
                settled(bed).await?;
                let truth = Truth::read(gateway(bed)?).await?.since(before);
                ensure!(truth.responses == 1, "{truth:?}");
                Ok(truth.predicted_tokens > 0)
            };
            assert!(!send(&["a"]).await?, "nothing is cached yet");
            let found = [
                send(&["b", " a ", ""]).await?,
                send(&["a", "b"]).await?,
                send(&["  "]).await?,
            ];
            assert_eq!(found, expected, "{frontend}");
            Ok(())
        })
        .await;
    }
    Ok(())
}

/// A served request: which engine, and how many tokens it had in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Served {
    worker: usize,
    cached_tokens: u64,
}

/// Sends through the gateway and waits until the view knows what the engine cached.
async fn send(bed: &Testbed, path: &str, request: &Value) -> Result<Served> {
    let answer = bed.client.post_json(&gateway(bed)?.url(path), request).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let served = Served {
        worker: bed.worker_of(&answer)?,
        cached_tokens: answer.cached_tokens()?,
    };
    settled(bed).await?;
    Ok(served)
}

async fn send_chat(bed: &Testbed, request: &Value) -> Result<Served> {
    send(bed, "/v1/chat/completions", request).await
}

async fn shared_prefixes(bed: &Testbed) -> Result<()> {
    for seed in 0..6 {
        let system = words(seed, 300);
        let first = question(&system, "What did they count?");
        let second = question(&system, "How many lanterns were there, and who carried them?");
        let shared = shared_tokens(&tokens(bed, &first).await?, &tokens(bed, &second).await?, BLOCK_SIZE);
        ensure!(shared > 300, "the prompts share only {shared} tokens");

        let cold = send_chat(bed, &first).await?;
        assert_eq!(cold.cached_tokens, 0, "seed {seed}");
        let warm = Served {
            worker: cold.worker,
            cached_tokens: shared,
        };
        assert_eq!(send_chat(bed, &second).await?, warm, "seed {seed}");
        assert_eq!(
            send_chat(bed, &streaming(second)).await?.worker,
            cold.worker,
            "seed {seed}"
        );
    }
    Ok(())
}

/// The same text under another adapter or salt shares nothing; under the same one it does.
async fn loras_and_salts_are_worlds_of_their_own(bed: &Testbed) -> Result<()> {
    let system = words(100, 200);
    let mut worlds = Vec::new();
    for model in [MODEL, LORAS[0], LORAS[1]] {
        for salt in [None, Some("tenant-1"), Some("tenant-2")] {
            let mut request = question(&system, "Why?");
            request["model"] = model.into();
            if let Some(salt) = salt {
                request["cache_salt"] = salt.into();
            }
            worlds.push(request);
        }
    }
    let prompt = tokens(bed, &worlds[0]).await?;
    let whole = shared_tokens(&prompt, &prompt, BLOCK_SIZE);
    let before = Truth::read(gateway(bed)?).await?;
    let mut first = Vec::new();
    for request in &worlds {
        let served = send_chat(bed, request).await?;
        assert_eq!(served.cached_tokens, 0, "{request}");
        first.push(served.worker);
    }
    for (request, worker) in worlds.iter().zip(first) {
        assert_eq!(
            send_chat(bed, request).await?,
            Served {
                worker,
                cached_tokens: whole
            },
            "{request}"
        );
    }
    let truth = Truth::read(gateway(bed)?).await?.since(before);
    assert_eq!(truth.mismatches, 0, "{truth:?}");
    Ok(())
}

/// Token ids are a prompt too, and meet the same blocks as the text that they stand for.
async fn token_id_prompts(bed: &Testbed) -> Result<()> {
    let text = completion(words(200, 200));
    let ids = tokens(bed, &text).await?;
    let whole = shared_tokens(&ids, &ids, BLOCK_SIZE);

    let cold = send(bed, "/v1/completions", &text).await?;
    assert_eq!(cold.cached_tokens, 0);
    let warm = Served {
        worker: cold.worker,
        cached_tokens: whole,
    };
    assert_eq!(send(bed, "/v1/completions", &completion(json!(ids))).await?, warm);

    let ids: Vec<u32> = (5_000..5_400).collect();
    let cold = send(bed, "/v1/completions", &completion(json!(ids))).await?;
    assert_eq!(cold.cached_tokens, 0);
    let warm = Served {
        worker: cold.worker,
        cached_tokens: shared_tokens(&ids, &ids, BLOCK_SIZE),
    };
    assert_eq!(
        send(bed, "/v1/completions", &streaming(completion(json!(ids)))).await?,
        warm
    );
    Ok(())
}

/// Whatever a chat is made of, the filter sees the blocks that the engine makes of it.
async fn every_kind_of_chat(bed: &Testbed) -> Result<()> {
    let seed = Cell::new(10_000);
    // No two chats begin alike.
    let text = || {
        seed.set(seed.get() + 1);
        words(seed.get(), 60)
    };
    let user = || message("user", &text());
    let call = |arguments: Value| {
        let function = json!({"name": "count", "arguments": arguments});
        json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": function}]})
    };
    let result = json!({"role": "tool", "tool_call_id": "1", "content": "{\"fish\": 7}"});
    let parameters = json!({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]});
    let tool = json!({"type": "function", "function": {"name": "count", "description": "Zähle <all>.", "parameters": parameters}});
    let with = |messages: &[Value], fields: Value| {
        let mut request = chat(messages);
        for (name, value) in fields.as_object().into_iter().flatten() {
            request[name] = value.clone();
        }
        request
    };
    let thinking = message("assistant", "<think>\nHm.\n</think>\n\nSeven.");
    let kinds = [
        chat(&[user()]),
        chat(&[user(), message("assistant", "Aye."), user()]),
        chat(&[message("system", &text()), message("system", "And be brief."), user()]),
        chat(&[user(), thinking.clone(), user(), thinking, message("user", "Go on.")]),
        chat(&[
            json!({"role": "user", "content": [{"type": "text", "text": text()}, {"type": "text", "text": "In parts."}]}),
        ]),
        chat(&[json!({"role": "user", "content": text(), "name": "ann"})]),
        chat(&[user(), call(json!("{\"a\": 1.50}")), result.clone(), user()]),
        chat(&[user(), call(json!("{\"b\":[1,  2]}")), result.clone(), result]),
        chat(&[message(
            "user",
            &format!("  {}\r\n\t\u{0}\u{1F9ED}\u{200D}\u{FE0F} <|im_end|>", text()),
        )]),
        with(&[message("system", &text()), user()], json!({"tools": [tool, tool]})),
        with(&[user()], json!({"tools": [tool]})),
        with(&[user()], json!({"chat_template_kwargs": {"enable_thinking": false}})),
        with(&[user()], json!({"add_generation_prompt": false})),
        with(
            &[user(), message("assistant", "It was")],
            json!({"add_generation_prompt": false, "continue_final_message": true}),
        ),
        with(
            &[user()],
            json!({"temperature": 0.5, "top_p": 1, "seed": 3, "stop": null, "user": "ann", "logprobs": null}),
        ),
    ];
    for request in kinds {
        let ids = tokens(bed, &request).await?;
        let cold = send_chat(bed, &request).await?;
        let before = Truth::read(gateway(bed)?).await?;
        let warm = Served {
            worker: cold.worker,
            cached_tokens: shared_tokens(&ids, &ids, BLOCK_SIZE),
        };
        assert_eq!(send_chat(bed, &request).await?, warm, "{request}");
        let truth = Truth::read(gateway(bed)?).await?.since(before);
        let expected = Truth {
            responses: 1,
            predicted_tokens: warm.cached_tokens,
            cached_tokens: warm.cached_tokens,
            prompt_tokens: ids.len() as u64,
            mismatches: 0,
        };
        assert_eq!(truth, expected, "{request}");
    }
    Ok(())
}

/// About 100,000 tokens, twice.
async fn a_long_prompt(bed: &Testbed) -> Result<()> {
    let request = question(&words(600, 95_000), "What was it about?");
    let ids = tokens(bed, &request).await?;
    ensure!((90_000..120_000).contains(&ids.len()), "{} tokens", ids.len());
    let cold = send_chat(bed, &request).await?;
    let warm = Served {
        worker: cold.worker,
        cached_tokens: shared_tokens(&ids, &ids, BLOCK_SIZE),
    };
    assert_eq!(send_chat(bed, &request).await?, warm);
    Ok(())
}

/// While nothing is in flight when a request is decided, what the view says is what the engine finds.
async fn predictions_come_true(bed: &Testbed) -> Result<()> {
    let before = Truth::read(gateway(bed)?).await?;
    let decided_before = Decisions::read(gateway(bed)?).await?;
    let mut prompt_tokens = 0;
    for round in 0..4 {
        let request = question(&words(300, 150), &words(300 + round, 30));
        prompt_tokens += tokens(bed, &request).await?.len() as u64;
        send_chat(bed, &request).await?;
    }
    let truth = Truth::read(gateway(bed)?).await?.since(before);
    ensure!(truth.cached_tokens > 0, "{truth:?}");
    let expected = Truth {
        responses: 4,
        predicted_tokens: truth.cached_tokens,
        cached_tokens: truth.cached_tokens,
        prompt_tokens,
        mismatches: 0,
    };
    assert_eq!(truth, expected);
    let decided = Decisions::read(gateway(bed)?).await?.since(&decided_before);
    assert_eq!(decided, Decisions::of([("exact.ok", 4)]));
    Ok(())
}

/// A long conversation stays on its worker, for as long as that is cheaper than to start anew elsewhere.
async fn conversation(bed: &Testbed) -> Result<()> {
    let mut messages = vec![message("system", &words(400, 100))];
    let mut home = None;
    for turn in 0..60 {
        messages.push(message("user", &words(401 + turn, 40)));
        let answer = bed
            .client
            .post_json(&gateway(bed)?.url("/v1/chat/completions"), &chat(&messages))
            .await?;
        let worker = bed.worker_of(&answer)?;
        assert_eq!(worker, *home.get_or_insert(worker), "turn {turn} moved");
        if turn > 0 {
            ensure!(answer.cached_tokens()? > 0, "turn {turn} found nothing in the cache");
        }
        let said = answer.json()?;
        messages.push(said["choices"][0]["message"].clone());
        settled(bed).await?;
    }
    let home = home.context("no turn")?;

    let load = load_with(bed, home, &messages).await?;
    messages.push(message("user", &words(599, 60)));
    let moved = send_while_busy(bed, &chat(&messages)).await?;
    assert_ne!(moved, home, "the conversation stayed on a worker under load");
    drop(load);
    settled(bed).await?;
    // Both workers hold the conversation now, the new one more of it.
    messages.push(message("assistant", &words(600, 60)));
    messages.push(message("user", "Truly?"));
    let back = send_chat(bed, &chat(&messages)).await?;
    assert_eq!(back.worker, moved);
    Ok(())
}

/// Puts a worker under load through the gateway: a request that starts like the conversation, which draws it there, and
/// goes on for several times its length.
async fn load_with(bed: &Testbed, home: usize, messages: &[Value]) -> Result<Streaming> {
    let conversation = tokens(bed, &chat(messages)).await?.len();
    let mut longer = messages.to_vec();
    longer.push(message("user", &words(500, 2 * conversation)));
    let request = Request::json(&gateway(bed)?.url("/v1/chat/completions"), &endless(chat(&longer)));
    let mut load = bed.client.open(request).await?;
    let worker = load.headers.get("x-engine-sim-worker").context("x-engine-sim-worker")?;
    assert_eq!(worker, bed.engines[home].endpoint(), "the load went elsewhere");
    load.chunk().await?.context("the load ended at once")?;
    Ok(load)
}

async fn send_while_busy(bed: &Testbed, request: &Value) -> Result<usize> {
    let answer = bed
        .client
        .post_json(&gateway(bed)?.url("/v1/chat/completions"), request)
        .await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    bed.worker_of(&answer)
}
