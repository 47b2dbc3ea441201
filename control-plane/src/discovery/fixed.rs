//! Workers that the configuration file lists.

use std::time::Instant;

use super::Rank;
use super::slots::Slots;
use crate::config::PoolConfig;
use crate::events::listen::Topics;

/// All ranks of a pool, by rising slot.
pub fn ranks(config: &PoolConfig, slots: &mut Slots) -> Vec<Rank> {
    let now = Instant::now();
    let mut ranks = Vec::new();
    for worker in &config.workers {
        for dp_rank in 0..worker.data_parallel_size {
            let Some(slot) = slots.give(now) else {
                tracing::error!(pool = config.name, endpoint = %worker.endpoint, dp_rank, "no slot left: rank ignored");
                continue;
            };
            let index = if worker.kv_shared { 0 } else { dp_rank as usize };
            let has_own = worker.data_parallel_size > 1 && !worker.kv_shared;
            let topics = (!worker.kv_topics.is_empty()).then(|| Topics {
                names: worker.kv_topics.clone(),
                rank: has_own.then_some(dp_rank),
            });
            ranks.push(Rank {
                slot,
                endpoint: worker.endpoint,
                dp_rank,
                is_named: worker.data_parallel_size > 1,
                instance_id: None,
                events: topics
                    .as_ref()
                    .map(Topics::name)
                    .or_else(|| worker.kv_events.get(index).cloned()),
                topics,
                replay: worker.replay.get(index).cloned(),
            });
        }
    }
    ranks
}
