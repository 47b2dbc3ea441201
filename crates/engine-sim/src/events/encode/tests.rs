use serde_json::{Value as Json, json};

use super::*;
use crate::hash::ExtraKey;
use crate::test_support::{CAPTURE, token_ids};

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"))
        .collect()
}

/// An event as the capture shows it decoded.
fn event(json: &Json) -> KvEvent {
    let hashes = |json: &Json| {
        json.as_array()
            .expect("hashes")
            .iter()
            .map(|h| h.as_u64().expect("hash"))
            .collect()
    };
    match json["type"].as_str() {
        Some("BlockStored") => KvEvent::BlockStored(BlockStored {
            block_hashes: hashes(&json["block_hashes"]),
            parent_block_hash: json["parent_block_hash"].as_u64(),
            token_ids: token_ids(&json["token_ids"]),
            block_size: json["block_size"].as_u64().expect("size").try_into().expect("size"),
            lora_id: json["lora_id"].as_u64(),
            lora_name: json["lora_name"].as_str().map(str::to_owned),
            extra_keys: serde_json::from_value(json["extra_keys"].clone()).expect("extra keys"),
        }),
        Some("BlockRemoved") => KvEvent::BlockRemoved {
            block_hashes: hashes(&json["block_hashes"]),
        },
        other => panic!("unknown event {other:?}"),
    }
}

#[test]
fn mixed_form_is_byte_for_byte_what_vllm_sends() {
    let mut compared = 0;
    for batch in CAPTURE
        .iter()
        .flat_map(|request| request["events"].as_array().expect("events"))
    {
        let payload = unhex(batch["frames_hex"][2].as_str().expect("payload"));
        let [ts, events, rank] = batch["decoded"].as_array().expect("batch").as_slice() else {
            panic!("{batch}")
        };
        let ts = ts.as_f64().expect("ts");
        let events: Vec<_> = events.as_array().expect("events").iter().map(event).collect();
        let rank = rank.as_u64().expect("rank").try_into().expect("rank");
        assert_eq!(
            encode_batch(EventFormat::Mixed, ts, &events, rank).expect("encodes"),
            payload
        );
        compared += 1;
    }
    assert_eq!(compared, 4);
}

fn sample() -> Vec<KvEvent> {
    vec![
        KvEvent::BlockRemoved {
            block_hashes: vec![u64::MAX],
        },
        KvEvent::BlockStored(BlockStored {
            block_hashes: vec![u64::MAX - 1, 7],
            parent_block_hash: Some(5),
            token_ids: vec![1, 2, 3, 4],
            block_size: 2,
            lora_id: Some(1),
            lora_name: Some("tuned".to_owned()),
            extra_keys: vec![Some(vec![ExtraKey::Name("tuned".to_owned())]); 2],
        }),
        KvEvent::BlockStored(BlockStored {
            block_hashes: vec![9],
            parent_block_hash: None,
            token_ids: vec![5, 6],
            block_size: 2,
            lora_id: None,
            lora_name: None,
            extra_keys: vec![None],
        }),
        KvEvent::AllBlocksCleared,
    ]
}

fn decoded(format: EventFormat) -> Json {
    let bytes = encode_batch(format, 1.5, &sample(), 3).expect("encodes");
    rmp_serde::from_slice(&bytes).expect("msgpack")
}

#[test]
fn array_form_has_positional_events_and_signed_hashes() {
    assert_eq!(
        decoded(EventFormat::Array),
        json!([
            1.5,
            [
                ["BlockRemoved", [-1], "GPU", 0],
                [
                    "BlockStored",
                    [-2, 7],
                    5,
                    [1, 2, 3, 4],
                    2,
                    1,
                    "GPU",
                    "tuned",
                    [["tuned"], ["tuned"]],
                    0,
                    "full_attention"
                ],
                [
                    "BlockStored",
                    [9],
                    null,
                    [5, 6],
                    2,
                    null,
                    "GPU",
                    null,
                    [null],
                    0,
                    "full_attention"
                ],
                ["AllBlocksCleared"]
            ],
            3
        ])
    );
}

#[test]
fn map_form_leaves_defaults_out() {
    assert_eq!(
        decoded(EventFormat::Map),
        json!({
            "ts": 1.5,
            "events": [
                {"type": "BlockRemoved", "block_hashes": [u64::MAX], "medium": "GPU"},
                {"type": "BlockStored", "block_hashes": [u64::MAX - 1, 7], "parent_block_hash": 5,
                 "token_ids": [1, 2, 3, 4], "block_size": 2, "lora_id": 1, "medium": "GPU", "lora_name": "tuned",
                 "extra_keys": [["tuned"], ["tuned"]]},
                {"type": "BlockStored", "block_hashes": [9], "parent_block_hash": null, "token_ids": [5, 6],
                 "block_size": 2, "lora_id": null, "medium": "GPU", "lora_name": null},
                {"type": "AllBlocksCleared"}
            ],
            "data_parallel_rank": 3
        })
    );
}
