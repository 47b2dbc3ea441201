//! Every form of event batches, and what is not one.

use control_plane::events::decode::{DecodeError, MAX_PAYLOAD_BYTES, decode};
use control_plane::events::{Batch, Content, EngineHash, Event, Stored, Tier};
use proptest::prelude::*;
use rmpv::Value;

fn pack(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

fn array(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(items.into_iter().collect())
}

fn map(entries: &[(&str, Value)]) -> Value {
    Value::Map(
        entries
            .iter()
            .map(|(key, value)| (Value::from(*key), value.clone()))
            .collect(),
    )
}

fn batch_of(event: Value) -> Vec<u8> {
    pack(&array([Value::from(1.5), array([event]), Value::from(0)]))
}

fn one(event: Value) -> Batch {
    decode(&batch_of(event)).unwrap()
}

fn tokens() -> Value {
    array((0..4).map(Value::from))
}

fn a_store() -> Stored {
    Stored {
        tier: Tier::Device,
        parent: Some(EngineHash(7)),
        blocks: vec![EngineHash(8), EngineHash(u64::MAX - 332)],
        content: Content::text(vec![0, 1, 2, 3]),
        block_size: 2,
        lora: None,
        namespace: None,
    }
}

fn hashes() -> Value {
    array([Value::from(8), Value::from(-333)])
}

#[test]
fn all_forms_of_a_store_say_the_same() {
    let nil = Value::Nil;
    let short = array([
        "BlockStored".into(),
        hashes(),
        7.into(),
        tokens(),
        2.into(),
        nil.clone(),
    ]);
    let long = array([
        "BlockStored".into(),
        hashes(),
        7.into(),
        tokens(),
        2.into(),
        nil.clone(),
        "GPU".into(),
        nil.clone(),
        array([nil.clone(), nil.clone()]),
        0.into(),
        "full_attention".into(),
        nil.clone(),
        "LOCAL".into(),
        nil.clone(),
        "more".into(),
        map(&[("and", "more".into())]),
    ]);
    let as_map = map(&[
        ("block_size", 2.into()),
        ("unknown", array([map(&[("deep", tokens())])])),
        ("token_ids", tokens()),
        ("parent_block_hash", 7.into()),
        ("block_hashes", hashes()),
        ("type", "BlockStored".into()),
    ]);
    let expected = Batch {
        events: vec![Event::Stored(a_store())],
        ignored: vec![],
    };
    for event in [short, long, as_map.clone()] {
        assert_eq!(one(event.clone()), expected, "{event}");
    }
    let batch = map(&[
        ("events", array([as_map])),
        ("ts", 1.5.into()),
        ("data_parallel_rank", 3.into()),
    ]);
    assert_eq!(decode(&pack(&batch)).unwrap(), expected);
}

#[test]
fn removals_clears_and_digests() {
    let digest = Value::Binary(vec![9; 32]);
    let expected = EngineHash(xxhash_rust::xxh3::xxh3_64(&[9; 32]));
    let removed = array(["BlockRemoved".into(), array([digest, 5.into()]), "GPU".into()]);
    let expected = Event::Removed {
        tier: Tier::Device,
        blocks: vec![expected, EngineHash(5)],
    };
    assert_eq!(one(removed).events, [expected]);
    assert_eq!(one(array(["AllBlocksCleared".into()])).events, [Event::Cleared]);
    assert_eq!(
        one(map(&[("type", "AllBlocksCleared".into())])).events,
        [Event::Cleared]
    );
}

fn store_with(field: &str, value: Value) -> Batch {
    one(map(&[
        ("type", "BlockStored".into()),
        ("block_hashes", hashes()),
        ("parent_block_hash", Value::Nil),
        ("token_ids", tokens()),
        ("block_size", 2.into()),
        (field, value),
    ]))
}

#[test]
fn what_does_not_concern_full_attention_on_the_worker_is_left_out_and_named() {
    for (field, value, reason) in [
        ("medium", Value::from("TAPE"), "unknown_medium"),
        ("medium", 7.into(), "unknown_medium"),
        ("kv_cache_spec_kind", "sliding_window".into(), "other_attention"),
        ("locality", "REMOTE".into(), "not_local"),
        ("token_ids", array([array([1.into(), 2.into()])]), "bigram_tokens"),
        ("block_size", Value::Nil, "bad_block_size"),
    ] {
        assert_eq!(
            store_with(field, value),
            Batch {
                events: vec![],
                ignored: vec![reason]
            },
            "{field}"
        );
    }
    assert_eq!(
        one(array(["BlockMoved".into()])),
        Batch {
            events: vec![],
            ignored: vec!["unknown_event"]
        }
    );
}

#[test]
fn media_are_tiers() {
    let tiers = [
        (Tier::Device, &["", "GPU", "device"][..]),
        (Tier::HostPinned, &["CPU", "CPU_PINNED", "cpu_tier1"]),
        (Tier::Disk, &["CPU_TIER2", "DISK", "NVME", "STORAGE"]),
        (Tier::External, &["EXTERNAL", "NETWORK", "REMOTE", "SHARED"]),
    ];
    for (tier, media) in tiers {
        for &medium in media {
            let stored = Stored {
                tier,
                parent: None,
                ..a_store()
            };
            assert_eq!(
                store_with("medium", medium.into()).events,
                [Event::Stored(stored)],
                "{medium}"
            );
            let removed = array(["BlockRemoved".into(), array([5.into()]), medium.into()]);
            let blocks = vec![EngineHash(5)];
            assert_eq!(one(removed).events, [Event::Removed { tier, blocks }], "{medium}");
        }
    }
}

#[test]
fn salts_and_adapters_seed_a_root() {
    let root = || Stored {
        parent: None,
        ..a_store()
    };
    let salted = |salt: &str| Stored {
        namespace: Some(salt.to_owned()),
        ..root()
    };
    let keys = |first: &[&str]| array([array(first.iter().copied().map(Value::from)), Value::Nil]);
    for (field, value, expected) in [
        ("extra_keys", keys(&["tenant-a"]), salted("tenant-a")),
        ("extra_keys", keys(&["dynamo-cache-salt:tenant-a"]), salted("tenant-a")),
        ("cache_salt", "tenant-a".into(), salted("tenant-a")),
        (
            "lora_name",
            map(&[("cache_salt", "tenant-a".into())]),
            salted("tenant-a"),
        ),
        (
            "lora_name",
            "tuned".into(),
            Stored {
                lora: Some("tuned".to_owned()),
                ..root()
            },
        ),
        ("lora_name", "".into(), root()),
    ] {
        let found = store_with(field, value.clone());
        assert_eq!(
            found,
            Batch {
                events: vec![Event::Stored(expected)],
                ignored: vec![]
            },
            "{field} {value}"
        );
    }
    let both = one(map(&[
        ("type", "BlockStored".into()),
        ("block_hashes", hashes()),
        ("token_ids", tokens()),
        ("block_size", 2.into()),
        ("lora_name", "tuned".into()),
        (
            "extra_keys",
            array([array(["tuned".into(), "tenant-a".into()]), array(["tuned".into()])]),
        ),
    ]));
    let expected = Stored {
        lora: Some("tuned".to_owned()),
        ..salted("tenant-a")
    };
    assert_eq!(
        both,
        Batch {
            events: vec![Event::Stored(expected)],
            ignored: vec![]
        }
    );
}

#[test]
fn blocks_from_the_first_multimodal_one_on_are_left_out() {
    let keys = array([Value::Nil, array([array(["image".into(), 0.into()])])]);
    let expected = Stored {
        parent: None,
        blocks: vec![EngineHash(8)],
        content: Content::text(vec![0, 1]),
        ..a_store()
    };
    let found = store_with("extra_keys", keys);
    assert_eq!(
        found,
        Batch {
            events: vec![Event::Stored(expected)],
            ignored: vec!["multimodal"]
        }
    );
}

#[test]
fn hostile_payloads_are_refused() {
    let nested = [vec![0x91; 100_000], vec![0xc0]].concat();
    let announced = vec![0x93, 0xc0, 0xdd, 0xff, 0xff, 0xff, 0xff];
    let deep_event = batch_of((0..1000).fold(Value::Nil, |inner, _| array([inner])));
    for payload in [vec![], vec![0xc1], b"text".to_vec(), nested, announced, deep_event] {
        assert!(
            matches!(decode(&payload), Err(DecodeError::Malformed(_))),
            "{} bytes",
            payload.len()
        );
    }
    let long = vec![0; MAX_PAYLOAD_BYTES + 1];
    assert_eq!(decode(&long), Err(DecodeError::TooLong(MAX_PAYLOAD_BYTES + 1)));
}

proptest! {
    #[test]
    fn no_payload_panics(mut payload in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte: u8) {
        let _ = decode(&payload);
        payload = batch_of(array(["BlockStored".into(), hashes(), 7.into(), tokens(), 2.into()]));
        let at = at.index(payload.len());
        payload[at] = byte;
        let _ = decode(&payload);
        payload.truncate(at);
        prop_assert!(decode(&payload).is_err());
    }
}
