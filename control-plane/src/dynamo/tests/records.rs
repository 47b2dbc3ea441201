use std::collections::BTreeMap;
use std::net::SocketAddr;

use router_core::hash::BlockLayout;
use serde_json::{Value, json};

use super::samples;
use crate::config::DynamoConfig;
use crate::dynamo::picture::{Picture, Place, Publisher};
use crate::dynamo::query::Target;
use crate::dynamo::records::{Change, Endpoint, Records, WorkerRank};

const WORKER: u64 = 11_497_638_580_461_344_913;
const PUBLISHER: u64 = 3_253_723_778_857_619;

fn config(component: &str) -> DynamoConfig {
    DynamoConfig {
        directory: "unused".into(),
        endpoint: Endpoint {
            namespace: "dynamo".into(),
            component: component.into(),
            name: "generate".into(),
        },
        frontend: None,
        frontend_port: 8000,
    }
}

/// The recorded records of a pair of workers. Its only KV events are of the prefill worker, here taken for another.
fn recorded() -> BTreeMap<String, Value> {
    let mut records: BTreeMap<String, Value> =
        serde_json::from_value(samples()["discovery_records_disagg_pair"].clone()).unwrap();
    for record in records.values_mut().filter(|record| record["type"] == "Model") {
        record["card_json"]["worker_type"] = "aggregated".into();
    }
    records
}

fn all(records: &BTreeMap<String, Value>) -> Change {
    let bytes = |(key, record): (&String, &Value)| (key.clone(), record.to_string().into_bytes());
    Change::All(records.iter().map(bytes).collect())
}

fn picture(records: &Records, component: &str, block_size: u32) -> Picture {
    Picture::of(records, &config(component), BlockLayout::plain(block_size).unwrap())
}

fn rank(dp_rank: u32) -> WorkerRank {
    WorkerRank {
        worker_id: WORKER,
        dp_rank,
    }
}

#[test]
fn every_recorded_record_is_read_and_they_make_a_rank() {
    let mut records = Records::default();
    assert_eq!(records.apply(all(&recorded())), 0);
    assert_eq!(records.iter().count(), recorded().len());
    let target = Target {
        address: SocketAddr::from(([127, 0, 0, 1], 42_441)),
        path: "9f8fd15f30399891/dynamo/prefill/worker_kv_query_source_b8f3e9a093a93".into(),
        worker_id: WORKER,
        dp_rank: 0,
    };
    let publisher = Publisher {
        id: PUBLISHER,
        socket: Some("tcp://127.0.0.1:33641".into()),
        recovery: Some(target),
    };
    let place = Place {
        frontend: SocketAddr::from(([127, 0, 0, 1], 8000)),
        publisher: Some(publisher),
    };
    let expected = Picture {
        ranks: BTreeMap::from([(rank(0), place)]),
        refused: BTreeMap::new(),
    };
    assert_eq!(picture(&records, "prefill", 16), expected);
    // The other component's worker tells of no events.
    let other = picture(&records, "backend", 16);
    assert_eq!(
        other.ranks.values().map(|place| &place.publisher).collect::<Vec<_>>(),
        [&None]
    );
    assert_eq!(picture(&records, "elsewhere", 16), Picture::default());
}

#[test]
fn workers_that_do_not_fit_are_refused_and_broken_records_cost_themselves() {
    let mut records = Records::default();
    records.apply(all(&recorded()));
    let refused = picture(&records, "prefill", 32).refused;
    assert!(refused[&WORKER].contains("block size 16"), "{refused:?}");

    let mut changed = recorded();
    let card = "v1/mdc/dynamo/prefill/generate/9f8fd15f30399891";
    changed.get_mut(card).unwrap()["card_json"]["worker_type"] = "prefill".into();
    records.apply(all(&changed));
    assert!(picture(&records, "prefill", 16).refused[&WORKER].contains("prefill worker"));
    changed.get_mut(card).unwrap()["card_json"] = recorded()[card]["card_json"].clone();
    changed.get_mut(card).unwrap()["card_json"]["runtime_config"]["enable_eagle"] = true.into();
    records.apply(all(&changed));
    assert!(picture(&records, "prefill", 16).refused[&WORKER].contains("enable_eagle"));

    records.apply(all(&recorded()));
    let whole = picture(&records, "prefill", 16);
    for broken in [
        "",
        "[]",
        "{}",
        "{\"type\":\"Endpoint\"}",
        "{\"type\":\"Other\"}",
        "\u{0}",
    ] {
        let change = Change::Put("v1/instances/broken".into(), broken.as_bytes().to_vec());
        assert_eq!(records.apply(change.clone()), 1, "{broken}");
        assert_eq!(records.apply(change), 0, "counted once: {broken}");
        assert_eq!(picture(&records, "prefill", 16), whole);
    }
}

#[test]
fn ranks_follow_the_card_and_the_last_publisher_counts() {
    let mut changed = recorded();
    let card = changed
        .get_mut("v1/mdc/dynamo/prefill/generate/9f8fd15f30399891")
        .unwrap();
    card["card_json"]["runtime_config"]["data_parallel_start_rank"] = 2.into();
    card["card_json"]["runtime_config"]["data_parallel_size"] = 2.into();
    let mut records = Records::default();
    records.apply(all(&changed));
    let ranks: Vec<_> = picture(&records, "prefill", 16).ranks.into_keys().collect();
    assert_eq!(ranks, [rank(2), rank(3)]);

    let mut records = Records::default();
    records.apply(all(&recorded()));
    let source = json!({
        "type": "EventSource", "topic": "kv-events", "publisher_id": 1,
        "metadata": {"worker": {"worker_id": WORKER, "dp_rank": 0}, "publisher_id": 1},
    });
    let key = "v1/event_sources/a".to_owned();
    records.apply(Change::Put(key.clone(), source.to_string().into_bytes()));
    let publisher = |records: &Records| {
        picture(records, "prefill", 16).ranks[&rank(0)]
            .publisher
            .clone()
            .unwrap()
            .id
    };
    assert_eq!(publisher(&records), 1);
    records.apply(Change::Delete(key));
    assert_eq!(publisher(&records), PUBLISHER);
    records.apply(Change::All(BTreeMap::new()));
    assert_eq!(picture(&records, "prefill", 16), Picture::default());
}
