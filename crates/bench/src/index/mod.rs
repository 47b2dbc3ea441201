//! `warmpath-bench index`: the way of a block from the engine's event to the filter's view, on a real trace.

mod freshness;
mod ingest;
mod live;
mod ours;
mod snapshot;
mod view;

use std::path::PathBuf;

use anyhow::{Context, Result};
use kv_trace::Request;
use testbed::workspace_root;

/// Options of the benchmark.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// A short run, to see that it works; its figures mean little.
    #[arg(long)]
    quick: bool,
    /// Only the case of this name: ingest, view, freshness, snapshot.
    #[arg(long, value_name = "CASE")]
    only: Option<String>,
    /// Directory of `mooncake_conversation.jsonl`; without the file a made-up trace is taken.
    #[arg(long, value_name = "DIR", default_value = "../shared/traces")]
    traces: PathBuf,
}

/// Runs the benchmark and prints its results.
pub(crate) async fn run(args: Args) -> Result<()> {
    let wanted = |case: &str| args.only.as_deref().is_none_or(|only| only == case);
    if wanted("ingest") || wanted("view") {
        let path = workspace_root().join(&args.traces).join("mooncake_conversation.jsonl");
        let requests = match path.exists() {
            true => kv_trace::read(&path).with_context(|| format!("read {}", path.display()))?,
            false => {
                eprintln!("{} is not there: taking a made-up trace", path.display());
                kv_trace::made_up(20_000)
            }
        };
        if wanted("ingest") {
            println!("{}", ingest::run(&path, &requests, args.quick)?);
        }
        if wanted("view") {
            println!("{}", view::run(&requests, args.quick).await?);
        }
    }
    if wanted("freshness") {
        println!("{}", freshness::run(args.quick).await?);
    }
    if wanted("snapshot") {
        println!("{}", snapshot::run(args.quick).await?);
    }
    Ok(())
}

/// A fleet as large as the budgets say, whose workers have room for a realistic share of what comes.
#[derive(Clone, Copy)]
struct Load {
    workers: u16,
    /// Blocks of each.
    capacity: usize,
    /// Block changes in all.
    changes: usize,
}

impl Load {
    fn events(self, requests: &[Request]) -> Vec<kv_trace::Event> {
        kv_trace::events(&mut self.fleet(), requests, self.changes)
    }

    fn fleet(self) -> kv_trace::Fleet {
        kv_trace::Fleet::new(self.workers, self.capacity)
    }
}
