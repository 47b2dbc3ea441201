//! Bytes of Dynamo's event plane to events: pure and bounded. Formats of Dynamo 1.6.1, crates `dynamo-runtime`
//! (`transports/event_plane/codec.rs`, `frame.rs`) and `dynamo-kv-router` (`protocols.rs`), all MessagePack with named
//! fields.

use router_core::hash::LocalHash;
use serde::Deserialize;

use crate::events::zmtp::MAX_FRAME_BYTES;
use crate::events::{Content, EngineHash, Event, Stored, Tier};

/// Of the frame that carries an envelope over ZMQ: one byte of version, four of length.
const FRAME_HEADER: usize = 5;
const FRAME_VERSION: u8 = 1;
/// The topic of KV events.
pub const KV_EVENTS: &str = "kv-events";

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not the frames of the event plane.
    #[error("not the frames of Dynamo's event plane: {0}")]
    Frames(&'static str),
    /// Too long.
    #[error("{0} bytes are more than the limit of {MAX_FRAME_BYTES}")]
    TooLong(u64),
    /// Not MessagePack of the expected form.
    #[error("{what}: {why}")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// Why.
        why: rmp_serde::decode::Error,
    },
}

/// What every message comes in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Envelope<'a> {
    /// Who published it: a random number, new with every publisher.
    pub publisher_id: u64,
    /// The publisher's number for it, from 0.
    pub sequence: u64,
    /// What it is about.
    pub topic: &'a str,
    /// Its content, encoded.
    #[serde(borrow)]
    pub payload: &'a [u8],
}

/// One event of one (worker, rank).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterEvent {
    /// Whose.
    pub worker_id: u64,
    /// Which of its ranks.
    pub dp_rank: u32,
    /// The publisher's number for it; consecutive.
    pub event_id: u64,
    /// What happened; the label of a reason if that is nothing to us.
    pub event: Result<Event, &'static str>,
}

/// The envelope in the frames of a ZMQ message: topic or subject, publisher, sequence, envelope.
///
/// # Errors
/// When there are other frames.
pub fn envelope_of_frames<F: AsRef<[u8]>>(frames: &[F]) -> Result<&[u8], WireError> {
    let [_, publisher, sequence, framed] = frames else {
        return Err(WireError::Frames("not four of them"));
    };
    if publisher.as_ref().len() != 8 || sequence.as_ref().len() != 8 {
        return Err(WireError::Frames("publisher and sequence must have 8 bytes"));
    }
    let (header, envelope) = framed
        .as_ref()
        .split_at_checked(FRAME_HEADER)
        .ok_or(WireError::Frames("the last one is too short"))?;
    let [version, length @ ..] = header else {
        return Err(WireError::Frames("the last one is too short"));
    };
    if *version != FRAME_VERSION {
        return Err(WireError::Frames("unknown version"));
    }
    let length = length
        .iter()
        .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    if length != envelope.len() {
        return Err(WireError::Frames("the last one has another length than it says"));
    }
    Ok(envelope)
}

/// Reads an envelope.
///
/// # Errors
/// When it is none.
pub fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, WireError> {
    read("envelope", bytes)
}

/// Reads the payload of [`KV_EVENTS`]. Blocks have `block_size` tokens.
///
/// # Errors
/// When it is none.
pub fn kv_events(payload: &[u8], block_size: u32) -> Result<Vec<RouterEvent>, WireError> {
    let events: Vec<WireEvent> = read("kv-events", payload)?;
    Ok(events.into_iter().map(|event| event.into_event(block_size)).collect())
}

pub(super) fn read<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, WireError> {
    rmp_serde::from_slice(bytes).map_err(|why| WireError::Malformed { what, why })
}

/// As it is on the wire.
#[derive(Debug, Deserialize)]
pub(super) struct WireEvent {
    worker_id: u64,
    #[serde(default)]
    storage_tier: Option<String>,
    #[serde(default)]
    residency_domain: Option<String>,
    event: WireCacheEvent,
}

#[derive(Debug, Deserialize)]
struct WireCacheEvent {
    event_id: u64,
    data: WireData,
    #[serde(default)]
    dp_rank: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireData {
    Stored(WireStored),
    Removed { block_hashes: Vec<u64> },
    Cleared,
}

#[derive(Debug, Deserialize)]
struct WireStored {
    #[serde(default)]
    parent_hash: Option<u64>,
    #[serde(default)]
    start_position: Option<u32>,
    blocks: Vec<WireBlock>,
}

#[derive(Debug, Deserialize)]
struct WireBlock {
    block_hash: u64,
    tokens_hash: u64,
}

impl WireEvent {
    pub(super) fn into_event(self, block_size: u32) -> RouterEvent {
        RouterEvent {
            worker_id: self.worker_id,
            dp_rank: self.event.dp_rank,
            event_id: self.event.event_id,
            event: event(self.event.data, self.storage_tier, self.residency_domain, block_size),
        }
    }
}

fn event(data: WireData, tier: Option<String>, domain: Option<String>, block_size: u32) -> Result<Event, &'static str> {
    // Blocks of a cache owner are in no worker's cache.
    if domain.is_some_and(|domain| domain != "worker") {
        return Err("residency_domain");
    }
    let tier = match tier.as_deref() {
        None | Some("device") => Tier::Device,
        Some("host_pinned") => Tier::HostPinned,
        Some("disk") => Tier::Disk,
        Some("external") => Tier::External,
        Some(_) => return Err("unknown_tier"),
    };
    Ok(match data {
        WireData::Cleared => Event::Cleared,
        WireData::Removed { block_hashes } => Event::Removed {
            tier,
            blocks: block_hashes.into_iter().map(EngineHash).collect(),
        },
        WireData::Stored(stored) => {
            // Said by its place in a sequence instead of by its parent: it cannot be told what stands before it.
            if stored.parent_hash.is_none() && stored.start_position.is_some_and(|position| position > 0) {
                return Err("no_parent");
            }
            let (blocks, hashes) = stored
                .blocks
                .iter()
                .map(|block| (EngineHash(block.block_hash), LocalHash(block.tokens_hash)))
                .unzip();
            Event::Stored(Stored {
                tier,
                parent: stored.parent_hash.map(EngineHash),
                blocks,
                content: Content::Hashed(hashes),
                block_size,
                lora: None,
                namespace: None,
            })
        }
    })
}
