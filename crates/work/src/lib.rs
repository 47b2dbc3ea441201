//! What one request may cost: one account for everything that is done between its body and its blocks.
//!
//! Work is counted, not timed, so that a request has the same outcome on every machine and in every run. Who does the work
//! takes it from the account in nanoseconds: what it takes at worst in Envoy's V8, as far as `scripts/bench hostile` could
//! find out, which holds the counts against the clock. When nothing is left, the request is routed by load.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

#[cfg(feature = "hostile")]
pub mod hostile;

use std::cell::Cell;

/// What a token costs that goes into the blocks' hashes, each time that it does: of a text, of an image, or kept when a prompt is
/// truncated.
pub const HASHED_TOKEN: u64 = 5;

/// What requests may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nanoseconds for any request.
    pub base: u64,
    /// Nanoseconds for each byte of its body; milliseconds for each megabyte.
    pub per_byte: u64,
}

impl Limits {
    /// 5 ms, and 45 ms for each megabyte: together 50 for a body of one.
    pub const DEFAULT: Self = Self {
        base: 5_000_000,
        per_byte: 45,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The account of one request.
#[derive(Clone, Debug)]
pub struct Work {
    body_len: usize,
    left: Cell<u64>,
}

/// Nothing is left of a request's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request takes more work than one of its length may")]
pub struct Exhausted;

impl Work {
    /// The account of a request with a body of so many bytes.
    pub fn new(limits: Limits, body_len: usize) -> Self {
        let of_body = limits.per_byte.saturating_mul(body_len as u64);
        Self {
            body_len,
            left: Cell::new(limits.base.saturating_add(of_body)),
        }
    }

    /// For what is no request's.
    pub fn unbounded() -> Self {
        Self {
            body_len: 0,
            left: Cell::new(u64::MAX),
        }
    }

    /// Bytes of the request's body, to which other limits are scaled; 0 if it is no request's.
    pub fn body_len(&self) -> usize {
        self.body_len
    }

    /// Nanoseconds that are left.
    pub fn left(&self) -> u64 {
        self.left.get()
    }

    /// Takes so many times so many nanoseconds.
    ///
    /// # Errors
    /// When less is left; then nothing is.
    pub fn take(&self, times: usize, nanoseconds: u64) -> Result<(), Exhausted> {
        let left = self.left.get();
        let taken = (times as u64).saturating_mul(nanoseconds);
        self.left.set(left.saturating_sub(taken));
        if taken > left { Err(Exhausted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_grows_with_the_body_and_ends() {
        let limits = Limits { base: 10, per_byte: 2 };
        let work = Work::new(limits, 5);
        assert_eq!((work.left(), work.body_len()), (20, 5));
        assert_eq!(work.take(3, 6), Ok(()));
        assert_eq!(work.left(), 2);
        assert_eq!(work.take(1, 3), Err(Exhausted));
        assert_eq!(work.left(), 0);
        assert_eq!(work.take(0, 3), Ok(()));
    }

    #[test]
    fn nothing_overflows() {
        let most = Limits {
            base: u64::MAX,
            per_byte: u64::MAX,
        };
        assert_eq!(Work::new(most, usize::MAX).left(), u64::MAX);
        assert_eq!(Work::unbounded().take(usize::MAX, u64::MAX), Ok(()));
    }
}
