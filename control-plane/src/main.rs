//! Feeds the filters: KV events to prefix view, fleet, model artefacts

fn main() {}
