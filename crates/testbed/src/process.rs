//! One child process: its log, its ready line, its end.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::wait::{DEADLINE, eventually};

/// A child process that is killed and reaped when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    first_line: Option<oneshot::Receiver<String>>,
}

impl Process {
    /// Starts `program`; standard output and error are appended to `<log_dir>/<name>.log`.
    ///
    /// # Errors
    /// When the log or the process cannot be made.
    pub fn spawn(name: &str, program: &Path, args: &[OsString], log_dir: &Path) -> Result<Self> {
        let log = log_dir.join(format!("{name}.log"));
        let mut file = OpenOptions::new().create(true).append(true).open(&log)?;
        let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
        writeln!(file, "$ {} {}", program.display(), words.join(" "))?;
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file.try_clone()?)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let first_line = child.stdout.take().map(|stdout| copy_to_log(stdout, file));
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
            first_line,
        })
    }

    /// Name in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The JSON line that a process writes when it is ready to serve.
    ///
    /// # Errors
    /// When it ends first, says something else, or takes too long; also when asked a second time.
    pub async fn ready_line(&mut self) -> Result<Value> {
        let Some(line) = self.first_line.take() else {
            bail!("{}: the ready line was read already", self.name);
        };
        let line = match timeout(DEADLINE, line).await {
            Ok(Ok(line)) => line,
            Ok(Err(_)) => bail!("{} ended before it was ready; its log:\n{}", self.name, self.tail(20)),
            Err(_) => bail!(
                "{} was not ready in {DEADLINE:?}; its log:\n{}",
                self.name,
                self.tail(20)
            ),
        };
        serde_json::from_str(&line).with_context(|| format!("ready line of {}: {line}", self.name))
    }

    /// Kills it at once (SIGKILL).
    pub fn kill(&mut self) {
        // Fails only if it is over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        let what = format!("end of {}", self.name);
        let child = &mut self.child;
        eventually(&what, || {
            let status = child.try_wait().map_err(Into::into);
            async { status }
        })
        .await
    }

    /// Lets it stand still where it is (SIGSTOP), its sockets open, until [`Process::resume`].
    ///
    /// # Errors
    /// When it is over.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it is over.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("process id")?, signal).with_context(|| format!("{signal:?} to {}", self.name))
    }

    /// Path of its log.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its whole log, of this and earlier lives.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        let Ok(log) = self.log() else {
            return String::new();
        };
        let mut last = VecDeque::with_capacity(lines);
        for line in log.lines() {
            if last.len() == lines {
                last.pop_front();
            }
            last.push_back(line);
        }
        Vec::from(last).join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Copies output to the log until its end; the first line is handed out as well.
fn copy_to_log(stdout: ChildStdout, mut log: File) -> oneshot::Receiver<String> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let mut sender = Some(sender);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // A full disk shows in the tests soon enough.
            let _ = writeln!(log, "{line}");
            if let Some(sender) = sender.take() {
                let _ = sender.send(line);
            }
        }
    });
    receiver
}

/// Arguments `--name value`.
pub(crate) fn option(args: &mut Vec<OsString>, name: &str, value: impl AsRef<OsStr>) {
    args.push(format!("--{name}").into());
    args.push(value.as_ref().to_owned());
}
