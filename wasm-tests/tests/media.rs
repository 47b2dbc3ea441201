//! Prompts with images are routed by the text before the first of them.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Testbed};
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
