//! Which workers there are: those that the configuration file lists ([`fixed`]) and those that Dynamo's discovery service
//! tells of ([`backend`], which is a directory, [`file`], or [`etcd`]). Either way a pool's ranks are its
//! [`Members`](members::Members), which come and go while the process runs.

pub mod backend;
pub mod etcd;
pub mod file;
pub mod fixed;
pub mod members;
pub mod slots;

use std::net::SocketAddr;

use router_core::Slot;
use router_core::fleet::Candidate;
use router_core::levels::Levels;

use crate::events::listen::Topics;

/// One (worker, dp rank) of a pool: where it is routed to and where it publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Its number in the pool. Its slots in the view follow from it ([`router_core::levels`]): with the device tier alone,
    /// it is the slot.
    pub slot: Slot,
    /// As the gateway's cluster knows it.
    pub endpoint: SocketAddr,
    /// Data-parallel rank.
    pub dp_rank: u32,
    /// Whether requests have to name the rank; not where the worker has just one.
    pub is_named: bool,
    /// Dynamo's id of the worker.
    pub instance_id: Option<u64>,
    /// The publisher of its KV events: where it is, or how it is known if it connects to us. Ranks of one publisher have it
    /// in common. `None`: there is none, as far as is known.
    pub events: Option<String>,
    /// How the publisher is known if it connects to us.
    pub topics: Option<Topics>,
    /// Where it replays them; `None`: nowhere, as far as is known.
    pub replay: Option<String>,
}

impl Rank {
    /// As filters see it.
    pub fn candidate(&self, levels: Levels) -> Candidate {
        Candidate {
            slot: levels.first_slot(self.slot.0),
            endpoint: self.endpoint.to_string(),
            dp_rank: self.is_named.then_some(self.dp_rank),
            instance_id: self.instance_id,
        }
    }

    /// Names its worker in metrics.
    pub fn worker(&self) -> String {
        match self.instance_id {
            Some(instance) => instance.to_string(),
            None => self.endpoint.to_string(),
        }
    }
}
