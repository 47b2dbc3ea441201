//! Fleets between wire and core.

use crate::{BadMessage, v1};
use router_core::cost::CostWeights;
use router_core::fleet::{ArtefactId, Candidate, Fleet, ModelName, Pool};
use router_core::hash::BlockLayout;
use router_core::levels::Levels;
use std::num::NonZeroU32;

impl From<&Fleet> for v1::Fleet {
    fn from(fleet: &Fleet) -> Self {
        Self {
            pools: fleet.pools.iter().map(v1::Pool::from).collect(),
        }
    }
}

impl TryFrom<v1::Fleet> for Fleet {
    type Error = BadMessage;

    fn try_from(fleet: v1::Fleet) -> Result<Self, BadMessage> {
        Ok(Self {
            pools: fleet.pools.into_iter().map(Pool::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Pool> for v1::Pool {
    fn from(pool: &Pool) -> Self {
        let artefact = |id: Option<ArtefactId>| id.map(|id| bytes::Bytes::copy_from_slice(&id.0)).unwrap_or_default();
        let model = |model: &ModelName| v1::ModelName {
            name: model.name.clone(),
            lora: model.lora.clone().unwrap_or_default(),
        };
        let candidate = |candidate: &Candidate| v1::Candidate {
            slot: u32::from(candidate.slot.0),
            endpoint: candidate.endpoint.clone(),
            dp_rank: candidate.dp_rank,
            instance_id: candidate.instance_id,
        };
        Self {
            name: pool.name.clone(),
            epoch: pool.epoch,
            models: pool.models.iter().map(model).collect(),
            block_size: pool.layout.block_size.get(),
            eagle: pool.layout.eagle,
            host_level: pool.levels.host,
            disk_level: pool.levels.disk,
            tokenizer: artefact(pool.tokenizer),
            template: artefact(pool.template),
            kv_events: pool.kv_events,
            stride: pool.stride.get(),
            weights: Some(v1::CostWeights {
                overlap_credit: pool.weights.overlap_credit,
                overlap_credit_decay: pool.weights.overlap_credit_decay,
                prefill_load_scale: pool.weights.prefill_load_scale,
                active_request_weight: pool.weights.active_request_weight,
                host_cache_hit_weight: pool.weights.host_cache_hit_weight,
                disk_cache_hit_weight: pool.weights.disk_cache_hit_weight,
            }),
            temperature: pool.temperature,
            inject_tokens: pool.inject_tokens,
            candidates: pool.candidates.iter().map(candidate).collect(),
        }
    }
}

impl TryFrom<v1::Pool> for Pool {
    type Error = BadMessage;

    fn try_from(pool: v1::Pool) -> Result<Self, BadMessage> {
        let block_size = NonZeroU32::new(pool.block_size)
            .ok_or_else(|| BadMessage::new("pool.block_size", 0, "must be positive"))?;
        let weights = pool.weights.ok_or_else(|| BadMessage::missing("pool.weights"))?;
        let model = |model: v1::ModelName| ModelName {
            name: model.name,
            lora: Some(model.lora).filter(|lora| !lora.is_empty()),
        };
        Ok(Self {
            name: pool.name,
            epoch: pool.epoch,
            models: pool.models.into_iter().map(model).collect(),
            layout: BlockLayout {
                block_size,
                eagle: pool.eagle,
            },
            levels: Levels {
                host: pool.host_level,
                disk: pool.disk_level,
            },
            tokenizer: optional_artefact("pool.tokenizer", &pool.tokenizer)?,
            template: optional_artefact("pool.template", &pool.template)?,
            kv_events: pool.kv_events,
            stride: NonZeroU32::new(pool.stride).unwrap_or(NonZeroU32::MIN),
            weights: CostWeights {
                overlap_credit: weights.overlap_credit,
                overlap_credit_decay: weights.overlap_credit_decay,
                prefill_load_scale: weights.prefill_load_scale,
                active_request_weight: weights.active_request_weight,
                host_cache_hit_weight: weights.host_cache_hit_weight,
                disk_cache_hit_weight: weights.disk_cache_hit_weight,
            },
            temperature: pool.temperature,
            inject_tokens: pool.inject_tokens,
            candidates: pool
                .candidates
                .into_iter()
                .map(Candidate::try_from)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<v1::Candidate> for Candidate {
    type Error = BadMessage;

    fn try_from(candidate: v1::Candidate) -> Result<Self, BadMessage> {
        let slot = crate::view::slot("pool.candidates.slot", candidate.slot)?;
        Ok(Self {
            slot,
            endpoint: candidate.endpoint,
            dp_rank: candidate.dp_rank,
            instance_id: candidate.instance_id,
        })
    }
}

/// Reads an artefact's content address.
///
/// # Errors
/// When it has not 16 bytes.
pub fn artefact_id(field: &'static str, bytes: &[u8]) -> Result<ArtefactId, BadMessage> {
    let id = bytes
        .try_into()
        .map_err(|_| BadMessage::new(field, bytes.len(), "an artefact id has 16 bytes"))?;
    Ok(ArtefactId(id))
}

fn optional_artefact(field: &'static str, bytes: &[u8]) -> Result<Option<ArtefactId>, BadMessage> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        artefact_id(field, bytes).map(Some)
    }
}
