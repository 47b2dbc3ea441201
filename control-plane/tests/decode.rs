//! Every form of event batches, and what is not one.

use control_plane::events::decode::{DecodeError, decode};
use control_plane::events::{Batch, Content, EngineHash, Event, Stored, Tier};
use proptest::prelude::*;
use rmpv::Value;
use router_core::hash::{BlockLayout, HashSeed, local_hashes};

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
        dp_rank: Some(0),
    };
    for event in [short, long, as_map.clone()] {
        assert_eq!(one(event.clone()), expected, "{event}");
    }
    let batch = map(&[
        ("events", array([as_map])),
        ("ts", 1.5.into()),
        ("data_parallel_rank", 3.into()),
    ]);
    let of_rank_3 = Batch {
        dp_rank: Some(3),
        ..expected
    };
    assert_eq!(decode(&pack(&batch)).unwrap(), of_rank_3);
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
        ("block_size", Value::Nil, "bad_block_size"),
    ] {
        assert_eq!(
            store_with(field, value),
            Batch {
                events: vec![],
                ignored: vec![reason],
                dp_rank: Some(0),
            },
            "{field}"
        );
    }
    assert_eq!(
        one(array(["BlockMoved".into()])),
        Batch {
            events: vec![],
            ignored: vec!["unknown_event"],
            dp_rank: Some(0),
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
                ignored: vec![],
                dp_rank: Some(0),
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
            ignored: vec![],
            dp_rank: Some(0),
        }
    );
}

fn with_media(media: Vec<Vec<u64>>) -> Stored {
    Stored {
        parent: None,
        content: Content::Tokens {
            ids: vec![0, 1, 2, 3],
            bigrams: false,
            media,
        },
        ..a_store()
    }
}

#[test]
fn media_have_an_identity_in_each_form() {
    let xxh3 = |identifier: &str| xxhash_rust::xxh3::xxh3_64(identifier.as_bytes());
    let dynamo = "00000000deadbeef".to_owned() + &"0".repeat(48);
    let digest = "0123456789abcdef".repeat(4);
    let second = |keys: Value| array([Value::Nil, keys]);
    let pair = |identity: Value| array([identity, 5.into()]);
    let object = map(&[("mm_hash", 7.into()), ("offsets", array([array([0.into(), 2.into()])]))]);
    let info = map(&[("mm_objects", array([object]))]);
    for (field, value, media) in [
        (
            "extra_keys",
            second(array([dynamo.as_str().into()])),
            vec![vec![], vec![0xdead_beef]],
        ),
        (
            "extra_keys",
            second(array([digest.as_str().into()])),
            vec![vec![], vec![0x0123_4567_89ab_cdef]],
        ),
        (
            "extra_keys",
            second(array([pair("image".into())])),
            vec![vec![], vec![xxh3("image")]],
        ),
        (
            "extra_keys",
            second(array(["image".into()])),
            vec![vec![], vec![xxh3("image")]],
        ),
        (
            "extra_keys",
            second(array([pair(7.into()), pair((-1).into())])),
            vec![vec![], vec![7, u64::MAX]],
        ),
        (
            "extra_keys",
            array([array([digest.as_str().into()])]),
            vec![vec![0x0123_4567_89ab_cdef]],
        ),
        ("block_mm_infos", second(info.clone()), vec![vec![], vec![7]]),
        ("block_mm_infos", array([info.clone(), Value::Nil]), vec![vec![7]]),
    ] {
        let found = store_with(field, value.clone());
        assert_eq!(found.events, [Event::Stored(with_media(media))], "{field} {value}");
    }
    // Beside a salt, which stands last.
    let found = store_with("extra_keys", array([array([pair("image".into()), "tenant-a".into()])]));
    let expected = Stored {
        namespace: Some("tenant-a".to_owned()),
        ..with_media(vec![vec![xxh3("image")]])
    };
    assert_eq!(found.events, [Event::Stored(expected)]);
}

#[test]
fn blocks_from_the_first_one_with_unknown_keys_on_are_left_out() {
    let keys = array([Value::Nil, array([Value::Binary(vec![1, 2])])]);
    let expected = Stored {
        parent: None,
        blocks: vec![EngineHash(8)],
        ..a_store()
    };
    let found = store_with("extra_keys", keys);
    assert_eq!(
        (found.events, found.ignored),
        (vec![Event::Stored(expected)], vec!["unknown_extra_key"])
    );
}

#[test]
fn pairs_of_tokens_are_bigrams() {
    let pairs = array([[1, 2], [2, 3], [3, 4], [4, 5]].map(|pair| array(pair.map(Value::from))));
    let expected = Stored {
        parent: None,
        content: Content::Tokens {
            ids: vec![1, 2, 3, 4, 5],
            bigrams: true,
            media: vec![],
        },
        ..a_store()
    };
    assert_eq!(store_with("token_ids", pairs).events, [Event::Stored(expected)]);
    for tokens in [
        array([1.into(), array([1.into(), 2.into()])]),
        array([array([1.into(), 2.into()]), 1.into()]),
        array([array([1.into()])]),
        array([array([1.into(), 2.into(), 3.into()])]),
    ] {
        let event = map(&[("type", "BlockStored".into()), ("token_ids", tokens.clone())]);
        assert!(decode(&batch_of(event)).is_err(), "{tokens}");
    }
}

/// A store as an array, with these elements behind `extra_keys`.
fn with_trailing(trailing: &[Value]) -> Batch {
    let nil = Value::Nil;
    let fields = [
        "BlockStored".into(),
        hashes(),
        nil.clone(),
        tokens(),
        2.into(),
        nil.clone(),
        nil.clone(),
        nil.clone(),
        nil,
    ];
    one(array(fields.into_iter().chain(trailing.iter().cloned())))
}

#[test]
fn trailing_fields_are_told_by_place_or_by_type() {
    let nil = || Value::Nil;
    let text = |text: &str| Value::from(text);
    let info = || array([map(&[("mm_objects", array([map(&[("mm_hash", 7.into())])]))])]);
    let plain = || with_media(vec![]);
    for (trailing, expected) in [
        (vec![], Ok(plain())),
        // In vLLM's order.
        (
            vec![0.into(), text("full_attention"), nil(), text("LOCAL")],
            Ok(plain()),
        ),
        (
            vec![0.into(), text("mla_attention"), nil(), nil(), text("owner")],
            Ok(plain()),
        ),
        (vec![nil(), nil(), nil(), text("REMOTE"), nil()], Err("not_local")),
        (vec![nil(), nil(), nil(), text("ELSEWHERE")], Err("not_local")),
        (
            vec![1.into(), text("sliding_window"), 128.into(), nil()],
            Err("other_attention"),
        ),
        (
            vec![1.into(), text("mamba"), nil(), text("LOCAL"), nil(), nil(), nil()],
            Err("other_attention"),
        ),
        // Shorter, or in another order.
        (
            vec![1.into(), text("sliding_window"), 128.into()],
            Err("other_attention"),
        ),
        (vec![0.into(), text("full_attention"), nil()], Ok(plain())),
        (vec![text("REMOTE")], Err("not_local")),
        (vec![text("full_attention"), text("REMOTE")], Err("not_local")),
        (vec![info()], Ok(with_media(vec![vec![7]]))),
        (
            vec![info(), 0.into(), text("full_attention")],
            Ok(with_media(vec![vec![7]])),
        ),
        (
            vec![info(), 0.into(), text("mamba"), nil(), text("LOCAL")],
            Err("other_attention"),
        ),
    ] {
        let found = with_trailing(&trailing);
        let (events, ignored) = match expected {
            Ok(stored) => (vec![Event::Stored(stored)], vec![]),
            Err(ignored) => (vec![], vec![ignored]),
        };
        assert_eq!((found.events, found.ignored), (events, ignored), "{trailing:?}");
    }
    let removed = [
        "BlockRemoved".into(),
        hashes(),
        nil(),
        1.into(),
        text("sliding_window"),
        128.into(),
        nil(),
    ];
    assert_eq!(one(array(removed)).ignored, ["other_attention"]);
}

/// TensorRT-LLM's events as its publisher sends them, and SGLang's with a session.
#[test]
fn maps_of_other_engines() {
    let removed = map(&[
        ("type", "BlockRemoved".into()),
        ("block_hashes", array([Value::from(-333)])),
    ]);
    let blocks = vec![EngineHash(u64::MAX - 332)];
    assert_eq!(
        one(removed).events,
        [Event::Removed {
            tier: Tier::Device,
            blocks
        }]
    );
    let stored = map(&[
        ("type", "BlockStored".into()),
        ("block_hashes", hashes()),
        ("parent_block_hash", 7.into()),
        ("token_ids", tokens()),
        ("block_size", 2.into()),
        ("lora_id", Value::Nil),
        ("session_id", "abc".into()),
    ]);
    assert_eq!(one(stored).events, [Event::Stored(a_store())]);
    assert_eq!(one(array(["Ignored".into(), 1.into()])).ignored, ["ignored_event"]);
}

/// `data/dynamo_native_events.json`: what Dynamo 1.6.1 makes of native events.
#[test]
fn blocks_are_what_dynamo_makes_of_them() {
    let checked: serde_json::Value = serde_json::from_str(include_str!("data/dynamo_native_events.json")).unwrap();
    let layout = BlockLayout::plain(4).unwrap();
    let mut found = Vec::new();
    let events = checked["events"].as_array().unwrap();
    for event in events {
        let value: Value = serde_json::from_value(event[0].clone()).unwrap();
        let batch = one(value);
        assert_eq!((batch.events.len(), batch.ignored.len()), (1, 0), "{event}");
        let Event::Stored(stored) = &batch.events[0] else {
            continue;
        };
        let Content::Tokens { ids, .. } = &stored.content else {
            panic!()
        };
        let seed = HashSeed::new(stored.lora.as_deref(), None);
        let locals = local_hashes(ids, layout, seed);
        found.extend(
            stored
                .blocks
                .iter()
                .zip(locals)
                .map(|(engine, local)| (engine.0, local.0)),
        );
    }
    let dumped = &checked["dump_after_two_stores"]["m:default"]["events"][0]["event"]["data"]["stored"]["blocks"];
    let expected: Vec<_> = dumped
        .as_array()
        .unwrap()
        .iter()
        .map(|block| {
            (
                block["block_hash"].as_u64().unwrap(),
                block["tokens_hash"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(found[..3], expected);
}

#[test]
fn a_message_costs_no_more_than_some_times_its_size() {
    // The cheapest elements that there are, as many as a message may have.
    let many =
        |element: &[u8], count: u32| [&[0xdd][..], &count.to_be_bytes(), &element.repeat(count as usize)].concat();
    let one_event = |field: &str, list: Vec<u8>| {
        let mut event = vec![0x82, 0xa4];
        event.extend(b"type\xabBlockStored");
        event.push(0xa0 | field.len() as u8);
        event.extend(field.as_bytes());
        event.extend(list);
        [&[0x92, 0xc0, 0x91][..], &event].concat()
    };
    for payload in [
        [&[0x92, 0xc0][..], &many(&[0x90], 1 << 20)].concat(),
        one_event("block_hashes", many(&[1], 1 << 20)),
        one_event("token_ids", many(&[1], 1 << 23)),
        one_event("extra_keys", many(&[0xc0], 1 << 20)),
        one_event("extra_keys", [vec![0x91], many(&[0xc0], 1 << 20)].concat()),
        one_event("block_mm_infos", many(&[0xc0], 1 << 20)),
    ] {
        assert!(
            matches!(decode(&payload), Err(DecodeError::Malformed(_))),
            "{:?}",
            &payload[..40]
        );
    }
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
