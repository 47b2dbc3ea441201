//! The `pools` of the configuration file.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use prompt::Frontend;
use router_core::Slot;
use router_core::cost::CostWeights;
use router_core::levels::Levels;

use super::defaults;
use super::dynamo::{DynamoConfig, read_discovery};
use super::prompts::{PromptsConfig, read_prompts};
use super::reader::{At, Mistakes};

/// Workers that serve one model.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// Unique.
    pub name: String,
    /// What requests may say for the base model; at least one.
    pub models: Vec<String>,
    /// What requests may say for a LoRA adapter; the name seeds the block hashes.
    pub loras: Vec<String>,
    /// Hugging Face model directory.
    pub model_dir: PathBuf,
    /// Tokens per KV block; must be the engines' own.
    pub block_size: u32,
    /// Whether workers tell bigrams of tokens: each block then also hashes the first token of the next one.
    pub eagle: bool,
    /// What is kept of the workers' caches.
    pub index: IndexConfig,
    /// What the filters get of that.
    pub view: ViewConfig,
    /// Cost weights.
    pub weights: CostWeights,
    /// Softmax temperature of the pick; 0 takes the cheapest.
    pub temperature: f64,
    /// Whether workers are asked for the tokens they make.
    pub parity: ParityConfig,
    /// Whether workers get the prompt's token ids with the request (Dynamo's `nvext.token_data`).
    pub inject_tokens: bool,
    /// How workers make prompts.
    pub prompts: PromptsConfig,
    /// At least one, unless they are discovered.
    pub workers: Vec<WorkerConfig>,
    /// Workers that Dynamo's discovery service tells of, instead of `workers`.
    pub dynamo: Option<DynamoConfig>,
}

/// What is kept of the workers' caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexConfig {
    /// Tiers beside the device that are routed by.
    pub tiers: Levels,
    /// Blocks kept of one rank, over all tiers.
    pub max_rank_blocks: usize,
    /// Blocks kept of all ranks together.
    pub max_pool_blocks: usize,
}

/// What the filters get of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewConfig {
    /// Every how many-th block of a prefix.
    pub stride: NonZeroU32,
    /// What it may take in a VM, in bytes.
    pub max_bytes: usize,
}

/// How workers are asked for the tokens they make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParityConfig {
    /// What follows from their answers.
    pub mode: ParityMode,
    /// For how long the pool is routed by load while no worker has answered.
    pub grace_ms: u64,
    /// How often a worker is asked.
    pub interval_ms: u64,
}

/// What follows from tokens that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParityMode {
    /// The pool is routed by load until they do not.
    Enforce,
    /// It is said, and nothing else.
    Warn,
    /// Nobody is asked.
    Off,
}

impl ParityMode {
    /// As in the file.
    pub fn label(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Warn => "warn",
            Self::Off => "off",
        }
    }
}

/// One engine process.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerConfig {
    /// As the gateway's cluster knows it.
    pub endpoint: SocketAddr,
    /// One PUB endpoint for each rank; empty: the worker publishes no events, or connects to us.
    pub kv_events: Vec<String>,
    /// What the topic, or the pod in the topic, of its events may be if it connects to us; empty: it does not.
    pub kv_topics: Vec<String>,
    /// Whether one publisher tells of all ranks, so that each message has to name its own.
    pub kv_shared: bool,
    /// One ROUTER endpoint for each rank; empty: no replay.
    pub replay: Vec<String>,
    /// Number of data-parallel ranks behind the endpoint.
    pub data_parallel_size: u32,
}

/// What must be unique in the whole file, and where it was first said.
#[derive(Default)]
struct Taken {
    pools: HashMap<String, String>,
    models: HashMap<String, String>,
    endpoints: HashMap<String, String>,
    event_sockets: HashMap<String, String>,
    topics: HashMap<String, String>,
    /// Whether workers can connect to us.
    listens: bool,
}

pub(super) fn read_pools(at: &At<'_>, directory: &Path, listens: bool, mistakes: &mut Mistakes) -> Vec<PoolConfig> {
    at.require(mistakes);
    let items = at.items(mistakes);
    if at.is_set() && items.is_empty() {
        mistakes.add(at, "empty", "at least one pool is needed");
    }
    let mut taken = Taken {
        listens,
        ..Taken::default()
    };
    items
        .iter()
        .map(|item| read_pool(item, directory, &mut taken, mistakes))
        .collect()
}

fn read_pool(at: &At<'_>, directory: &Path, taken: &mut Taken, mistakes: &mut Mistakes) -> PoolConfig {
    let [
        name,
        models,
        loras,
        model_dir,
        block_size,
        eagle,
        index,
        view,
        inject_tokens,
        prompts,
        routing,
        parity,
        workers,
        discovery,
    ] = at.fields(
        mistakes,
        [
            "name",
            "models",
            "loras",
            "model_dir",
            "block_size",
            "eagle",
            "index",
            "view",
            "inject_tokens",
            "prompts",
            "routing",
            "parity",
            "workers",
            "discovery",
        ],
    );
    let pool_name = name.required_text(mistakes).unwrap_or_default().to_owned();
    claim(
        &mut taken.pools,
        &name,
        &pool_name,
        "the name of another pool",
        mistakes,
    );
    block_size.require(mistakes);
    let (weights, temperature) = read_routing(&routing, mistakes);
    let index = read_index(&index, mistakes);
    let dynamo = read_discovery(&discovery, directory, mistakes);
    if dynamo.is_some() && workers.is_set() {
        mistakes.add(
            &workers,
            "set",
            "discovery tells of the workers already; use another pool for these",
        );
    }
    let frontend = if dynamo.is_some() {
        Frontend::Dynamo
    } else {
        Frontend::Vllm
    };
    PoolConfig {
        models: read_models(&models, true, taken, mistakes),
        loras: read_models(&loras, false, taken, mistakes),
        model_dir: read_model_dir(&model_dir, directory, mistakes),
        block_size: block_size.integer(mistakes, 1..=4096, 16),
        eagle: eagle.flag(mistakes, false),
        weights,
        temperature,
        parity: read_parity(&parity, mistakes),
        inject_tokens: inject_tokens.flag(mistakes, false),
        prompts: read_prompts(&prompts, directory, frontend, mistakes),
        workers: if dynamo.is_none() {
            read_workers(&workers, index.tiers, taken, mistakes)
        } else {
            Vec::new()
        },
        dynamo,
        index,
        view: read_view(&view, mistakes),
        name: pool_name,
    }
}

fn read_models(at: &At<'_>, required: bool, taken: &mut Taken, mistakes: &mut Mistakes) -> Vec<String> {
    if required {
        at.require(mistakes);
    }
    let items = at.items(mistakes);
    if required && at.is_set() && items.is_empty() {
        mistakes.add(at, "empty", "at least one model name is needed");
    }
    let mut names = Vec::new();
    for item in items {
        let name = item.required_text(mistakes).unwrap_or_default();
        let why = "a model name must lead to one pool, and be either base model or LoRA";
        claim(&mut taken.models, &item, name, why, mistakes);
        names.push(name.to_owned());
    }
    names
}

fn read_model_dir(at: &At<'_>, directory: &Path, mistakes: &mut Mistakes) -> PathBuf {
    let Some(text) = at.required_text(mistakes) else {
        return PathBuf::new();
    };
    let path = directory.join(text);
    let tokenizer = path.join("tokenizer.json");
    if !tokenizer.is_file() {
        let why = "no such file; model_dir must be a Hugging Face model directory";
        mistakes.add(at, tokenizer.display(), why);
    }
    path
}

fn read_routing(at: &At<'_>, mistakes: &mut Mistakes) -> (CostWeights, f64) {
    let [overlap_credit, decay, host, disk, prefill, active, temperature] = at.fields(
        mistakes,
        [
            "overlap_credit",
            "overlap_credit_decay",
            "host_cache_hit_weight",
            "disk_cache_hit_weight",
            "prefill_load_scale",
            "active_request_weight",
            "temperature",
        ],
    );
    let default = CostWeights::default();
    let weights = CostWeights {
        overlap_credit: overlap_credit.weight(mistakes, default.overlap_credit),
        overlap_credit_decay: decay.weight(mistakes, default.overlap_credit_decay),
        host_cache_hit_weight: host.weight(mistakes, default.host_cache_hit_weight),
        disk_cache_hit_weight: disk.weight(mistakes, default.disk_cache_hit_weight),
        prefill_load_scale: prefill.weight(mistakes, default.prefill_load_scale),
        active_request_weight: active.weight(mistakes, default.active_request_weight),
    };
    (weights, temperature.weight(mistakes, 0.0))
}

fn read_index(at: &At<'_>, mistakes: &mut Mistakes) -> IndexConfig {
    let [tiers, max_rank_blocks, max_pool_blocks] =
        at.fields(mistakes, ["tiers", "max_rank_blocks", "max_pool_blocks"]);
    // Beyond that, a block's place in a rank's index would not fit its 4 bytes.
    let limit = 1..=defaults::MAX_BLOCKS_LIMIT;
    IndexConfig {
        tiers: read_tiers(&tiers, mistakes),
        max_rank_blocks: max_rank_blocks.integer(mistakes, limit.clone(), defaults::MAX_RANK_BLOCKS) as usize,
        max_pool_blocks: max_pool_blocks.integer(mistakes, limit, defaults::MAX_POOL_BLOCKS) as usize,
    }
}

fn read_view(at: &At<'_>, mistakes: &mut Mistakes) -> ViewConfig {
    let [stride, max_mib] = at.fields(mistakes, ["stride", "max_mib"]);
    let stride = stride.integer(mistakes, 1..=1024, 1);
    ViewConfig {
        stride: NonZeroU32::new(stride).unwrap_or(NonZeroU32::MIN),
        max_bytes: (max_mib.integer(mistakes, 1..=896, defaults::VIEW_MIB) as usize) << 20,
    }
}

fn read_tiers(at: &At<'_>, mistakes: &mut Mistakes) -> Levels {
    let mut levels = Levels::default();
    for item in at.items(mistakes) {
        let tier = match item.word(mistakes) {
            Some("host") => &mut levels.host,
            Some("disk") => &mut levels.disk,
            Some(other) => {
                let why = "must be host or disk (which stands for external storage, too); the device is always there";
                mistakes.add(&item, format!("{other:?}"), why);
                continue;
            }
            None => continue,
        };
        if std::mem::replace(tier, true) {
            mistakes.add(&item, "twice", "a tier is listed once");
        }
    }
    levels
}

fn read_parity(at: &At<'_>, mistakes: &mut Mistakes) -> ParityConfig {
    let [mode, grace, interval] = at.fields(mistakes, ["mode", "grace", "interval"]);
    ParityConfig {
        mode: read_parity_mode(&mode, mistakes),
        grace_ms: grace.milliseconds(mistakes, 0..=86_400_000, defaults::PARITY_GRACE_MS),
        interval_ms: interval.milliseconds(mistakes, 100..=86_400_000, defaults::PARITY_INTERVAL_MS),
    }
}

fn read_parity_mode(at: &At<'_>, mistakes: &mut Mistakes) -> ParityMode {
    let modes = [ParityMode::Enforce, ParityMode::Warn, ParityMode::Off];
    let Some(text) = at.word(mistakes) else {
        return ParityMode::Enforce;
    };
    let known = modes.into_iter().find(|mode| mode.label() == text);
    known.unwrap_or_else(|| {
        mistakes.add(at, format!("{text:?}"), "must be enforce, warn or off");
        ParityMode::Enforce
    })
}

fn read_workers(at: &At<'_>, tiers: Levels, taken: &mut Taken, mistakes: &mut Mistakes) -> Vec<WorkerConfig> {
    at.require(mistakes);
    let items = at.items(mistakes);
    if at.is_set() && items.is_empty() {
        mistakes.add(at, "empty", "at least one worker is needed");
    }
    let workers: Vec<_> = items.iter().map(|item| read_worker(item, taken, mistakes)).collect();
    let ranks: u64 = workers.iter().map(|worker| u64::from(worker.data_parallel_size)).sum();
    let limit = Slot::LIMIT / tiers.slots_per_rank();
    if ranks > u64::from(limit) {
        let why = format!("a pool with so many tiers (index.tiers) has at most {limit} ranks, over all its workers");
        mistakes.add(at, ranks, why);
    }
    workers
}

fn read_worker(at: &At<'_>, taken: &mut Taken, mistakes: &mut Mistakes) -> WorkerConfig {
    let [endpoint, kv_events, kv_topic, kv_shared, replay, data_parallel_size] = at.fields(
        mistakes,
        [
            "endpoint",
            "kv_events",
            "kv_topic",
            "kv_shared",
            "replay",
            "data_parallel_size",
        ],
    );
    let address = read_endpoint(&endpoint, taken, mistakes);
    let ranks = data_parallel_size.integer(mistakes, 1..=u32::from(Slot::LIMIT), 1);
    let is_shared = kv_shared.flag(mistakes, false);
    let publishers = if is_shared { 1 } else { ranks };
    let event_sockets = read_sockets(&kv_events, publishers, mistakes);
    for socket in &event_sockets {
        claim(
            &mut taken.event_sockets,
            &kv_events,
            socket,
            "another publisher is there",
            mistakes,
        );
    }
    if replay.is_set() && !kv_events.is_set() && !taken.listens {
        mistakes.add(
            &replay,
            "set",
            "there is nothing to replay without kv_events or events.listen",
        );
    }
    let kv_topics = match kv_events.is_set() {
        true => {
            if kv_topic.is_set() {
                mistakes.add(
                    &kv_topic,
                    "set",
                    "kv_events is set too: who connects, the worker or we?",
                );
            }
            Vec::new()
        }
        false => read_topics(&kv_topic, address, taken, mistakes),
    };
    WorkerConfig {
        endpoint: address,
        kv_events: event_sockets,
        kv_topics,
        kv_shared: is_shared,
        replay: read_sockets(&replay, publishers, mistakes),
        data_parallel_size: ranks,
    }
}

/// What a worker that connects to us is known by: what is said, or its address.
fn read_topics(at: &At<'_>, endpoint: SocketAddr, taken: &mut Taken, mistakes: &mut Mistakes) -> Vec<String> {
    let given = at.text(mistakes);
    if !taken.listens {
        if given.is_some() {
            mistakes.add(at, "set", "workers can connect only where events.listen is set");
        }
        return Vec::new();
    }
    let names = match given {
        Some(topic) => vec![topic.to_owned()],
        None => vec![endpoint.ip().to_string(), endpoint.to_string()],
    };
    for name in &names {
        let why = "another worker is known by this in topics: give each a kv_topic";
        claim(&mut taken.topics, at, name, why, mistakes);
    }
    names
}

fn read_endpoint(at: &At<'_>, taken: &mut Taken, mistakes: &mut Mistakes) -> SocketAddr {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let Some(text) = at.required_text(mistakes) else {
        return nowhere;
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => {
            claim(
                &mut taken.endpoints,
                at,
                &address.to_string(),
                "another worker has this endpoint",
                mistakes,
            );
            address
        }
        _ => {
            mistakes.add(
                at,
                format!("{text:?}"),
                "must be ip:port with a port above 0 (IPv6 in brackets), exactly as the gateway's cluster has it",
            );
            nowhere
        }
    }
}

/// One endpoint for each rank: a list of them, or the first one, from which the ports count up.
fn read_sockets(at: &At<'_>, ranks: u32, mistakes: &mut Mistakes) -> Vec<String> {
    let items = at.one_or_more(mistakes);
    let given: Vec<_> = items.iter().filter_map(|item| read_socket(item, mistakes)).collect();
    if given.len() != items.len() || given.is_empty() {
        return Vec::new();
    }
    if let [(host, port)] = given.as_slice() {
        let last = u32::from(*port).saturating_add(ranks - 1);
        if last > u32::from(u16::MAX) {
            mistakes.add(at, last, "rank r uses port + r, which goes beyond 65535");
        }
        return (0..ranks)
            .map(|rank| format!("tcp://{host}:{}", u32::from(*port).saturating_add(rank)))
            .collect();
    }
    if given.len() != ranks as usize {
        let why = format!("a list must have one endpoint for each of the {ranks} ranks (data_parallel_size)");
        mistakes.add(at, format!("{} endpoints", given.len()), why);
    }
    given
        .into_iter()
        .map(|(host, port)| format!("tcp://{host}:{port}"))
        .collect()
}

/// `tcp://host:port`, taken apart.
pub(super) fn read_socket(at: &At<'_>, mistakes: &mut Mistakes) -> Option<(String, u16)> {
    let text = at.required_text(mistakes)?;
    let parsed = text.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':'));
    let parsed = parsed.and_then(|(host, port)| Some((host, port.parse::<u16>().ok().filter(|port| *port != 0)?)));
    match parsed {
        Some((host, port)) if !host.is_empty() && host != "*" && !host.contains('/') => Some((host.to_owned(), port)),
        _ => {
            mistakes.add(
                at,
                format!("{text:?}"),
                "must be tcp://host:port, where it can be reached (not the `*` it binds)",
            );
            None
        }
    }
}

fn claim(taken: &mut HashMap<String, String>, at: &At<'_>, name: &str, why: &str, mistakes: &mut Mistakes) {
    if name.is_empty() {
        return;
    }
    if let Some(first) = taken.insert(name.to_owned(), at.path().to_owned()) {
        mistakes.add(at, format!("{name:?}"), format!("{why} (first at {first})"));
    }
}
