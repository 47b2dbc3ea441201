//! Token ids into request bodies: they arrive, and nothing else changes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prompt::token_data::Splice;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

const IDS: [u32; 3] = [0, 7, u32::MAX];

fuzz_target!(|body: &[u8]| {
    let Some(splice) = Splice::token_data(body, &IDS) else {
        return;
    };
    let spliced = splice.apply(body).expect("the range is in the body");
    // What was replaced was a value of the client's, or nothing.
    let replaced = &body[splice.range.clone()];
    assert!(replaced.is_empty() || serde_json::from_slice::<IgnoredAny>(replaced).is_ok());
    // Texts that are not UTF-8 and numbers beyond all bounds are no reason to look closer at what they stand in.
    let Ok(mut expected) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return;
    };
    let nvext = expected.entry("nvext").or_insert_with(|| json!({}));
    nvext["token_data"] = json!(IDS);
    assert_eq!(
        serde_json::from_slice::<Map<_, _>>(&spliced).expect("still one"),
        expected
    );

    let removed = Splice::no_token_data(&spliced).expect("there is one now");
    let removed = removed.apply(&spliced).expect("the range is in the body");
    expected["nvext"]["token_data"] = Value::Null;
    assert_eq!(
        serde_json::from_slice::<Map<_, _>>(&removed).expect("still one"),
        expected
    );
});
