//! Keeps a pool's view within what a VM may hold: what stands deepest in its prefix is not shown, as fewest prompts reach
//! it.

use std::time::Duration;

use router_core::view::BYTES_PER_ENTRY;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

/// A view that has outgrown its bound is cut down to this share of it, in percent.
const TARGET: usize = 80;
/// What is hidden may be shown again when the view takes less than this share, in percent,
const ROOMY: usize = 60;
/// and nothing was changed for so long: a change takes time in proportion to the view, and sends as much.
const SETTLED: Duration = Duration::from_secs(60);

/// No depth is too deep.
pub const UNLIMITED: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub struct Bound {
    max_bytes: usize,
    limit: u32,
    changed: Option<Instant>,
}

/// A view as its pool's task sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ViewStatus {
    /// Blocks in it.
    pub entries: usize,
    /// What it takes in each VM.
    pub bytes: usize,
    /// Of everything in it; in decimal, as it is beyond what JSON readers take for a number.
    #[serde(serialize_with = "as_text")]
    pub checksum: u64,
    /// Blocks of a prefix beyond this depth are not shown; `None`: all are.
    pub depth_limit: Option<u32>,
    /// (Block, rank) pairs that were hidden when the limit was set.
    pub hidden: u64,
}

impl Bound {
    /// Of a view that may take `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            limit: UNLIMITED,
            changed: None,
        }
    }

    /// Whether a view of `bytes` bytes may need another limit.
    pub fn is_due(&self, bytes: usize, now: Instant) -> bool {
        let has_settled = || {
            self.changed
                .is_none_or(|changed| now.duration_since(changed) >= SETTLED)
        };
        let is_roomy = bytes < share(self.max_bytes, ROOMY);
        bytes > self.max_bytes || self.limit != UNLIMITED && is_roomy && has_settled()
    }

    /// Finds the limit by what would be shown at each depth (of 1, 2, …) without one. `None` if it stays as it is.
    pub fn adjust(&mut self, bytes: usize, by_depth: &[u64], now: Instant) -> Option<u32> {
        let shown: u64 = (1..=self.limit).zip(by_depth).map(|(_, count)| count).sum();
        let target = share(self.max_bytes, TARGET) as u128;
        // When nothing is shown, nothing tells what a pair takes but the bound for a block.
        let (shown, taken) = if shown == 0 {
            (1, BYTES_PER_ENTRY)
        } else {
            (shown, bytes)
        };
        let fits = |count: u64| u128::from(count) * taken as u128 <= target * u128::from(shown);
        let mut sum = 0;
        let first_beyond = by_depth.iter().position(|count| {
            sum += count;
            !fits(sum)
        });
        let limit = first_beyond.map_or(UNLIMITED, |depth| u32::try_from(depth).unwrap_or(UNLIMITED));
        self.changed = Some(now);
        let is_better = limit != self.limit && (bytes > self.max_bytes || limit > self.limit);
        is_better.then(|| {
            self.limit = limit;
            limit
        })
    }
}

fn share(bytes: usize, percent: usize) -> usize {
    bytes / 100 * percent
}

fn as_text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_go_and_come_back_when_there_is_room() {
        let mut bound = Bound::new(10_000);
        let start = Instant::now();
        // 100 blocks at each depth, of 20 bytes.
        let by_depth = [100; 10];
        assert!(!bound.is_due(10_000, start) && bound.is_due(20_000, start));
        assert_eq!(bound.adjust(20_000, &by_depth, start), Some(4));
        assert!(!bound.is_due(8_000, start + SETTLED) && !bound.is_due(5_000, start));
        // Fewer blocks at each depth: more of them fit.
        let later = start + SETTLED;
        assert!(bound.is_due(5_000, later));
        let by_depth = [62; 10];
        assert_eq!(bound.adjust(4 * 62 * 20, &by_depth, later), Some(6));
        assert!(!bound.is_due(5_000, later));
        assert_eq!(bound.adjust(6 * 20 * 20, &[20; 10], later + SETTLED), Some(UNLIMITED));
        assert!(!bound.is_due(4_000, later + SETTLED * 2));
    }

    #[test]
    fn a_view_that_fits_with_nothing_shows_nothing() {
        let mut bound = Bound::new(1_000);
        let now = Instant::now();
        assert_eq!(bound.adjust(20_000, &[1_000], now), Some(0));
        assert_eq!(bound.adjust(0, &[1_000], now), None);
    }
}
