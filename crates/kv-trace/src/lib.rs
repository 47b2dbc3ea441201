//! A trace of requests as the KV events of a fleet that served them: what the benchmarks of indexes are fed.
//!
//! Traces are Mooncake's: one JSON object a line, of which `input_length` and `hash_ids` are read. An id stands for 512
//! tokens *and all that precede them*. Each of its blocks becomes 32 blocks of a pool whose blocks have 16 tokens.
//!
//! The fleet routes as a gateway does that weighs cached prefix against load, and each worker evicts what was used
//! longest ago, the end of a prefix before its start. All of it is pure and follows from its arguments.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

/// Tokens of a pool's block.
pub const BLOCK_SIZE: usize = 16;
/// Tokens of a trace's block.
const TRACE_BLOCK: usize = 512;
/// Blocks that a request more in flight is worth, when its worker is picked.
const BLOCKS_PER_REQUEST: usize = 256;

/// One request of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Request {
    /// Prompt tokens.
    pub input_length: usize,
    /// Its blocks of 512 tokens, the last maybe in part.
    pub hash_ids: Vec<u64>,
}

impl Request {
    /// Its prompt as far as it fills blocks.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + use<> {
        segments(self).into_iter().flat_map(|segment| segment.tokens())
    }

    /// The same with other blocks.
    fn renamed(&self, round: u64) -> Self {
        Self {
            input_length: self.input_length,
            hash_ids: self.hash_ids.iter().map(|id| id + (round << 32)).collect(),
        }
    }
}

/// A block of a worker's cache, by the hash that the worker gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub u64);

/// What happened in a worker's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number of the worker.
    pub worker: u16,
    /// What happened.
    pub change: Change,
}

/// See [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Consecutive blocks of one prompt were stored.
    Stored {
        /// The block before the first; `None` at the start of a prompt.
        parent: Option<BlockHash>,
        /// The blocks.
        blocks: Vec<BlockHash>,
        /// [`BLOCK_SIZE`] for each.
        tokens: Vec<u32>,
    },
    /// Blocks were dropped, later ones of a prompt first.
    Removed(Vec<BlockHash>),
}

impl Event {
    /// Blocks that it is about.
    pub fn blocks(&self) -> usize {
        match &self.change {
            Change::Stored { blocks, .. } | Change::Removed(blocks) => blocks.len(),
        }
    }
}

/// Reads a trace.
///
/// # Errors
/// When the file cannot be read or a line is no request.
pub fn read(path: &Path) -> io::Result<Vec<Request>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).map_err(io::Error::from))
        .collect()
}

/// So many requests as conversations would bring them, where there is no trace: they begin with one of a few system
/// prompts and grow by a turn each time, up to some 80,000 tokens.
pub fn made_up(requests: usize) -> Vec<Request> {
    const CONVERSATIONS: u64 = 400;
    const LONGEST: usize = 160;
    let mut conversations: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut fresh = 1 << 20;
    let mut made = Vec::with_capacity(requests);
    for number in 0..requests as u64 {
        let random = mixed(number);
        let system = random % 16;
        let ids = conversations.entry((random >> 8) % CONVERSATIONS).or_default();
        if ids.len() > LONGEST {
            ids.clear();
        }
        if ids.is_empty() {
            ids.extend((0..=system % 4).map(|block| system << 8 | block));
        }
        let turn = 1 + (random >> 32) % 24;
        ids.extend(fresh..fresh + turn);
        fresh += turn;
        made.push(Request {
            input_length: ids.len() * TRACE_BLOCK,
            hash_ids: ids.clone(),
        });
    }
    made
}

/// The events of the first requests, up to about so many block changes; the trace starts over when it ends.
pub fn events(fleet: &mut Fleet, requests: &[Request], changes: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut blocks = 0;
    for (round, request) in (0..).flat_map(|round| requests.iter().map(move |request| (round, request))) {
        if blocks >= changes {
            break;
        }
        let request = request.renamed(round);
        let new = fleet.serve(&request);
        blocks += new.iter().map(Event::blocks).sum::<usize>();
        events.extend(new);
    }
    events
}

/// The workers and what each holds.
#[derive(Debug)]
pub struct Fleet {
    workers: Vec<Worker>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Worker {
    /// By identity, when last used.
    held: HashMap<u64, u64>,
    by_use: BTreeMap<u64, Segment>,
    clock: u64,
    blocks: usize,
    /// Requests so far, of which half are forgotten now and then.
    recent: usize,
}

/// A trace's block, or what of it is full pool blocks.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// Of the block and all before it.
    identity: u64,
    /// What the trace calls it; decides its tokens.
    id: u64,
    blocks: usize,
}

impl Fleet {
    /// `workers` with room for `capacity` pool blocks each.
    pub fn new(workers: u16, capacity: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Worker::default()).collect(),
            capacity,
        }
    }

    /// Blocks that all workers hold.
    pub fn blocks(&self) -> usize {
        self.workers.iter().map(|worker| worker.blocks).sum()
    }

    /// Serves one request; returns what it does to the cache of the worker that gets it.
    pub fn serve(&mut self, request: &Request) -> Vec<Event> {
        let mut room = self.capacity;
        let mut segments = segments(request);
        segments.retain(|segment| {
            let fits = segment.blocks <= room;
            room = if fits { room - segment.blocks } else { 0 };
            fits
        });
        let place = self.pick(&segments);
        let number = u16::try_from(place).unwrap_or(u16::MAX);
        let Some(worker) = self.workers.get_mut(place) else {
            return Vec::new();
        };
        let changes = worker.serve(&segments, self.capacity);
        worker.recent += 1;
        if worker.recent >= 64 {
            self.workers.iter_mut().for_each(|worker| worker.recent /= 2);
        }
        let events = changes
            .into_iter()
            .flatten()
            .map(|change| Event { worker: number, change });
        events.collect()
    }

    /// The most cached, less what it has to do already.
    fn pick(&self, segments: &[Segment]) -> usize {
        let worth = |worker: &Worker| {
            let cached: usize = worker.cached(segments).map(|segment| segment.blocks).sum();
            cached as isize - (worker.recent * BLOCKS_PER_REQUEST) as isize
        };
        let ranked = self.workers.iter().enumerate().rev();
        ranked
            .max_by_key(|(_, worker)| worth(worker))
            .map_or(0, |(place, _)| place)
    }
}

impl Worker {
    fn cached<'a>(&'a self, segments: &'a [Segment]) -> impl Iterator<Item = &'a Segment> {
        segments
            .iter()
            .take_while(|segment| self.held.contains_key(&segment.identity))
    }

    /// As engines do, makes room before it stores: what it removes and stores.
    fn serve(&mut self, segments: &[Segment], capacity: usize) -> [Option<Change>; 2] {
        let (known, new) = segments.split_at(self.cached(segments).count());
        // What is in use is not evicted.
        for used in known.iter().filter_map(|segment| self.held.get(&segment.identity)) {
            self.by_use.remove(used);
        }
        let needed: usize = new.iter().map(|segment| segment.blocks).sum();
        let removed = self.evict(capacity.saturating_sub(needed));
        // Later blocks count as used earlier, so that eviction takes the end of a prompt first.
        for segment in segments.iter().rev() {
            self.clock += 1;
            self.held.insert(segment.identity, self.clock);
            self.by_use.insert(self.clock, *segment);
        }
        self.blocks += needed;
        let parent = known.last().and_then(|segment| segment.hashes().last());
        let blocks: Vec<_> = new.iter().flat_map(Segment::hashes).collect();
        let tokens = new.iter().flat_map(Segment::tokens).collect();
        let stored = (!blocks.is_empty()).then_some(Change::Stored { parent, blocks, tokens });
        [removed, stored]
    }

    fn evict(&mut self, capacity: usize) -> Option<Change> {
        let mut removed = Vec::new();
        while self.blocks > capacity {
            let Some((_, segment)) = self.by_use.pop_first() else {
                break;
            };
            self.held.remove(&segment.identity);
            self.blocks -= segment.blocks;
            removed.extend(segment.hashes().rev());
        }
        (!removed.is_empty()).then_some(Change::Removed(removed))
    }
}

impl Segment {
    fn hashes(&self) -> impl DoubleEndedIterator<Item = BlockHash> + use<> {
        let identity = self.identity;
        (0..self.blocks as u64).map(move |block| BlockHash(mixed(identity ^ mixed(block + 1))))
    }

    fn tokens(&self) -> impl Iterator<Item = u32> + use<> {
        let id = self.id;
        // Below 2^17, as in vocabularies.
        (0..(self.blocks * BLOCK_SIZE) as u64).map(move |token| (mixed(id << 9 | token) >> 47) as u32)
    }
}

fn segments(request: &Request) -> Vec<Segment> {
    let mut identity = 0;
    let mut left = request.input_length;
    let segments = request.hash_ids.iter().map(|&id| {
        let tokens = left.min(TRACE_BLOCK);
        left -= tokens;
        identity = mixed(identity ^ mixed(id + 1));
        Segment {
            identity,
            id,
            blocks: tokens / BLOCK_SIZE,
        }
    });
    segments.take_while(|segment| segment.blocks > 0).collect()
}

/// The finalizer of SplitMix64.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn request(input_length: usize, hash_ids: &[u64]) -> Request {
        Request {
            input_length,
            hash_ids: hash_ids.to_vec(),
        }
    }

    #[test]
    fn a_known_prefix_is_stored_once_and_the_rest_under_it() {
        let mut fleet = Fleet::new(1, 1 << 20);
        let first = fleet.serve(&request(1024 + 40, &[7, 8, 9]));
        let second = fleet.serve(&request(1024 + 512, &[7, 8, 10]));
        let [(None, first, tokens), (Some(parent), second, _)] = [&first, &second].map(|events| match &events[..] {
            [
                Event {
                    worker: 0,
                    change: Change::Stored { parent, blocks, tokens },
                },
            ] => (*parent, blocks, tokens),
            other => panic!("{other:?}"),
        }) else {
            panic!("wrong parents");
        };
        assert_eq!((first.len(), tokens.len(), second.len()), (66, 66 * 16, 32));
        assert_eq!(parent, first[63]);
        assert!(second.iter().all(|block| !first.contains(block)));
        assert_eq!(fleet.serve(&request(1024, &[7, 8])), []);
    }

    #[test]
    fn workers_hold_what_fits_and_a_block_only_with_what_precedes_it() {
        let mut fleet = Fleet::new(3, 96);
        let mut held: Vec<HashMap<BlockHash, Option<BlockHash>>> = vec![HashMap::new(); 3];
        let mut used = HashSet::new();
        for number in 0..300u64 {
            for event in fleet.serve(&request(1536, &[number % 4, 100 + number % 7, 200 + number])) {
                used.insert(event.worker);
                let held = &mut held[usize::from(event.worker)];
                match event.change {
                    Change::Stored { parent, blocks, .. } => {
                        let parents = std::iter::once(parent).chain(blocks.iter().copied().map(Some));
                        held.extend(blocks.iter().copied().zip(parents));
                        assert!(held.len() <= 96);
                    }
                    Change::Removed(blocks) => {
                        for block in blocks {
                            assert!(held.remove(&block).is_some());
                            assert!(!held.values().any(|parent| *parent == Some(block)));
                        }
                    }
                }
                assert!(held.values().flatten().all(|parent| held.contains_key(parent)));
            }
        }
        assert_eq!(used.len(), 3);
    }
}
