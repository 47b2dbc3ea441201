//! The scheduler of one rank, as a pure state machine: continuous batching with chunked prefill over the block pool,
//! in the order of vLLM's v1 scheduler (`vllm/v1/core/sched/scheduler.py`). It knows no clock: [`Scheduler::schedule`]
//! says what the next step computes and how long that takes, [`Scheduler::finish_step`] what came out of it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::block_pool::{BlockId, BlockPool, CachedBlock};
use crate::events::{BlockStored, KvEvent};
use crate::hash::{CacheKeys, chain};

/// Identifies a request within its rank.
pub type RequestId = u64;

/// Size and speed of one rank.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerConfig {
    /// Tokens per block.
    pub block_size: usize,
    /// Blocks that sequences can use.
    pub num_blocks: u32,
    /// Most requests running at once.
    pub max_num_seqs: usize,
    /// Most tokens computed in one step.
    pub max_num_batched_tokens: usize,
    /// Speed of prefill.
    pub prefill_tokens_per_second: f64,
    /// What the decodes of one step take together.
    pub inter_token_latency: Duration,
    /// Parent of every root block's hash.
    pub hash_root: u64,
}

/// A request whose answer is already known: the scheduler decides when each of its tokens comes.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// Unique within the rank.
    pub id: RequestId,
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Token ids of the answer, at least one.
    pub output: Vec<u32>,
    /// What separates this request's blocks from others with the same tokens.
    pub keys: CacheKeys,
}

/// One more token of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whose.
    pub id: RequestId,
    /// How many tokens of the answer there are now.
    pub generated: usize,
    /// How many tokens of the prompt came from the cache.
    pub cached_tokens: usize,
    /// Whether this was the last one.
    pub finished: bool,
}

/// What the coming step computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Request and number of its tokens.
    pub scheduled: Vec<(RequestId, usize)>,
    /// How long it takes.
    pub duration: Duration,
}

/// Gauges and counters of one rank, as `/metrics` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Requests being computed.
    pub running: usize,
    /// Requests waiting for a place or for blocks.
    pub waiting: usize,
    /// Share of the blocks that is referenced, 0 to 1.
    pub kv_cache_usage: f64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Prompt tokens found there.
    pub prefix_hits: u64,
    /// Requests that had to start again for want of blocks.
    pub preemptions: u64,
    /// Prompt tokens of requests that have started to answer.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
}

/// One rank's queues and cache.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    running: Vec<Sequence>,
    stats: Stats,
}

#[derive(Debug)]
struct Sequence {
    id: RequestId,
    /// Prompt, then what has been generated so far.
    tokens: Vec<u32>,
    prompt_len: usize,
    output: Vec<u32>,
    keys: CacheKeys,
    blocks: Vec<BlockId>,
    /// Chained hashes of the full blocks of `tokens`, as far as known.
    hashes: Vec<u64>,
    /// Leading blocks that can be found by hash.
    stored: usize,
    /// Leading tokens whose keys and values are in `blocks`.
    computed: usize,
    /// Prompt tokens found in the cache when first scheduled.
    cached_tokens: Option<usize>,
}

impl Sequence {
    fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    fn is_decoding(&self) -> bool {
        self.generated() > 0 && self.computed + 1 == self.tokens.len()
    }
}

impl Scheduler {
    /// A rank with an empty cache.
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            config,
            pool: BlockPool::new(config.num_blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// Queues a request. Its prompt and answer together must fit into the pool.
    pub fn add(&mut self, request: NewRequest) {
        let NewRequest {
            id,
            prompt,
            output,
            keys,
        } = request;
        self.waiting.push_back(Sequence {
            id,
            prompt_len: prompt.len(),
            tokens: prompt,
            output,
            keys,
            blocks: Vec::new(),
            hashes: Vec::new(),
            stored: 0,
            computed: 0,
            cached_tokens: None,
        });
    }

    /// Forgets a request, wherever it is. Unknown ids are ignored: it may have finished meanwhile.
    pub fn abort(&mut self, id: RequestId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(position) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(position);
            self.pool.free(sequence.blocks.into_iter().rev());
        }
    }

    /// Plans the next step: first the running requests, oldest first, then waiting ones as long as there are tokens,
    /// places and blocks for them. `None`: nothing to do.
    pub fn schedule(&mut self) -> Option<Step> {
        let mut plan = Plan {
            budget: self.config.max_num_batched_tokens,
            ..Plan::default()
        };
        let preempted = self.schedule_running(&mut plan);
        if !preempted {
            self.schedule_waiting(&mut plan);
        }
        if plan.scheduled.is_empty() {
            return None;
        }
        let prefill = plan.prefill_tokens as f64 / self.config.prefill_tokens_per_second;
        let decode = if plan.decodes {
            self.config.inter_token_latency
        } else {
            Duration::ZERO
        };
        let duration = Duration::try_from_secs_f64(prefill)
            .unwrap_or(Duration::MAX)
            .saturating_add(decode);
        Some(Step {
            scheduled: plan.scheduled,
            duration,
        })
    }

    /// Applies a step: every request that has caught up with its tokens gets the next one.
    pub fn finish_step(&mut self, step: &Step) -> Vec<Progress> {
        let mut progress = Vec::new();
        for &(id, count) in &step.scheduled {
            let Some(position) = self.running.iter().position(|sequence| sequence.id == id) else {
                continue;
            };
            let sequence = &mut self.running[position];
            sequence.computed += count;
            if sequence.computed < sequence.tokens.len() {
                continue;
            }
            if sequence.generated() == 0 {
                self.stats.prompt_tokens += sequence.prompt_len as u64;
            }
            let Some(&token) = sequence.output.get(sequence.generated()) else {
                continue;
            };
            sequence.tokens.push(token);
            self.stats.generation_tokens += 1;
            let finished = sequence.generated() == sequence.output.len();
            progress.push(Progress {
                id,
                generated: sequence.generated(),
                cached_tokens: sequence.cached_tokens.unwrap_or(0),
                finished,
            });
            if finished {
                let sequence = self.running.remove(position);
                self.pool.free(sequence.blocks.into_iter().rev());
            }
        }
        progress
    }

    /// Cache events since the last call.
    pub fn take_events(&mut self) -> Vec<KvEvent> {
        self.pool.take_events()
    }

    /// Empties the prefix cache; false if requests are using it.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.pool.reset()
    }

    /// What the prefix cache holds.
    pub fn cache_contents(&self) -> Vec<CachedBlock> {
        self.pool.contents()
    }

    /// Gauges and counters as of now.
    pub fn stats(&self) -> Stats {
        let used = self.pool.capacity() - self.pool.free_count();
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            kv_cache_usage: used as f64 / self.pool.capacity() as f64,
            ..self.stats
        }
    }

    /// True if a request had to be preempted.
    fn schedule_running(&mut self, plan: &mut Plan) -> bool {
        let mut preempted = false;
        let mut position = 0;
        while position < self.running.len() && plan.budget > 0 {
            let sequence = &mut self.running[position];
            let count = (sequence.tokens.len() - sequence.computed).min(plan.budget);
            if extend(&mut self.pool, &self.config, sequence, count) {
                plan.add(sequence, count);
                position += 1;
            } else {
                // The newest makes room. If that is this one, the loop ends with it.
                preempted = true;
                self.preempt_newest();
            }
        }
        preempted
    }

    fn preempt_newest(&mut self) {
        let Some(mut sequence) = self.running.pop() else { return };
        self.pool.free(sequence.blocks.drain(..).rev());
        sequence.computed = 0;
        sequence.stored = 0;
        self.stats.preemptions += 1;
        self.waiting.push_front(sequence);
    }

    fn schedule_waiting(&mut self, plan: &mut Plan) {
        while plan.budget > 0 && self.running.len() < self.config.max_num_seqs {
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            let hit = find_cached_prefix(&self.pool, &self.config, &mut sequence);
            let hit_tokens = hit.len() * self.config.block_size;
            let count = (sequence.tokens.len() - hit_tokens).min(plan.budget);
            let needed = (hit_tokens + count).div_ceil(self.config.block_size) - hit.len();
            if needed + self.pool.count_free(&hit) > self.pool.free_count() {
                self.waiting.push_front(sequence);
                return;
            }
            self.pool.touch(&hit);
            sequence.stored = hit.len();
            sequence.computed = hit_tokens;
            sequence.blocks = hit;
            if sequence.cached_tokens.is_none() {
                sequence.cached_tokens = Some(hit_tokens);
                self.stats.prefix_queries += sequence.tokens.len() as u64;
                self.stats.prefix_hits += hit_tokens as u64;
            }
            extend(&mut self.pool, &self.config, &mut sequence, count);
            plan.add(&sequence, count);
            self.running.push(sequence);
        }
    }
}

#[derive(Default)]
struct Plan {
    budget: usize,
    scheduled: Vec<(RequestId, usize)>,
    prefill_tokens: usize,
    decodes: bool,
}

impl Plan {
    fn add(&mut self, sequence: &Sequence, count: usize) {
        self.budget -= count;
        self.scheduled.push((sequence.id, count));
        if sequence.is_decoding() {
            self.decodes = true;
        } else {
            self.prefill_tokens += count;
        }
    }
}

/// The cached blocks that the sequence begins with. Its last token is never among them: something has to be computed
/// to get the next one.
fn find_cached_prefix(pool: &BlockPool, config: &SchedulerConfig, sequence: &mut Sequence) -> Vec<BlockId> {
    let most = sequence.tokens.len().saturating_sub(1) / config.block_size;
    hash_blocks(config, sequence, most);
    sequence
        .hashes
        .iter()
        .take(most)
        .map_while(|&hash| pool.lookup(hash))
        .collect()
}

/// Gets the blocks for `count` more tokens and caches those that become full; false, and nothing changed, if there
/// are too few blocks. Blocks are cached when they are scheduled, as in vLLM: a request planned later in the same step
/// already shares them.
fn extend(pool: &mut BlockPool, config: &SchedulerConfig, sequence: &mut Sequence, count: usize) -> bool {
    let total = sequence.computed + count;
    let missing = total.div_ceil(config.block_size).saturating_sub(sequence.blocks.len());
    let Some(new_blocks) = pool.allocate(missing) else {
        return false;
    };
    sequence.blocks.extend(new_blocks);

    let full = total / config.block_size;
    let (first, block_size) = (sequence.stored, config.block_size);
    if full <= first {
        return true;
    }
    hash_blocks(config, sequence, full);
    let stored = BlockStored {
        block_hashes: sequence.hashes[first..full].to_vec(),
        parent_block_hash: first.checked_sub(1).map(|parent| sequence.hashes[parent]),
        token_ids: sequence.tokens[first * block_size..full * block_size].to_vec(),
        block_size,
        lora_id: sequence.keys.lora.as_ref().map(|lora| lora.id),
        lora_name: sequence.keys.lora.as_ref().map(|lora| lora.name.clone()),
        extra_keys: (first..full)
            .map(|index| sequence.keys.of_block(index, block_size))
            .collect(),
    };
    pool.store(&sequence.blocks[first..full], stored);
    sequence.stored = full;
    true
}

/// Hashes the sequence's blocks up to `count`, which must be full.
fn hash_blocks(config: &SchedulerConfig, sequence: &mut Sequence, count: usize) {
    for index in sequence.hashes.len()..count {
        let parent = sequence.hashes.last().copied().unwrap_or(config.hash_root);
        let tokens = &sequence.tokens[index * config.block_size..(index + 1) * config.block_size];
        sequence.hashes.push(chain(
            parent,
            tokens,
            sequence.keys.of_block(index, config.block_size).as_deref(),
        ));
    }
}

#[cfg(test)]
mod tests;
