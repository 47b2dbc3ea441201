//! Normalizers that the library does not have, or that flat tables have otherwise.

use serde_json::{Value, json};

use crate::flat::CHARSMAP_PLACEHOLDER;

/// The regular expression for two spaces or more, in models that `transformers` has converted from SentencePiece.
const RUNS: &str = " {2,}";

/// Puts two spaces in the place of [`RUNS`], which the library cannot read; tells whether there was one. The library then gives
/// the right ids of texts without a run of spaces.
pub(super) fn replace_runs_of_spaces(json: &mut Value) -> bool {
    let two_spaces = json!({"String": "  "});
    let Some(normalizer) = json.get_mut("normalizer") else {
        return false;
    };
    let is_in_use = each(normalizer, &mut |one| one.get("pattern") == Some(&two_spaces));
    !is_in_use
        && each(normalizer, &mut |one| match one.get_mut("pattern") {
            Some(pattern) if *pattern == json!({"Regex": RUNS}) => {
                *pattern = two_spaces.clone();
                true
            }
            _ => false,
        })
}

/// The normalizer with a placeholder for its character map, which has a section of its own.
pub(super) fn without_charsmap(mut normalizer: Value) -> Value {
    each(&mut normalizer, &mut |one| match one.get_mut("precompiled_charsmap") {
        Some(map) => {
            *map = CHARSMAP_PLACEHOLDER.into();
            true
        }
        None => false,
    });
    normalizer
}

/// Does something with a normalizer, or with each one of a sequence; tells whether any said so.
fn each(normalizer: &mut Value, of_one: &mut impl FnMut(&mut Value) -> bool) -> bool {
    match normalizer.get_mut("normalizers").and_then(Value::as_array_mut) {
        Some(sequence) => {
            let mut any = false;
            for one in sequence {
                any |= each(one, of_one);
            }
            any
        }
        None => of_one(normalizer),
    }
}
