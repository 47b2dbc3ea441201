//! Keeps a pool's view within what a VM may hold: what is old is not shown. A block is as old as the last store at or below
//! it, so of each prompt the end goes first, and of all prompts those that nobody has gone on with for longest.

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
/// Into about so many generations the blocks of a full view are told apart.
const GENERATIONS: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Bound {
    max_bytes: usize,
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
    /// (Block, rank) pairs that were too old to be shown when that was last decided.
    pub hidden: u64,
}

impl Bound {
    /// Of a view that may take `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            changed: None,
        }
    }

    /// How many blocks make a generation, if the view has every `stride`-th.
    pub fn generation_blocks(&self, stride: u32) -> usize {
        let blocks = self.max_bytes / BYTES_PER_ENTRY / GENERATIONS;
        blocks.saturating_mul(stride as usize).max(1)
    }

    /// Whether a view of `bytes` bytes, which may show all that is there or not, may have to show another part of it.
    pub fn is_due(&self, bytes: usize, shows_all: bool, now: Instant) -> bool {
        let has_settled = || {
            self.changed
                .is_none_or(|changed| now.duration_since(changed) >= SETTLED)
        };
        let is_roomy = bytes < share(self.max_bytes, ROOMY);
        bytes > self.max_bytes || !shows_all && is_roomy && has_settled()
    }

    /// From which generation on blocks are to be shown, by what would be shown of each and what is: that from `since` on.
    /// `None` if it stays so.
    pub fn adjust(&mut self, bytes: usize, since: u8, by_generation: &[u64; 256], now: Instant) -> Option<u8> {
        let shown: u64 = by_generation.iter().skip(since.into()).sum();
        let target = share(self.max_bytes, TARGET) as u128;
        // When nothing is shown, nothing tells what a pair takes but the bound for a block.
        let (shown, taken) = if shown == 0 {
            (1, BYTES_PER_ENTRY)
        } else {
            (shown, bytes)
        };
        let fits = |count: u64| u128::from(count) * taken as u128 <= target * u128::from(shown);
        let mut sum = 0;
        let too_old = by_generation.iter().rposition(|count| {
            sum += count;
            !fits(sum)
        });
        let oldest = too_old.map_or(0, |generation| u8::try_from(generation + 1).unwrap_or(u8::MAX));
        self.changed = Some(now);
        let is_better = oldest != since && (bytes > self.max_bytes || oldest < since);
        is_better.then_some(oldest)
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

    /// So many pairs in each of the first ten generations.
    fn ten(pairs: u64) -> [u64; 256] {
        std::array::from_fn(|generation| if generation < 10 { pairs } else { 0 })
    }

    #[test]
    fn the_oldest_go_and_come_back_when_there_is_room() {
        let mut bound = Bound::new(10_000);
        let start = Instant::now();
        // 100 pairs of 20 bytes in each.
        assert!(!bound.is_due(10_000, true, start) && bound.is_due(20_000, true, start));
        assert_eq!(bound.adjust(20_000, 0, &ten(100), start), Some(6));
        assert!(!bound.is_due(8_000, false, start + SETTLED) && !bound.is_due(5_000, false, start));
        // Fewer in each: more of them fit.
        let later = start + SETTLED;
        assert!(bound.is_due(5_000, false, later) && !bound.is_due(5_000, true, later));
        assert_eq!(bound.adjust(4 * 62 * 20, 6, &ten(62), later), Some(4));
        assert!(!bound.is_due(5_000, false, later));
        assert_eq!(bound.adjust(6 * 20 * 20, 4, &ten(20), later + SETTLED), Some(0));
    }

    #[test]
    fn a_generation_that_does_not_fit_is_not_shown() {
        let mut bound = Bound::new(1_000);
        let now = Instant::now();
        assert_eq!(bound.adjust(20_000, 0, &ten(100), now), Some(10));
        assert_eq!(bound.adjust(0, 10, &ten(100), now), None);
    }
}
