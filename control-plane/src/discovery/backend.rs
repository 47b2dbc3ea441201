//! What Dynamo's discovery service says, whichever backend it has: the interface between those who read one ([`file`],
//! [`etcd`]) and who makes workers of it ([`crate::dynamo::pool`]).
//!
//! Dynamo keeps JSON records under keys, in buckets of which four matter here ([`BUCKETS`]). Whoever reads a backend sends
//! [`Change`]s until nobody listens, and promises:
//!
//! - The first change is [`Change::All`] or [`Change::Lost`], and what ends a time of `Lost` is `All`.
//! - What was said stands until it is taken back: a backend that is out of reach takes nothing back.
//! - A key names one record for as long as that is there. Nothing else is read out of it, so each backend has its own form.
//! - `All` has at most [`MAX_RECORDS`]; where there are more, the backend counts as lost. Records longer than
//!   [`MAX_RECORD_BYTES`] are never of use; a backend may leave them out.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::{etcd, file};
use crate::config::DynamoBackend;

/// The buckets that matter, as prefixes of keys.
pub const BUCKETS: [&str; 4] = ["v1/instances", "v1/mdc", "v1/event_channels", "v1/event_sources"];
/// Longest record that is read, in bytes. Model cards have some 2 kB.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// Most records that are read. A worker of one rank has eight.
pub const MAX_RECORDS: usize = 100_000;

/// A change in the discovery service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These are all records that there are.
    All(BTreeMap<String, Vec<u8>>),
    /// This record is now so.
    Put(String, Vec<u8>),
    /// This one is gone.
    Delete(String),
    /// The service cannot be read, and why.
    Lost(String),
}

/// Tells of all changes until nobody listens.
pub async fn run(backend: DynamoBackend, changes: mpsc::Sender<Change>) {
    match backend {
        DynamoBackend::File(directory) => file::run(directory, changes).await,
        DynamoBackend::Etcd(config) => etcd::run(config, changes).await,
    }
}
