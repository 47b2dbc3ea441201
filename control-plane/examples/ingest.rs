//! Measures the index and the publisher alone: `cargo run --release -p control-plane --example ingest`.

use std::time::Instant;

use control_plane::events::{Content, EngineHash, Event, Stored};
use control_plane::index::{Index, Shape};
use control_plane::sync::publisher::Publisher;
use router_core::Slot;
use router_core::hash::BlockLayout;

const BLOCK_SIZE: u32 = 16;
const BLOCKS: u64 = 64;
const SEQUENCES: u64 = 4_000;
const SLOTS: u16 = 8;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

fn main() {
    let mut events: Vec<Event> = Vec::new();
    for sequence in 0..SEQUENCES {
        let first = sequence * BLOCKS;
        let tokens = (0..BLOCKS * u64::from(BLOCK_SIZE)).map(|token| (first * 31 + token) as u32);
        events.push(Event::Stored(Stored {
            blocks: (first..first + BLOCKS)
                .map(|hash| EngineHash(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
                .collect(),
            content: Content::text(tokens.collect()),
            block_size: BLOCK_SIZE,
            ..Stored::default()
        }));
    }
    let total = SEQUENCES * BLOCKS * u64::from(SLOTS);
    let before = resident_kib();
    let layout = BlockLayout::plain(BLOCK_SIZE).expect("not 0");
    let mut index = Index::new(Shape::plain(layout));
    let mut publisher = Publisher::new(1);
    let mut changes = Vec::new();
    let (mut indexing, mut publishing) = (0.0, 0.0);
    for slot in 0..SLOTS {
        for batch in events.chunks(300) {
            let start = Instant::now();
            for event in batch {
                index.apply(Slot(slot), event, &mut changes);
            }
            indexing += start.elapsed().as_secs_f64();
            let start = Instant::now();
            let deltas = publisher.publish(&changes);
            publishing += start.elapsed().as_secs_f64();
            assert!(!deltas.is_empty());
            changes.clear();
        }
    }
    let bytes = resident_kib().saturating_sub(before) * 1024 / total;
    println!(
        "{{\"bench\":\"ingest\",\"blocks\":{total},\"index_per_s\":{:.0},\"with_deltas_per_s\":{:.0},\"bytes_per_block\":{bytes}}}",
        total as f64 / indexing,
        total as f64 / (indexing + publishing)
    );
}
