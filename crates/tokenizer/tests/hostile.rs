//! Damaged and hostile artefacts are refused, or load and give some ids: never a panic, never an endless loop.

use std::path::Path;

use proptest::prelude::*;
use tokenizer::{LoadError, Tokenizer};
use xxhash_rust::xxh3::xxh3_64;

/// A model with every kind of section filled, small enough to be damaged everywhere.
fn artefact(byte_level: bool) -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(id.into());
    };
    for byte in 0..=255_u8 {
        add(tk_encode::utils::byte_level::BYTES_CHAR_LOOKUP[usize::from(byte)].to_string());
        add(format!("<0x{byte:02X}>"));
    }
    let merges = [["a", "b"], ["ab", "c"], ["Ã", "©"], ["b", "c"], ["Ġ", "a"]];
    for [left, right] in merges {
        add(format!("{left}{right}"));
    }
    let added = |id: usize, content: &str, normalized: bool| {
        serde_json::json!({"id": id, "content": content, "single_word": normalized, "lstrip": normalized, "rstrip": normalized,
            "normalized": normalized, "special": !normalized})
    };
    let json = serde_json::json!({
        "version": "2.0",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": false},
        "added_tokens": [added(vocab.len(), "<|end|>", false), added(vocab.len() + 1, "word", true)],
        "model": {"type": "BPE", "byte_level": byte_level, "byte_fallback": !byte_level, "vocab": vocab, "merges": merges},
    });
    let artefact = tokenizer::build(json.to_string().as_bytes()).unwrap();
    assert_eq!(artefact.not_flat, None);
    artefact.bytes
}

const TEXTS: [&str; 4] = [
    "abc abcab é<|end|>word",
    "",
    "日本 \u{e9}e\u{301} \u{10ffff}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabcabcab",
];

/// Loads and, if that works, encodes.
fn try_out(artefact: Vec<u8>) -> Result<(), LoadError> {
    let tokenizer = Tokenizer::load(artefact)?;
    for text in TEXTS {
        let mut ids = Vec::new();
        if tokenizer.encode_into(text, true, &mut ids).is_ok() {
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        }
    }
    Ok(())
}

/// What a checksum cannot show: the content as someone meant it to be.
fn with_right_checksum(mut artefact: Vec<u8>) -> Vec<u8> {
    if artefact.len() >= 16 {
        let checksum = xxh3_64(&artefact[16..]);
        artefact[8..16].copy_from_slice(&checksum.to_le_bytes());
    }
    artefact
}

#[test]
fn a_whole_artefact_loads() {
    for byte_level in [false, true] {
        try_out(artefact(byte_level)).unwrap();
    }
}

#[test]
fn every_truncation_is_refused() {
    let whole = artefact(true);
    for length in (0..300).chain((300..whole.len()).step_by(97)) {
        let cut = whole[..length].to_vec();
        assert!(try_out(cut.clone()).is_err(), "{length}");
        assert!(try_out(with_right_checksum(cut)).is_err(), "{length}, right checksum");
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let whole = artefact(true);
    for at in (0..600).chain((600..whole.len()).step_by(61)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x55;
        assert!(Tokenizer::load(flipped).is_err(), "{at}");
    }
}

#[test]
fn other_versions_and_forms_are_named() {
    let mut version = artefact(true);
    version[16] = 9;
    assert!(matches!(
        Tokenizer::load(version),
        Err(LoadError::Version { found: 9, .. })
    ));
    assert!(matches!(Tokenizer::load(b"{}".to_vec()), Err(LoadError::Damaged(_))));
    assert!(matches!(Tokenizer::load(Vec::new()), Err(LoadError::Damaged(_))));
}

/// Numbers that offsets, lengths, ids and ranks may be turned into.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(u32::MAX - 1),
        Just(1 << 31),
        Just((1 << 20) - 1),
        0..1000_u32,
        any::<u32>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn hostile_content_never_panics(
        byte_level in any::<bool>(),
        in_head in proptest::collection::vec((4..34_usize, number()), 0..4),
        anywhere in proptest::collection::vec((any::<prop::sample::Index>(), number()), 0..40),
        bytes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    ) {
        thread_local! {
            static WHOLE: [Vec<u8>; 2] = [artefact(false), artefact(true)];
        }
        let mut hostile = WHOLE.with(|whole| whole[usize::from(byte_level)].clone());
        let words = hostile.len() / 4;
        let places = in_head.into_iter().chain(anywhere.iter().map(|(index, number)| (index.index(words), *number)));
        for (place, number) in places {
            hostile[4 * place..4 * place + 4].copy_from_slice(&number.to_le_bytes());
        }
        for (index, byte) in bytes {
            let at = index.index(hostile.len());
            hostile[at] = byte;
        }
        hostile[..8].copy_from_slice(b"WARMTOK\0");
        let _ = try_out(with_right_checksum(hostile));
    }
}

/// Models that flat tables cannot hold travel as JSON and give the library's ids.
#[test]
fn other_models_load_through_the_library() {
    let unigram = serde_json::json!({
        "version": "2.0",
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -1.5]]},
    });
    let word_piece = serde_json::json!({
        "version": "2.0",
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2, "c": 3}},
    });
    for (json, text, expected) in [(unigram, "abb", vec![3, 2]), (word_piece, "ab c d", vec![1, 2, 3, 0])] {
        let artefact = tokenizer::build(json.to_string().as_bytes()).unwrap();
        assert!(artefact.not_flat.is_some_and(|reason| reason.contains("not BPE")));
        let tokenizer = Tokenizer::load(artefact.bytes).unwrap();
        let mut ids = Vec::new();
        tokenizer.encode_into(text, false, &mut ids).unwrap();
        assert_eq!(ids, expected);
    }
}

/// The same for a tokenizer whose regex needs a regex engine: known when it is built, not when a request comes.
#[test]
fn an_unknown_regex_is_refused_when_it_is_built() {
    let json = serde_json::json!({
        "version": "2.0",
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x+(?=y)"}, "behavior": "Isolated", "invert": false},
        "model": {"type": "BPE", "byte_level": false, "vocab": {"x": 0}, "merges": []},
    });
    assert!(matches!(
        tokenizer::build(json.to_string().as_bytes()),
        Err(LoadError::Unsupported(_))
    ));
}

#[test]
fn a_real_artefact_is_whole() {
    let dir = std::env::var_os("WARMPATH_MODEL_DIR").map(std::path::PathBuf::from);
    let dir = dir.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/models/qwen3"));
    let json = tk_convert::canonicalize_file(dir.join("tokenizer.json")).expect("no model: run scripts/setup");
    let artefact = tokenizer::build(json.as_bytes()).unwrap();
    assert_eq!(artefact.not_flat, None);
    assert!(artefact.bytes.len() < 8 << 20, "{}", artefact.bytes.len());
}

#[test]
fn ids_that_the_library_cannot_cope_with_are_refused() {
    let refused = |vocab: serde_json::Value| {
        let json = serde_json::json!({
            "version": "2.0",
            "model": {"type": "BPE", "byte_level": false, "byte_fallback": false, "vocab": vocab, "merges": []},
        });
        match tokenizer::build(json.to_string().as_bytes()) {
            Err(LoadError::Unsupported(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    // It knows another of the two each time it reads them.
    let twice = refused(serde_json::json!({"x": 1, "a": 1, "b": 2}));
    assert_eq!(twice, r#"model.vocab: the tokens "x" and "a" have the same id, 1"#);
    // It would take gigabytes.
    let far = refused(serde_json::json!({"x": 1, "a": 2e9}));
    assert_eq!(far, r#"the token "a" has the id 2000000000, more than 16777215"#);
}

/// Its perfect hash finds no place for these tokens, whatever makes them special: found by fuzzing.
#[test]
fn a_file_that_the_library_panics_at_is_refused() {
    let bytes = (0..=0x20_u8).chain(0xfd..=0xff).map(|byte| match byte {
        0x13 => ("<0x1,3>".to_owned(), 21),
        _ => (format!("<0x{byte:02X}>"), 2 + u32::from(byte)),
    });
    #[rustfmt::skip]
    let others = [
        ("<unk>", 0), ("<s>", 1), ("<0x<0xFC>", 254), ("▁", 258), ("a", 259), ("b", 260), ("c", 261), ("ab", 262), ("abc", 263),
        ("▁a", 264), ("é", 265), ("日", 266),
    ];
    let others = others.map(|(token, id)| (token.to_owned(), id));
    let vocab: std::collections::BTreeMap<_, _> = bytes.chain(others).collect();
    let json = serde_json::json!({
        "version": "2.0",
        "model": {"type": "BPE", "byte_level": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    let refused = tokenizer::build(json.to_string().as_bytes());
    assert!(matches!(refused, Err(LoadError::Unsupported(why)) if why.contains("panics")));
}
