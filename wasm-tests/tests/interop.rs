//! Components of others behind our Envoy: Dynamo's frontend in direct mode, with its mocker as worker.
//!
//! They are Python packages which `scripts/setup interop` installs; `scripts/test interop` runs these tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{
    Client, ControlPlaneOptions, Engine, EngineOptions, EnvoyOptions, MODEL, Mode, Testbed, model_dir, workspace_root,
};
use wasm_tests::dynamo::{Dynamo, unused_port};
use wasm_tests::state::Decisions;
use wasm_tests::{gateway, run, synced};

/// What the control plane believes the model's template is, while Dynamo has the model's own.
const OUR_TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo: scripts/setup interop"]
async fn dynamo_takes_our_token_ids_for_its_own() -> Result<()> {
    let dir = workspace_root().join(format!("target/testbed/dynamo-{}", std::process::id()));
    let dynamo = Dynamo::new(&dir)?;
    let [events, replay] = [unused_port()?, unused_port()?];
    let (events_port, replay_port) = (events.to_string(), replay.to_string());
    let sockets = [
        "--zmq-kv-events-ports",
        &events_port,
        "--zmq-replay-ports",
        &replay_port,
    ];
    let _mocker = dynamo.worker("mocker", &sockets)?;
    let frontend = dynamo.frontend("frontend", "direct")?;
    frontend.serves().await?;
    let instance = dynamo
        .instances()
        .await?
        .first()
        .copied()
        .context("no instance of the mocker")?;
    let engine = Engine::foreign(
        frontend.process,
        EngineOptions::default(),
        frontend.address,
        vec![format!("tcp://127.0.0.1:{events}")],
        vec![format!("tcp://127.0.0.1:{replay}")],
    );
    let bed = Testbed::builder("interop")
        .engine(engine)
        .control_plane(
            ControlPlaneOptions::default()
                .set("/pools/0/inject_tokens", true)
                // The frontend has no /tokenize, and its template is another on purpose.
                .set("/pools/0/parity/mode", "off")
                .set("/pools/0/model_dir", our_model(&dir)?.to_string_lossy().into_owned()),
        )
        .envoy(EnvoyOptions::new(Mode::Warmpath))
        .start()
        .await?;
    run(bed, async |bed| {
        synced(bed).await?;
        let nvext = json!({"backend_instance_id": instance, "extra_fields": ["prompt_token_ids"]});
        let question = "Who keeps the harbour's lanterns, and who lights them again before every dawn of the year?";
        let mut chat = json!({"model": MODEL, "max_tokens": 2, "nvext": nvext});
        chat["messages"] = json!([{"role": "user", "content": question}]);
        let plain = json!({"model": MODEL, "max_tokens": 2, "nvext": nvext, "prompt": question});

        let direct = bed.engines[0].url("/v1/chat/completions");
        let their_ids = ids(&bed.client, &direct, &chat).await?;
        let our_ids = ids(&bed.client, &bed.engines[0].url("/v1/completions"), &plain).await?;
        ensure!(
            their_ids != our_ids && our_ids.as_array().is_some_and(|ids| ids.len() > 16),
            "{their_ids} {our_ids}"
        );

        let routed = gateway(bed)?.url("/v1/chat/completions");
        assert_eq!(ids(&bed.client, &routed, &chat).await?, our_ids);
        // What a client puts there does not become the prompt, with ids of ours or without.
        chat["nvext"]["token_data"] = json!([1, 2, 3]);
        assert_eq!(ids(&bed.client, &direct, &chat).await?, json!([1, 2, 3]));
        assert_eq!(ids(&bed.client, &routed, &chat).await?, our_ids);
        let before = Decisions::read(gateway(bed)?).await?;
        chat["truncate_prompt_tokens"] = json!(4_000);
        let answer = bed.client.post_json(&routed, &chat).await?;
        let decided = Decisions::read(gateway(bed)?).await?.since(&before);
        assert_eq!(decided, Decisions::of([("load.unsupported_field", 1)]));
        if answer.status == 200 {
            assert_eq!(answer.json()?["nvext"]["prompt_token_ids"], their_ids);
        }
        Ok(())
    })
    .await;
    Ok(())
}

async fn ids(client: &Client, url: &str, request: &Value) -> Result<Value> {
    let answer = client.post_json(url, request).await?;
    ensure!(answer.status == 200, "{url}: {} {}", answer.status, answer.text());
    Ok(answer.json()?["nvext"]["prompt_token_ids"].clone())
}

/// The tests' model with another template.
fn our_model(dir: &Path) -> Result<PathBuf> {
    let source = model_dir()?;
    let ours = dir.join("ours");
    fs::create_dir_all(&ours)?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(source.join(file), ours.join(file)).with_context(|| format!("copy {file}"))?;
    }
    fs::write(ours.join("chat_template.jinja"), OUR_TEMPLATE)?;
    Ok(ours)
}
