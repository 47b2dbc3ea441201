//! What the tests against Python share.

#![allow(dead_code)]

pub(crate) mod conversations;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use prompt::{Body, ChatTemplate, ModelText, Prompt, Shape};
use serde_json::{Value, json};

pub(crate) const NOW: i64 = 1_795_426_800;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The directory of one of the models that `scripts/setup test` fetches.
pub(crate) fn model(name: &str) -> PathBuf {
    let dir = workspace().join("target/models").join(name);
    assert!(dir.exists(), "no model in {}: run scripts/setup test", dir.display());
    dir
}

/// The directory of the model that tests use.
pub(crate) fn model_dir() -> PathBuf {
    let dir =
        std::env::var_os("WARMPATH_MODEL_DIR").map_or_else(|| workspace().join("target/models/qwen3"), Into::into);
    assert!(
        dir.join("tokenizer_config.json").exists(),
        "no model in {}: run scripts/setup",
        dir.display()
    );
    dir
}

/// Renders a template with `messages`, if there are any in `variables`, and the others as `chat_template_kwargs`.
pub(crate) fn render(source: &str, variables: &Value) -> Result<String, String> {
    let text = ModelText {
        chat_template: Some(source.to_owned()),
        ..ModelText::default()
    };
    let template = ChatTemplate::compile(&text).map_err(|error| error.to_string())?;
    template.set_now(NOW);
    let mut kwargs = variables.clone();
    let messages = kwargs.as_object_mut().unwrap().remove("messages");
    let messages = messages.unwrap_or_else(|| json!([{"role": "user", "content": ""}]));
    let body = json!({"messages": messages, "chat_template_kwargs": kwargs}).to_string();
    let body = Body::read(Shape::Chat, body.as_bytes()).map_err(|error| error.to_string())?;
    match body.prompt(Some(&template)).map_err(|error| error.to_string())? {
        Prompt::Text { text, .. } => Ok(text.into_owned()),
        other => panic!("{other:?}"),
    }
}

/// Runs `tests/jinja_reference.py` on one job.
pub(crate) fn python(job: &Value) -> Vec<Value> {
    let python = std::env::var_os("WARMPATH_PYTHON")
        .map_or_else(|| workspace().join("target/tools/venv/bin/python"), PathBuf::from);
    assert!(python.exists(), "no Python at {}: run scripts/setup", python.display());
    let mut child = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jinja_reference.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The script reads all of its input before it writes.
    child
        .stdin
        .take()
        .unwrap()
        .write_all(job.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "jinja_reference.py failed");
    serde_json::from_slice(&output.stdout).unwrap()
}
