//! From a message's payload to events: pure. One message can cost no more than itself.

use super::raw::{List, RawBatch, RawEvent, RawHash, Scalar};
use super::{Batch, Content, EngineHash, Event, Stored, Tier};

/// Longest payload that is read, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;
/// Deepest nesting; real batches nest five deep.
const MAX_DEPTH: usize = 32;

/// Why a payload says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Over [`MAX_PAYLOAD_BYTES`].
    #[error("payload of {0} bytes is longer than the limit of {MAX_PAYLOAD_BYTES}")]
    TooLong(usize),
    /// Not a batch of KV events in any known form.
    #[error("payload is no batch of KV events: {0}")]
    Malformed(String),
}

/// Decodes one payload: msgpack, `KVEventBatch` in array, map or mixed form (vLLM, SGLang, TensorRT-LLM).
///
/// Events that do not concern full attention on this worker are left out and named in [`Batch::ignored`].
///
/// # Errors
/// When the payload is too long or no such batch.
pub fn decode(payload: &[u8]) -> Result<Batch, DecodeError> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(DecodeError::TooLong(payload.len()));
    }
    let mut reader = rmp_serde::Deserializer::from_read_ref(payload);
    reader.set_max_depth(MAX_DEPTH);
    let raw: RawBatch =
        serde::Deserialize::deserialize(&mut reader).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let mut batch = Batch::default();
    for event in raw.events.0 {
        match event_of(event) {
            Ok((event, ignored)) => {
                batch.events.push(event);
                batch.ignored.extend(ignored);
            }
            Err(ignored) => batch.ignored.push(ignored),
        }
    }
    Ok(batch)
}

type Ignored = &'static str;

fn event_of(raw: RawEvent) -> Result<(Event, Option<Ignored>), Ignored> {
    let Scalar::Text(tag) = &raw.tag else {
        return Err("unknown_event");
    };
    match tag.as_str() {
        "BlockStored" => {
            check_scope(&raw)?;
            stored(raw)
        }
        "BlockRemoved" => {
            check_scope(&raw)?;
            let removed = Event::Removed {
                tier: tier(&raw.medium)?,
                blocks: hashes(raw.block_hashes),
            };
            Ok((removed, None))
        }
        "AllBlocksCleared" => Ok((Event::Cleared, None)),
        "Ignored" => Err("ignored_event"),
        _ => Err("unknown_event"),
    }
}

/// The tier that a medium means; the names of vLLM, SGLang and Dynamo. A medium that nobody knows is no tier: taken for
/// the nearest, it would be credited too much.
fn tier(medium: &Scalar) -> Result<Tier, Ignored> {
    let name = match medium {
        Scalar::Nil => return Ok(Tier::Device),
        Scalar::Text(name) => name.to_ascii_uppercase(),
        Scalar::Integer(_) | Scalar::Other => return Err("unknown_medium"),
    };
    match name.as_str() {
        "" | "GPU" | "DEVICE" => Ok(Tier::Device),
        "CPU" | "CPU_PINNED" | "CPU_TIER1" => Ok(Tier::HostPinned),
        "CPU_TIER2" | "DISK" | "NVME" | "STORAGE" => Ok(Tier::Disk),
        "EXTERNAL" | "NETWORK" | "REMOTE" | "SHARED" => Ok(Tier::External),
        _ => Err("unknown_medium"),
    }
}

/// Only the main attention group on the worker itself is routed by.
fn check_scope(raw: &RawEvent) -> Result<(), Ignored> {
    if let Scalar::Text(kind) = &raw.kv_cache_spec_kind
        && !matches!(
            kind.as_str(),
            "" | "full_attention" | "mla_attention" | "sink_full_attention"
        )
    {
        return Err("other_attention");
    }
    match &raw.locality {
        Scalar::Text(locality) if !locality.is_empty() && locality != "LOCAL" => Err("not_local"),
        _ => Ok(()),
    }
}

fn stored(raw: RawEvent) -> Result<(Event, Option<Ignored>), Ignored> {
    let block_size = match raw.block_size {
        Scalar::Integer(size) => u32::try_from(size).map_err(|_| "bad_block_size")?,
        _ => return Err("bad_block_size"),
    };
    if raw.token_ids.bigrams {
        return Err("bigram_tokens");
    }
    let lora = raw.lora_name.name.filter(|name| !name.is_empty());
    let parent = raw.parent_block_hash.map(|RawHash(hash)| hash);
    let keys = raw.extra_keys.map(|List(keys)| keys).unwrap_or_default();
    let (plain_blocks, salt) = read_extra_keys(&keys, parent.is_none(), lora.as_deref());
    let text = |scalar| match scalar {
        Scalar::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    };
    let namespace = text(raw.cache_salt).or(raw.lora_name.cache_salt).or(salt);
    let tier = tier(&raw.medium)?;
    let mut blocks = hashes(raw.block_hashes);
    let mut tokens = raw.token_ids.ids;
    // What makes a block multimodal is not known from here, so it and all that follows it is left out.
    let multimodal = plain_blocks < blocks.len();
    if multimodal {
        blocks.truncate(plain_blocks);
        tokens.truncate(plain_blocks.saturating_mul(block_size as usize));
    }
    let stored = Stored {
        tier,
        parent,
        blocks,
        content: Content::text(tokens),
        block_size,
        lora,
        namespace,
    };
    Ok((Event::Stored(stored), multimodal.then_some("multimodal")))
}

/// How many leading blocks have nothing but text in them, and the cache namespace that the first block of a root names.
/// vLLM lists a block's keys in the order LoRA name, multimodal identifiers, salt (first block only), embeddings
/// (`generate_block_hash_extra_keys`). A lone text on a root's first block is taken for the salt; should it be an
/// image's identifier, then the blocks go under a namespace that no request asks for.
fn read_extra_keys(
    keys: &[Option<List<Scalar, { 1 << 12 }>>],
    is_root: bool,
    lora: Option<&str>,
) -> (usize, Option<String>) {
    let mut salt = None;
    for (index, block) in keys.iter().enumerate() {
        let items = block.as_ref().map_or(&[][..], |List(items)| items);
        let items = match items {
            [Scalar::Text(first), rest @ ..] if Some(first.as_str()) == lora => rest,
            all => all,
        };
        match items {
            [] => {}
            [Scalar::Text(text)] if index == 0 && is_root => {
                let namespace = text.strip_prefix("dynamo-cache-salt:").unwrap_or(text);
                salt = Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty());
            }
            _ => return (index, salt),
        }
    }
    (usize::MAX, salt)
}

fn hashes<const MAX: usize>(List(hashes): List<RawHash, MAX>) -> Vec<EngineHash> {
    hashes.into_iter().map(|RawHash(hash)| hash).collect()
}
