//! Overlaps after the same history of events: our decoder and index against Dynamo's own `RadixTree` (wheel 1.6.1), which
//! hashes the tokens by itself. Where the two differ on purpose, `docs/index.md` says so, and a test here shows it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use control_plane::events::decode::decode;
use control_plane::events::{Content, EngineHash, Event, Stored, Tier};
use control_plane::index::{Index, Shape};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rmpv::Value as Pack;
use router_core::Slot;
use router_core::hash::{BlockHasher, BlockLayout, HashSeed, SequenceHash, local_hashes, sequence_hashes};
use router_core::view::PrefixView;
use serde_json::{Value, json};

const BLOCK_SIZE: u32 = 4;
const WORKERS: u16 = 3;
const HISTORIES: usize = 200;

/// Asks Dynamo.
fn dynamo(histories: &[Vec<Value>]) -> Vec<Vec<Vec<(u16, u32)>>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = manifest.join("../target/tools/venv-dynamo/bin/python");
    let mut child = Command::new(&python)
        .arg(manifest.join("tests/radix_tree.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // It warns of every event that it refuses.
        .env("DYN_LOG", "error")
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}: run `scripts/setup interop`", python.display()));
    let input = serde_json::to_vec(histories).unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Our decoder, index and view, fed with what an engine publishes.
struct Ours {
    index: Index,
    view: PrefixView,
}

impl Ours {
    fn new(layout: BlockLayout) -> Self {
        Self {
            index: Index::new(Shape::plain(layout)),
            view: PrefixView::new(),
        }
    }

    fn publish(&mut self, worker: u16, event: Pack) {
        let mut bytes = Vec::new();
        let batch = Pack::Array(vec![Pack::from(0.5), Pack::Array(vec![event]), Pack::from(0)]);
        rmpv::encode::write_value(&mut bytes, &batch).unwrap();
        self.receive(worker, &bytes);
    }

    fn receive(&mut self, worker: u16, payload: &[u8]) {
        let batch = decode(payload).unwrap();
        assert_eq!(batch.ignored, [""; 0]);
        self.apply(worker, &batch.events);
    }

    fn apply(&mut self, worker: u16, events: &[Event]) {
        let mut changes = Vec::new();
        for event in events {
            self.index.apply(Slot(worker), event, &mut changes);
        }
        self.index.drain(Slot(worker), usize::MAX, &mut changes);
        for change in changes {
            let changed = match change.stored {
                true => self.view.insert(change.slot, change.hash),
                false => self.view.remove(change.slot, change.hash),
            };
            assert!(changed);
        }
    }

    fn overlaps(&self, prompt: &[SequenceHash]) -> Vec<(u16, u32)> {
        let depths = self.view.depths(prompt);
        let all = (0..WORKERS).map(|worker| (worker, depths.of(Slot(worker))));
        all.filter(|(_, depth)| *depth > 0).collect()
    }
}

/// One sequence of blocks: what is in it, by a number for each block, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    path: Vec<u8>,
    lora: Option<&'static str>,
    namespace: Option<&'static str>,
}

impl Chain {
    /// The engine's name for the block at `end`.
    fn name(&self, end: usize) -> u64 {
        let text = format!("{:?} {:?} {:?}", &self.path[..end], self.lora, self.namespace);
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }

    fn names(&self, from: usize) -> Vec<u64> {
        (from..self.path.len()).map(|end| self.name(end + 1)).collect()
    }

    fn tokens(&self, from: usize) -> Vec<u32> {
        let of_block = |&content: &u8| (0..BLOCK_SIZE).map(move |n| u32::from(content) * 1000 + n);
        self.path[from..].iter().flat_map(of_block).collect()
    }

    fn content(&self, from: usize) -> Value {
        json!({
            "parent": (from > 0).then(|| self.name(from)), "blocks": self.names(from), "tokens": self.tokens(from),
            "block_size": BLOCK_SIZE, "lora": self.lora, "namespace": self.namespace, "eagle": false, "media": [],
        })
    }

    fn hashes(&self) -> Vec<SequenceHash> {
        let layout = BlockLayout::plain(BLOCK_SIZE).unwrap();
        let seed = HashSeed::new(self.lora, self.namespace);
        sequence_hashes(local_hashes(&self.tokens(0), layout, seed))
    }

    fn store_event(&self, from: usize, medium: &str) -> Pack {
        let text = |text: Option<&str>| text.map_or(Pack::Nil, Pack::from);
        let list = |numbers: Vec<u64>| Pack::Array(numbers.into_iter().map(Pack::from).collect());
        let fields = [
            ("type", Pack::from("BlockStored")),
            ("block_hashes", list(self.names(from))),
            (
                "parent_block_hash",
                if from > 0 {
                    Pack::from(self.name(from))
                } else {
                    Pack::Nil
                },
            ),
            (
                "token_ids",
                list(self.tokens(from).into_iter().map(u64::from).collect()),
            ),
            ("block_size", BLOCK_SIZE.into()),
            ("medium", medium.into()),
            ("lora_name", text(self.lora)),
            ("cache_salt", text(self.namespace)),
        ];
        Pack::Map(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

fn remove_event(names: impl IntoIterator<Item = u64>, medium: &str) -> Pack {
    let names = names.into_iter().map(Pack::from).collect();
    Pack::Array(vec!["BlockRemoved".into(), Pack::Array(names), medium.into()])
}

fn clear_event() -> Pack {
    Pack::Array(vec!["AllBlocksCleared".into()])
}

#[derive(Clone, Debug)]
enum Step {
    Store(Chain, usize),
    /// Blocks of the chain, by where they end.
    Remove(Chain, Vec<usize>),
    /// The same in the host's memory, of which Dynamo's tree of the device is not told.
    StoreOnHost(Chain, usize),
    RemoveFromHost(Chain, Vec<usize>),
    Clear,
    /// The worker is gone and comes back empty.
    Restart,
    Query(Chain),
}

fn a_chain() -> impl Strategy<Value = Chain> {
    let path = prop::collection::vec(0_u8..3, 1..7);
    let tenants = [
        (None, None),
        (None, None),
        (Some("tuned"), None),
        (None, Some("tenant")),
    ];
    (path, prop::sample::select(tenants.to_vec())).prop_map(|(path, (lora, namespace))| Chain { path, lora, namespace })
}

fn a_step() -> impl Strategy<Value = (u16, Step)> {
    let part = || (a_chain(), any::<prop::sample::Index>()).prop_map(|(chain, at)| (at.index(chain.path.len()), chain));
    let ends = || {
        (a_chain(), any::<u8>()).prop_map(|(chain, bits)| {
            let ends: Vec<_> = (1..=chain.path.len()).filter(|end| bits >> end & 1 != 0).collect();
            (ends, chain)
        })
    };
    let step = prop_oneof![
        10 => part().prop_map(|(from, chain)| Step::Store(chain, from)),
        5 => a_chain().prop_map(|chain| Step::Store(chain, 0)),
        5 => ends().prop_map(|(ends, chain)| Step::Remove(chain, ends)),
        2 => part().prop_map(|(from, chain)| Step::StoreOnHost(chain, from)),
        2 => ends().prop_map(|(ends, chain)| Step::RemoveFromHost(chain, ends)),
        1 => Just(Step::Clear),
        1 => Just(Step::Restart),
        12 => a_chain().prop_map(Step::Query),
    ];
    (0..WORKERS, step)
}

/// The blocks of each worker's device that Dynamo's tree knows at least: without a block, it may forget all that stands
/// below it; and what stands below an unknown block is refused.
#[derive(Default)]
struct Known(Vec<BTreeSet<Chain>>);

impl Known {
    fn of(&mut self, worker: u16) -> &mut BTreeSet<Chain> {
        self.0.resize_with(WORKERS.into(), BTreeSet::new);
        &mut self.0[usize::from(worker)]
    }
}

fn upto(chain: &Chain, end: usize) -> Chain {
    Chain {
        path: chain.path[..end].to_vec(),
        ..chain.clone()
    }
}

/// What Dynamo is told and asked, and what we found: with the history as it was, and with all that Dynamo may forget taken
/// from us. Where both are the same, Dynamo must say the same; elsewhere it lies between, by how its nodes are cut.
struct Run {
    steps: Vec<Value>,
    found: Vec<Vec<(u16, u32)>>,
    found_forgetful: Vec<Vec<(u16, u32)>>,
}

fn run(history: Vec<(u16, Step)>) -> Run {
    let layout = BlockLayout::plain(BLOCK_SIZE).unwrap();
    let (mut ours, mut forgetful) = (Ours::new(layout), Ours::new(layout));
    let mut known = Known::default();
    let mut run = Run {
        steps: Vec::new(),
        found: Vec::new(),
        found_forgetful: Vec::new(),
    };
    for (worker, step) in history {
        match step {
            Step::Store(chain, from) => {
                run.steps.push(json!({"worker": worker, "stored": chain.content(from)}));
                let event = chain.store_event(from, "GPU");
                ours.publish(worker, event.clone());
                if from == 0 || known.of(worker).contains(&upto(&chain, from)) {
                    known
                        .of(worker)
                        .extend((from..chain.path.len()).map(|end| upto(&chain, end + 1)));
                    forgetful.publish(worker, event);
                }
            }
            Step::Remove(chain, ends) => {
                let names: Vec<_> = ends.iter().map(|&end| chain.name(end)).collect();
                run.steps.push(json!({"worker": worker, "removed": names}));
                ours.publish(worker, remove_event(names, "GPU"));
                for end in ends {
                    let removed = upto(&chain, end);
                    let falls = |other: &Chain| {
                        (other.lora, other.namespace) == (removed.lora, removed.namespace)
                            && other.path.starts_with(&removed.path)
                    };
                    if known.of(worker).contains(&removed) {
                        let gone: Vec<_> = known.of(worker).extract_if(.., falls).collect();
                        forgetful.publish(
                            worker,
                            remove_event(gone.iter().map(|chain| chain.name(chain.path.len())), "GPU"),
                        );
                    }
                }
            }
            Step::StoreOnHost(chain, from) => {
                for ours in [&mut ours, &mut forgetful] {
                    ours.publish(worker, chain.store_event(from, "CPU"));
                }
            }
            Step::RemoveFromHost(chain, ends) => {
                for ours in [&mut ours, &mut forgetful] {
                    ours.publish(worker, remove_event(ends.iter().map(|&end| chain.name(end)), "CPU"));
                }
            }
            Step::Clear | Step::Restart => {
                let what = if matches!(step, Step::Clear) { "cleared" } else { "gone" };
                run.steps.push(json!({"worker": worker, what: true}));
                known.of(worker).clear();
                for ours in [&mut ours, &mut forgetful] {
                    ours.publish(worker, clear_event());
                }
            }
            Step::Query(chain) => {
                run.steps.push(json!({"query": chain.content(0)}));
                run.found.push(ours.overlaps(&chain.hashes()));
                run.found_forgetful.push(forgetful.overlaps(&chain.hashes()));
            }
        }
    }
    run
}

#[test]
#[ignore = "needs Dynamo's wheel: scripts/setup interop"]
fn random_histories_lead_to_the_same_overlaps() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let histories = prop::collection::vec(a_step(), 40..160);
    let runs: Vec<_> = (0..HISTORIES)
        .map(|_| run(histories.new_tree(&mut runner).unwrap().current()))
        .collect();
    let steps: Vec<_> = runs.iter().map(|run| run.steps.clone()).collect();
    let (mut equal, mut forgotten) = (0, 0);
    for (run, dynamo) in runs.iter().zip(dynamo(&steps)) {
        for ((most, least), dynamo) in run.found.iter().zip(&run.found_forgetful).zip(&dynamo) {
            for worker in 0..WORKERS {
                let [most, least, dynamo] = [most, least, dynamo].map(|all| of(worker, all));
                assert!(
                    (least..=most).contains(&dynamo),
                    "{least} {dynamo} {most}: {}",
                    json!(run.steps)
                );
                equal += usize::from(dynamo > 0 && least == most);
                forgotten += usize::from(dynamo < most);
            }
        }
    }
    println!("{equal} overlaps are Dynamo's; {forgotten} are larger, as it forgot what stands below a removed block");
    assert!(equal > 1000 && forgotten > 0, "histories that show nothing");
}

fn of(worker: u16, overlaps: &[(u16, u32)]) -> u32 {
    overlaps.iter().find(|one| one.0 == worker).map_or(0, |one| one.1)
}

#[test]
#[ignore = "needs Dynamo's wheel: scripts/setup interop"]
fn what_vllm_published_leads_to_the_same_overlaps() {
    let capture: Value = serde_json::from_str(include_str!("data/vllm_0.32_capture.json")).unwrap();
    let mut ours = Ours::new(BlockLayout::plain(32).unwrap());
    let (mut steps, mut found) = (Vec::new(), Vec::new());
    let log = capture["log"].as_array().unwrap();
    let salt = |request: &Value| (request["name"] == "cache_salt").then_some("tenant-a");
    for request in log {
        for event in request["events"].as_array().unwrap() {
            let hex = event["frames_hex"][2].as_str().unwrap();
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            ours.receive(0, &(0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>());
            for event in event["decoded"][1].as_array().unwrap() {
                steps.push(match event["type"].as_str().unwrap() {
                    "BlockRemoved" => json!({"worker": 0, "removed": event["block_hashes"]}),
                    _ => json!({"worker": 0, "stored": {
                        "parent": event["parent_block_hash"], "blocks": event["block_hashes"],
                        "tokens": event["token_ids"], "block_size": 32, "lora": null, "namespace": salt(request),
                        "eagle": false, "media": [],
                    }}),
                });
            }
        }
        for query in log {
            let tokens: Vec<u32> = serde_json::from_value(query["token_ids"].clone()).unwrap();
            let namespace = salt(query);
            let layout = BlockLayout::plain(32).unwrap();
            let locals = local_hashes(&tokens, layout, HashSeed::new(None, namespace));
            found.push(ours.overlaps(&sequence_hashes(locals)));
            steps.push(json!({"query": {
                "tokens": tokens, "block_size": 32, "lora": null, "namespace": namespace, "eagle": false, "media": [],
            }}));
        }
    }
    assert_eq!(dynamo(&[steps]), [found]);
}

/// A content of consecutive blocks, for both.
struct Blocks {
    eagle: bool,
    tokens: Vec<u32>,
    media: Vec<Vec<u64>>,
}

impl Blocks {
    fn text(contents: &[u32]) -> Self {
        let of_block = |&content: &u32| std::iter::repeat_n(content, BLOCK_SIZE as usize);
        Self {
            eagle: false,
            tokens: contents.iter().flat_map(of_block).collect(),
            media: vec![Vec::new(); contents.len()],
        }
    }

    fn json(&self, parent: Option<u64>, names: &[u64]) -> Value {
        json!({
            "parent": parent, "blocks": names, "tokens": self.tokens, "block_size": BLOCK_SIZE, "lora": null,
            "namespace": null, "eagle": self.eagle, "media": self.media,
        })
    }

    fn layout(&self) -> BlockLayout {
        BlockLayout {
            eagle: self.eagle,
            ..BlockLayout::plain(BLOCK_SIZE).unwrap()
        }
    }

    fn hashes(&self) -> Vec<SequenceHash> {
        let mut hasher = BlockHasher::new(HashSeed::new(None, None));
        let blocks = self.layout().blocks(&self.tokens).zip(&self.media);
        sequence_hashes(blocks.map(|(tokens, media)| hasher.local(tokens, media)))
    }
}

fn stored(parent: Option<u64>, names: &[u64], blocks: &Blocks) -> (Value, Event) {
    let event = Event::Stored(Stored {
        parent: parent.map(EngineHash),
        blocks: names.iter().copied().map(EngineHash).collect(),
        content: Content::Tokens {
            ids: blocks.tokens.clone(),
            bigrams: blocks.eagle,
            media: blocks.media.clone(),
        },
        block_size: BLOCK_SIZE,
        ..Stored::default()
    });
    (json!({"worker": 0, "stored": blocks.json(parent, names)}), event)
}

fn removed(names: &[u64]) -> (Value, Event) {
    let event = Event::Removed {
        tier: Tier::Device,
        blocks: names.iter().copied().map(EngineHash).collect(),
    };
    (json!({"worker": 0, "removed": names}), event)
}

/// Overlaps of worker 0 with the queries after the steps: Dynamo's and ours.
fn both(steps: Vec<(Value, Event)>, queries: &[Blocks]) -> (Vec<u32>, Vec<u32>) {
    let mut ours = Ours::new(queries[0].layout());
    let (mut told, events): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
    ours.apply(0, &events);
    told.extend(queries.iter().map(|query| json!({"query": query.json(None, &[])})));
    let dynamos = dynamo(&[told]).remove(0);
    let ours = queries.iter().map(|query| of(0, &ours.overlaps(&query.hashes())));
    (dynamos.iter().map(|overlaps| of(0, overlaps)).collect(), ours.collect())
}

#[test]
#[ignore = "needs Dynamo's wheel: scripts/setup interop"]
fn bigrams_and_media_hash_as_dynamos() {
    let bigrams = || Blocks {
        eagle: true,
        tokens: (1..=9).collect(),
        media: vec![Vec::new(); 2],
    };
    assert_eq!(
        both(vec![stored(None, &[1, 2], &bigrams())], &[bigrams()]),
        (vec![2], vec![2])
    );
    let media = |objects: &[u64]| Blocks {
        media: vec![Vec::new(), objects.to_vec()],
        ..Blocks::text(&[1, 2])
    };
    let queries = [media(&[7, 9]), media(&[9, 7]), media(&[7]), media(&[])];
    let expected = vec![2, 2, 1, 1];
    assert_eq!(
        both(vec![stored(None, &[1, 2], &media(&[9, 7]))], &queries),
        (expected.clone(), expected)
    );
}

#[test]
#[ignore = "needs Dynamo's wheel: scripts/setup interop"]
fn the_documented_differences_are_as_documented() {
    let text = Blocks::text;
    let store = |parent, names: &[u64], contents: &[u32]| stored(parent, names, &text(contents));
    let cases = [
        // A removed block comes back: what stands below it is there again.
        (
            vec![
                store(None, &[1, 2, 3], &[1, 2, 3]),
                removed(&[2]),
                store(Some(1), &[2], &[2]),
            ],
            text(&[1, 2, 3]),
            (2, 3),
        ),
        // Two names for one content, and one of them goes: the block is still there.
        (
            vec![store(None, &[1], &[1]), store(None, &[2], &[1]), removed(&[1])],
            text(&[1]),
            (0, 1),
        ),
        // A name for another content: the block that had it is gone.
        (
            vec![store(None, &[1], &[1]), store(None, &[1], &[5])],
            text(&[1]),
            (1, 0),
        ),
        // A name twice in one event: nothing stands below itself.
        (vec![store(None, &[1, 1], &[1, 1])], text(&[1, 1]), (2, 0)),
    ];
    for (steps, query, (dynamos, ours)) in cases {
        assert_eq!(both(steps, &[query]), (vec![dynamos], vec![ours]));
    }
}
