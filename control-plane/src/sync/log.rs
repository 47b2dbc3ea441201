//! The last deltas of one pool, encoded once for all subscribers. Each reads at its own pace; one that falls behind what
//! is kept finds that out, and costs nobody else anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::watch;

use super::codec::Encoded;

/// Deltas are kept up to so many bytes at least.
const LEAST_BYTES: usize = 8 << 20;
/// What a delta takes beside its message, in bytes.
const OVERHEAD: usize = 128;

/// The writer's side.
#[derive(Debug)]
pub struct DeltaLog {
    kept: Arc<Mutex<Kept>>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    deltas: VecDeque<Encoded>,
    bytes: usize,
    /// Version that the last one makes.
    version: u64,
}

/// The deltas after one version; `None`, and then the end, when some of them are no longer kept.
pub type Deltas = BoxStream<'static, Option<Encoded>>;

impl DeltaLog {
    /// An empty log at version 0.
    pub fn new() -> Self {
        let kept = Kept {
            deltas: VecDeque::new(),
            bytes: 0,
            version: 0,
        };
        Self {
            kept: Arc::new(Mutex::new(kept)),
            version: watch::Sender::new(0),
        }
    }

    /// Adds the delta that makes the next version. `snapshot_bytes`: what a snapshot takes; deltas of more than half of
    /// that are not worth keeping.
    pub fn push(&self, delta: Encoded, snapshot_bytes: usize) {
        let version = {
            let mut kept = lock(&self.kept);
            kept.bytes += delta.size() + OVERHEAD;
            kept.deltas.push_back(delta);
            kept.version += 1;
            while kept.bytes > LEAST_BYTES.max(snapshot_bytes / 2) {
                let Some(oldest) = kept.deltas.pop_front() else { break };
                kept.bytes -= oldest.size() + OVERHEAD;
            }
            kept.version
        };
        self.version.send_replace(version);
    }

    /// Bytes of the deltas after `version`, if all of them are kept.
    pub fn bytes_after(&self, version: u64) -> Option<usize> {
        let kept = lock(&self.kept);
        let after = kept.deltas.iter().skip(kept.skip(version)?);
        Some(after.map(Encoded::size).sum())
    }

    /// Everything after `version`, as it comes.
    pub fn follow(&self, version: u64) -> Deltas {
        let follower = (self.kept.clone(), self.version.subscribe(), Some(version));
        unfold(follower, |(kept, mut changed, version)| async move {
            let version = version?;
            loop {
                let found = {
                    let kept = lock(&kept);
                    let skip = kept.skip(version);
                    skip.map(|skip| kept.deltas.get(skip).cloned())
                };
                match found {
                    Some(Some(delta)) => return Some((Some(delta), (kept, changed, Some(version + 1)))),
                    // An error means that the writer is gone.
                    Some(None) => changed.changed().await.ok()?,
                    None => return Some((None, (kept, changed, None))),
                }
            }
        })
        .boxed()
    }
}

impl Default for DeltaLog {
    fn default() -> Self {
        Self::new()
    }
}

impl Kept {
    /// How many of the kept ones a subscriber at `version` has. `None` if it lacks others, too.
    fn skip(&self, version: u64) -> Option<usize> {
        let missing = self.version.checked_sub(version)?;
        self.deltas.len().checked_sub(usize::try_from(missing).ok()?)
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{ArtefactChunk, Heartbeat, to_filter::Message};

    fn small() -> Encoded {
        Encoded::new(Message::Heartbeat(Heartbeat {}))
    }

    fn large() -> Encoded {
        let data = vec![0; 1 << 20].into();
        Encoded::new(Message::Artefact(ArtefactChunk {
            data,
            ..ArtefactChunk::default()
        }))
    }

    #[tokio::test]
    async fn everyone_reads_at_an_own_pace() {
        let log = DeltaLog::new();
        log.push(small(), 0);
        let (mut fast, mut slow, mut late) = (log.follow(0), log.follow(0), log.follow(1));
        log.push(large(), 0);
        assert_eq!(
            (fast.next().await, fast.next().await),
            (Some(Some(small())), Some(Some(large())))
        );
        assert_eq!(late.next().await, Some(Some(large())));
        for _ in 0..8 {
            log.push(large(), 0);
        }
        assert_eq!(slow.next().await, Some(None));
        assert_eq!(slow.next().await, None);
        for _ in 0..7 {
            assert_eq!(log.follow(3).next().await, Some(Some(large())));
        }
        assert_eq!(log.bytes_after(10), Some(0));
        assert_eq!((log.bytes_after(2), log.bytes_after(11)), (None, None));
        drop(log);
        assert_eq!(late.next().await, Some(None));
    }

    #[tokio::test]
    async fn a_large_view_keeps_more() {
        let log = DeltaLog::new();
        for _ in 0..16 {
            log.push(large(), 64 << 20);
        }
        assert_eq!(log.follow(0).next().await, Some(Some(large())));
        log.push(large(), 0);
        assert_eq!(log.follow(0).next().await, Some(None));
    }
}
