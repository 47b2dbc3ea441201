//! How many block changes per second Dynamo's radix tree and kv-index take, on one core: the events of a simulated fleet
//! (`kv-trace`), one by one, hashing their tokens included, as both have it done per event.
//!
//! `bench-peers TRACE WORKERS CAPACITY CHANGES` prints one JSON line.

use std::path::Path;
use std::process::ExitCode;

use dynamo_kv_router::RadixTree;
use dynamo_kv_router::protocols::{
    BlockHashOptions, ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, RouterEvent, compute_block_hash_for_seq,
};
use kv_index::{ChainBlockMap, ChainIndex, SequenceHash, StoredBlock, compute_request_content_hashes};
use kv_trace::{BLOCK_SIZE, Change, Event, Fleet};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [trace, workers, capacity, changes] = &arguments[..] else {
        return Err("usage: bench-peers TRACE WORKERS CAPACITY CHANGES".into());
    };
    let trace = Path::new(trace);
    let requests = match trace.exists() {
        true => kv_trace::read(trace)?,
        false => kv_trace::made_up(20_000),
    };
    let mut fleet = Fleet::new(workers.parse()?, capacity.parse()?);
    let events = kv_trace::events(&mut fleet, &requests, changes.parse()?);
    let blocks: usize = events.iter().map(Event::blocks).sum();
    let (dynamo, kv_index) = (dynamo(&events)?, kv_index(&events)?);
    let rate = |seconds: f64| (blocks as f64 / seconds).round();
    Ok(format!(
        r#"{{"dynamo_block_ops_s":{},"kv_index_block_ops_s":{}}}"#,
        rate(dynamo),
        rate(kv_index)
    ))
}

/// Seconds that Dynamo's single-threaded tree takes.
fn dynamo(events: &[Event]) -> Result<f64, Failure> {
    let mut tree = RadixTree::new();
    let start = cpu_seconds()?;
    for (number, event) in (0..).zip(events) {
        let data = match &event.change {
            Change::Stored { parent, blocks, tokens } => {
                let hashes = compute_block_hash_for_seq(tokens, BLOCK_SIZE as u32, BlockHashOptions::default());
                let blocks = blocks
                    .iter()
                    .zip(hashes)
                    .map(|(block, tokens_hash)| KvCacheStoredBlockData {
                        block_hash: ExternalSequenceBlockHash(block.0),
                        tokens_hash,
                        mm_extra_info: None,
                    });
                KvCacheEventData::Stored(KvCacheStoreData {
                    parent_hash: parent.map(|parent| ExternalSequenceBlockHash(parent.0)),
                    start_position: None,
                    blocks: blocks.collect(),
                })
            }
            Change::Removed(blocks) => KvCacheEventData::Removed(KvCacheRemoveData {
                block_hashes: blocks.iter().map(|block| ExternalSequenceBlockHash(block.0)).collect(),
            }),
        };
        let event = RouterEvent::new(
            u64::from(event.worker),
            KvCacheEvent {
                event_id: number,
                data,
                dp_rank: 0,
            },
        );
        tree.apply_event(event)?;
    }
    Ok(cpu_seconds()? - start)
}

/// Seconds that kv-index's chain index takes.
fn kv_index(events: &[Event]) -> Result<f64, Failure> {
    let index = ChainIndex::new();
    let workers = events.iter().map(|event| event.worker).max().map_or(0, |last| last + 1);
    let ids: Vec<u32> = (0..workers)
        .map(|worker| index.intern_worker(&worker.to_string()))
        .collect::<Result<_, _>>()?;
    let mut maps: Vec<_> = ids.iter().map(|_| ChainBlockMap::new()).collect();
    let start = cpu_seconds()?;
    for event in events {
        let worker = usize::from(event.worker);
        let (id, map) = (ids[worker], &mut maps[worker]);
        match &event.change {
            Change::Stored { parent, blocks, tokens } => {
                let hashes = compute_request_content_hashes(tokens, BLOCK_SIZE);
                let blocks: Vec<_> = blocks
                    .iter()
                    .zip(hashes)
                    .map(|(block, content_hash)| StoredBlock {
                        seq_hash: SequenceHash(block.0),
                        content_hash,
                    })
                    .collect();
                index.apply_stored(id, &blocks, parent.map(|parent| SequenceHash(parent.0)), map)?;
            }
            Change::Removed(blocks) => {
                let blocks: Vec<_> = blocks.iter().map(|block| SequenceHash(block.0)).collect();
                index.apply_removed(id, &blocks, map);
            }
        }
    }
    Ok(cpu_seconds()? - start)
}

/// CPU time that this process, which has one thread, has had: `Documentation/scheduler/sched-stats.rst` of the kernel.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds = stat.split_whitespace().next().ok_or("an empty schedstat")?;
    Ok(nanoseconds.parse::<f64>()? / 1e9)
}
