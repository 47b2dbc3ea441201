//! Whole decisions: fleet, view, link and load together.

use router_core::bookings::LoadDelta;
use router_core::cost::{CostWeights, SlotLoad};
use router_core::fleet::{ArtefactId, Candidate, Fleet, ModelName, Pool};
use router_core::hash::{BlockLayout, SequenceHash};
use router_core::ladder::{Footing, Rung};
use router_core::levels::Levels;
use router_core::replica::{Delta, OutOfStep, Position, Run, Update};
use router_core::router::{Prompt, Router};
use router_core::view::holding_checksum;
use router_core::{Millis, Slot};

const NOW: Millis = Millis(1_000_000);

fn pool(epoch: u64, workers: u16) -> Pool {
    Pool {
        name: "qwen".into(),
        epoch,
        models: vec![
            ModelName {
                name: "qwen".into(),
                lora: None,
            },
            ModelName {
                name: "tuned".into(),
                lora: Some("tuned".into()),
            },
        ],
        layout: BlockLayout::plain(16).unwrap(),
        levels: Levels::default(),
        tokenizer: Some(ArtefactId::of(b"tokenizer")),
        template: None,
        kv_events: true,
        stride: std::num::NonZeroU32::MIN,
        weights: CostWeights::default(),
        temperature: 0.0,
        inject_tokens: false,
        candidates: (0..workers).map(candidate).collect(),
    }
}

fn candidate(number: u16) -> Candidate {
    Candidate {
        slot: Slot(number),
        endpoint: format!("10.0.0.{number}:8000"),
        dp_rank: None,
        instance_id: None,
    }
}

fn fleet(pool: Pool) -> Fleet {
    Fleet { pools: vec![pool] }
}

fn hashes(range: std::ops::Range<u64>) -> Vec<SequenceHash> {
    range
        .map(|n| SequenceHash((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        .collect()
}

fn begin(epoch: u64, version: u64) -> Update {
    Update::Begin {
        position: Position { epoch, version },
        blocks: 0,
    }
}

/// Feeds a snapshot in which each (slot, depth) holds that many leading blocks of `hashes(0..)`.
fn snapshot(router: &mut Router, epoch: u64, holdings: &[(u16, u64)]) {
    let mut checksum = 0_u64;
    router.apply("qwen", begin(epoch, 1)).unwrap();
    for &(slot, depth) in holdings {
        let run = Run {
            slot: Slot(slot),
            hashes: hashes(0..depth),
        };
        checksum = run.hashes.iter().fold(checksum, |sum, &hash| {
            sum.wrapping_add(holding_checksum(Slot(slot), hash))
        });
        router.apply("qwen", Update::Part(run)).unwrap();
    }
    router.apply("qwen", Update::End { checksum }).unwrap();
}

fn synced(holdings: &[(u16, u64)]) -> Router {
    let mut router = Router::new(60_000);
    router.link_up();
    router.set_fleet(fleet(pool(1, 3)));
    snapshot(&mut router, 1, holdings);
    router
}

/// (rung and reason, slots by rank, overlap of the first)
fn outcome(router: &Router, blocks: &[SequenceHash], loads: &[SlotLoad], now: Millis) -> (Footing, Vec<u16>, u32) {
    let prompt = Prompt::Known {
        input_tokens: blocks.len() as u64 * 16 + 3,
        blocks,
    };
    let decision = router.decide("qwen", prompt, loads, now, 42);
    let overlap = decision.ranked().next().map_or(0, |first| first.overlap.blocks());
    (
        decision.footing,
        decision.ranked().map(|scored| scored.slot.0).collect(),
        overlap,
    )
}

#[test]
fn the_longest_prefix_wins_among_idle_workers() {
    let router = synced(&[(0, 2), (1, 10), (2, 5)]);
    assert_eq!(
        outcome(&router, &hashes(0..12), &[], NOW),
        (Footing::EXACT, vec![1, 2, 0], 10)
    );
}

#[test]
fn load_outweighs_overlap_when_it_is_larger() {
    let router = synced(&[(0, 2), (1, 10), (2, 5)]);
    let loads = [
        SlotLoad::default(),
        SlotLoad {
            prefill_tokens: 16 * 9,
            ..SlotLoad::default()
        },
        SlotLoad::default(),
    ];
    assert_eq!(
        outcome(&router, &hashes(0..12), &loads, NOW),
        (Footing::EXACT, vec![2, 0, 1], 5)
    );
}

#[test]
fn own_requests_in_flight_make_shared_blocks_cheap_and_foreign_ones_dear() {
    let mut router = synced(&[]);
    let (mut booking, delta) = router.book("qwen", 1, 0, &hashes(0..10)).unwrap();
    assert_eq!(
        delta,
        LoadDelta {
            prefill_tokens: 0,
            decode_blocks: 10,
            requests: 1
        }
    );
    let loads = [
        SlotLoad::default(),
        SlotLoad {
            decode_blocks: 10,
            requests: 1,
            ..SlotLoad::default()
        },
    ];
    let same = router.decide(
        "qwen",
        Prompt::Known {
            input_tokens: 160,
            blocks: &hashes(0..10),
        },
        &loads,
        NOW,
        1,
    );
    let other = router.decide(
        "qwen",
        Prompt::Known {
            input_tokens: 160,
            blocks: &hashes(50..60),
        },
        &loads,
        NOW,
        1,
    );
    let total_of_1 = |decision: &router_core::router::Decision| {
        decision
            .scored
            .iter()
            .find(|scored| scored.slot == Slot(1))
            .unwrap()
            .cost
            .total
    };
    assert_eq!((total_of_1(&same), total_of_1(&other)), (20.0, 30.0));
    router.free(&mut booking);
    assert_eq!(router.free(&mut booking), LoadDelta::default());
}

#[test]
fn a_lost_control_plane_means_stale_then_load() {
    let mut router = synced(&[(1, 10)]);
    router.link_down(NOW);
    router.link_down(Millis(NOW.0 + 50_000));
    let stale = Footing {
        rung: Rung::Stale,
        reason: "control_plane_lost",
    };
    assert_eq!(outcome(&router, &hashes(0..12), &[], Millis(NOW.0 + 60_000)).0, stale);
    assert_eq!(outcome(&router, &hashes(0..12), &[], Millis(NOW.0 + 60_000)).1[0], 1);
    let aged = outcome(&router, &hashes(0..12), &[], Millis(NOW.0 + 60_001));
    assert_eq!((aged.0, aged.2), (Footing::load("view_too_old"), 0));
    router.link_up();
    assert_eq!(outcome(&router, &hashes(0..12), &[], NOW).0, Footing::EXACT);
}

#[test]
fn an_unreadable_prompt_goes_by_load() {
    let router = synced(&[(1, 10)]);
    let loads = [
        SlotLoad {
            requests: 1,
            decode_blocks: 4,
            prefill_tokens: 9,
        },
        SlotLoad::default(),
    ];
    let decision = router.decide(
        "qwen",
        Prompt::Unknown {
            reason: "not_json",
            input_tokens: 100,
        },
        &loads,
        NOW,
        3,
    );
    assert_eq!(decision.footing, Footing::load("not_json"));
    assert_eq!(decision.ranked().last().unwrap().slot, Slot(0));
    assert_eq!(decision.view, None);
}

#[test]
fn no_workers_no_pick() {
    let mut router = Router::new(0);
    assert_eq!(
        outcome(&router, &hashes(0..1), &[], NOW),
        (Footing::pass("no_workers"), vec![], 0)
    );
    router.set_fleet(fleet(pool(1, 0)));
    assert_eq!(
        outcome(&router, &hashes(0..1), &[], NOW),
        (Footing::pass("no_workers"), vec![], 0)
    );
}

#[test]
fn before_the_first_snapshot_load_decides() {
    let mut router = Router::new(60_000);
    router.set_fleet(fleet(pool(1, 3)));
    assert_eq!(outcome(&router, &hashes(0..1), &[], NOW).0, Footing::load("no_view"));
    router.set_fleet(fleet(Pool {
        kv_events: false,
        ..pool(1, 3)
    }));
    assert_eq!(
        outcome(&router, &hashes(0..1), &[], NOW).0,
        Footing::load("no_kv_events")
    );
    router.set_fleet(fleet(Pool {
        tokenizer: None,
        ..pool(1, 3)
    }));
    assert_eq!(
        outcome(&router, &hashes(0..1), &[], NOW).0,
        Footing::load("no_tokenizer")
    );
}

#[test]
fn a_new_epoch_takes_over_with_its_snapshot() {
    let mut router = synced(&[(1, 10)]);
    // The new control plane numbers the same workers the other way round.
    let mut renumbered = pool(2, 3);
    renumbered.candidates = [(0, 2), (1, 1), (2, 0)]
        .map(|(slot, n)| Candidate {
            slot: Slot(slot),
            ..candidate(n)
        })
        .into();
    router.set_fleet(fleet(renumbered.clone()));
    let resyncing = Footing {
        rung: Rung::Stale,
        reason: "resyncing",
    };
    assert_eq!(router.pool("qwen").unwrap(), &pool(1, 3));
    assert_eq!(outcome(&router, &hashes(0..12), &[], NOW).0, resyncing);
    snapshot(&mut router, 2, &[(0, 4)]);
    assert_eq!(router.pool("qwen").unwrap(), &renumbered);
    let (footing, ranked, overlap) = outcome(&router, &hashes(0..12), &[], NOW);
    assert_eq!((footing, ranked[0], overlap), (Footing::EXACT, 0, 4));
}

#[test]
fn a_booking_survives_a_fleet_change_and_its_seat_is_not_given_away() {
    let mut router = synced(&[]);
    let (mut on_gone, _) = router.book("qwen", 0, 5, &hashes(0..3)).unwrap();
    let mut moved_in = pool(1, 3);
    moved_in.candidates[0].endpoint = "10.9.9.9:8000".into();
    router.set_fleet(fleet(moved_in));
    let (mut on_new, booked) = router.book("qwen", 0, 5, &hashes(0..3)).unwrap();
    assert_ne!(on_gone.seat(), on_new.seat());
    assert_eq!(booked.decode_blocks, 3);
    assert_eq!(
        router.free(&mut on_gone),
        LoadDelta {
            prefill_tokens: -5,
            decode_blocks: -3,
            requests: -1
        }
    );
    assert_eq!(
        router.free(&mut on_new),
        LoadDelta {
            prefill_tokens: -5,
            decode_blocks: -3,
            requests: -1
        }
    );
    // With nobody on it, the old seat is used again.
    let mut another = pool(1, 3);
    another.candidates[0].endpoint = "10.8.8.8:8000".into();
    router.set_fleet(fleet(another));
    let (reused, _) = router.book("qwen", 0, 5, &hashes(0..3)).unwrap();
    assert_eq!(reused.seat(), on_gone.seat());
}

/// A model that arrives, is routed by load for a while, and goes: another one's requests, blocks and bookings stay as they are.
#[test]
fn pools_come_and_go_without_touching_others() {
    let mut router = synced(&[(0, 2), (1, 10), (2, 5)]);
    let (mut booking, _) = router.book("qwen", 1, 40, &hashes(0..3)).unwrap();
    let before = outcome(&router, &hashes(0..12), &[], NOW);
    assert_eq!(before, (Footing::EXACT, vec![1, 2, 0], 10));
    let other = |tokenizer| Pool {
        name: "other".into(),
        models: vec![ModelName {
            name: "other".into(),
            lora: None,
        }],
        tokenizer,
        ..pool(1, 2)
    };
    let other_tokenizer = Some(ArtefactId::of(b"other"));
    for pools in [
        vec![other(other_tokenizer), pool(1, 3)],
        vec![other(None), pool(1, 3)],
        vec![pool(1, 3), other(other_tokenizer)],
        vec![pool(1, 3)],
    ] {
        let has_other = pools.len() > 1;
        router.set_fleet(Fleet { pools });
        assert_eq!(outcome(&router, &hashes(0..12), &[], NOW), before);
        assert_eq!(router.pool_of_model("other").is_some(), has_other);
        // It has no view yet.
        assert!(router.exactness("other", NOW).is_err());
        assert_eq!(router.exactness("qwen", NOW), Ok(Rung::Exact));
    }
    let freed = LoadDelta {
        prefill_tokens: -40,
        decode_blocks: -3,
        requests: -1,
    };
    assert_eq!(router.free(&mut booking), freed);
}

#[test]
fn a_request_served_elsewhere_moves_its_load() {
    let mut router = synced(&[]);
    let (mut booking, _) = router.book("qwen", 0, 40, &hashes(0..3)).unwrap();
    let (left, entered) = router.relocate("qwen", &mut booking, 2, 48).unwrap();
    assert_eq!(
        left,
        LoadDelta {
            prefill_tokens: -40,
            decode_blocks: -3,
            requests: -1
        }
    );
    assert_eq!(
        entered,
        LoadDelta {
            prefill_tokens: 48,
            decode_blocks: 3,
            requests: 1
        }
    );
    assert_eq!(router.relocate("qwen", &mut booking, 2, 48), None);
    assert_eq!(
        router.free(&mut booking),
        LoadDelta {
            prefill_tokens: -48,
            decode_blocks: -3,
            requests: -1
        }
    );
}

#[test]
fn models_and_adapters_find_their_pool() {
    let router = synced(&[]);
    let found = |model| {
        router
            .pool_of_model(model)
            .map(|(pool, lora)| (pool.name.as_str(), lora))
    };
    assert_eq!(found("qwen"), Some(("qwen", None)));
    assert_eq!(found("tuned"), Some(("qwen", Some("tuned"))));
    assert_eq!(found("other"), None);
}

#[test]
fn deltas_move_the_view_and_a_gap_asks_for_a_snapshot() {
    let mut router = synced(&[(0, 2)]);
    let checksum = (0..1)
        .map(|n| holding_checksum(Slot(0), hashes(n..n + 1)[0]))
        .fold(0_u64, u64::wrapping_add);
    let checksum = checksum.wrapping_add(holding_checksum(Slot(2), hashes(0..1)[0]));
    let delta = Delta {
        from: Position { epoch: 1, version: 1 },
        removed: vec![Run {
            slot: Slot(0),
            hashes: hashes(1..2),
        }],
        stored: vec![Run {
            slot: Slot(2),
            hashes: hashes(0..1),
        }],
        checksum,
    };
    router.apply("qwen", Update::Delta(delta.clone())).unwrap();
    assert_eq!(
        router.replica("qwen").unwrap().position(),
        Some(Position { epoch: 1, version: 2 })
    );
    assert_eq!(router.apply("qwen", Update::Delta(delta)), Err(OutOfStep::Gap));
    // Out of step, the last good view still serves.
    let resyncing = Footing {
        rung: Rung::Stale,
        reason: "resyncing",
    };
    assert_eq!(outcome(&router, &hashes(0..2), &[], NOW).0, resyncing);
    snapshot(&mut router, 1, &[(0, 1)]);
    assert_eq!(outcome(&router, &hashes(0..2), &[], NOW).0, Footing::EXACT);
}

#[test]
fn a_snapshot_that_does_not_add_up_is_not_swapped_in() {
    let mut router = synced(&[(0, 2)]);
    router.apply("qwen", begin(1, 9)).unwrap();
    assert_eq!(
        router.apply("qwen", Update::End { checksum: 77 }),
        Err(OutOfStep::Checksum)
    );
    assert_eq!(
        router.replica("qwen").unwrap().position(),
        Some(Position { epoch: 1, version: 1 })
    );
    assert_eq!(
        router.apply("qwen", Update::End { checksum: 0 }),
        Err(OutOfStep::NoSnapshot)
    );
}

#[test]
fn the_same_inputs_give_the_same_decision() {
    let router = synced(&[(0, 3), (1, 3)]);
    let decide = || {
        let blocks = hashes(0..3);
        router.decide(
            "qwen",
            Prompt::Known {
                input_tokens: 50,
                blocks: &blocks,
            },
            &[],
            NOW,
            7,
        )
    };
    assert_eq!(decide(), decide());
}
