use router_core::hash::LocalHash;
use serde_json::Value;

use super::{bytes, frames, samples};
use crate::dynamo::wire::{KV_EVENTS, RouterEvent, envelope, envelope_of_frames, kv_events};
use crate::events::{Content, EngineHash, Event, Stored, Tier};

const BLOCK_SIZE: u32 = 16;

/// The event that a recorded payload describes, read from its JSON.
fn expected(event: &Value) -> RouterEvent {
    let stored = &event["event"]["data"]["stored"];
    let blocks = stored["blocks"].as_array().unwrap();
    let of = |key: &str| {
        blocks
            .iter()
            .map(|block| block[key].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    RouterEvent {
        worker_id: event["worker_id"].as_u64().unwrap(),
        dp_rank: 0,
        event_id: event["event"]["event_id"].as_u64().unwrap(),
        event: Ok(Event::Stored(Stored {
            tier: Tier::Device,
            parent: stored["parent_hash"].as_u64().map(EngineHash),
            blocks: of("block_hash").into_iter().map(EngineHash).collect(),
            content: Content::Hashed(of("tokens_hash").into_iter().map(LocalHash).collect()),
            block_size: BLOCK_SIZE,
            lora: None,
            namespace: None,
        })),
    }
}

#[test]
fn every_recorded_message_is_read() {
    let samples = samples();
    let mut kinds = 0;
    for (name, sample) in samples["event_plane"].as_object().unwrap() {
        let frames = frames(sample);
        let read = envelope(envelope_of_frames(&frames).unwrap()).unwrap();
        let said = &sample["envelope"];
        assert_eq!(read.publisher_id, said["publisher_id"].as_u64().unwrap(), "{name}");
        assert_eq!(read.sequence, said["sequence"].as_u64().unwrap(), "{name}");
        assert_eq!(read.topic, said["topic"].as_str().unwrap(), "{name}");
        assert_eq!(read.payload, bytes(&sample["payload_hex"]), "{name}");
        if read.topic == KV_EVENTS {
            let events: Vec<_> = sample["payload"].as_array().unwrap().iter().map(expected).collect();
            assert_eq!(kv_events(read.payload, BLOCK_SIZE).unwrap(), events, "{name}");
            kinds += 1;
        }
    }
    assert_eq!(kinds, 2, "stores at the root and below it are recorded");
}

#[test]
fn a_message_that_is_cut_short_or_damaged_costs_itself() {
    let frames = frames(&samples()["event_plane"]["kv-events/stored_child"]);
    let whole = envelope_of_frames(&frames).unwrap();
    let payload = envelope(whole).unwrap().payload;
    for length in 0..whole.len() {
        assert!(envelope(&whole[..length]).is_err());
    }
    for length in 0..payload.len() {
        assert!(kv_events(&payload[..length], BLOCK_SIZE).is_err());
    }
    // Any single byte may be wrong: it is read as something, or refused.
    for at in 0..whole.len() {
        for byte in [0x00, 0x81, 0xC1, 0xDD, 0xDF, 0xFF] {
            let mut damaged = whole.to_vec();
            damaged[at] = byte;
            let _ = envelope(&damaged).and_then(|read| kv_events(read.payload, BLOCK_SIZE));
        }
    }
    // Four billion events, of which none is there; and ten thousand arrays in one another.
    assert!(kv_events(&[0xDD, 0xFF, 0xFF, 0xFF, 0xFF], BLOCK_SIZE).is_err());
    assert!(kv_events(&[0x91; 10_000], BLOCK_SIZE).is_err());
    for broken in [&frames[..3], &frames[1..]] {
        assert!(envelope_of_frames(broken).is_err());
    }
    let [version, length] = [0, 4].map(|at| {
        let mut frames = frames.clone();
        frames[3][at] ^= 1;
        frames
    });
    assert!(envelope_of_frames(&version).is_err() && envelope_of_frames(&length).is_err());
}

#[test]
fn other_events_and_tiers_are_read_and_what_is_nobodys_is_left_out() {
    let event = |data: Value, tier: &str, domain: &str| {
        let event = serde_json::json!([{
            "worker_id": u64::MAX, "storage_tier": tier, "residency_domain": domain, "session_id": null,
            "event": {"event_id": 7, "data": data, "dp_rank": 3},
        }]);
        let read = kv_events(&rmp_serde::to_vec_named(&event).unwrap(), BLOCK_SIZE).unwrap();
        let [event] = <[RouterEvent; 1]>::try_from(read).unwrap();
        assert_eq!((event.worker_id, event.dp_rank, event.event_id), (u64::MAX, 3, 7));
        event.event
    };
    let removed = || serde_json::json!({"removed": {"block_hashes": [1, u64::MAX]}});
    let on = |tier| {
        let blocks = vec![EngineHash(1), EngineHash(u64::MAX)];
        Ok(Event::Removed { tier, blocks })
    };
    assert_eq!(event(removed(), "device", "worker"), on(Tier::Device));
    assert_eq!(event(removed(), "host_pinned", "worker"), on(Tier::HostPinned));
    assert_eq!(event(removed(), "disk", "worker"), on(Tier::Disk));
    assert_eq!(event(removed(), "external", "worker"), on(Tier::External));
    assert_eq!(event(removed(), "tape", "worker"), Err("unknown_tier"));
    assert_eq!(event(removed(), "device", "cache_owner"), Err("residency_domain"));
    assert_eq!(event("cleared".into(), "device", "worker"), Ok(Event::Cleared));
    let orphan = serde_json::json!({"stored": {"parent_hash": null, "start_position": 2, "blocks": []}});
    assert_eq!(event(orphan, "device", "worker"), Err("no_parent"));
}
