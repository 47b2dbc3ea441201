//! The proxy-wasm filter: a thin shell that turns Envoy's callbacks into inputs of the pure crates, and their
//! decisions into host calls.
//!
//! In reading order: [`root`] is the plugin of one VM (configuration, tick, sync stream) and [`http`] one request.
//! [`route`] makes a decision of a body, [`flight`] follows the decided request until it is over. [`sync`] keeps the
//! stream to the control plane, [`dispatch`] applies what comes over it to the [`state`], and [`artefacts`] holds what
//! it brings besides fleet and views. [`gauges`] shares load between the VMs of an Envoy, by the rules of [`roster`].
//! [`host`] is the only file that calls the host.
//!
//! Nothing here may panic: `wasm32-wasip1` aborts on panic, and that takes a worker thread's VM and every request
//! on it down.

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

pub mod artefacts;
pub mod config;
pub mod dispatch;
pub mod flight;
pub mod gauges;
pub mod headers;
pub mod host;
pub mod http;
pub mod metrics;
pub mod random;
pub mod root;
pub mod roster;
pub mod route;
pub mod state;
pub mod sync;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(root::Root::default()));
}}
