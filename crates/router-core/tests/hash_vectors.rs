//! Block and sequence hashes against vectors made with Dynamo's own 1.6.1 wheel (`tests/data`, which says how).

use router_core::hash::{BlockHasher, BlockLayout, HashSeed, LocalHash, sequence_hashes};
use serde_json::Value;

#[test]
fn every_vector_of_dynamo_is_met() {
    let vectors: Value = serde_json::from_str(include_str!("data/dynamo_hash_vectors.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let expected = (numbers(&case["local_block_hashes"]), numbers(&case["sequence_hashes"]));
        assert_eq!(hashes(case), expected, "{}", case["name"]);
    }
}

fn hashes(case: &Value) -> (Vec<u64>, Vec<u64>) {
    let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
    let block_size = u32::try_from(case["kv_block_size"].as_u64().unwrap()).unwrap();
    let eagle = case["is_eagle"].as_bool().unwrap_or(false);
    let layout = BlockLayout {
        eagle,
        ..BlockLayout::plain(block_size).unwrap()
    };
    let seed = HashSeed::new(case["lora_name"].as_str(), case["cache_namespace"].as_str());
    assert_eq!(seed.value(), number(&case["seed"]), "{}", case["name"]);

    let mut hasher = BlockHasher::new(seed);
    let blocks = layout.blocks(&tokens).enumerate();
    let locals: Vec<LocalHash> = blocks
        .map(|(place, block)| hasher.local(block, &mm_hashes(&case["block_mm_infos"][place])))
        .collect();
    let sequence = sequence_hashes(locals.iter().copied());
    (
        locals.iter().map(|hash| hash.0).collect(),
        sequence.iter().map(|hash| hash.0).collect(),
    )
}

fn mm_hashes(info: &Value) -> Vec<u64> {
    let objects = info["mm_objects"].as_array().into_iter().flatten();
    objects.map(|object| object["mm_hash"].as_u64().unwrap()).collect()
}

fn numbers(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(number).collect()
}

fn number(text: &Value) -> u64 {
    text.as_str().unwrap().parse().unwrap()
}
