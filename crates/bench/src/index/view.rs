//! The filter's view in Envoy's V8: memory, decisions, deltas.
//!
//! A VM gets a fleet and the deltas that the control plane makes of the trace, as the messages that filters get, and then
//! decides on prompts of the same trace, long ones cut to so many blocks. Another one gets a snapshot of the view.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fastrand::Rng;
use kv_trace::Request;
use prost::Message;
use proto::v1;
use proto::view::PoolUpdate;
use router_core::hash::{HashSeed, SequenceHash, local_hashes, sequence_hashes};
use router_core::replica::{Delta, Position, Update};
use serde_json::{Value, json};

use super::Load;
use super::ours::{self, EPOCH, Ours};
use crate::percentile::{Sorted, rounded};
use crate::vm::Vm;

const POOL: &str = "bench";
/// Different prompts of each length.
const PROMPTS: usize = 200;

pub(crate) async fn run(requests: &[Request], quick: bool) -> Result<Value> {
    let size = |full: usize| if quick { full / 20 } else { full };
    let load = Load {
        workers: 64,
        capacity: size(40_000),
        changes: size(3_000_000),
    };
    let filled = fill(requests, load).await?;
    let rounds = if quick { 2 } else { 25 };
    let [short, long] = [
        filled.decide(requests, 800, rounds).await?,
        filled.decide(requests, 2_000, rounds).await?,
    ];
    let many = Load {
        workers: 1_000,
        capacity: size(2_000),
        changes: size(2_000_000),
    };
    let crowded = fill(requests, many).await?;
    let many = crowded.decide(requests, 2_000, rounds).await?;
    let us = |times: &Sorted, percent| times.ms(percent).map(|ms| rounded(ms * 1e3, 1));
    Ok(json!({
        "bench": "index",
        "case": "view",
        "entries": filled.entries,
        "bytes_per_entry": rounded(filled.bytes as f64 / filled.entries as f64, 1),
        "lookup800_p50_us": us(&short, 50),
        "lookup800_p99_us": us(&short, 99),
        "lookup2000_p50_us": us(&long, 50),
        "lookup2000_p99_us": us(&long, 99),
        "workers1000_lookup2000_p50_us": us(&many, 50),
        "workers1000_lookup2000_p99_us": us(&many, 99),
        "deltas_per_s": filled.changes_per_second(),
        "workers1000_deltas_per_s": crowded.changes_per_second(),
        "message_p50_ms": filled.messages.ms(50).map(|ms| rounded(ms, 3)),
        "message_p99_ms": filled.messages.ms(99).map(|ms| rounded(ms, 3)),
        "workers1000_message_p50_ms": crowded.messages.ms(50).map(|ms| rounded(ms, 3)),
        "part_p50_ms": filled.parts.ms(50).map(|ms| rounded(ms, 3)),
        "part_p99_ms": filled.parts.ms(99).map(|ms| rounded(ms, 3)),
    }))
}

/// A VM whose view is full.
struct Filled {
    vm: Vm,
    entries: u64,
    /// That its memory grew by.
    bytes: u64,
    /// Block changes that were applied, and in what time.
    changes: usize,
    time: Duration,
    messages: Sorted,
    /// How long each part of a snapshot took, in a VM of its own.
    parts: Sorted,
}

async fn fill(requests: &[Request], load: Load) -> Result<Filled> {
    let vm = with_fleet(load.workers).await?;
    let position = Position {
        epoch: EPOCH,
        version: 0,
    };
    vm.run("apply", update(Update::Begin { position, blocks: 0 })).await?;
    let empty = vm.run("apply", update(Update::End { checksum: 0 })).await?;
    let mut ours = Ours::new()?;
    let (mut last, mut changes, mut times) = (empty, 0, Vec::new());
    for (worker, event) in load.events(requests).into_iter().map(ours::event) {
        ours.apply(worker, &event);
        if ours.pending() < proto::MAX_HASHES_PER_MESSAGE {
            continue;
        }
        for delta in ours.publish() {
            changes += blocks(&delta);
            last = vm.run("apply", update(Update::Delta(delta))).await?;
            times.push(last.time());
        }
    }
    // What is pending would be in the snapshot, but not in its checksum.
    for delta in ours.publish() {
        last = vm.run("apply", update(Update::Delta(delta))).await?;
    }
    ensure!(last.entries > 0, "the view is empty");
    let fresh = with_fleet(load.workers).await?;
    let (mut parts, mut restored) = (Vec::new(), empty);
    for message in ours.snapshot(POOL, usize::try_from(last.entries)?).messages.iter() {
        restored = fresh.run("apply", message.bytes().clone()).await?;
        parts.push(restored.time());
    }
    ensure!(restored.entries == last.entries, "the snapshot is not the view");
    Ok(Filled {
        vm,
        entries: last.entries,
        bytes: last.memory() - empty.memory(),
        changes,
        time: times.iter().sum(),
        messages: Sorted::new(times),
        parts: Sorted::new(parts),
    })
}

async fn with_fleet(workers: u16) -> Result<Vm> {
    let vm = Vm::start().await?;
    vm.run("apply", encode(v1::to_filter::Message::Fleet(fleet(workers))))
        .await?;
    Ok(vm)
}

impl Filled {
    fn changes_per_second(&self) -> u64 {
        (self.changes as f64 / self.time.as_secs_f64()) as u64
    }

    /// How long decisions on prompts of `blocks` blocks take.
    async fn decide(&self, requests: &[Request], blocks: usize, rounds: usize) -> Result<Sorted> {
        let long: Vec<_> = requests
            .iter()
            .filter(|request| request.input_length >= blocks * kv_trace::BLOCK_SIZE)
            .collect();
        let mut random = Rng::with_seed(blocks as u64);
        let mut queries = Vec::new();
        for _ in 0..PROMPTS {
            let request = long.get(random.usize(..long.len().max(1)));
            let request = request.context("the trace has no prompt that is long enough")?;
            let hashes = hashes(request, blocks)?;
            queries.extend_from_slice(&u32::try_from(hashes.len())?.to_le_bytes());
            queries.extend(hashes.iter().flat_map(|hash| hash.0.to_le_bytes()));
        }
        let queries = Bytes::from(queries);
        // The first round is not counted: its code is cold.
        self.vm.decide(queries.clone()).await?;
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.extend(self.vm.decide(queries.clone()).await?);
        }
        Ok(Sorted::new(times))
    }
}

fn hashes(request: &Request, blocks: usize) -> Result<Vec<SequenceHash>> {
    let tokens: Vec<u32> = request.tokens().take(blocks * kv_trace::BLOCK_SIZE).collect();
    Ok(sequence_hashes(local_hashes(
        &tokens,
        ours::layout()?,
        HashSeed::new(None, None),
    )))
}

fn blocks(delta: &Delta) -> usize {
    delta
        .removed
        .iter()
        .chain(&delta.stored)
        .map(|run| run.hashes.len())
        .sum()
}

fn fleet(workers: u16) -> v1::Fleet {
    let candidate = |worker: u16| v1::Candidate {
        slot: worker.into(),
        endpoint: format!("10.0.{}.{}:8000", worker >> 8, worker & 255),
        ..v1::Candidate::default()
    };
    v1::Fleet {
        pools: vec![v1::Pool {
            name: POOL.to_owned(),
            epoch: EPOCH,
            block_size: kv_trace::BLOCK_SIZE as u32,
            // Without one, prompts are not looked up; nobody asks for its content.
            tokenizer: Bytes::from_static(&[1; 16]),
            kv_events: true,
            weights: Some(v1::CostWeights {
                overlap_credit: 1.0,
                prefill_load_scale: 1.0,
                ..v1::CostWeights::default()
            }),
            candidates: (0..workers).map(candidate).collect(),
            ..v1::Pool::default()
        }],
    }
}

fn update(update: Update) -> Bytes {
    let pool = POOL.to_owned();
    encode(PoolUpdate { pool, update }.to_message())
}

fn encode(message: v1::to_filter::Message) -> Bytes {
    v1::ToFilter { message: Some(message) }.encode_to_vec().into()
}
