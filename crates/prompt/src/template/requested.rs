//! Templates that come with requests: compiled within bounds, the last few kept.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use work::Work;

use super::Compiled;
use crate::error::PromptError;
use crate::rules::Frontend;

/// Longest source in bytes; the longest template of a known model has 30 kB.
const MAX_SOURCE_BYTES: usize = 128 << 10;
/// What compiling a byte of it costs, in nanoseconds (see [`work`]).
const SOURCE_BYTE: u64 = 250;
/// How many are kept. A compiled template takes some ten times its source.
const KEPT: usize = 8;

/// The last used templates of requests, the latest first.
#[derive(Debug, Default)]
pub(super) struct Requested(Mutex<Vec<(String, Arc<Compiled>)>>);

impl Requested {
    /// The template, compiled now if it is not known.
    pub(super) fn get(&self, source: &str, now: &Arc<AtomicI64>, work: &Work) -> Result<Arc<Compiled>, PromptError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match kept.iter().position(|(known, _)| known == source) {
            Some(at) => kept.remove(at),
            None if source.len() > MAX_SOURCE_BYTES => return Err(PromptError::LimitExceeded("template size")),
            None => {
                work.take(source.len(), SOURCE_BYTE)?;
                let compiled = Compiled::new("of the request", source, now, Frontend::Vllm);
                let compiled = compiled.map_err(|error| PromptError::Template(error.to_string()))?;
                (source.to_owned(), Arc::new(compiled))
            }
        };
        let compiled = found.1.clone();
        kept.insert(0, found);
        kept.truncate(KEPT);
        Ok(compiled)
    }
}
