use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use router_core::hash::BlockLayout;
use serde_json::{Value, json};

use super::samples;
use crate::config::{DynamoBackend, DynamoConfig};
use crate::discovery::backend::{Change, MAX_RECORDS};
use crate::dynamo::picture::{EventTransport, Picture, Place, Publisher};
use crate::dynamo::query::Target;
use crate::dynamo::records::{Endpoint, Records, Useless, WorkerRank};

const WORKER: u64 = 11_497_638_580_461_344_913;
const PUBLISHER: u64 = 3_253_723_778_857_619;

fn config(component: &str) -> DynamoConfig {
    DynamoConfig {
        backend: DynamoBackend::File("unused".into()),
        endpoint: Endpoint {
            namespace: "dynamo".into(),
            component: component.into(),
            name: "generate".into(),
        },
        frontend: None,
        frontend_port: 8000,
        nats: None,
        brokers: Vec::new(),
        load_events: true,
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

/// Those of publishers, at these ports of this host.
fn sockets(ports: &[u16]) -> BTreeSet<EventTransport> {
    let socket = |port| EventTransport::Zmq(format!("tcp://127.0.0.1:{port}"));
    ports.iter().map(socket).collect()
}

fn rank(dp_rank: u32) -> WorkerRank {
    WorkerRank {
        worker_id: WORKER,
        dp_rank,
    }
}

/// Takes a change; returns how many new records cannot be read.
fn apply(records: &mut Records, change: Change) -> u64 {
    let mut useless = Useless::default();
    records.apply(change, &mut useless);
    assert_eq!(useless.over_limit, 0);
    useless.unreadable
}

#[test]
fn every_recorded_record_is_read_and_they_make_a_rank() {
    let mut records = Records::default();
    assert_eq!(apply(&mut records, all(&recorded())), 0);
    assert_eq!(records.iter().count(), recorded().len());
    let target = Target {
        address: SocketAddr::from(([127, 0, 0, 1], 42_441)),
        path: "9f8fd15f30399891/dynamo/prefill/worker_kv_query_source_b8f3e9a093a93".into(),
        worker_id: WORKER,
        dp_rank: 0,
    };
    let publisher = Publisher {
        id: PUBLISHER,
        transport: Some(EventTransport::Zmq("tcp://127.0.0.1:33641".into())),
        recovery: Some(target),
    };
    let place = Place {
        frontend: SocketAddr::from(([127, 0, 0, 1], 8000)),
        publisher: Some(publisher),
    };
    let expected = Picture {
        ranks: BTreeMap::from([(rank(0), place)]),
        load: sockets(&[35909, 44399]),
        ..Picture::default()
    };
    assert_eq!(picture(&records, "prefill", 16), expected);
    // The other component's worker tells of no events.
    let other = picture(&records, "backend", 16);
    assert_eq!(other.load, sockets(&[34167, 37449, 39101]));
    assert_eq!(
        other.ranks.values().map(|place| &place.publisher).collect::<Vec<_>>(),
        [&None]
    );
    assert_eq!(picture(&records, "elsewhere", 16), Picture::default());
}

#[test]
fn workers_that_do_not_fit_are_refused_and_broken_records_cost_themselves() {
    let mut records = Records::default();
    apply(&mut records, all(&recorded()));
    let refused = picture(&records, "prefill", 32).refused;
    assert!(refused[&WORKER].contains("block size 16"), "{refused:?}");

    let mut changed = recorded();
    let card = "v1/mdc/dynamo/prefill/generate/9f8fd15f30399891";
    changed.get_mut(card).unwrap()["card_json"]["worker_type"] = "prefill".into();
    apply(&mut records, all(&changed));
    assert!(picture(&records, "prefill", 16).refused[&WORKER].contains("prefill worker"));
    changed.get_mut(card).unwrap()["card_json"] = recorded()[card]["card_json"].clone();
    changed.get_mut(card).unwrap()["card_json"]["runtime_config"]["enable_eagle"] = true.into();
    apply(&mut records, all(&changed));
    assert!(picture(&records, "prefill", 16).refused[&WORKER].contains("enable_eagle"));

    apply(&mut records, all(&recorded()));
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
        assert_eq!(apply(&mut records, change.clone()), 1, "{broken}");
        assert_eq!(apply(&mut records, change), 0, "counted once: {broken}");
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
    apply(&mut records, all(&changed));
    let ranks: Vec<_> = picture(&records, "prefill", 16).ranks.into_keys().collect();
    assert_eq!(ranks, [rank(2), rank(3)]);

    let mut records = Records::default();
    apply(&mut records, all(&recorded()));
    let source = json!({
        "type": "EventSource", "topic": "kv-events", "publisher_id": 1,
        "metadata": {"worker": {"worker_id": WORKER, "dp_rank": 0}, "publisher_id": 1},
    });
    let key = "v1/event_sources/a".to_owned();
    apply(&mut records, Change::Put(key.clone(), source.to_string().into_bytes()));
    let publisher = |records: &Records| {
        picture(records, "prefill", 16).ranks[&rank(0)]
            .publisher
            .clone()
            .unwrap()
            .id
    };
    assert_eq!(publisher(&records), 1);
    apply(&mut records, Change::Delete(key));
    assert_eq!(publisher(&records), PUBLISHER);
    apply(&mut records, Change::All(BTreeMap::new()));
    assert_eq!(picture(&records, "prefill", 16), Picture::default());
}

#[test]
fn events_come_as_the_publishers_channel_says_or_through_the_brokers_there_are() {
    let key = "v1/event_channels/namespace/dynamo/component/prefill/endpoint/generate/topic/kv-events/b8f3e9a093a93";
    let transport = |channel: Option<Value>, brokers: &[Value]| {
        let mut changed = recorded();
        let recorded = changed.remove(key).unwrap();
        if let Some(channel) = channel {
            let mut record = recorded.clone();
            record["transport"] = channel;
            changed.insert(key.to_owned(), record);
        }
        for (index, scope) in brokers.iter().enumerate() {
            let ends = |first: u16| {
                json!([
                    format!("tcp://10.0.0.{index}:{first}"),
                    format!("tcp://10.0.0.9:{first}")
                ])
            };
            let config = json!({"xsub_endpoints": ends(1), "xpub_endpoints": ends(2)});
            let broker = json!({
                "type": "EventChannel", "scope": scope, "topic": "any", "instance_id": index,
                "transport": {"kind": "ZmqBroker", "config": config},
            });
            changed.insert(format!("v1/event_channels/broker/{index}"), broker);
        }
        let mut records = Records::default();
        assert_eq!(apply(&mut records, all(&changed)), 0);
        let picture = picture(&records, "prefill", 16);
        let transport = picture.ranks[&rank(0)].publisher.clone().unwrap().transport;
        (transport, picture.brokers.into_iter().collect::<Vec<_>>())
    };
    let nats = |prefix: &str| Some(json!({"kind": "Nats", "config": {"subject_prefix": prefix}}));
    // With the endpoint in it, as since July 2026, and without, as before.
    for prefix in [
        "namespace.dynamo.component.prefill.endpoint.generate",
        "namespace.dynamo%2E1.component.prefill",
    ] {
        let expected = EventTransport::Nats(format!("{prefix}.kv-events"));
        assert_eq!(transport(nats(prefix), &[]), (Some(expected), Vec::new()));
    }
    for prefix in ["", ">", "namespace.*.component.prefill", "a b", "a\r\nPUB b 0\r\n\r\n"] {
        assert_eq!(transport(nats(prefix), &[]), (None, Vec::new()), "{prefix:?}");
    }
    assert_eq!(transport(None, &[]), (None, Vec::new()));
    let ours = json!({"kind": "component", "namespace": "dynamo", "component": "zmq_broker"});
    let others = [
        json!({"kind": "component", "namespace": "other", "component": "zmq_broker"}),
        json!({"kind": "component", "namespace": "dynamo", "component": "prefill"}),
        json!({"kind": "namespace", "name": "dynamo"}),
    ];
    assert_eq!(transport(None, &others), (None, Vec::new()));
    let brokers = ["tcp://10.0.0.0:2", "tcp://10.0.0.1:2", "tcp://10.0.0.9:2"].map(str::to_owned);
    assert_eq!(
        transport(None, &[ours.clone(), ours.clone()]),
        (Some(EventTransport::Broker), brokers.to_vec())
    );
    // Who has a socket is heard there, whatever brokers there are.
    let socket = json!({"kind": "Zmq", "config": {"endpoint": "tcp://10.0.0.1:3"}});
    let (direct, _) = transport(Some(socket), &[ours]);
    assert_eq!(direct, Some(EventTransport::Zmq("tcp://10.0.0.1:3".into())));

    // Configured brokers count instead of those in the records.
    let mut config = config("prefill");
    config.brokers = vec!["tcp://broker:5556".into()];
    let mut records = Records::default();
    apply(&mut records, all(&recorded()));
    let picture = Picture::of(&records, &config, BlockLayout::plain(16).unwrap());
    assert_eq!(picture.brokers.into_iter().collect::<Vec<_>>(), ["tcp://broker:5556"]);
}

#[test]
fn records_beyond_the_limit_are_left_out_and_a_lost_service_takes_nothing_back() {
    let mut records = Records::default();
    let mut useless = Useless::default();
    let put = |number: usize, bytes: &str| Change::Put(format!("v1/mdc/{number}"), bytes.into());
    for number in 0..=MAX_RECORDS {
        records.apply(put(number, "x"), &mut useless);
    }
    let expected = Useless {
        unreadable: MAX_RECORDS as u64,
        over_limit: 1,
    };
    assert_eq!((records.count(), useless), (MAX_RECORDS, expected));
    records.apply(Change::Lost("out of reach".into()), &mut useless);
    assert_eq!(records.count(), MAX_RECORDS);
    // One that is known may change, and one that goes makes room.
    records.apply(put(0, "y"), &mut useless);
    records.apply(Change::Delete("v1/mdc/1".into()), &mut useless);
    records.apply(put(MAX_RECORDS, "x"), &mut useless);
    let expected = Useless {
        unreadable: MAX_RECORDS as u64 + 2,
        over_limit: 1,
    };
    assert_eq!((records.count(), useless), (MAX_RECORDS, expected));
}

#[test]
fn load_is_said_in_the_pools_part_of_the_deployment() {
    let channel = |scope: Value, topic: &str| {
        let transport = json!({"kind": "Nats", "config": {"subject_prefix": "p"}});
        let record =
            json!({"type": "EventChannel", "scope": scope, "topic": topic, "instance_id": 1, "transport": transport});
        let mut records = Records::default();
        records.apply(all(&BTreeMap::from([("k".into(), record)])), &mut Useless::default());
        picture(&records, "backend", 16).load
    };
    let endpoint = |name: &str| {
        let endpoint = json!({"namespace": "dynamo", "component": "backend", "name": name});
        json!({"kind": "endpoint", "endpoint": endpoint})
    };
    let component = |name: &str| json!({"kind": "component", "namespace": "dynamo", "component": name});
    let subject = |topic: &str| BTreeSet::from([EventTransport::Nats(format!("p.{topic}"))]);
    for topic in ["kv_metrics", "forward-pass-metrics", "active_sequences_events"] {
        assert_eq!(channel(endpoint("generate"), topic), subject(topic));
        assert_eq!(channel(component("backend"), topic), subject(topic));
    }
    for (scope, topic) in [
        (endpoint("generate"), "kv-events"),
        (endpoint("other"), "kv_metrics"),
        (component("prefill"), "kv_metrics"),
        (json!({"kind": "namespace", "name": "dynamo"}), "kv_metrics"),
    ] {
        assert_eq!(channel(scope.clone(), topic), BTreeSet::new(), "{scope} {topic}");
    }
}
