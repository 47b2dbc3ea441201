//! Prompts with images: those of which all is known are routed like others, others by what stands before.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Testbed, vision_model};
use wasm_tests::prompts::{chat, message, words};
use wasm_tests::state::{Decisions, Truth};
use wasm_tests::{gateway, run, settled, shared_tokens, synced, tokens};

const BLOCK_SIZE: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn images_go_where_the_text_before_them_is() -> Result<()> {
    let bed = Testbed::builder("media")
        .engines(3, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("usage_sample", 1.0))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let before = Decisions::read(gateway(bed)?).await?;
        let truth = Truth::read(gateway(bed)?).await?;
        let system = message("system", &words(1, 400));
        // Each starts with the same text, and only one of the workers has that.
        let requests = ["a cat", "a dog", "a cat"].map(|image| with_image(&system, image));
        let (first, _) = send(bed, &requests[0]).await?;
        settled(bed).await?;
        let prompts = [tokens(bed, &requests[0]).await?, tokens(bed, &requests[1]).await?];
        let until_image = shared_tokens(&prompts[0], &text_of(bed, &system).await?, BLOCK_SIZE);
        for (request, cached) in [
            // The blocks from the image on are another's.
            (&requests[1], until_image),
            // All of it but the last token's block was there.
            (&requests[2], ((prompts[0].len() - 1) / BLOCK_SIZE * BLOCK_SIZE) as u64),
        ] {
            assert_eq!(send(bed, request).await?, (first, cached));
            settled(bed).await?;
        }
        let decided = Decisions::read(gateway(bed)?).await?.since(&before);
        assert_eq!(decided, Decisions::of([("exact.text_before_media", 3)]));
        // How long the prompt is, and how much of it is cached, is not known here: nothing to hold against the worker.
        let truth = Truth::read(gateway(bed)?).await?.since(truth);
        assert_eq!((truth.responses, truth.mismatches), (0, 0), "{truth:?}");
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_where_its_image_and_what_follows_are() -> Result<()> {
    let model_dir = vision_model()?;
    let options = EngineOptions {
        model_dir: Some(model_dir.clone()),
        ..EngineOptions::default()
    };
    let control_plane = ControlPlaneOptions::default();
    let bed = Testbed::builder("media-known")
        .engines(3, options)
        .control_plane(control_plane.set("/pools/0/model_dir", model_dir.to_string_lossy().into_owned()))
        .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("usage_sample", 1.0))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        // Two workers have the same conversation, about one image each.
        let [cat, dog] = ["cat", "dog"].map(about);
        for (engine, request) in [(0, &cat), (1, &dog)] {
            let url = bed.engines[engine].url("/v1/chat/completions");
            bed.client.post_json(&url, request).await?;
        }
        settled(bed).await?;
        let prompt = tokens(bed, &cat).await?;
        let pads = prompt.iter().filter(|id| **id == 151_655).count();
        assert_eq!(pads, 560 / 28 * (280 / 28));
        let before_image = prompt.iter().position(|id| *id == 151_655).context("no image")?;

        let before = Decisions::read(gateway(bed)?).await?;
        let truth = Truth::read(gateway(bed)?).await?;
        for (image, expected) in [("cat", 0), ("dog", 1)] {
            let next = follow_up(&about(image));
            let cached = shared_tokens(&prompt, &tokens(bed, &next).await?, BLOCK_SIZE);
            assert!(
                cached as usize > before_image + pads,
                "{cached} tokens end before the image does"
            );
            assert_eq!(send(bed, &next).await?, (expected, cached), "{image}");
        }
        // Another image of the same size, about which nobody has seen anything.
        let (worker, cached) = send(bed, &about("bird")).await?;
        assert_eq!(cached, (before_image / BLOCK_SIZE * BLOCK_SIZE) as u64, "on {worker}");
        let decided = Decisions::read(gateway(bed)?).await?.since(&before);
        assert_eq!(decided, Decisions::of([("exact.ok", 3)]));
        // All of each prompt was known, and what the workers had of it is what was predicted.
        let truth = Truth::read(gateway(bed)?).await?.since(truth);
        assert_eq!((truth.responses, truth.mismatches), (3, 0), "{truth:?}");
        Ok(())
    })
    .await;
    Ok(())
}

/// A long text, an image, and a long text again.
fn about(image: &str) -> Value {
    let header = [
        &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..],
        &560_u32.to_be_bytes(),
        &280_u32.to_be_bytes(),
    ]
    .concat();
    let url = format!("data:image/png;base64,{}", STANDARD.encode(header));
    let parts = json!([
        {"type": "text", "text": words(2, 100)},
        {"type": "image_url", "image_url": {"url": url}, "uuid": image},
        {"type": "text", "text": words(3, 100)},
    ]);
    chat(&[
        message("system", &words(1, 100)),
        json!({"role": "user", "content": parts}),
    ])
}

/// The conversation goes on.
fn follow_up(request: &Value) -> Value {
    let mut messages = request["messages"].as_array().cloned().unwrap_or_default();
    messages.extend([message("assistant", "It sleeps."), message("user", &words(4, 20))]);
    chat(&messages)
}

fn with_image(system: &Value, image: &str) -> Value {
    let url = format!("https://pictures.example/{}", image.replace(' ', "-"));
    let parts = json!([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]);
    chat(&[system.clone(), json!({"role": "user", "content": parts})])
}

/// The tokens of a prompt that goes on with text.
async fn text_of(bed: &Testbed, system: &Value) -> Result<Vec<u32>> {
    tokens(bed, &chat(&[system.clone(), message("user", "?")])).await
}

/// Who answers, and how many tokens it had.
async fn send(bed: &Testbed, request: &Value) -> Result<(usize, u64)> {
    let answer = bed
        .client
        .post_json(&gateway(bed)?.url("/v1/chat/completions"), request)
        .await?;
    let worker = bed.worker_of(&answer)?;
    let usage = &answer.json()?["usage"]["prompt_tokens_details"]["cached_tokens"];
    Ok((worker, usage.as_u64().context("cached_tokens")?))
}
