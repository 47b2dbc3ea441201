//! Pure routing decisions: inputs in, effects out.
//!
//! There is no clock, no entropy and no I/O here: time ([`Millis`]) and random seeds are arguments. The same
//! inputs give the same decision in the wasm filter, in the control plane and in a simulator.
//!
//! In reading order: [`hash`] turns tokens into block identities; [`view`] maps a block to the workers that hold
//! it, and [`levels`] on which tier; [`replica`] keeps a view in step with the control plane; [`fleet`] says who may serve which model;
//! [`bookings`] is the life of each request in flight and the load that it causes; [`cost`] and [`pick`] choose;
//! [`router`] puts them together.

#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bookings;
pub mod cost;
pub mod fleet;
pub mod hash;
mod holders;
pub mod ladder;
pub mod levels;
mod pairs;
pub mod pick;
pub mod replica;
pub mod router;
mod shard;
mod uses;
pub mod view;

/// A moment, in milliseconds since any fixed origin. The caller's clock must not run backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// Milliseconds from `earlier` to `self`, 0 if `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Number of one (worker, dp rank) pair inside its pool, given out by the control plane. At most
/// [`Slot::LIMIT`] exist in a pool; a number is used again only after every block of its last owner left the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// Exclusive upper bound of slot numbers.
    pub const LIMIT: u16 = 4096;

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}
