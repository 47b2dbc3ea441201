use std::sync::Arc;
use std::time::{Duration, Instant};

use router_core::Slot;
use serde_json::{Value, json};

use super::{frames, samples};
use crate::admin::metrics::Metrics;
use crate::admin::status::RankStatus;
use crate::discovery::Rank;
use crate::dynamo::load::Loads;
use crate::dynamo::load::in_flight::{InFlight, Sum};
use crate::dynamo::load::wire::{
    CacheLoad, EngineLoad, PrefillHint, Requests, Said, SequenceChange, SequenceEvent, said,
};
use crate::dynamo::records::WorkerRank;
use crate::dynamo::wire::{Envelope, envelope, envelope_of_frames};

/// Of the recorded messages.
const WORKER: WorkerRank = WorkerRank {
    worker_id: 6_348_084_984_586_145_572,
    dp_rank: 0,
};
const ROUTER: u64 = 10_201_426_373_600_887_935;
const FIRST: &str = "1e730ca1-75ad-4e57-8960-28ccea09f25a";
const SECOND: &str = "20b4aa70-2e47-4e16-87f2-6903a9b4ccc1";

fn event(request: &str, router_id: u64, data: SequenceChange) -> SequenceEvent {
    SequenceEvent {
        request_id: request.to_owned(),
        worker: WORKER,
        data,
        router_id,
    }
}

#[test]
fn every_recorded_message_about_load_is_read() {
    use SequenceChange::{AddRequest, Free, MarkPrefillCompleted};
    let cache = CacheLoad {
        worker: WORKER,
        active_decode_blocks: None,
        active_prefill_tokens: None,
        kv_used_blocks: Some(6),
    };
    let engine = EngineLoad {
        worker: WorkerRank {
            worker_id: 12_865_720_338_277_794_621,
            dp_rank: 0,
        },
        scheduled: Requests::default(),
        queued: Requests::default(),
    };
    let added = AddRequest {
        token_sequence: Some(vec![
            3_139_023_433_729_589_128,
            9_766_261_725_692_743_989,
            15_040_633_991_051_744_400,
            12_454_348_068_730_017_385,
            11_378_083_059_601_794_411,
        ]),
        prefill_load_hint: Some(PrefillHint {
            initial_effective_prefill_tokens: 37,
        }),
    };
    let router = |request: &str, changes: Vec<SequenceChange>| {
        let events = changes.into_iter().map(|change| event(request, ROUTER, change));
        Said::Sequences(events.collect())
    };
    let expected = [
        ("kv_metrics", Said::Cache(cache)),
        ("forward-pass-metrics", Said::Engine(engine)),
        ("active_sequences_events/router/AddRequest", router(FIRST, vec![added])),
        (
            "active_sequences_events/router/MarkPrefillCompleted+Free",
            router(FIRST, vec![MarkPrefillCompleted, Free]),
        ),
        (
            "active_sequences_events/router/MarkPrefillCompleted",
            router(SECOND, vec![MarkPrefillCompleted]),
        ),
        ("active_sequences_events/router/Free", router(SECOND, vec![Free])),
        // A worker speaks under its own id.
        (
            "active_sequences_events/worker/MarkPrefillCompleted",
            Said::Sequences(vec![event(FIRST, WORKER.worker_id, MarkPrefillCompleted)]),
        ),
    ];
    let samples = samples();
    let mut recorded: Vec<_> = samples["event_plane"].as_object().unwrap().keys().cloned().collect();
    recorded.retain(|name| !name.starts_with("kv-events/"));
    assert_eq!(recorded.len(), expected.len(), "{recorded:?}");
    for (name, expected) in expected {
        let frames = frames(&samples["event_plane"][name]);
        let message = envelope(envelope_of_frames(&frames).unwrap()).unwrap();
        assert_eq!(said(&message).unwrap(), Some(expected), "{name}");
        // Cut short it is nothing, and any byte may be wrong.
        for length in 0..message.payload.len() {
            let payload = &message.payload[..length];
            assert!(
                said(&Envelope {
                    payload,
                    ..message.clone()
                })
                .is_err(),
                "{name} {length}"
            );
        }
        for at in 0..message.payload.len() {
            for byte in [0x00, 0x81, 0xC1, 0xDD, 0xDF, 0xFF] {
                let mut payload = message.payload.to_vec();
                payload[at] = byte;
                let payload = &payload;
                let _ = said(&Envelope {
                    payload,
                    ..message.clone()
                });
            }
        }
    }
}

#[test]
fn numbers_that_engines_say_are_read_into_their_places() {
    let message = |topic, payload: &Value| {
        let payload = rmp_serde::to_vec_named(payload).unwrap();
        let (publisher_id, sequence) = (1, 0);
        let message = Envelope {
            publisher_id,
            sequence,
            topic,
            payload: &payload,
        };
        said(&message)
    };
    let scheduled = json!({
        "num_prefill_requests": 1, "sum_prefill_tokens": 2, "var_prefill_length": 0.5, "sum_prefill_kv_tokens": 3,
        "num_decode_requests": 4, "sum_decode_kv_tokens": 5, "var_decode_kv_tokens": 0.5,
    });
    let queued = json!({
        "num_prefill_requests": 6, "sum_prefill_tokens": 7, "num_decode_requests": 8, "sum_decode_kv_tokens": 9,
    });
    let engine = json!({
        "version": 1, "worker_id": "18446744073709551615", "dp_rank": 3, "counter_id": 1, "wall_time": 0.25,
        "scheduled_requests": scheduled, "queued_requests": queued,
    });
    let [worker_id, dp_rank] = [u64::MAX, 3];
    let expected = EngineLoad {
        worker: WorkerRank {
            worker_id,
            dp_rank: dp_rank as u32,
        },
        scheduled: Requests {
            prefill: 1,
            prefill_tokens: 2,
            decode: 4,
            decode_tokens: 5,
        },
        queued: Requests {
            prefill: 6,
            prefill_tokens: 7,
            decode: 8,
            decode_tokens: 9,
        },
    };
    assert_eq!(
        message("forward-pass-metrics", &engine).unwrap(),
        Some(Said::Engine(expected))
    );
    let cache = json!({"worker_id": u64::MAX, "dp_rank": 3, "active_decode_blocks": 1, "active_prefill_tokens": 2});
    let expected = CacheLoad {
        worker: WorkerRank {
            worker_id,
            dp_rank: dp_rank as u32,
        },
        active_decode_blocks: Some(1),
        active_prefill_tokens: Some(2),
        kv_used_blocks: None,
    };
    assert_eq!(message("kv_metrics", &cache).unwrap(), Some(Said::Cache(expected)));
    assert_eq!(message("kv-events", &cache).unwrap(), None, "not about load");
    // Of what engines there are, each has a number.
    let unnamed = json!({"worker_id": "", "dp_rank": 0});
    let why = message("forward-pass-metrics", &unnamed).unwrap_err().to_string();
    assert!(why.contains("worker_id is no number in decimal"), "{why}");
}

/// A rank whose load is shown, and how.
fn shown(loads: &Loads) -> (Metrics, Arc<RankStatus>) {
    let metrics = Metrics::new();
    let rank = Rank {
        slot: Slot(0),
        endpoint: "10.0.0.1:8000".parse().unwrap(),
        dp_rank: 0,
        is_named: true,
        instance_id: Some(WORKER.worker_id),
        events: None,
        replay: None,
        topics: None,
    };
    let status = Arc::new(RankStatus::new(&rank, metrics.rank("p", "w", 0)));
    loads.join(WORKER, status.clone());
    (metrics, status)
}

fn load(status: &RankStatus) -> Value {
    serde_json::to_value(status.state()).unwrap()["load"].clone()
}

#[test]
fn what_is_said_of_a_rank_is_shown_until_it_is_gone() {
    let loads = Loads::default();
    let (metrics, status) = shown(&loads);
    let samples = samples();
    let take = |name: &str| {
        let frames = frames(&samples["event_plane"][name]);
        let message = envelope(envelope_of_frames(&frames).unwrap()).unwrap();
        assert!(loads.take(&message, Instant::now()).unwrap(), "{name}");
        let load = load(&status);
        [
            &load["kv_used_blocks"],
            &load["dynamo_routers_requests"],
            &load["dynamo_routers_prefill_tokens"],
        ]
        .map(Value::as_u64)
    };
    assert_eq!(load(&status), Value::Null, "nobody has said anything");
    assert_eq!(take("forward-pass-metrics"), [None; 3], "of another rank");
    assert_eq!(
        take("active_sequences_events/router/AddRequest"),
        [None, Some(1), Some(37)]
    );
    assert_eq!(take("kv_metrics"), [Some(6), Some(1), Some(37)]);
    // A message that comes once more, on another connection, is not believed twice.
    assert_eq!(
        take("active_sequences_events/router/AddRequest"),
        [Some(6), Some(1), Some(37)]
    );
    assert_eq!(
        take("active_sequences_events/worker/MarkPrefillCompleted"),
        [Some(6), Some(1), Some(0)]
    );
    assert_eq!(
        take("active_sequences_events/router/MarkPrefillCompleted+Free"),
        [Some(6), Some(0), Some(0)]
    );
    assert_eq!(
        take("active_sequences_events/router/AddRequest"),
        [Some(6), Some(0), Some(0)],
        "late"
    );

    let text = metrics.encode().unwrap();
    for line in [
        "warmpath_worker_kv_used_blocks{pool=\"p\",worker=\"w\",rank=\"0\"} 6",
        "warmpath_dynamo_routers_requests{pool=\"p\",worker=\"w\",rank=\"0\"} 0",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(
        !text.contains("warmpath_worker_running_requests{"),
        "its engine has said nothing"
    );
    loads.leave(&WORKER);
    status.metrics().forget();
    take("kv_metrics");
    let text = metrics.encode().unwrap();
    assert!(!text.contains("worker=\"w\""), "{text}");
}

#[test]
fn a_request_ends_where_it_was_sent_last_or_after_a_while() {
    let other = WorkerRank {
        worker_id: 7,
        dp_rank: 1,
    };
    let start = Instant::now();
    let mut in_flight = InFlight::default();
    let add = |request: &str, worker: WorkerRank, tokens: u64| {
        let hint = PrefillHint {
            initial_effective_prefill_tokens: tokens,
        };
        let data = SequenceChange::AddRequest {
            token_sequence: None,
            prefill_load_hint: Some(hint),
        };
        SequenceEvent {
            worker,
            ..event(request, ROUTER, data)
        }
    };
    let sums = |in_flight: &InFlight| [WORKER, other].map(|worker| in_flight.sum(&worker));
    let sum = |requests, prefill_tokens| Sum {
        requests,
        prefill_tokens,
    };
    in_flight.take(&add("a", WORKER, 10), start);
    in_flight.take(&add("b", WORKER, 5), start + Duration::from_secs(1));
    assert_eq!(sums(&in_flight), [sum(2, 15), sum(0, 0)]);
    // Sent anew, to another worker.
    let mut changed = in_flight.take(&add("a", other, 8), start + Duration::from_secs(2));
    changed.sort();
    assert_eq!(changed, [other, WORKER]);
    assert_eq!(sums(&in_flight), [sum(1, 5), sum(1, 8)]);
    // Of one that is not known nothing ends.
    in_flight.take(&event("c", ROUTER, SequenceChange::Free), start);
    assert_eq!(sums(&in_flight), [sum(1, 5), sum(1, 8)]);
    // Nobody tells that they end.
    let minutes = |minutes: u64| start + Duration::from_secs(60 * minutes + 1);
    in_flight.take(&event("c", ROUTER, SequenceChange::Free), minutes(15));
    assert_eq!(sums(&in_flight), [sum(0, 0), sum(1, 8)]);
    in_flight.take(&event("c", ROUTER, SequenceChange::Free), minutes(16));
    assert_eq!(sums(&in_flight), [sum(0, 0), sum(0, 0)]);
    // More than there is room for.
    for request in 0..70_000 {
        in_flight.take(&add(&request.to_string(), WORKER, 1), start);
    }
    assert_eq!(in_flight.sum(&WORKER), sum(65_536, 65_536));
}
