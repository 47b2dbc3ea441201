//! Which workers there are. So far from the configuration file only ([`fixed`]).

pub mod fixed;

use std::collections::HashMap;
use std::net::SocketAddr;

use router_core::Slot;

/// Gives out the slot numbers of one pool: an (endpoint, rank) keeps its number for as long as the process lives.
#[derive(Debug, Default)]
pub struct Slots {
    by_rank: HashMap<(SocketAddr, u32), Slot>,
}

impl Slots {
    /// The number of a rank, a new one if it was never seen. `None`: all numbers are taken.
    pub fn of(&mut self, endpoint: SocketAddr, rank: u32) -> Option<Slot> {
        if let Some(&slot) = self.by_rank.get(&(endpoint, rank)) {
            return Some(slot);
        }
        let next = u16::try_from(self.by_rank.len())
            .ok()
            .filter(|&number| number < Slot::LIMIT)?;
        self.by_rank.insert((endpoint, rank), Slot(next));
        Some(Slot(next))
    }
}

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
    /// Where it publishes KV events; `None`: nowhere.
    pub events: Option<String>,
    /// Where it replays them; `None`: nowhere.
    pub replay: Option<String>,
}
