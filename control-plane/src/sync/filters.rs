//! The connected filters, and where the view of each stands by its own account.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::v1::Ack;
use router_core::replica::Position;
use serde::Serialize;

/// Cheap to clone; all clones are one list.
#[derive(Clone, Debug, Default)]
pub struct Filters(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    connected: BTreeMap<u64, Filter>,
    next: u64,
}

/// One of them, as shown.
#[derive(Clone, Debug, Serialize)]
pub struct Filter {
    /// Its name for itself.
    vm: String,
    /// The last position that it acknowledged, by pool. Of another epoch until it has this process's snapshot.
    acked: BTreeMap<String, Acked>,
}

/// A view as its filter sees it, as shown. Large numbers in decimal: they are beyond what JSON readers take for a number.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Acked {
    epoch: String,
    version: u64,
    checksum: String,
    entries: u64,
    bytes: u64,
    /// (Block, rank) pairs that found no room.
    refused: u64,
}

impl From<&Ack> for Acked {
    /// Without the position.
    fn from(ack: &Ack) -> Self {
        Self {
            checksum: ack.checksum.to_string(),
            entries: ack.entries,
            bytes: ack.bytes,
            refused: ack.refused,
            ..Self::default()
        }
    }
}

/// A filter's place in the list, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Connected {
    filters: Filters,
    number: u64,
}

impl Filters {
    /// Adds a filter that has said hello.
    pub fn add(&self, vm: &str) -> Connected {
        let mut list = self.lock();
        let number = list.next;
        list.next += 1;
        let filter = Filter {
            vm: vm.to_owned(),
            acked: BTreeMap::new(),
        };
        list.connected.insert(number, filter);
        drop(list);
        Connected {
            filters: self.clone(),
            number,
        }
    }

    /// All of them, in the order in which they connected.
    pub fn list(&self) -> Vec<Filter> {
        self.lock().connected.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    /// The filter's view of a pool stands there.
    pub fn ack(&self, pool: &str, position: Position, view: Acked) {
        if let Some(filter) = self.filters.lock().connected.get_mut(&self.number) {
            let Position { epoch, version } = position;
            let epoch = epoch.to_string();
            let acked = Acked { epoch, version, ..view };
            filter.acked.insert(pool.to_owned(), acked);
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.filters.lock().connected.remove(&self.number);
    }
}
