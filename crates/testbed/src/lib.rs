//! Starts Envoy, the control plane and simulated engines on free ports; for the demo, the benchmarks and the wasm tests
