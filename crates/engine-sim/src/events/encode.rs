//! Event batches as msgpack, byte for byte as vLLM's msgspec writes them.
//!
//! Field names and order: `vllm/distributed/kv_events.py`, and the capture of vLLM 0.32 that the tests compare with.

use rmp_serde::Serializer;
use rmp_serde::encode::Error;
use serde::Serialize;
use serde::ser::SerializeSeq;

use super::{BlockStored, KvEvent};
use crate::cli::EventFormat;
use crate::hash::ExtraKey;

const MEDIUM: &str = "GPU";
const GROUP_IDX: u32 = 0;
const SPEC_KIND: &str = "full_attention";

/// One batch: `ts` in seconds since the epoch, the events in order, the data-parallel rank.
pub fn encode_batch(format: EventFormat, ts: f64, events: &[KvEvent], rank: u32) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let events = Events { format, events };
    match format {
        EventFormat::Array => (ts, events, rank).serialize(&mut Serializer::new(&mut bytes))?,
        EventFormat::Mixed => (ts, events, rank).serialize(&mut Serializer::new(&mut bytes).with_struct_map())?,
        EventFormat::Map => {
            let batch = MapBatch {
                ts,
                events,
                data_parallel_rank: rank,
            };
            batch.serialize(&mut Serializer::new(&mut bytes).with_struct_map())?;
        }
    }
    Ok(bytes)
}

#[derive(Serialize)]
struct MapBatch<'a> {
    ts: f64,
    events: Events<'a>,
    data_parallel_rank: u32,
}

struct Events<'a> {
    format: EventFormat,
    events: &'a [KvEvent],
}

impl Serialize for Events<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.events.len()))?;
        for event in self.events {
            match (event, self.format) {
                (KvEvent::BlockStored(stored), EventFormat::Array) => seq.serialize_element(&full(stored, signed))?,
                (KvEvent::BlockStored(stored), EventFormat::Mixed) => seq.serialize_element(&full(stored, unsigned))?,
                (KvEvent::BlockStored(stored), EventFormat::Map) => seq.serialize_element(&sparse(stored))?,
                (KvEvent::BlockRemoved { block_hashes }, EventFormat::Array) => {
                    seq.serialize_element(&removed(block_hashes, signed))?;
                }
                (KvEvent::BlockRemoved { block_hashes }, EventFormat::Mixed) => {
                    seq.serialize_element(&removed(block_hashes, unsigned))?;
                }
                (KvEvent::BlockRemoved { block_hashes }, EventFormat::Map) => {
                    let event = SparseRemoved {
                        r#type: "BlockRemoved",
                        block_hashes,
                        medium: MEDIUM,
                    };
                    seq.serialize_element(&event)?;
                }
                (KvEvent::AllBlocksCleared, _) => seq.serialize_element(&Cleared {
                    r#type: "AllBlocksCleared",
                })?,
            }
        }
        seq.end()
    }
}

/// `BlockStored` with every field, for the array and the mixed form.
#[derive(Serialize)]
struct FullStored<'a, H> {
    r#type: &'static str,
    block_hashes: Vec<H>,
    parent_block_hash: Option<H>,
    token_ids: &'a [u32],
    block_size: usize,
    lora_id: Option<u64>,
    medium: &'static str,
    lora_name: Option<&'a str>,
    extra_keys: &'a [Option<Vec<ExtraKey>>],
    group_idx: u32,
    kv_cache_spec_kind: &'static str,
}

fn full<H>(stored: &BlockStored, hash: fn(u64) -> H) -> FullStored<'_, H> {
    FullStored {
        r#type: "BlockStored",
        block_hashes: stored.block_hashes.iter().copied().map(hash).collect(),
        parent_block_hash: stored.parent_block_hash.map(hash),
        token_ids: &stored.token_ids,
        block_size: stored.block_size,
        lora_id: stored.lora_id,
        medium: MEDIUM,
        lora_name: stored.lora_name.as_deref(),
        extra_keys: &stored.extra_keys,
        group_idx: GROUP_IDX,
        kv_cache_spec_kind: SPEC_KIND,
    }
}

/// `BlockStored` of an engine that leaves the group metadata at its default and has extra keys only when needed:
/// msgspec's `omit_defaults` then leaves those keys out. Fields without a default are always there.
#[derive(Serialize)]
struct SparseStored<'a> {
    r#type: &'static str,
    block_hashes: &'a [u64],
    parent_block_hash: Option<u64>,
    token_ids: &'a [u32],
    block_size: usize,
    lora_id: Option<u64>,
    medium: &'static str,
    lora_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_keys: Option<&'a [Option<Vec<ExtraKey>>]>,
}

fn sparse(stored: &BlockStored) -> SparseStored<'_> {
    SparseStored {
        r#type: "BlockStored",
        block_hashes: &stored.block_hashes,
        parent_block_hash: stored.parent_block_hash,
        token_ids: &stored.token_ids,
        block_size: stored.block_size,
        lora_id: stored.lora_id,
        medium: MEDIUM,
        lora_name: stored.lora_name.as_deref(),
        extra_keys: stored
            .extra_keys
            .iter()
            .any(Option::is_some)
            .then_some(&stored.extra_keys),
    }
}

#[derive(Serialize)]
struct FullRemoved<H> {
    r#type: &'static str,
    block_hashes: Vec<H>,
    medium: &'static str,
    group_idx: u32,
}

fn removed<H>(block_hashes: &[u64], hash: fn(u64) -> H) -> FullRemoved<H> {
    FullRemoved {
        r#type: "BlockRemoved",
        block_hashes: block_hashes.iter().copied().map(hash).collect(),
        medium: MEDIUM,
        group_idx: GROUP_IDX,
    }
}

#[derive(Serialize)]
struct SparseRemoved<'a> {
    r#type: &'static str,
    block_hashes: &'a [u64],
    medium: &'static str,
}

#[derive(Serialize)]
struct Cleared {
    r#type: &'static str,
}

fn unsigned(hash: u64) -> u64 {
    hash
}

/// The same 64 bits as Python's `hash()` gives them, which older engines published.
fn signed(hash: u64) -> i64 {
    hash.cast_signed()
}

#[cfg(test)]
mod tests;
