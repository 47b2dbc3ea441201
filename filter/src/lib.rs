//! The proxy-wasm filter that Envoy runs
