//! Ids against `tokenizers` 0.23, another implementation: zero differences.
//!
//! `WARMPATH_TOKENIZER_DIRS` may name more model directories, separated by `:`.

mod documents;
mod models;

use std::path::Path;

use models::model;
use serde_json::{Value, json};
use tokenizer::{EncodeError, Library, Tokenizer};
use work::Work;

/// As the control plane makes and the filter loads it.
fn load(json: &str) -> Tokenizer {
    let canonical = tk_convert::canonicalize_str(json).unwrap();
    Tokenizer::load(tokenizer::build(canonical.as_bytes()).unwrap()).unwrap()
}

/// Documents for each model.
const DOCUMENTS: usize = 20_000;

/// One test for each model, so that they run side by side.
macro_rules! ids_equal_those_of_the_other_implementations {
    ($($name:ident: $model:expr;)*) => {
        mod ids_equal_those_of_the_other_implementations {
            use super::*;
            $(#[test]
            fn $name() {
                let json = $model;
                compare(&json, library(&json));
            })*
        }
    };
}

ids_equal_those_of_the_other_implementations! {
    qwen3: model("qwen3");
    deepseek_v3: model("deepseek_v3");
    gemma3: model("gemma3");
    gptoss: model("gptoss");
    llama2: model("llama2");
    llama3_1: model("llama3_1");
    characters: model("afaanoromo_bpe");
    word_piece: model("afaanoromo_wordpiece");
    bert: models::bert();
    cased_bert: models::large_word_piece(false, json!(null), true);
    large_bert: models::large_word_piece(true, json!(null), true);
    bert_with_accents: models::large_word_piece(true, json!(false), false);
    word_level: models::word_level();
    words_that_end: models::with_affixes("", "</w>", false);
    words_that_go_on: models::with_affixes("##", "", false);
    words_that_go_on_and_end: models::with_affixes("##", "</w>", false);
    bytes_that_end_words: models::with_affixes("", "</w>", true);
    unigram: models::with_an_unknown_token();
    unigram_of_known_characters: model("afaanoromo_unigram");
    xlm_roberta: models::xlm_roberta(false);
    t5: models::t5(false);
    albert: models::albert(false);
    llama: models::llama(true);
    first_word: models::first_word(true);
    large_unigram: models::large_unigram();
    equal_scores: models::equal_scores(true);
    equal_scores_without_a_fallback: models::equal_scores(false);
}

#[test]
fn ids_equal_for_further_models() {
    let dirs = std::env::var("WARMPATH_TOKENIZER_DIRS").unwrap_or_default();
    for dir in dirs.split(':').filter(|dir| !dir.is_empty()) {
        let json = std::fs::read_to_string(Path::new(dir).join("tokenizer.json")).unwrap();
        println!("{dir}");
        // Of the library by itself not all is right (`build` makes up for it).
        compare(&json, None);
    }
}

/// As in Gemma 1 and 2, where the tab is a token and its byte is not.
#[test]
fn a_byte_that_is_never_fallen_back_to_may_be_missing() {
    let bytes = (0..=0xff_u8)
        .filter(|&byte| byte != b'\t')
        .map(|byte| format!("<0x{byte:02X}>"));
    let others = ["<unk>", "a", "b", "\t", "▁", "ab", "\t\t", "▁a"].map(str::to_owned);
    let vocab: serde_json::Map<_, _> = others
        .into_iter()
        .chain(bytes)
        .zip(0..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [{"id": vocab.len(), "content": "<new>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": [["a", "b"], ["\t", "\t"], ["▁", "a"]]}});
    let theirs: tokenizers::Tokenizer = json.to_string().parse().unwrap();
    let ours = load(&json.to_string());
    for text in ["\t", "a\tb<new>", " ab\t\t\t", "é\n\t<0x09>", "\u{1}\t\u{7f}", ""] {
        let mut ids = Vec::new();
        encode(&ours, text, false, &mut ids).unwrap();
        assert_eq!(ids, theirs.encode_fast(text, false).unwrap().get_ids(), "{text:?}");
    }
}

/// Whatever work it takes.
fn encode(ours: &Tokenizer, document: &str, add_special_tokens: bool, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
    let cutter = ours.cutter();
    let [prefix, suffix] = match add_special_tokens {
        true => [cutter.prefix(), cutter.suffix()],
        false => [&[][..]; 2],
    };
    ids.extend_from_slice(prefix);
    cutter.encode_into(document, 0, &Work::unbounded(), ids)?;
    ids.extend_from_slice(suffix);
    Ok(())
}

fn compare(json: &str, library: Option<Library>) {
    let theirs: tokenizers::Tokenizer = as_from_pypi(json).parse().unwrap();
    let added = theirs.get_added_tokens_decoder().into_values();
    let mut tokens: Vec<String> = added.map(|token| token.content).collect();
    tokens.sort();
    let documents = documents::all(DOCUMENTS, &tokens);
    assert!(documents.len() >= DOCUMENTS);
    let ours = load(json);
    let mut compared = 0;
    type Encode<'a> = &'a dyn Fn(&str, bool, &mut Vec<u32>) -> Result<(), EncodeError>;
    let mut check = |encode: Encode<'_>, document: &str, add_special_tokens: bool| {
        let expected = theirs.encode_fast(document, add_special_tokens);
        let mut ids = vec![7];
        let encoded = encode(document, add_special_tokens, &mut ids);
        if encoded.is_err() {
            ids.truncate(1);
        }
        assert_eq!(encoded.is_ok(), expected.is_ok(), "{document:?}");
        assert_eq!(ids[0], 7, "appends");
        let expected_ids = expected.as_ref().map_or(&[][..], |it| it.get_ids());
        assert_eq!(&ids[1..], expected_ids, "{document:?}");
        assert!(ids.iter().all(|id| (*id as usize) < ours.vocab_size()));
        compared += usize::from(expected.is_ok());
    };
    let flat: Encode<'_> = &|document, add, ids| encode(&ours, document, add, ids);
    for (index, document) in documents.iter().enumerate() {
        check(flat, document, false);
        // What is the same for all documents is tried on some.
        if index % 8 == 0 {
            check(flat, document, true);
            // The library's own WordPiece passes over zeros at the start of a word.
            let is_misread = document.contains('\0') && json.contains("\"WordPiece\"");
            let is_misread = is_misread || is_newer_to_the_library(document);
            if let Some(library) = library.as_ref().filter(|_| !is_misread) {
                let library: Encode<'_> = &|document, add, ids| library.encode_into(document, add, ids);
                check(library, document, false);
                check(library, document, true);
            }
        }
    }
    println!("{compared} encodings compared");
    assert!(compared > 200, "{compared}");
}

/// The library by itself. `None` if it cannot read the model, as a regular expression needs an engine, or if it would miss
/// added tokens, as it looks for normalized ones behind marked spaces, or spells bytes and unknown characters otherwise, as
/// it does with affixes.
fn library(json: &str) -> Option<Library> {
    let canonical = tk_convert::canonicalize_str(json).unwrap();
    let misses_tokens = canonical.contains("MetaspaceNormalizer") && json.contains("\"normalized\":true");
    let model: Value = serde_json::from_str::<Value>(json).unwrap()["model"].take();
    let is_affixed = |name| model["type"] == "BPE" && model[name].as_str().is_some_and(|affix| !affix.is_empty());
    let spells_otherwise = ["continuing_subword_prefix", "end_of_word_suffix"]
        .into_iter()
        .any(is_affixed);
    (!misses_tokens && !spells_otherwise && !json.contains(" {2,}"))
        .then(|| Library::from_json(canonical.as_bytes()).unwrap())
}

/// The scores of a Unigram model as the package `tokenizers` of PyPI reads them. It is built without the feature
/// `float_roundtrip` of serde_json, so that numbers of more than 15 digits may be a last bit off.
fn as_from_pypi(json: &str) -> String {
    let mut json: Value = serde_json::from_str(json).unwrap();
    let vocab = json["model"]["vocab"].as_array_mut();
    for score in vocab.into_iter().flatten().filter_map(|entry| entry.get_mut(1)) {
        *score = read_in_haste(&score.to_string()).into();
    }
    json.to_string()
}

fn read_in_haste(number: &str) -> f64 {
    let (digits, exponent) = number.split_once('e').unwrap_or((number, "0"));
    let fraction = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i32);
    let digits: i64 = digits.replace('.', "").parse().unwrap();
    let exponent = exponent.parse::<i32>().unwrap() - fraction;
    let power = format!("1e{}", exponent.abs()).parse::<f64>().unwrap();
    match exponent < 0 {
        true => digits as f64 / power,
        false => digits as f64 * power,
    }
}

/// Whether the library's tables may treat the document otherwise than the older ones that engines have: the flat engine
/// makes up for that (`flat::normalize`, `flat::classes`), the library does not.
fn is_newer_to_the_library(document: &str) -> bool {
    let old = |character| matches!(character, '\0'..='\u{61c}' | '\u{61e}'..'\u{7fd}' | '\u{2010}'..'\u{2070}' | '\u{3000}'..'\u{31e0}' | '\u{3400}'..'\u{9fd6}' | '가'..='힣');
    !document.chars().all(old)
}

#[test]
fn the_word_cache_does_not_change_ids() {
    let shared = load(&model("qwen3"));
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
    let json = model("qwen3");
    let theirs = tokenizers::Tokenizer::from_bytes(json.as_bytes()).unwrap();
    let last = theirs.get_vocab(true).into_values().max().unwrap();
    assert_eq!(load(&json).vocab_size(), last as usize + 1);
}

#[test]
fn unsupported_tokenizers_are_named() {
    let bad = |json: &[u8]| tokenizer::build(json).expect_err("must be refused").to_string();
    assert!(bad(b"\xff").contains("not UTF-8"));
    assert!(bad(b"{").contains("not supported"));
    assert!(bad(br#"{"version":"1.0","model":{}}"#).contains("1.0"));
    assert!(bad(br#"{"version":"2.0"}"#).contains("no `model`"));
    let unknown = br#"{"version":"2.0","model":{"type":"Sentences","vocab":{},"unk_token":"x"}}"#;
    assert!(bad(unknown).contains("unknown"), "{}", bad(unknown));
    // Real ones that cannot be used: the pattern of a normalizer needs a regex engine.
    let canonical = tk_convert::canonicalize_str(&model("mon_unigram")).unwrap();
    let refused = tokenizer::build(canonical.as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("Replace"), "{refused}");
}

#[test]
fn over_long_text_is_refused_and_appends_nothing() {
    let tokenizer = load(&model("qwen3"));
    let mut ids = vec![1];
    let text = " ".repeat(tokenizer::MAX_TEXT_BYTES + 1);
    assert!(tokenizer.encode_into(&text, false, &mut ids).is_err());
    assert_eq!(ids, [1]);
}
