//! The sync protocol between the control plane and the filters: its messages (`proto/sync.proto`) and the only
//! conversions between them and the core's types.
//!
//! Nothing here trusts the other side: whatever does not convert names the field and the value.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod fleet;
pub mod view;

/// The generated messages.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/warmpath.sync.v1.rs"));
}

/// The gRPC service of the filters' stream.
pub const SERVICE: &str = "warmpath.sync.v1.Sync";
/// Its method.
pub const METHOD: &str = "Connect";
/// Largest encoded message, in bytes; see `proto/sync.proto`.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// Block hashes per message. A VM takes less than 2 ms for so many, in which its thread serves no request
/// (`docs/benchmarks.md`, "From events to views").
pub const MAX_HASHES_PER_MESSAGE: usize = 2_500;

/// A message that says something impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value}: {why}")]
pub struct BadMessage {
    /// Where, as a path of field names.
    pub field: &'static str,
    /// What it says.
    pub value: String,
    /// Why that cannot be.
    pub why: &'static str,
}

impl BadMessage {
    fn new(field: &'static str, value: impl std::fmt::Display, why: &'static str) -> Self {
        Self {
            field,
            value: value.to_string(),
            why,
        }
    }

    fn missing(field: &'static str) -> Self {
        Self::new(field, "absent", "required")
    }
}
