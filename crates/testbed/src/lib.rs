//! Starts Envoy, the control plane and simulated engines on free ports and stops them again; for the demo, the
//! benchmarks and the wasm tests. Also etcd, for tests that find workers in it.
//!
//! What runs is what ships: the configurations are `manifests/envoy.yaml` and `manifests/control-plane.yaml` with
//! ports, paths and workers put in (`manifest`). Every process logs to its own file under `target/testbed/`.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use testbed::{Client, ControlPlaneOptions, EngineOptions, EnvoyOptions, Mode, Testbed};
//!
//! let bed = Testbed::builder("example")
//!     .engines(4, EngineOptions::default())
//!     .control_plane(ControlPlaneOptions::default())
//!     .envoy(EnvoyOptions::new(Mode::Warmpath))
//!     .start()
//!     .await?;
//! let body = serde_json::json!({"model": testbed::MODEL, "prompt": "Once upon a time", "max_tokens": 8});
//! let answer = Client::new().post_json(&bed.envoys[0].url("/v1/completions"), &body).await?;
//! println!("{} by {}", answer.status, bed.worker_of(&answer)?);
//! # Ok(())
//! # }
//! ```

mod artefacts;
mod bed;
mod client;
mod control_plane;
mod engine;
mod envoy;
mod etcd;
mod manifest;
mod process;
mod vision;
mod wait;
mod wire;

pub use artefacts::{model_dir, workspace_root};
pub use bed::{Builder, Testbed};
pub use client::{Answer, Client, Payload, Request, Streaming};
pub use control_plane::{ControlPlane, ControlPlaneOptions};
pub use engine::{Engine, EngineOptions};
pub use envoy::{Envoy, EnvoyOptions, Mode};
pub use etcd::{Etcd, EtcdApi, EtcdTls};
pub use process::Process;
pub use vision::vision_model;
pub use wait::{DEADLINE, eventually};
pub use wire::{Relay, Wire};

/// The model that the simulated engines serve.
pub const MODEL: &str = "Qwen/Qwen3-0.6B";
