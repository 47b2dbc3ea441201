//! Where the artefacts are that the testbed runs, and how to get one that is missing.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The root of the checkout.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Hugging Face directory of the model: `WARMPATH_MODEL_DIR`, else `target/models/qwen3`.
///
/// # Errors
/// When it has no tokenizer.
pub fn model_dir() -> Result<PathBuf> {
    let dir = from_env("WARMPATH_MODEL_DIR").unwrap_or_else(|| workspace_root().join("target/models/qwen3"));
    existing(dir.join("tokenizer.json"), "scripts/setup")?;
    Ok(dir)
}

pub(crate) fn engine_sim() -> Result<PathBuf> {
    binary("engine-sim", "engine-sim")
}

pub(crate) fn warmpath() -> Result<PathBuf> {
    binary("control-plane", "warmpath")
}

/// Envoy's binary: `WARMPATH_ENVOY`, else `target/tools/envoy`.
pub(crate) fn envoy() -> Result<PathBuf> {
    let path = from_env("WARMPATH_ENVOY").unwrap_or_else(|| workspace_root().join("target/tools/envoy"));
    existing(path, "scripts/setup")
}

/// etcd's binary: `WARMPATH_ETCD`, else `target/tools/etcd`.
pub(crate) fn etcd() -> Result<PathBuf> {
    let path = from_env("WARMPATH_ETCD").unwrap_or_else(|| workspace_root().join("target/tools/etcd"));
    existing(path, "scripts/setup interop")
}

/// A built module, where the profile `filter` leaves it; without a name the filter, which `WARMPATH_FILTER` can replace.
pub(crate) fn module(name: Option<&str>) -> Result<PathBuf> {
    let built = |name: &str| workspace_root().join(format!("target/wasm32-wasip1/filter/{name}.wasm"));
    let path = match name {
        Some(name) => built(name),
        None => from_env("WARMPATH_FILTER").unwrap_or_else(|| built("filter")),
    };
    let package = name.unwrap_or("filter").replace('_', "-");
    existing(
        path,
        &format!("cargo build -p {package} --target wasm32-wasip1 --profile filter"),
    )
}

/// A file of `WARMPATH_MANIFESTS`, else `manifests/`.
pub(crate) fn manifest(name: &str) -> Result<PathBuf> {
    let dir = from_env("WARMPATH_MANIFESTS").unwrap_or_else(|| workspace_root().join("manifests"));
    existing(dir.join(name), "git checkout manifests")
}

/// A binary of the workspace: in `WARMPATH_BIN_DIR`, else as `scripts/build` leaves it. Always an optimized one, also
/// for tests: without optimization a tokenizer takes half a minute to load.
fn binary(package: &str, name: &str) -> Result<PathBuf> {
    let dir = from_env("WARMPATH_BIN_DIR").unwrap_or_else(|| workspace_root().join("target/release"));
    existing(dir.join(name), &format!("cargo build --release -p {package}"))
}

fn existing(path: PathBuf, how_to_get_it: &str) -> Result<PathBuf> {
    if !path.exists() {
        bail!("{} is missing; run: {how_to_get_it}", path.display());
    }
    Ok(path)
}

fn from_env(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
