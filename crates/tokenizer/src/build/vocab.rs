//! Vocabularies as the library has to be given them.

use std::collections::HashSet;

use serde_json::{Map, Value};
use tk_encode::utils::byte_level::char_to_byte;

/// Gives the tokens of a byte-level vocabulary that are not spelled in bytes a spelling that no text has; tells whether there
/// were any.
///
/// `tokenizers` finds them in no text, as it spells texts in bytes first. The library does (`🇺` of Command R+).
pub(super) fn hide_misspelled(json: &mut Value) -> bool {
    if json.pointer("/model/byte_level") != Some(&Value::Bool(true)) {
        return false;
    }
    let is_spelled = |token: &str| token.chars().all(|spelling| char_to_byte(spelling).is_some());
    // What is merged from them would be missing, and no text has it either way.
    let merges = json.pointer("/model/merges").and_then(Value::as_array);
    let mut merged = merges.into_iter().flatten().filter_map(Value::as_array).flatten();
    if merged.any(|token| !token.as_str().is_some_and(is_spelled)) {
        return false;
    }
    // Added tokens are found in texts, and have the ids that they have in the vocabulary.
    let added = json.get("added_tokens").and_then(Value::as_array);
    let added = added.into_iter().flatten();
    let added: HashSet<String> = added
        .filter_map(|token| Some(token.get("content")?.as_str()?.to_owned()))
        .collect();
    let Some(vocab) = json.pointer_mut("/model/vocab").and_then(Value::as_object_mut) else {
        return false;
    };
    let is_hidden = |token: &&String| !is_spelled(token) && !added.contains(*token);
    let hidden: Vec<_> = vocab.keys().filter(is_hidden).cloned().collect();
    for token in &hidden {
        // The byte 0xff stands in no UTF-8. The number of tokens stays, as added tokens get ids from there on.
        if let Some(id) = vocab.remove(token) {
            vocab.insert(format!("ÿÿ{id}"), id);
        }
    }
    !hidden.is_empty()
}

/// Gives each ASCII character that is a token itself a token for its byte, if it has none; tells whether there was one.
///
/// The library wants one for every byte. The vocabulary of Gemma 1 and 2 has none for the tab's, which is never needed: a
/// character falls back to its bytes only where it is no token. So no text gets the new ids.
pub(super) fn add_unused_bytes(json: &mut Value) -> bool {
    let model = json.get("model");
    let field = |name| model.and_then(|model| model.get(name)).filter(|value| !value.is_null());
    let falls_back = field("byte_fallback").and_then(Value::as_bool) == Some(true);
    let has_affixes = ["continuing_subword_prefix", "end_of_word_suffix"]
        .into_iter()
        .any(|name| field(name).is_some());
    if !falls_back || has_affixes {
        return false;
    }
    let added = json.get("added_tokens").and_then(Value::as_array).cloned();
    let Some(vocab) = json.pointer_mut("/model/vocab").and_then(Value::as_object_mut) else {
        return false;
    };
    let missing: Vec<_> = (0..=0x7f_u8)
        .filter(|&byte| vocab.contains_key(char::from(byte).encode_utf8(&mut [0; 4])))
        .map(|byte| format!("<0x{byte:02X}>"))
        .filter(|token| !vocab.contains_key(token))
        .collect();
    if missing.is_empty() || !number_added_tokens(vocab, added.unwrap_or_default()) {
        return false;
    }
    let highest = vocab.values().filter_map(Value::as_u64).max().unwrap_or_default();
    let unused = highest.saturating_add(1)..;
    vocab.extend(missing.into_iter().zip(unused.map(Value::from)));
    true
}

/// Puts the added tokens that a vocabulary does not have into it, with the ids that they get, which count from the number of
/// tokens in it. They are found before the model is asked, and no merge gives them. `false` if the model would find one.
fn number_added_tokens(vocab: &mut Map<String, Value>, added: Vec<Value>) -> bool {
    let contents = added
        .into_iter()
        .filter_map(|token| Some(token.get("content")?.as_str()?.to_owned()));
    let new: Vec<_> = contents.filter(|content| !vocab.contains_key(content)).collect();
    let found_by_model = |content: &String| content.chars().count() < 2;
    if new.iter().any(found_by_model) {
        return false;
    }
    for content in new {
        let id = vocab.len();
        vocab.entry(content).or_insert_with(|| id.into());
    }
    true
}
