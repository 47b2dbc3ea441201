//! The `warmpath` binary, as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
