//! Readiness: the process is ready when nobody holds it back any more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who holds readiness back, by name.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    waiting_for: Arc<Mutex<BTreeSet<String>>>,
}

/// Holds readiness back until it is dropped.
#[derive(Debug)]
pub struct HoldBack {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// Holds readiness back under a unique name.
    pub fn hold_back(&self, name: impl Into<String>) -> HoldBack {
        let name = name.into();
        self.lock().insert(name.clone());
        HoldBack {
            name,
            readiness: self.clone(),
        }
    }

    /// What is still to come; empty: ready.
    pub fn waiting_for(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HoldBack {
    fn drop(&mut self) {
        self.readiness.lock().remove(&self.name);
        tracing::debug!(name = self.name, "ready");
    }
}
