//! Which regexes of a `tokenizer.json` cannot be used. There is no regex engine in Envoy's VM: the tokenizer library matches those
//! of known tokenizers by code of its own, and of others says only which of its features they would need.

use serde_json::{Map, Value, json};

/// Where patterns may stand.
const FIELDS: [&str; 2] = ["normalizer", "pre_tokenizer"];
/// Characters of a pattern that are shown.
const MAX_SHOWN_CHARS: usize = 200;

/// What is wrong with the regexes of a tokenizer that the library refused with `error`; `None` if that is about something else.
pub(super) fn unsupported(tokenizer: &Value, error: &str) -> Option<String> {
    // The feature that it advises to build it with.
    if !error.contains("fancy-regex") {
        return None;
    }
    let mut found = Vec::new();
    for field in FIELDS {
        visit(field.to_owned(), &tokenizer[field], &mut |path, part, pattern| {
            if !is_supported(field, part) {
                let shown: String = pattern.chars().take(MAX_SHOWN_CHARS).collect();
                found.push(format!("{path}.pattern.Regex: {shown:?}"));
            }
        });
    }
    (!found.is_empty()).then(|| {
        format!(
            "{}: none of the regexes that can be matched here, which are those of known tokenizers",
            found.join(", ")
        )
    })
}

/// Calls `with` for everything that has a regex: with its path, itself, and the regex.
fn visit(path: String, value: &Value, with: &mut impl FnMut(&str, &Value, &str)) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                visit(format!("{path}[{index}]"), item, with);
            }
        }
        Value::Object(fields) => match value.pointer("/pattern/Regex") {
            Some(Value::String(pattern)) => with(&path, value, pattern),
            _ => {
                for (name, field) in fields {
                    visit(format!("{path}.{name}"), field, with);
                }
            }
        },
        _ => {}
    }
}

/// Whether a tokenizer can be built that has this part, and no other.
fn is_supported(field: &str, part: &Value) -> bool {
    let mut tokenizer = Map::new();
    tokenizer.insert(
        "model".to_owned(),
        json!({"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}),
    );
    tokenizer.insert(field.to_owned(), part.clone());
    let mut tokenizer = Value::Object(tokenizer);
    tk_convert::canonicalize_value(&mut tokenizer).is_ok() && tokenizer::build(tokenizer.to_string().as_bytes()).is_ok()
}
