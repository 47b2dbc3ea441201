//! Ids against `tokenizers` 0.23, another implementation: zero differences.
//!
//! `WARMPATH_TOKENIZER_DIRS` may name more model directories, separated by `:`.

mod documents;

use std::path::{Path, PathBuf};

use tokenizer::{Form, Tokenizer};

/// The directory of a model that `scripts/setup test` fetches.
fn model(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/models")
        .join(name);
    assert!(
        dir.join("tokenizer.json").exists(),
        "no model in {}: run scripts/setup test",
        dir.display()
    );
    dir
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

/// Documents for each model.
const DOCUMENTS: usize = 20_000;

/// One test for each model, so that they run side by side.
macro_rules! ids_equal_those_of_the_other_implementations {
    ($($name:ident),*) => {
        mod ids_equal_those_of_the_other_implementations {
            $(#[test]
            fn $name() {
                super::compare(&super::model(stringify!($name)));
            })*
        }
    };
}

ids_equal_those_of_the_other_implementations!(qwen3, deepseek_v3, gemma3, gptoss, llama3_1);

#[test]
fn ids_equal_for_further_models() {
    let dirs = std::env::var("WARMPATH_TOKENIZER_DIRS").unwrap_or_default();
    for dir in dirs.split(':').filter(|dir| !dir.is_empty()) {
        compare(Path::new(dir));
    }
}

fn compare(dir: &Path) {
    let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let added = theirs.get_added_tokens_decoder().into_values();
    let mut tokens: Vec<String> = added.map(|token| token.content).collect();
    tokens.sort();
    let documents = documents::all(DOCUMENTS, &tokens);
    assert!(documents.len() >= DOCUMENTS);
    let flat = load(dir);
    let library = Tokenizer::from_json(canonical(dir).as_bytes()).unwrap();
    let check = |ours: &Tokenizer, document: &str, add_special_tokens: bool, expected: &[u32]| {
        let mut ids = vec![7];
        ours.encode_into(document, add_special_tokens, &mut ids).unwrap();
        assert_eq!(ids[0], 7, "appends");
        assert_eq!(&ids[1..], expected, "{}: {document:?}", dir.display());
        assert!(ids.iter().all(|id| (*id as usize) < ours.vocab_size()));
    };
    for (index, document) in documents.iter().enumerate() {
        let expected = theirs.encode_fast(document.as_str(), false).unwrap();
        check(&flat, document, false, expected.get_ids());
        // What is the same for all documents is tried on some.
        if index % 8 == 0 {
            let with_special = theirs.encode_fast(document.as_str(), true).unwrap();
            check(&flat, document, true, with_special.get_ids());
            if !is_newer_to_the_library(document) {
                check(&library, document, false, expected.get_ids());
                check(&library, document, true, with_special.get_ids());
            }
        }
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
    let dir = model("qwen3");
    let shared = load(&dir);
    let documents = documents::all(0, &[]);
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
    let dir = model("qwen3");
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
    let tokenizer = load(&model("qwen3"));
    let mut ids = vec![1];
    let text = " ".repeat(tokenizer::MAX_TEXT_BYTES + 1);
    assert!(tokenizer.encode_into(&text, false, &mut ids).is_err());
    assert_eq!(ids, [1]);
}
