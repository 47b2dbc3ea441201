//! What several test modules need.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::Value as Json;

use crate::events::KvEvent;
use crate::model::Model;

/// Qwen3's tokenizer and template.
pub(crate) fn model_dir() -> PathBuf {
    let dir = std::env::var_os("WARMPATH_MODEL_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/models/qwen3")),
        PathBuf::from,
    );
    assert!(
        dir.join("tokenizer.json").exists(),
        "no model in {}: run scripts/setup",
        dir.display()
    );
    dir
}

/// Loaded once per test process.
pub(crate) static MODEL: LazyLock<Model> = LazyLock::new(|| Model::load(&model_dir()).expect("model"));

/// What a real vLLM 0.32 did with a few requests (token ids, usage, event frames).
pub(crate) static CAPTURE: LazyLock<Vec<Json>> = LazyLock::new(|| {
    let capture: Json = serde_json::from_str(include_str!("../tests/vectors/vllm_0.32_capture.json")).expect("capture");
    capture["log"].as_array().expect("log").clone()
});

/// Token ids of one captured request.
pub(crate) fn token_ids(json: &Json) -> Vec<u32> {
    json.as_array()
        .expect("ids")
        .iter()
        .map(|id| id.as_u64().expect("id").try_into().expect("u32"))
        .collect()
}

/// A cache as a consumer of its events knows it: hash to parent and tokens. Stored and removed are taken literally.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mirror(pub(crate) std::collections::BTreeMap<u64, (Option<u64>, Vec<u32>)>);

impl Mirror {
    pub(crate) fn apply(&mut self, event: &KvEvent) {
        match event {
            KvEvent::BlockStored(stored) => {
                let mut parent = stored.parent_block_hash;
                let contents = stored.token_ids.chunks_exact(stored.block_size);
                assert_eq!(contents.len(), stored.block_hashes.len());
                for (&hash, tokens) in stored.block_hashes.iter().zip(contents) {
                    self.0.insert(hash, (parent, tokens.to_vec()));
                    parent = Some(hash);
                }
            }
            KvEvent::BlockRemoved { block_hashes } => {
                for hash in block_hashes {
                    assert!(self.0.remove(hash).is_some(), "removed an unknown block {hash}");
                }
            }
            KvEvent::AllBlocksCleared => self.0.clear(),
        }
    }
}
