//! `warmpath inspect --tokens` against hashes that Dynamo 1.6.1 computed.
//! `data/dynamo_hash_vectors.json`: made with the `ai-dynamo-runtime` 1.6.1 wheel, see `produced_by` in it.

use std::path::Path;

use control_plane::inspect::{Arguments, Report, run};
use serde_json::Value;

#[test]
fn hashes_equal_dynamos() {
    let vectors: Value = serde_json::from_str(include_str!("data/dynamo_hash_vectors.json")).unwrap();
    let text_only = |case: &&Value| case["block_mm_infos"].is_null() && case["is_eagle"] != true;
    let cases: Vec<_> = vectors["cases"].as_array().unwrap().iter().filter(text_only).collect();
    assert!(cases.len() > 10);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.json", std::process::id()));
        std::fs::write(&file, case["tokens"].to_string()).unwrap();
        let arguments = Arguments {
            model: None,
            block_size: case["kv_block_size"].as_u64().unwrap().try_into().unwrap(),
            lora: case["lora_name"].as_str().map(str::to_owned),
            cache_namespace: case["cache_namespace"].as_str().map(str::to_owned),
            tokens: true,
            path: "/v1/chat/completions".to_owned(),
            file,
        };
        let list = |key: &str| serde_json::from_value(case[key].clone()).unwrap();
        let expected = Report {
            prompt: None,
            token_ids: serde_json::from_value(case["tokens"].clone()).unwrap(),
            local_block_hashes: list("local_block_hashes"),
            sequence_hashes: list("sequence_hashes"),
        };
        assert_eq!(run(&arguments).unwrap(), expected, "{name}");
    }
}
