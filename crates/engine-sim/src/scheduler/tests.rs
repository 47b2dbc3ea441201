use proptest::prelude::*;

use super::*;
use crate::hash::{ExtraKey, Lora};
use crate::test_support::Mirror;

fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: 4,
        num_blocks: 16,
        max_num_seqs: 4,
        max_num_batched_tokens: 32,
        prefill_tokens_per_second: 1000.0,
        inter_token_latency: Duration::from_millis(5),
        hash_root: 99,
    }
}

/// A prompt of consecutive ids from `first`, and an answer of `output` tokens that go on from there.
fn request(id: RequestId, first: u32, prompt: u32, output: u32) -> NewRequest {
    NewRequest {
        id,
        prompt: (first..first + prompt).collect(),
        output: (first + prompt..first + prompt + output).collect(),
        keys: CacheKeys::default(),
    }
}

/// One step, as what was scheduled and what came out.
fn step(scheduler: &mut Scheduler) -> Option<(Step, Vec<Progress>)> {
    let step = scheduler.schedule()?;
    let progress = scheduler.finish_step(&step);
    Some((step, progress))
}

fn run_to_end(scheduler: &mut Scheduler) -> Vec<Progress> {
    std::iter::from_fn(|| step(scheduler))
        .flat_map(|(_, progress)| progress)
        .collect()
}

/// How many prompt tokens a request finds in the cache.
fn cached_tokens(scheduler: &mut Scheduler, request: NewRequest) -> usize {
    scheduler.add(request);
    run_to_end(scheduler).last().expect("an answer").cached_tokens
}

fn progress(id: RequestId, generated: usize, finished: bool) -> Progress {
    Progress {
        id,
        generated,
        cached_tokens: 0,
        finished,
    }
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn prefill_then_decode_in_the_time_the_model_says() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(request(1, 0, 10, 2));
    let steps: Vec<_> = std::iter::from_fn(|| step(&mut scheduler)).collect();
    assert_eq!(
        steps,
        [
            (
                Step {
                    scheduled: vec![(1, 10)],
                    duration: millis(10)
                },
                vec![progress(1, 1, false)]
            ),
            (
                Step {
                    scheduled: vec![(1, 1)],
                    duration: millis(5)
                },
                vec![progress(1, 2, true)]
            ),
        ]
    );
    let stats = Stats {
        prefix_queries: 10,
        prompt_tokens: 10,
        generation_tokens: 2,
        ..Stats::default()
    };
    assert_eq!(scheduler.stats(), stats);
}

#[test]
fn long_prompts_come_in_chunks_and_decodes_go_first() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(request(1, 0, 4, 3));
    step(&mut scheduler);
    scheduler.add(request(2, 100, 40, 1));
    let steps: Vec<_> = std::iter::from_fn(|| step(&mut scheduler)).collect();
    assert_eq!(
        steps,
        [
            (
                Step {
                    scheduled: vec![(1, 1), (2, 31)],
                    duration: millis(36)
                },
                vec![progress(1, 2, false)]
            ),
            (
                Step {
                    scheduled: vec![(1, 1), (2, 9)],
                    duration: millis(14)
                },
                vec![progress(1, 3, true), progress(2, 1, true)]
            ),
        ]
    );
}

#[test]
fn the_last_token_of_a_prompt_is_never_cached() {
    let mut scheduler = Scheduler::new(config());
    assert_eq!(cached_tokens(&mut scheduler, request(1, 0, 12, 1)), 0);
    assert_eq!(cached_tokens(&mut scheduler, request(2, 0, 12, 1)), 8);
    assert_eq!(cached_tokens(&mut scheduler, request(3, 0, 13, 1)), 12);
}

#[test]
fn generated_tokens_fill_blocks_except_the_last_one() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(request(1, 0, 6, 6));
    run_to_end(&mut scheduler);
    // 12 tokens, but the twelfth was only announced: nothing computed its keys and values.
    assert_eq!(scheduler.cache_contents().len(), 2);
    assert_eq!(cached_tokens(&mut scheduler, request(2, 0, 20, 1)), 8);
}

#[test]
fn requests_of_one_step_share_blocks() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(request(1, 0, 9, 1));
    scheduler.add(request(2, 0, 10, 1));
    let (step, _) = step(&mut scheduler).expect("a step");
    assert_eq!(step.scheduled, [(1, 9), (2, 2)]);
}

#[test]
fn salt_and_lora_separate_the_cache() {
    let lora = |id, name: &str| {
        Some(Lora {
            id,
            name: name.to_owned(),
        })
    };
    let with = |id, keys: CacheKeys| NewRequest {
        keys,
        ..request(id, 0, 9, 1)
    };
    let salted = CacheKeys {
        lora: None,
        cache_salt: Some("tenant-a".to_owned()),
        images: Vec::new(),
    };
    let tuned = CacheKeys {
        lora: lora(1, "tuned"),
        cache_salt: Some("tenant-a".to_owned()),
        images: Vec::new(),
    };

    let mut scheduler = Scheduler::new(config());
    assert_eq!(cached_tokens(&mut scheduler, with(1, CacheKeys::default())), 0);
    assert_eq!(cached_tokens(&mut scheduler, with(2, salted.clone())), 0);
    assert_eq!(cached_tokens(&mut scheduler, with(3, tuned.clone())), 0);
    assert_eq!(cached_tokens(&mut scheduler, with(4, salted)), 8);
    assert_eq!(cached_tokens(&mut scheduler, with(5, tuned)), 8);

    let keys: Vec<_> = scheduler
        .take_events()
        .into_iter()
        .map(|event| match event {
            KvEvent::BlockStored(stored) => (stored.lora_id, stored.lora_name, stored.extra_keys),
            other => panic!("{other:?}"),
        })
        .collect();
    let list = |keys: &[&str]| {
        Some(
            keys.iter()
                .map(|&key| ExtraKey::Name(key.to_owned()))
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        keys,
        [
            (None, None, vec![None, None]),
            (None, None, vec![list(&["tenant-a"]), None]),
            (
                Some(1),
                Some("tuned".to_owned()),
                vec![list(&["tuned", "tenant-a"]), list(&["tuned"])]
            ),
        ]
    );
}

#[test]
fn the_newest_is_preempted_and_comes_back_with_its_answer_so_far() {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        num_blocks: 6,
        ..config()
    });
    scheduler.add(request(1, 0, 11, 6));
    scheduler.add(request(2, 100, 7, 6));
    let all = run_to_end(&mut scheduler);
    let of = |id| {
        all.iter()
            .filter(|progress| progress.id == id)
            .copied()
            .collect::<Vec<_>>()
    };
    let want = |id| {
        (1..=6)
            .map(|generated| progress(id, generated, generated == 6))
            .collect::<Vec<_>>()
    };
    assert_eq!((of(1), of(2)), (want(1), want(2)));
    assert_eq!(scheduler.stats().preemptions, 1);
}

#[test]
fn waits_for_a_place_and_for_blocks() {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        max_num_seqs: 1,
        ..config()
    });
    scheduler.add(request(1, 0, 4, 2));
    scheduler.add(request(2, 100, 4, 1));
    let (first, _) = step(&mut scheduler).expect("a step");
    assert_eq!(first.scheduled, [(1, 4)]);
    let stats = scheduler.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_cache_usage), (1, 1, 1.0 / 16.0));

    let mut scheduler = Scheduler::new(SchedulerConfig {
        num_blocks: 3,
        ..config()
    });
    scheduler.add(request(1, 0, 8, 2));
    scheduler.add(request(2, 100, 8, 1));
    let (first, _) = step(&mut scheduler).expect("a step");
    assert_eq!(first.scheduled, [(1, 8)]);
    assert_eq!(run_to_end(&mut scheduler).last(), Some(&progress(2, 1, true)));
}

#[test]
fn an_abort_frees_blocks_at_any_moment() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(request(1, 0, 9, 5));
    scheduler.abort(1);
    assert_eq!(scheduler.schedule(), None);
    scheduler.add(request(2, 0, 9, 5));
    let planned = scheduler.schedule().expect("a step");
    scheduler.abort(2);
    assert_eq!(scheduler.finish_step(&planned), []);
    assert_eq!((scheduler.stats().running, scheduler.stats().kv_cache_usage), (0, 0.0));
    scheduler.abort(3);
}

#[derive(Clone, Debug)]
enum Action {
    Add { first: u32, prompt: u32, output: u32 },
    Abort { id: RequestId },
    Step,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (0..2u32, 1..30u32, 1..10u32)
            .prop_map(|(family, prompt, output)| Action::Add { first: family * 1000, prompt, output }),
        1 => (0..30u64).prop_map(|id| Action::Abort { id }),
        6 => Just(Action::Step),
    ]
}

proptest! {
    /// Whatever happens, the events tell the cache, every answer is complete and in order, and all blocks come back.
    #[test]
    fn events_tell_the_cache_and_every_request_ends(actions in prop::collection::vec(action(), 1..120)) {
        let mut scheduler = Scheduler::new(config());
        let mut mirror = Mirror::default();
        let mut expected = std::collections::BTreeMap::new();
        let mut seen = std::collections::BTreeMap::new();
        let mut next_id = 0;
        let drain = std::iter::repeat_n(Action::Step, 2000);
        for action in actions.into_iter().chain(drain) {
            match action {
                Action::Add { first, prompt, output } => {
                    scheduler.add(request(next_id, first, prompt, output));
                    expected.insert(next_id, output as usize);
                    next_id += 1;
                }
                Action::Abort { id } => {
                    scheduler.abort(id);
                    expected.remove(&id);
                }
                Action::Step => {
                    let Some((_, progress)) = step(&mut scheduler) else { continue };
                    for one in progress {
                        let before = seen.insert(one.id, one.generated).unwrap_or(0);
                        prop_assert_eq!(one.generated, before + 1);
                        prop_assert_eq!(one.finished, expected.get(&one.id) == Some(&one.generated));
                    }
                }
            }
            scheduler.take_events().iter().for_each(|event| mirror.apply(event));
            let contents = scheduler.cache_contents().into_iter();
            let contents = Mirror(contents.map(|block| (block.hash, (block.parent, block.token_ids))).collect());
            prop_assert_eq!(&contents, &mirror);
        }
        let (running, waiting) = (scheduler.stats().running, scheduler.stats().waiting);
        prop_assert_eq!((running, waiting, scheduler.stats().kv_cache_usage), (0, 0, 0.0));
        for (id, output) in expected {
            prop_assert_eq!(seen.get(&id), Some(&output));
        }
    }
}
