//! Workers that the configuration file lists.

use std::num::NonZeroU32;

use router_core::fleet::{Candidate, ModelName, Pool};
use router_core::hash::BlockLayout;

use super::{Rank, Slots};
use crate::config::PoolConfig;
use crate::model::Model;

/// All ranks of a pool, by rising slot.
pub fn ranks(config: &PoolConfig, slots: &mut Slots) -> Vec<Rank> {
    let mut ranks = Vec::new();
    for worker in &config.workers {
        for dp_rank in 0..worker.data_parallel_size {
            let Some(slot) = slots.of(worker.endpoint, dp_rank) else {
                tracing::error!(pool = config.name, endpoint = %worker.endpoint, dp_rank, "no slot left: rank ignored");
                continue;
            };
            let index = dp_rank as usize;
            ranks.push(Rank {
                slot,
                endpoint: worker.endpoint,
                dp_rank,
                events: worker.kv_events.get(index).cloned(),
                replay: worker.replay.get(index).cloned(),
            });
        }
    }
    ranks.sort_by_key(|rank| rank.slot);
    ranks
}

/// The pool as filters see it. `None` if its block size is 0, which the configuration refuses.
pub fn pool(config: &PoolConfig, ranks: &[Rank], model: &Model, epoch: u64) -> Option<Pool> {
    let base = config.models.iter().map(|name| ModelName {
        name: name.clone(),
        lora: None,
    });
    let loras = config.loras.iter().map(|name| ModelName {
        name: name.clone(),
        lora: Some(name.clone()),
    });
    let has_ranks = |endpoint| {
        config
            .workers
            .iter()
            .any(|w| w.endpoint == endpoint && w.data_parallel_size > 1)
    };
    let candidate = |rank: &Rank| Candidate {
        slot: config.index.tiers.first_slot(rank.slot.0),
        endpoint: rank.endpoint.to_string(),
        dp_rank: has_ranks(rank.endpoint).then_some(rank.dp_rank),
    };
    Some(Pool {
        name: config.name.clone(),
        epoch,
        models: base.chain(loras).collect(),
        layout: BlockLayout {
            block_size: NonZeroU32::new(config.block_size)?,
            eagle: config.eagle,
        },
        levels: config.index.tiers,
        tokenizer: model.tokenizer.as_ref().ok().map(|(_, artefact)| artefact.id),
        template: model.template.as_ref().ok().map(|(_, artefact)| artefact.id),
        kv_events: ranks.iter().any(|rank| rank.events.is_some()),
        weights: config.weights,
        temperature: config.temperature,
        inject_tokens: config.inject_tokens,
        candidates: ranks.iter().map(candidate).collect(),
    })
}
