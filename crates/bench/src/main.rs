//! The demo workload and the benchmarks. `scripts/demo` and `scripts/bench` build what is needed and call this.

mod cpu;
mod decisions;
mod demo;
mod e2e;
mod hostile;
mod index;
mod percentile;
mod prose;
mod ready;
mod tokenizer;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use peak_alloc::PeakAlloc;
use testbed::Testbed;
use tokio::signal::unix::{SignalKind, signal};

/// Counts what the heap holds, which is what a structure takes; resident memory also has what was freed.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

#[derive(Debug, Parser)]
#[command(name = "warmpath-bench", version, about = "The demo workload and the benchmarks")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The same chat workload through Envoy's round robin and through Warmpath, compared.
    Demo(demo::Args),
    /// Latency and CPU that Warmpath adds to a plain Envoy route; one JSON line per case.
    E2e(e2e::Args),
    /// Tokenizers in Envoy's VM: speed, load time, memory; one JSON line per model and kind of text.
    Tokenizer(tokenizer::Args),
    /// What requests cost that are made to cost much; one JSON line per model and request.
    Hostile(hostile::Args),
    /// KV events to index to the filters' views: speed, memory, freshness; one JSON line per case.
    Index(index::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Whichever way the work ends, its processes end with it: they are killed when the test bed is dropped.
    let finished = tokio::select! {
        biased;
        stopped = stop_signal() => Err(stopped),
        result = run(command) => Ok(result),
    };
    match finished {
        Ok(Ok(None)) => ExitCode::SUCCESS,
        Ok(Ok(Some(kept))) => {
            let _ = stop_signal().await;
            drop(kept);
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Err(signal) => {
            eprintln!("\nstopped by signal {signal}");
            ExitCode::from(128 + signal)
        }
    }
}

/// Processes that shall go on running are handed back.
async fn run(command: Command) -> Result<Option<Testbed>> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::E2e(args) => e2e::run(args).await.map(|()| None),
        Command::Hostile(args) => hostile::run(args).await.map(|()| None),
        Command::Index(args) => index::run(args).await.map(|()| None),
        Command::Tokenizer(args) => tokenizer::run(args).await.map(|()| None),
    }
}

/// Waits for a signal that asks for the end; returns its number.
async fn stop_signal() -> u8 {
    let caught = |kind: SignalKind, number: u8| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
                number
            }
            // Without a handler the signal's default action ends the process.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        number = caught(SignalKind::interrupt(), 2) => number,
        number = caught(SignalKind::terminate(), 15) => number,
        number = caught(SignalKind::hangup(), 1) => number,
    }
}
