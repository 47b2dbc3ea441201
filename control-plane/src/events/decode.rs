//! From a message's payload to events: pure. One message can cost no more than itself.

use super::cursor::Payload;
use super::extra_keys::{self, Extra};
use super::raw::{List, RawBatch, RawEvent, RawHash, Scalar};
use super::zmtp::Part;
use super::{Batch, Content, EngineHash, Event, Stored, Tier};

/// Deepest nesting; real batches nest five deep.
const MAX_DEPTH: usize = 32;

/// Why a payload says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than any that is kept.
    #[error("a message of {0} bytes is longer than the limit of {limit}", limit = super::zmtp::MAX_FRAME_BYTES)]
    TooLong(u64),
    /// Not a batch of KV events in any known form.
    #[error("payload is no batch of KV events: {0}")]
    Malformed(String),
}

impl DecodeError {
    /// As counted.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "too_long",
            Self::Malformed(_) => "undecodable",
        }
    }
}

impl Payload for Part {
    type Content = Batch;
    type Error = DecodeError;

    fn read(&self) -> Result<Batch, DecodeError> {
        match self {
            Self::Bytes(bytes) => decode(bytes),
            Self::TooLong(length) => Err(DecodeError::TooLong(*length)),
        }
    }
}

/// Decodes one payload: msgpack, `KVEventBatch` in array, map or mixed form (vLLM, SGLang, TensorRT-LLM).
///
/// Events that do not concern full attention on this worker are left out and named in [`Batch::ignored`].
///
/// # Errors
/// When it is no such batch, or has more in it than any may have.
pub fn decode(payload: &[u8]) -> Result<Batch, DecodeError> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(payload);
    reader.set_max_depth(MAX_DEPTH);
    let RawBatch(batch) =
        serde::Deserialize::deserialize(&mut reader).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    Ok(batch)
}

impl RawEvent {
    /// Adds what it says to the batch.
    pub(super) fn add_to(self, batch: &mut Batch) {
        match event_of(self) {
            Ok((event, ignored)) => {
                batch.events.push(event);
                batch.ignored.extend(ignored);
            }
            Err(ignored) => batch.ignored.push(ignored),
        }
    }
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
    let tier = tier(&raw.medium)?;
    let lora = raw.lora_name.name.filter(|name| !name.is_empty());
    let parent = raw.parent_block_hash.map(|RawHash(hash)| hash);
    let Extra { salt, media, known } = extra_keys::read(
        &raw.extra_keys.0,
        &raw.block_mm_infos.0,
        parent.is_none(),
        lora.as_deref(),
    );
    let text = |scalar| match scalar {
        Scalar::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    };
    let mut blocks = hashes(raw.block_hashes);
    let cut = known.filter(|known| *known < blocks.len());
    blocks.truncate(cut.unwrap_or(usize::MAX));
    let stored = Stored {
        tier,
        parent,
        blocks,
        content: Content::Tokens {
            ids: raw.token_ids.ids,
            bigrams: raw.token_ids.bigrams,
            media,
        },
        block_size,
        lora,
        namespace: text(raw.cache_salt).or(raw.lora_name.cache_salt).or(salt),
    };
    Ok((Event::Stored(stored), cut.map(|_| "unknown_extra_key")))
}

fn hashes<const MAX: usize>(List(hashes): List<RawHash, MAX>) -> Vec<EngineHash> {
    hashes.into_iter().map(|RawHash(hash)| hash).collect()
}
