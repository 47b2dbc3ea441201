//! What a view of a large fleet takes and gives: a trace of requests (Mooncake's JSON lines: `input_length`, `hash_ids` of
//! 512-token blocks) is replayed over workers with LRU caches, and their contents become views of 16-token blocks.
//!
//! ```sh
//! cargo run --release -p router-core --example view_scale -- ../shared/traces/mooncake_conversation.jsonl
//! ```
//!
//! Also runs in V8: build for `wasm32-wasip1`, and start with any WASI host that sees the trace.

use router_core::Slot;
use router_core::hash::SequenceHash;
use router_core::view::PrefixView;
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Instant;

/// Blocks of the view in a block of the trace.
const FINE: u32 = 32;
/// What a worker's cache holds, in blocks of the trace: 1 M tokens.
const CAPACITY: usize = 2_000;

struct Request {
    blocks: u32,
    ids: Vec<u64>,
}

/// One worker's cache: how many fine blocks of each block it has, oldest and deepest first to go.
#[derive(Default)]
struct Cache {
    known: HashMap<u64, (u64, u32, u32)>,
    /// When something was last stored at or below a block.
    stored: HashMap<u64, u64>,
    order: BTreeMap<(u64, Reverse<u32>), u64>,
}

impl Cache {
    /// Fine blocks of the request that are here.
    fn overlap(&self, request: &Request) -> u32 {
        self.overlap_since(request, 0)
    }

    /// Those of them with something stored at or below them since then.
    fn overlap_since(&self, request: &Request, since: u64) -> u32 {
        let is_young = |id: &&u64| self.stored.get(id).is_some_and(|&stored| stored >= since);
        let young = request.ids.iter().take_while(is_young);
        let held = young.map_while(|id| self.known.get(id));
        held.map(|&(.., fine)| fine).sum::<u32>().min(request.blocks)
    }

    fn serve(&mut self, now: u64, request: &Request) {
        if request.ids.iter().any(|id| !self.known.contains_key(id)) {
            self.stored.extend(request.ids.iter().map(|&id| (id, now)));
        }
        for (depth, &id) in (0_u32..).zip(&request.ids) {
            let fine = FINE.min(request.blocks - depth * FINE);
            if let Some((stamp, depth, _)) = self.known.insert(id, (now, depth, fine)) {
                self.order.remove(&(stamp, Reverse(depth)));
            }
            self.order.insert((now, Reverse(depth)), id);
        }
        while self.known.len() > CAPACITY {
            let (_, id) = self.order.pop_first().expect("as many as known");
            self.known.remove(&id);
            self.stored.remove(&id);
        }
    }
}

/// What is left of an overlap in a view that shows every `stride`-th block down to `limit`, of so many holdings the youngest.
#[derive(Clone, Copy)]
struct Grid {
    stride: u32,
    limit: u32,
    holdings: u64,
}

/// Since when something must have been stored at or below what is shown, if that are so many holdings at most.
fn since(caches: &[Cache], holdings: u64) -> u64 {
    let mut by_age: BTreeMap<Reverse<u64>, u64> = BTreeMap::new();
    for cache in caches {
        for (id, &(.., fine)) in &cache.known {
            *by_age.entry(Reverse(cache.stored[id])).or_default() += u64::from(fine);
        }
    }
    let mut sum = 0;
    let too_old = by_age.into_iter().find(|&(_, fine)| {
        sum += fine;
        sum > holdings
    });
    too_old.map_or(0, |(Reverse(stored), _)| stored + 1)
}

/// Caches after the whole trace, and the share of its blocks that were found in the cache of the chosen worker.
/// `grid`: of the view that the choice rests on; without one, workers take turns.
fn replay(requests: &[Request], workers: usize, grid: Option<Grid>) -> (Vec<Cache>, f64) {
    let mut caches: Vec<Cache> = (0..workers).map(|_| Cache::default()).collect();
    // What a worker still has to prefill, in blocks; all of them work it off at the rate at which it comes in.
    let mut queued = vec![0.0_f64; workers];
    let (mut found, mut asked, mut shown_since) = (0_u64, 0_u64, 0);
    for (now, request) in (0_u64..).zip(requests) {
        // As costly as in the control plane, so not for every request.
        if let Some(grid) = grid.filter(|grid| grid.holdings < u64::MAX && now % 100 == 0) {
            shown_since = since(&caches, grid.holdings);
        }
        let cost = |worker: usize| {
            let grid = grid.expect("asked for with one only");
            let seen = caches[worker].overlap_since(request, shown_since);
            let seen = seen.min(grid.limit) / grid.stride * grid.stride;
            f64::from(request.blocks - seen) + queued[worker]
        };
        let chosen = match grid {
            None => now as usize % workers,
            Some(_) => (0..workers)
                .min_by(|&a, &b| cost(a).total_cmp(&cost(b)))
                .expect("workers"),
        };
        let overlap = caches[chosen].overlap(request);
        queued[chosen] += f64::from(request.blocks - overlap);
        let share = f64::from(request.blocks - overlap) / workers as f64;
        queued.iter_mut().for_each(|load| *load = (*load - share).max(0.0));
        found += u64::from(overlap);
        asked += u64::from(request.blocks);
        caches[chosen].serve(now, request);
    }
    (caches, found as f64 / asked as f64)
}

fn block(id: u64, fine: u32) -> SequenceHash {
    let mut x = (id << 8 | u64::from(fine)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    SequenceHash(x ^ (x >> 31))
}

fn holdings(caches: &[Cache], grid: Grid) -> Vec<(Slot, SequenceHash)> {
    let mut all = Vec::new();
    for (slot, cache) in (0_u16..).zip(caches) {
        for (&id, &(_, depth, fine)) in &cache.known {
            let shown = |fine: &u32| {
                let depth = depth * FINE + fine + 1;
                depth <= grid.limit && depth.is_multiple_of(grid.stride)
            };
            all.extend((0..fine).filter(shown).map(|fine| (Slot(slot), block(id, fine))));
        }
    }
    all
}

fn view_of(holdings: &[(Slot, SequenceHash)]) -> PrefixView {
    let mut view = PrefixView::new();
    for &(slot, hash) in holdings {
        view.insert(slot, hash);
    }
    view
}

fn print_view(name: &str, workers: usize, view: &PrefixView, more: &str) {
    let bytes = view.bytes();
    let per_entry = bytes as f64 / view.len() as f64;
    println!(
        "{{\"case\":\"{name}\",\"workers\":{workers},\"entries\":{},\"bytes\":{bytes},\"bytes_per_entry\":{per_entry:.2}{more}}}",
        view.len()
    );
}

/// No two blocks have the same holders: a random half of all workers each.
fn adversarial(workers: u16, blocks: u64) {
    let mut view = PrefixView::new();
    for n in 0..blocks {
        for slot in 0..workers {
            if block(n, u32::from(slot)).0 & 1 == 1 {
                view.insert(Slot(slot), block(n, 0));
            }
        }
    }
    print_view("adversarial", workers.into(), &view, "");
}

/// Changes a second, and what a lookup of 2,000 blocks takes when every worker has another depth of it.
fn speed(workers: u16, holdings: &[(Slot, SequenceHash)]) {
    let start = Instant::now();
    let mut view = view_of(holdings);
    let stored = holdings.len() as f64 / start.elapsed().as_secs_f64();
    let prompt: Vec<_> = (0..2_000).map(|n| block(u64::MAX >> 9, n)).collect();
    for slot in 0..workers {
        let depth = usize::from(slot) * prompt.len() / usize::from(workers);
        for &hash in prompt.iter().take(depth) {
            view.insert(Slot(slot), hash);
        }
    }
    let mut times: Vec<f64> = (0..2_000)
        .map(|_| {
            let start = Instant::now();
            black_box(view.depths_by(black_box(&prompt), NonZeroU32::MIN));
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let start = Instant::now();
    for &(slot, hash) in holdings {
        view.remove(slot, hash);
    }
    let removed = holdings.len() as f64 / start.elapsed().as_secs_f64();
    println!(
        "{{\"case\":\"speed\",\"workers\":{workers},\"stores_per_s\":{stored:.0},\"removals_per_s\":{removed:.0},\"lookup2000_p50_us\":{:.2},\"lookup2000_p99_us\":{:.2}}}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
}

fn main() {
    let path = std::env::args().nth(1).expect("usage: view_scale TRACE.jsonl");
    let trace = std::fs::read_to_string(&path).expect("the trace can be read");
    let request = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("a JSON line");
        let ids: Vec<u64> = value["hash_ids"]
            .as_array()
            .expect("ids")
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        let blocks = (value["input_length"].as_u64().expect("a length") / 16) as u32;
        let blocks = blocks.clamp(ids.len() as u32 * FINE - FINE + 1, ids.len() as u32 * FINE);
        Request { blocks, ids }
    };
    let requests: Vec<Request> = trace.lines().map(request).collect();
    let whole = Grid {
        stride: 1,
        limit: u32::MAX,
        holdings: u64::MAX,
    };

    for workers in [64, 1_000, 4_096] {
        let (caches, _) = replay(&requests, workers, None);
        let spread = holdings(&caches, whole);
        print_view(
            "round robin",
            workers,
            &view_of(&spread),
            &format!(",\"holdings\":{}", spread.len()),
        );
        speed(workers as u16, &spread);
    }
    adversarial(64, 1_000_000);
    adversarial(1_000, 5_000);
    adversarial(4_096, 1_000);
    let grids = [1, 8, 24, 32, 48, 64, 128, 256].map(|stride| Grid { stride, ..whole });
    for grid in grids {
        let (caches, hits) = replay(&requests, 64, Some(grid));
        let more = format!(",\"stride\":{},\"hit_rate\":{hits:.4}", grid.stride);
        print_view("routed", 64, &view_of(&holdings(&caches, grid)), &more);
    }
    // As many holdings, chosen by their depth and by their age.
    for limit in [1_024, 512, 256, 128, 64] {
        let (caches, by_depth) = replay(&requests, 64, Some(Grid { limit, ..whole }));
        let held = holdings(&caches, whole).len();
        let holdings = holdings(&caches, Grid { limit, ..whole }).len() as u64;
        let (_, by_age) = replay(&requests, 64, Some(Grid { holdings, ..whole }));
        println!(
            "{{\"case\":\"bounded\",\"limit\":{limit},\"holdings\":{holdings},\"held\":{held},\"by_depth\":{by_depth:.4},\"by_age\":{by_age:.4}}}"
        );
    }
}
