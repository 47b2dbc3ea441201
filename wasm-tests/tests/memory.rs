//! Prompts that the filter remembers are decided on as if it had read them anew.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Testbed, eventually};
use wasm_tests::prompts::{chat, message, words};
use wasm_tests::state::{Decisions, Recall, Truth};
use wasm_tests::{gateway, run, settled, shared_tokens, synced, tokens};

const BLOCK_SIZE: usize = 16;
const TURNS: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_remembered() -> Result<()> {
    let bed = Testbed::builder("memory")
        .engines(2, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath).plugin("usage_sample", 1.0))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let mut messages = vec![message("system", &words(1, 1500))];
        let mut before = Vec::new();
        for turn in 0..TURNS {
            messages.push(message("user", &words(10 + turn, 300)));
            let sent = send(bed, &messages).await?;
            ensure!(
                sent.cached_tokens >= shared_tokens(&before, &sent.tokens, BLOCK_SIZE),
                "turn {turn}"
            );
            if turn == 0 {
                assert_eq!(sent.recall.remembered_bytes, 0);
            } else {
                sent.ensure_mostly_remembered()?;
            }
            messages.push(sent.answer);
            before = sent.tokens;
        }
        // Everything after the edit moves into other blocks, and is remembered all the same.
        messages[2] = message("assistant", "Let me put that in other words.");
        messages.push(message("user", "And now?"));
        let sent = send(bed, &messages).await?;
        assert_eq!(sent.cached_tokens, shared_tokens(&before, &sent.tokens, BLOCK_SIZE));
        sent.ensure_mostly_remembered()?;
        memory_is_told(bed).await
    })
    .await;
    Ok(())
}

/// Waits until the gauges tell of the VMs' memory, and that views and prompts have a part of it.
async fn memory_is_told(bed: &Testbed) -> Result<()> {
    eventually("gauges of memory", || async {
        let envoy = gateway(bed)?;
        let told = async |field: &str| {
            envoy
                .sum(|name| name.ends_with(&format!("warmpath.memory.{field}")))
                .await
        };
        let [vm, views, prompts] = [
            told("vm_bytes").await?,
            told("view_bytes").await?,
            told("prompt_bytes").await?,
        ];
        ensure!(
            views > 0 && prompts > 0 && vm > views + prompts,
            "{vm}, {views}, {prompts}"
        );
        Ok(Some(()))
    })
    .await
}

/// Without memory the same is decided, and nothing is counted as remembered.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_may_remember_nothing() -> Result<()> {
    let bed = Testbed::builder("memory-off")
        .engines(1, EngineOptions::default())
        .control_plane(ControlPlaneOptions::default())
        .envoy(
            EnvoyOptions::new(Mode::Warmpath)
                .plugin("usage_sample", 1.0)
                .plugin("prompt_memory_bytes", 0),
        )
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let messages = [message("user", &words(1, 1500))];
        for _ in 0..2 {
            let sent = send(bed, &messages).await?;
            ensure!(sent.recall.bytes > 5_000, "{:?}", sent.recall);
            assert_eq!(sent.recall.remembered_bytes, 0);
        }
        Ok(())
    })
    .await;
    Ok(())
}

struct Sent {
    tokens: Vec<u32>,
    cached_tokens: u64,
    answer: Value,
    recall: Recall,
}

impl Sent {
    fn ensure_mostly_remembered(&self) -> Result<()> {
        let Recall {
            bytes,
            remembered_bytes,
        } = self.recall;
        ensure!(remembered_bytes * 10 > bytes * 6, "{:?}", self.recall);
        Ok(())
    }
}

/// Sends a conversation, and checks that it was decided exactly and that the engine found what was predicted.
async fn send(bed: &Testbed, messages: &[Value]) -> Result<Sent> {
    let (envoy, request) = (gateway(bed)?, chat(messages));
    let (truth, decisions) = (Truth::read(envoy).await?, Decisions::read(envoy).await?);
    let recall = Recall::read(envoy).await?;
    let tokens = tokens(bed, &request).await?;
    let answer = bed
        .client
        .post_json(&envoy.url("/v1/chat/completions"), &request)
        .await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let cached_tokens = answer.cached_tokens()?;
    settled(bed).await?;
    let expected = Truth {
        responses: 1,
        predicted_tokens: cached_tokens,
        cached_tokens,
        prompt_tokens: tokens.len() as u64,
        mismatches: 0,
    };
    assert_eq!(Truth::read(envoy).await?.since(truth), expected);
    let decided = Decisions::read(envoy).await?.since(&decisions);
    assert_eq!(decided, Decisions::of([("exact.ok", 1)]));
    Ok(Sent {
        tokens,
        cached_tokens,
        answer: answer
            .json()?
            .pointer("/choices/0/message")
            .context("no message")?
            .clone(),
        recall: Recall::read(envoy).await?.since(recall),
    })
}
