use serde_json::{Map, Value, json};

use super::*;

/// The artefact that filters get of a tokenizer file.
fn artefact(tokenizer: &Value) -> Result<Artefact, String> {
    let directory = std::env::temp_dir().join(format!("warmpath-layouts-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let loaded = load_tokenizer(&directory).map(|(_, artefact)| artefact);
    fs::remove_dir_all(&directory).unwrap();
    loaded
}

/// Makes another layout.
type Change = fn(&mut Value);

/// Files that say the same in the layouts of other years give the same artefact, byte by byte.
#[test]
fn layouts_of_tokenizer_json_do_not_matter() {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let bytes = (0..256).filter(printable).chain(256..324).filter_map(char::from_u32);
    let tokens = bytes.map(String::from).chain(["ab", "Ġab"].map(str::to_owned));
    let vocab: Map<String, Value> = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let newest = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null, "post_processor": null,
        "added_tokens": [{"id": 258, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": [["a", "b"], ["Ġ", "ab"]]}});
    let expected = artefact(&newest).unwrap();
    let changed = |change: Change| {
        let mut older = newest.clone();
        change(&mut older);
        artefact(&older)
    };
    let layouts: [(&str, Change); 4] = [
        ("merges as texts", |json| {
            json["model"]["merges"] = json!(["a b", "Ġ ab"])
        }),
        ("no type of the model", |json| {
            drop(json["model"].as_object_mut().unwrap().remove("type"))
        }),
        ("before use_regex", |json| {
            json["pre_tokenizer"].as_object_mut().unwrap().remove("use_regex");
        }),
        ("before byte_fallback and ignore_merges", |json| {
            for field in ["byte_fallback", "ignore_merges", "fuse_unk", "dropout"] {
                json["model"].as_object_mut().unwrap().remove(field);
            }
        }),
    ];
    for (layout, change) in layouts {
        assert_eq!(changed(change), Ok(expected.clone()), "{layout}");
    }
    // Not so if it says something else.
    let merged_otherwise = changed(|json| json["model"]["merges"] = json!(["a b"]));
    assert!(merged_otherwise.is_ok_and(|artefact| artefact != expected));
}
