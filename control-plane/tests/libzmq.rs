//! Publishers on libzmq, the library that engines use, in the forms of vLLM and SGLang.

mod common;

use std::path::Path;
use std::process::Stdio;

use common::*;
use control_plane::app::App;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const PATIENT: &str = "events: {disconnect_grace: 10m, probe_interval: 1h}\n";
const FORMS: [&str; 2] = ["vllm", "sglang"];

/// A process with the sockets of one rank; see `libzmq.py`.
struct Publisher {
    process: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    events: String,
    replay: String,
}

impl Publisher {
    async fn start(form: &str, events: &str, replay: &str, more: &[&str]) -> Self {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = crate_dir.join("../target/tools/venv-dynamo/bin/python");
        let mut process = Command::new(&python)
            .arg(crate_dir.join("tests/libzmq.py"))
            .args(["--form", form, "--events", events, "--replay", replay])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: run `scripts/setup interop`", python.display()));
        let commands = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = answers.next_line().await.unwrap().expect("it did not start");
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let endpoint = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self {
            process,
            commands,
            answers,
            events: endpoint("events"),
            replay: endpoint("replay"),
        }
    }

    async fn bound(form: &str) -> Self {
        Self::start(form, "tcp://127.0.0.1:*", "tcp://127.0.0.1:*", &[]).await
    }

    async fn publish(&mut self, events: Value) {
        self.tell(json!({"events": events, "lost": false})).await;
    }

    /// A batch that gets lost on the way, but can be replayed.
    async fn lose(&mut self, events: Value) {
        self.tell(json!({"events": events, "lost": true})).await;
    }

    async fn tell(&mut self, command: Value) {
        self.commands
            .write_all(format!("{command}\n").as_bytes())
            .await
            .unwrap();
        assert_eq!(self.answers.next_line().await.unwrap().as_deref(), Some("done"));
    }

    async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}

fn stored(prompt: &[u32], first: u64) -> Value {
    json!([{"stored": prompt, "first": first}])
}

fn depths(filter: &Filter, prompts: [u32; 3]) -> [u32; 3] {
    prompts.map(|first| filter.depth(&prompt(first, 3), 0))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs pyzmq: scripts/setup interop"]
async fn what_is_published_lost_or_forgotten_is_known() {
    for form in FORMS {
        let mut engine = Publisher::bound(form).await;
        engine.publish(stored(&prompt(1, 3), 10)).await;
        let worker = format!(
            "{{endpoint: 10.0.0.0:8000, kv_events: '{}', replay: '{}'}}",
            engine.events, engine.replay
        );
        let directory = model_dir(&format!("libzmq-{form}"));
        let app = App::start(config_of(&directory, &[worker], "{mode: off}", PATIENT))
            .await
            .unwrap();
        let mut filter = Filter::connect(&app).await;
        filter
            .until("what came before us", |filter| depths(filter, [1, 2, 3]) == [3, 0, 0])
            .await;
        engine.lose(stored(&prompt(2, 3), 20)).await;
        engine.publish(json!([{"removed": [12]}])).await;
        filter
            .until("what was lost", |filter| depths(filter, [1, 2, 3]) == [2, 3, 0])
            .await;

        let (events, replay) = (engine.events.clone(), engine.replay.clone());
        engine.kill().await;
        let mut engine = Publisher::start(form, &events, &replay, &[]).await;
        engine.publish(stored(&prompt(3, 3), 10)).await;
        filter
            .until("the new engine's", |filter| depths(filter, [1, 2, 3]) == [0, 0, 3])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs pyzmq: scripts/setup interop"]
async fn publishers_that_connect_are_known_by_topic() {
    for form in FORMS {
        let directory = model_dir(&format!("libzmq-connects-{form}"));
        let workers = ["{endpoint: 10.0.0.0:8000}".to_owned()];
        let listen = "events: {listen: 'tcp://127.0.0.1:0', disconnect_grace: 10m, probe_interval: 1h}\n";
        let app = App::start(config_of(&directory, &workers, "{mode: off}", listen))
            .await
            .unwrap();
        let mut filter = Filter::connect(&app).await;
        let endpoint = format!("tcp://{}", app.events.unwrap());
        let more = ["--connect", "--topic", "kv@10.0.0.0@tiny"];
        let mut engine = Publisher::start(form, &endpoint, "tcp://127.0.0.1:*", &more).await;
        // What it publishes before it has heard of our subscription is lost.
        let heard = async {
            while filter.depth(&prompt(1, 3), 0) == 0 {
                engine.publish(stored(&prompt(1, 3), 10)).await;
                let known = filter.until("the prompt", |filter| filter.depth(&prompt(1, 3), 0) == 3);
                let _ = tokio::time::timeout(std::time::Duration::from_millis(100), known).await;
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("nobody hears it");
    }
}
