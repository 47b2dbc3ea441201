//! `warmpath`: parses its arguments, logs, runs.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use control_plane::app::App;
use control_plane::config::Config;
use control_plane::{check, inspect};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit code for wrong arguments, configuration or input.
const BAD_INPUT: u8 = 2;

/// The control plane of Warmpath.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Feed the filters: KV events in, prefix views out.
    Serve {
        /// The configuration file; its keys: docs/configuration.md.
        #[arg(long)]
        config: PathBuf,
    },
    /// Check a configuration file and the models that it names, and say all that is wrong with them.
    Check {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Exit with 2 also if a model cannot be used, which costs its pool the exact rung and no request.
        #[arg(long)]
        deny_warnings: bool,
    },
    /// Print as JSON what Warmpath sees in a request: rung and reason, prompt, token ids, block hashes.
    Inspect(inspect::Arguments),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("WARMPATH_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn,tk_encode=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let done = match Arguments::parse().command {
        Command::Serve { config } => load(&config).and_then(serve),
        Command::Check { config, deny_warnings } => check(&config, deny_warnings),
        Command::Inspect(arguments) => inspect(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    Config::load(path).map_err(|error| {
        eprintln!("{}: {error}", path.display());
        ExitCode::from(BAD_INPUT)
    })
}

fn check(path: &Path, deny_warnings: bool) -> Result<(), ExitCode> {
    let warnings = check::warnings(&load(path)?);
    let file = path.display();
    for warning in &warnings {
        eprintln!("{file}: warning: {warning}");
    }
    match warnings.len() {
        0 => print_line(&format!("{file}: ok")),
        _ if deny_warnings => Err(ExitCode::from(BAD_INPUT)),
        count => print_line(&format!("{file}: ok, with {count} warning(s)")),
    }
}

/// Whoever closes standard output, as `head` does, has seen enough: that is no failure.
fn print_line(line: &str) -> Result<(), ExitCode> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("standard output: {error}");
            Err(ExitCode::FAILURE)
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn inspect(arguments: &inspect::Arguments) -> Result<(), ExitCode> {
    let report = inspect::run(arguments).and_then(|report| Ok(serde_json::to_string_pretty(&report)?));
    match report {
        Ok(json) => print_line(&json),
        Err(error) => {
            eprintln!("warmpath inspect: {error:#}");
            Err(ExitCode::from(BAD_INPUT))
        }
    }
}

fn serve(config: Config) -> Result<(), ExitCode> {
    tracing::info!(?config, "effective configuration");
    let served = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            runtime.block_on(async {
                let mut terminate = signal(SignalKind::terminate())?;
                let mut app = App::start(config).await?;
                let listening = serde_json::json!({"sync": app.sync, "admin": app.admin, "events": app.events});
                // Nobody has to read it.
                let _ = print_line(&serde_json::json!({ "listening": listening }).to_string());
                tokio::select! {
                    failed = app.failed() => return failed,
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                app.stop().await
            })
        });
    served.map_err(|error| {
        eprintln!("warmpath serve: {error:#}");
        ExitCode::FAILURE
    })
}
