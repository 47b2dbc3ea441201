//! What a real vLLM published explains the cache hits that it reported.
//! `data/vllm_0.32_capture.json`: captured from vLLM 0.32.0, see `about` in it.

use control_plane::events::decode::decode;
use control_plane::index::{Change, Index, Shape};
use router_core::Slot;
use router_core::hash::{BlockLayout, HashSeed, local_hashes, sequence_hashes};
use router_core::view::PrefixView;
use serde_json::Value;

const BLOCK_SIZE: u32 = 32;

fn layout() -> BlockLayout {
    BlockLayout::plain(BLOCK_SIZE).unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn depth(view: &PrefixView, request: &Value, namespace: Option<&str>) -> u64 {
    let tokens: Vec<u32> = serde_json::from_value(request["token_ids"].clone()).unwrap();
    let locals = local_hashes(&tokens, layout(), HashSeed::new(None, namespace));
    view.depths(&sequence_hashes(locals)).of(Slot(0)).into()
}

#[test]
fn overlaps_explain_what_vllm_reports() {
    let capture: Value = serde_json::from_str(include_str!("data/vllm_0.32_capture.json")).unwrap();
    let mut index = Index::new(Shape::plain(layout()));
    let mut view = PrefixView::new();
    let mut found = Vec::new();
    let mut expected = Vec::new();
    for request in capture["log"].as_array().unwrap() {
        let name = request["name"].as_str().unwrap();
        let namespace = (name == "cache_salt").then_some("tenant-a");
        let before = depth(&view, request, namespace) * u64::from(BLOCK_SIZE);
        found.push((name, before));
        expected.push((name, request["cached_tokens"].as_u64().unwrap()));
        for event in request["events"].as_array().unwrap() {
            let batch = decode(&bytes(&event["frames_hex"][2])).unwrap();
            assert_eq!(batch.ignored, [""; 0]);
            assert_eq!(batch.events.len(), event["decoded"][1].as_array().unwrap().len());
            for event in &batch.events {
                let mut changes = Vec::new();
                let tally = index.apply(Slot(0), event, &mut changes);
                assert_eq!(
                    (tally.unknown_parent, tally.wrong_block_size, tally.missing_tokens),
                    (0, 0, 0),
                    "{name}"
                );
                for Change { slot, hash, stored } in changes {
                    let changed = if stored {
                        view.insert(slot, hash)
                    } else {
                        view.remove(slot, hash)
                    };
                    assert!(changed);
                }
            }
        }
        // A request's own full blocks are in the cache after it.
        let full = request["prompt_tokens"].as_u64().unwrap() / u64::from(BLOCK_SIZE);
        assert_eq!(depth(&view, request, namespace), full, "{name}");
    }
    assert_eq!(found, expected);
    let log = |name: &str| {
        capture["log"]
            .as_array()
            .unwrap()
            .iter()
            .find(|request| request["name"] == name)
            .unwrap()
    };
    // The last request evicted the last block of the first one, which the salted one does not share.
    assert_eq!(depth(&view, log("first"), None), 5);
    assert_eq!(depth(&view, log("cache_salt"), Some("tenant-a")), 6);
    assert_eq!(depth(&view, log("cache_salt"), Some("tenant-b")), 0);
}
