//! The demo workload and the benchmarks

fn main() {}
