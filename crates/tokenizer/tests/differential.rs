//! Ids against `tokenizers` 0.23, another implementation: zero differences.
//!
//! `WARMPATH_TOKENIZER_DIRS` may name more model directories, separated by `:`.

mod documents;

use std::path::{Path, PathBuf};

use tokenizer::Tokenizer;

fn model_dirs() -> Vec<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/models/qwen3");
    let model = std::env::var_os("WARMPATH_MODEL_DIR").map_or(default, PathBuf::from);
    assert!(
        model.join("tokenizer.json").exists(),
        "no model in {}: run scripts/setup",
        model.display()
    );
    let more = std::env::var("WARMPATH_TOKENIZER_DIRS");
    std::iter::once(model)
        .chain(more.iter().flat_map(|dirs| dirs.split(':')).map(PathBuf::from))
        .collect()
}

fn load(dir: &Path) -> Tokenizer {
    let canonical = tk_convert::canonicalize_file(dir.join("tokenizer.json")).unwrap();
    Tokenizer::from_json(canonical.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

#[test]
fn ids_equal_those_of_the_other_implementation() {
    let documents = documents::all();
    assert!(documents.len() >= 500, "{}", documents.len());
    for dir in model_dirs() {
        let ours = load(&dir);
        let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        let mut count = 0;
        for document in &documents {
            for add_special_tokens in [false, true] {
                let mut ids = vec![7];
                ours.encode_into(document, add_special_tokens, &mut ids).unwrap();
                let expected = theirs.encode_fast(document.as_str(), add_special_tokens).unwrap();
                assert_eq!(ids[0], 7, "appends");
                assert_eq!(&ids[1..], expected.get_ids(), "{}: {document:?}", dir.display());
                assert!(ids.iter().all(|id| (*id as usize) < ours.vocab_size()));
                count += expected.len();
            }
        }
        println!("{}: {} documents, {count} ids", dir.display(), documents.len());
    }
}

#[test]
fn the_word_cache_does_not_change_ids() {
    let dir = model_dirs().remove(0);
    let shared = load(&dir);
    let documents = documents::all();
    let encode = |tokenizer: &Tokenizer, document: &str| {
        let mut ids = Vec::new();
        tokenizer.encode_into(document, false, &mut ids).unwrap();
        ids
    };
    let first: Vec<_> = documents.iter().map(|document| encode(&shared, document)).collect();
    let again: Vec<_> = documents
        .iter()
        .rev()
        .map(|document| encode(&shared, document))
        .rev()
        .collect();
    assert_eq!(first, again);
}

#[test]
fn vocabulary_size_is_past_the_last_id() {
    let dir = model_dirs().remove(0);
    let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let last = theirs.get_vocab(true).into_values().max().unwrap();
    assert_eq!(load(&dir).vocab_size(), last as usize + 1);
}

#[test]
fn unsupported_tokenizers_are_named() {
    let bad = |json: &[u8]| Tokenizer::from_json(json).err().expect("must be refused").to_string();
    assert!(bad(b"\xff").contains("not UTF-8"));
    assert!(bad(b"{").contains("not supported"));
    assert!(bad(br#"{"version":"1.0","model":{}}"#).contains("1.0"));
    assert!(bad(br#"{"version":"2.0"}"#).contains("no `model`"));
    let unigram = br#"{"version":"2.0","model":{"type":"WordLevel","vocab":{},"unk_token":"x"}}"#;
    assert!(bad(unigram).contains("WordLevel"), "{}", bad(unigram));
}

#[test]
fn over_long_text_is_refused_and_appends_nothing() {
    let tokenizer = load(&model_dirs().remove(0));
    let mut ids = vec![1];
    let text = " ".repeat(tokenizer::MAX_TEXT_BYTES + 1);
    assert!(tokenizer.encode_into(&text, false, &mut ids).is_err());
    assert_eq!(ids, [1]);
}
