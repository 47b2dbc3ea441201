//! Components of others behind our Envoy: Dynamo's frontend in direct mode, with its mocker as worker.
//!
//! They are Python packages which `scripts/setup interop` installs; `scripts/test interop` runs these tests.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{
    Client, ControlPlaneOptions, Engine, EngineOptions, EnvoyOptions, MODEL, Mode, Process, Testbed, eventually,
    model_dir, workspace_root,
};
use wasm_tests::state::Decisions;
use wasm_tests::{gateway, run, synced};

/// What the control plane believes the model's template is, while Dynamo has the model's own.
const OUR_TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo: scripts/setup interop"]
async fn dynamo_takes_our_token_ids_for_its_own() -> Result<()> {
    let dir = workspace_root().join(format!("target/testbed/dynamo-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let models = models(&dir)?;
    let dynamo = Dynamo::start(&dir, &models.theirs).await?;
    let (instance, _mocker) = (dynamo.instance, dynamo.mocker);
    let bed = Testbed::builder("interop")
        .engine(dynamo.engine)
        .control_plane(
            ControlPlaneOptions::default()
                .set("/pools/0/inject_tokens", true)
                // The frontend has no /tokenize, and its template is another on purpose.
                .set("/pools/0/parity/mode", "off")
                .set("/pools/0/model_dir", models.ours.to_string_lossy().into_owned()),
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

struct Models {
    ours: PathBuf,
    theirs: PathBuf,
}

/// The tests' model twice: as Dynamo wants it, and with another template.
fn models(dir: &Path) -> Result<Models> {
    let source = model_dir()?;
    let [ours, theirs] = ["ours", "theirs"].map(|name| dir.join(name));
    for copy in [&ours, &theirs] {
        fs::create_dir_all(copy)?;
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(source.join(file), copy.join(file)).with_context(|| format!("copy {file}"))?;
        }
    }
    fs::write(ours.join("chat_template.jinja"), OUR_TEMPLATE)?;
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151_936,
        "max_position_embeddings": 40_960, "eos_token_id": 151_645, "bos_token_id": 151_643,
    });
    fs::write(theirs.join("config.json"), config.to_string())?;
    let generation = json!({"eos_token_id": [151_645, 151_643], "bos_token_id": 151_643});
    fs::write(theirs.join("generation_config.json"), generation.to_string())?;
    Ok(Models { ours, theirs })
}

struct Dynamo {
    /// The frontend, as the worker that the gateway knows; its KV events are the mocker's.
    engine: Engine,
    mocker: Process,
    /// The mocker's id in Dynamo's discovery, which direct mode asks for.
    instance: u64,
}

impl Dynamo {
    async fn start(dir: &Path, model: &Path) -> Result<Self> {
        let python = workspace_root().join("target/tools/venv-dynamo/bin/python");
        ensure!(python.exists(), "no {}: run scripts/setup interop", python.display());
        let [http, events, replay] = [unused_port()?, unused_port()?, unused_port()?];
        let discovery = dir.join("discovery");
        fs::create_dir_all(&discovery)?;
        let spawn = |name: &str, module: &str, args: &[&str]| {
            let mut words: Vec<OsString> = vec![
                "DYN_DISCOVERY_BACKEND=file".into(),
                format!("DYN_FILE_KV={}", discovery.display()).into(),
                "DYN_REQUEST_PLANE=tcp".into(),
                "DYN_EVENT_PLANE=zmq".into(),
                "DYN_TCP_RPC_HOST=127.0.0.1".into(),
                "DYN_TCP_RESPONSE_STREAM_HOST=127.0.0.1".into(),
                "DYN_EVENT_PLANE_HOST=127.0.0.1".into(),
                "HF_HUB_OFFLINE=1".into(),
                python.clone().into(),
                "-m".into(),
                module.into(),
            ];
            words.extend(args.iter().map(OsString::from));
            Process::spawn(name, Path::new("/usr/bin/env"), &words, dir)
        };
        let model = model.to_string_lossy();
        #[rustfmt::skip]
        let mocker = spawn("mocker", "dynamo.mocker", &[
            "--model-path", &model, "--model-name", MODEL, "--block-size", "16", "--speedup-ratio", "1000",
            "--zmq-kv-events-ports", &events.to_string(), "--zmq-replay-ports", &replay.to_string(),
        ])?;
        #[rustfmt::skip]
        let frontend = spawn("frontend", "dynamo.frontend", &[
            "--http-host", "127.0.0.1", "--http-port", &http.to_string(), "--router-mode", "direct",
        ])?;
        let client = Client::new();
        let models = format!("http://127.0.0.1:{http}/v1/models");
        eventually("Dynamo's frontend with the mocker's model", || async {
            let known = client.get_json(&models).await;
            Ok(known.ok().filter(|known| known["data"][0]["id"] == MODEL).map(drop))
        })
        .await
        .with_context(|| format!("{}\n{}", mocker.tail(20), frontend.tail(20)))?;
        let engine = Engine::foreign(
            frontend,
            EngineOptions::default(),
            format!("127.0.0.1:{http}"),
            vec![format!("tcp://127.0.0.1:{events}")],
            vec![format!("tcp://127.0.0.1:{replay}")],
        );
        Ok(Self {
            engine,
            mocker,
            instance: instance(&discovery)?,
        })
    }
}

/// The file backend has one file for each instance of an endpoint; the key, percent-encoded, ends in the id.
fn instance(discovery: &Path) -> Result<u64> {
    for entry in fs::read_dir(discovery.join("v1/instances"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((_, id)) = name.rsplit_once("%2Fgenerate%2F") {
            return Ok(u64::from_str_radix(id, 16)?);
        }
    }
    anyhow::bail!("no instance of the mocker in {}", discovery.display())
}

fn unused_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
