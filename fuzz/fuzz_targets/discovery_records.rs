//! Records of Dynamo's discovery service, one a line, up to the ranks of a pool.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use control_plane::config::{DynamoBackend, DynamoConfig};
use control_plane::discovery::backend::Change;
use control_plane::dynamo::picture::Picture;
use control_plane::dynamo::records::{Endpoint, Records, Useless};
use fuzz::BLOCK_SIZE;
use libfuzzer_sys::fuzz_target;
use router_core::hash::BlockLayout;

fuzz_target!(|lines: &[u8]| {
    let all: Vec<_> = lines.split(|byte| *byte == b'\n').enumerate().collect();
    let readable = all.iter().copied().filter(|record| read([*record]).1 == 0);
    let (of_readable, none) = read(readable.clone());
    let (of_all, unreadable) = read(all.iter().copied());
    // Broken records cost themselves.
    assert_eq!((none, unreadable), (0, (all.len() - readable.count()) as u64));
    assert_eq!(picture(&of_all), picture(&of_readable));
});

/// The records, and how many of them cannot be read.
fn read<'a>(records: impl IntoIterator<Item = (usize, &'a [u8])>) -> (Records, u64) {
    let keyed = records
        .into_iter()
        .map(|(number, record)| (format!("{number:06}"), record.to_vec()));
    let mut records = Records::default();
    let mut useless = Useless::default();
    records.apply(Change::All(keyed.collect()), &mut useless);
    (records, useless.unreadable)
}

fn picture(records: &Records) -> Picture {
    Picture::of(records, &POOL, BlockLayout::plain(BLOCK_SIZE).expect("not 0"))
}

static POOL: LazyLock<DynamoConfig> = LazyLock::new(|| DynamoConfig {
    backend: DynamoBackend::File(PathBuf::new()),
    endpoint: Endpoint {
        namespace: "dynamo".to_owned(),
        component: "prefill".to_owned(),
        name: "generate".to_owned(),
    },
    frontend: None,
    frontend_port: 8000,
    nats: None,
    brokers: Vec::new(),
    load_events: true,
});
