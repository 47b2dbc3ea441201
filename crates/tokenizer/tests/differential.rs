//! Ids against `tokenizers` 0.23, another implementation: zero differences.
//!
//! `WARMPATH_TOKENIZER_DIRS` may name more model directories, separated by `:`.

mod documents;

use std::path::{Path, PathBuf};

use tokenizer::{Form, Tokenizer};

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

fn canonical(dir: &Path) -> String {
    tk_convert::canonicalize_file(dir.join("tokenizer.json")).unwrap()
}

/// Through the flat artefact, as a filter does.
fn load(dir: &Path) -> Tokenizer {
    let artefact =
        tokenizer::build(canonical(dir).as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    assert_eq!(artefact.not_flat, None, "{}", dir.display());
    let tokenizer = Tokenizer::load(artefact.bytes).unwrap();
    assert_eq!(tokenizer.form(), Form::Flat);
    tokenizer
}

/// At least as many documents as `WARMPATH_TOKENIZER_DOCUMENTS` says, 3000 by default.
fn documents(theirs: &tokenizers::Tokenizer) -> Vec<String> {
    let count = std::env::var("WARMPATH_TOKENIZER_DOCUMENTS").map_or(3000, |count| count.parse().unwrap());
    let mut tokens: Vec<String> = theirs
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| token.content)
        .collect();
    tokens.sort();
    documents::all(count, &tokens)
}

#[test]
fn ids_equal_those_of_the_other_implementations() {
    for dir in model_dirs() {
        let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        let documents = documents(&theirs);
        let flat = load(&dir);
        let library = Tokenizer::from_json(canonical(&dir).as_bytes()).unwrap();
        let mut count = 0;
        for document in &documents {
            for add_special_tokens in [false, true] {
                let expected = theirs.encode_fast(document.as_str(), add_special_tokens).unwrap();
                for ours in [&flat, &library] {
                    if std::ptr::eq(ours, &library) && is_newer_to_the_library(document) {
                        continue;
                    }
                    let mut ids = vec![7];
                    ours.encode_into(document, add_special_tokens, &mut ids).unwrap();
                    assert_eq!(ids[0], 7, "appends");
                    assert_eq!(&ids[1..], expected.get_ids(), "{}: {document:?}", dir.display());
                    assert!(ids.iter().all(|id| (*id as usize) < ours.vocab_size()));
                }
                count += expected.len();
            }
        }
        println!("{}: {} documents, {count} ids", dir.display(), documents.len());
    }
}

/// Whether the library's tables may treat the document otherwise than the older ones that engines have: the flat engine
/// makes up for that (`flat::normalize`, `flat::classes`), the library does not.
fn is_newer_to_the_library(document: &str) -> bool {
    let old = |character| matches!(character, '\0'..'\u{7fd}' | '\u{2010}'..'\u{2070}' | '\u{3000}'..'\u{31e0}' | '\u{3400}'..'\u{9fd6}' | '가'..='힣');
    !document.chars().all(old)
}

#[test]
fn the_word_cache_does_not_change_ids() {
    let dir = model_dirs().remove(0);
    let shared = load(&dir);
    let documents = documents::all(3000, &[]);
    let encode = |document: &String| {
        let mut ids = Vec::new();
        shared.encode_into(document, false, &mut ids).unwrap();
        ids
    };
    let first: Vec<_> = documents.iter().map(encode).collect();
    let again: Vec<_> = documents.iter().rev().map(encode).rev().collect();
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
    let unknown = br#"{"version":"2.0","model":{"type":"Sentences","vocab":{},"unk_token":"x"}}"#;
    assert!(bad(unknown).contains("unknown"), "{}", bad(unknown));
}

#[test]
fn over_long_text_is_refused_and_appends_nothing() {
    let tokenizer = load(&model_dirs().remove(0));
    let mut ids = vec![1];
    let text = " ".repeat(tokenizer::MAX_TEXT_BYTES + 1);
    assert!(tokenizer.encode_into(&text, false, &mut ids).is_err());
    assert_eq!(ids, [1]);
}
