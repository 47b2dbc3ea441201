//! The built module in a real Envoy
