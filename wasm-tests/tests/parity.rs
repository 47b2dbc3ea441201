//! Engines that make other tokens than the control plane's model.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Testbed, eventually, model_dir};
use wasm_tests::prompts::{question, words};
use wasm_tests::state::Decisions;
use wasm_tests::{gateway, run, settled, shared_tokens, synced, tokens};

#[tokio::test(flavor = "multi_thread")]
async fn other_tokens_keep_the_pool_on_load() -> Result<()> {
    let options = ControlPlaneOptions::default();
    // Nothing but a restart lets the engine be asked again.
    let options = options.set("/pools/0/parity/interval", "1h");
    let mut bed = Testbed::builder("parity")
        .engines(1, EngineOptions::default())
        .envoy(EnvoyOptions::new(Mode::Warmpath).concurrency(2))
        .start()
        .await?;
    let other_tokens = other_model(bed.run_dir(), "tokens", swap_two_tokens)?;
    let other_templates = OTHER_TEMPLATES
        .into_iter()
        .map(|(probe, from, to)| {
            Ok((
                probe,
                other_model(bed.run_dir(), probe, |dir| change_template(dir, from, to))?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let right = EngineOptions::default();
    let wrong = |model_dir| EngineOptions {
        model_dir: Some(model_dir),
        ..EngineOptions::default()
    };
    bed.engines[0].replace(wrong(other_tokens)).await?;
    bed.start_control_plane(options).await?;
    run(bed, async |bed| {
        let pool = pool_until(bed, "unequal").await?;
        let worker = bed.engines[0].endpoint().to_owned();
        let [ours, theirs] = ["ours", "worker"].map(|side| {
            let side = &pool["parity"]["workers"][0]["difference"][side];
            (
                side["token"].as_u64(),
                side["around"].as_str().unwrap_or_default().to_owned(),
            )
        });
        ensure!(ours.0.is_some() && theirs.0.is_some() && ours.0 != theirs.0, "{pool}");
        // The engine tells no texts, so that its tokens are shown by our vocabulary.
        ensure!(ours.1.contains(" of May") && theirs.1.contains(" the May"), "{pool}");
        assert_eq!(pool["exact"], false);
        let because = pool["inexact_because"].as_str().unwrap_or_default();
        ensure!(
            because.contains(&worker) && because.contains("probe text,"),
            "{because}"
        );
        by_load(bed, 1).await?;

        bed.engines[0].replace(right).await?;
        let pool = pool_until(bed, "equal").await?;
        assert_eq!(
            pool["parity"]["workers"],
            json!([{"endpoint": worker, "state": "equal", "compared": 29, "rendered": 0, "left_out": [
                {"probe": "chat_tool_choice_none", "because": "POST /v1/chat/completions/render: status 404: "},
                {"probe": "responses_tools", "because": "POST /v1/responses/render: status 404: "}]}])
        );
        exactly(bed, 2).await?;

        for (probe, other_template) in other_templates {
            bed.engines[0].replace(wrong(other_template)).await?;
            difference_until(bed, probe).await?;
        }
        by_load(bed, 3).await?;

        bed.engines[0].replace(EngineOptions::default()).await?;
        pool_until(bed, "equal").await?;
        exactly(bed, 4).await
    })
    .await;
    Ok(())
}

/// The first probe that shows it, and a change of Qwen3's template.
const OTHER_TEMPLATES: [(&str, &str, &str); 6] = [
    ("chat", "{%- if tools %}", "{{ 'Be brief.' }}{%- if tools %}"),
    ("chat_no_thinking", "enable_thinking is false", "false"),
    (
        "chat_not_generated",
        "if loop.last or (not loop.last and reasoning_content)",
        "if not loop.last and reasoning_content",
    ),
    ("chat_tools", "tool | tojson", "tool.function | tojson"),
    ("chat_tool_calls", "'\\n</tool_response>'", "'</tool_response>'"),
    ("chat_reasoning", "reasoning_content.strip('\\n')", "''"),
];

/// A copy of the model with one of its files changed.
fn other_model(run_dir: &Path, name: &str, change: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let (from, to) = (model_dir()?, run_dir.join(name));
    fs::create_dir_all(&to)?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(file), to.join(file)).with_context(|| file.to_owned())?;
    }
    change(&to)?;
    Ok(to)
}

fn edit(path: &Path, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<()> {
    let mut json: Value = serde_json::from_slice(&fs::read(path)?)?;
    change(&mut json)?;
    fs::write(path, serde_json::to_vec(&json)?)?;
    Ok(())
}

fn swap_two_tokens(directory: &Path) -> Result<()> {
    edit(&directory.join("tokenizer.json"), |json| {
        let vocab = json["model"]["vocab"].as_object_mut().context("vocab")?;
        let [of, the] = ["Ġof", "Ġthe"].map(|token| vocab.get(token).cloned());
        vocab["Ġof"] = the.context("Ġthe")?;
        vocab["Ġthe"] = of.context("Ġof")?;
        Ok(())
    })
}

fn change_template(directory: &Path, from: &str, to: &str) -> Result<()> {
    edit(&directory.join("tokenizer_config.json"), |json| {
        let template = json["chat_template"].as_str().context("chat_template")?;
        ensure!(template.contains(from), "the template has no {from}");
        json["chat_template"] = template.replacen(from, to, 1).into();
        Ok(())
    })
}

/// The pool's status once its parity is in this state.
async fn pool_until(bed: &Testbed, state: &str) -> Result<Value> {
    let control_plane = bed.control_plane()?;
    eventually(&format!("parity {state}"), || async {
        let status = bed.client.get_json(&control_plane.url("/v1/status")).await?;
        let pool = &status["pools"][0];
        ensure!(pool["parity"]["state"] == state, "{}", pool["parity"]);
        Ok(Some(pool.clone()))
    })
    .await
}

/// Waits until this probe shows a difference, which is named.
async fn difference_until(bed: &Testbed, probe: &str) -> Result<()> {
    let control_plane = bed.control_plane()?;
    eventually(&format!("a difference in probe {probe}"), || async {
        let status = bed.client.get_json(&control_plane.url("/v1/status")).await?;
        let pool = &status["pools"][0];
        let difference = &pool["parity"]["workers"][0]["difference"];
        ensure!(difference["probe"] == probe, "{}", pool["parity"]);
        let because = pool["inexact_because"].as_str().unwrap_or_default();
        ensure!(
            because.contains(&format!("probe {probe}, token {}", difference["position"])),
            "{because}"
        );
        Ok(Some(()))
    })
    .await
}

/// Requests are answered, and routed by load: all worker threads have been told.
async fn by_load(bed: &Testbed, seed: u64) -> Result<()> {
    let told = eventually("routing by load only", || async {
        let before = Decisions::read(gateway(bed)?).await?;
        for _ in 0..8 {
            send(bed, &question(&words(seed, 200), "Where?")).await?;
        }
        let decided = Decisions::read(gateway(bed)?).await?.since(&before);
        ensure!(decided.sum_of("load") == 8, "{decided:?}");
        Ok(Some(()))
    });
    told.await?;
    settled(bed).await
}

/// A prompt sent again is found again.
async fn exactly(bed: &Testbed, seed: u64) -> Result<()> {
    synced(bed).await?;
    let prompt = question(&words(seed, 200), "Where?");
    send(bed, &prompt).await?;
    settled(bed).await?;
    let before = Decisions::read(gateway(bed)?).await?;
    let answer = send(bed, &prompt).await?;
    let ids = tokens(bed, &prompt).await?;
    assert_eq!(answer.cached_tokens()?, shared_tokens(&ids, &ids, 16));
    let decided = Decisions::read(gateway(bed)?).await?.since(&before);
    assert_eq!(decided, Decisions::of([("exact.ok", 1)]));
    settled(bed).await
}

async fn send(bed: &Testbed, request: &Value) -> Result<testbed::Answer> {
    let url = gateway(bed)?.url("/v1/chat/completions");
    let answer = bed.client.post_json(&url, request).await?;
    ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
    Ok(answer)
}
