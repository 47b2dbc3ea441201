//! The `warmpath` binary, as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use control_plane::config::PromptsConfig;
use control_plane::model::Model;

fn warmpath() -> Command {
    Command::new(env!("CARGO_BIN_EXE_warmpath"))
}

fn file(name: &str, content: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("command-line-{}-{name}", std::process::id()));
    std::fs::write(&file, content).unwrap();
    file
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    // More than a pipe holds, so that the rest is written after the reader is gone.
    let ids: Vec<u32> = (0..100_000).collect();
    let ids = file("many.json", &format!("{ids:?}"));
    let mut command = warmpath();
    command.args(["inspect", "--tokens"]).arg(&ids);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (String::from_utf8_lossy(&output.stderr).as_ref(), output.status.code()),
        ("", Some(0))
    );
}

/// Exit code, standard output and standard error of a check of a configuration of pools with these models.
fn checked(name: &str, models: &[&Path], arguments: &[&str]) -> (Option<i32>, String, String) {
    let pools = models.iter().enumerate().map(|(number, model)| {
        format!(
            "  - {{name: p{number}, models: [m{number}], model_dir: {}, block_size: 16, workers: [{{endpoint: '10.0.0.{number}:80'}}]}}\n",
            model.display()
        )
    });
    let config = file(
        &format!("{name}.yaml"),
        &format!("pools:\n{}", pools.collect::<String>()),
    );
    let mut command = warmpath();
    command.env("WARMPATH_LOG", "off").arg("check").args(arguments);
    let output = command.arg("--config").arg(&config).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&config.display().to_string(), "FILE");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn model(name: &str, template: &str, pre_tokenizer: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("command-line-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let tokenizer = format!(
        r#"{{"pre_tokenizer": {pre_tokenizer}, "model": {{"type": "WordLevel", "vocab": {{"x": 0}}, "unk_token": "x"}}}}"#
    );
    let config = format!(r#"{{"chat_template": "{template}"}}"#);
    std::fs::write(directory.join("tokenizer.json"), tokenizer).unwrap();
    std::fs::write(directory.join("tokenizer_config.json"), config).unwrap();
    directory
}

#[test]
fn a_check_warns_of_models_that_serve_could_not_use() {
    let good = model("good", "x", "null");
    let no_template = model("no-template", "{% if %}", "null");
    let regex = r#"{"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": false}"#;
    let no_tokenizer = model("no-tokenizer", "x", regex);
    let ok = (Some(0), "FILE: ok\n".to_owned(), String::new());
    assert_eq!(checked("good", &[&good], &["--deny-warnings"]), ok);

    let models = [&*no_template, &good, &no_tokenizer];
    let warning = |number: usize| {
        let because = Model::load(models[number], &PromptsConfig::default())
            .inexact_because()
            .unwrap();
        format!(
            "FILE: warning: pool p{number}, model_dir {}: the model cannot be used as a whole: what needs the missing part is \
             routed by load: {because}\n",
            models[number].display()
        )
    };
    let warnings = warning(0) + &warning(2);
    assert_eq!(warnings.lines().count(), 2, "{warnings}");
    let warned = (Some(0), "FILE: ok, with 2 warning(s)\n".to_owned(), warnings.clone());
    assert_eq!(checked("warned", &models, &[]), warned);
    assert_eq!(
        checked("denied", &models, &["--deny-warnings"]),
        (Some(2), String::new(), warnings)
    );
}
