//! Damaged and hostile artefacts are refused, or load and give some ids: never a panic, never an endless loop.

#[path = "models/small.rs"]
#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports them")]
mod small;

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizer::{EncodeError, LoadError, Tokenizer};
use xxhash_rust::xxh3::xxh3_64;

/// Kinds of models.
#[derive(Clone, Copy, Debug)]
enum Kind {
    ByteLevel,
    ByteFallback,
    Unigram,
    WordPiece,
    Affixes,
}

const KINDS: [Kind; 5] = [
    Kind::ByteLevel,
    Kind::ByteFallback,
    Kind::Unigram,
    Kind::WordPiece,
    Kind::Affixes,
];

/// Models with every kind of section filled, small enough to be damaged everywhere.
fn artefact(kind: Kind) -> Vec<u8> {
    let json = match kind {
        Kind::ByteLevel => small::bpe(true),
        Kind::ByteFallback => small::bpe(false),
        Kind::Unigram => small::unigram(),
        Kind::WordPiece => small::word_piece(),
        Kind::Affixes => small::bpe_with_affixes(),
    };
    tokenizer::build(json.to_string().as_bytes()).unwrap()
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
    for kind in KINDS {
        try_out(artefact(kind)).unwrap();
    }
}

#[test]
fn every_truncation_is_refused() {
    for kind in KINDS {
        let whole = artefact(kind);
        for length in (0..300).chain((300..whole.len()).step_by(97)) {
            let cut = whole[..length].to_vec();
            assert!(try_out(cut.clone()).is_err(), "{kind:?} {length}");
            assert!(
                try_out(with_right_checksum(cut)).is_err(),
                "{kind:?} {length}, right checksum"
            );
        }
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    for kind in KINDS {
        let whole = artefact(kind);
        for at in (0..600).chain((600..whole.len()).step_by(61)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            assert!(Tokenizer::load(flipped).is_err(), "{kind:?} {at}");
        }
    }
}

#[test]
fn other_versions_are_named() {
    let mut version = artefact(Kind::ByteLevel);
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
        kind in 0..KINDS.len(),
        in_head in proptest::collection::vec((4..43_usize, number()), 0..4),
        anywhere in proptest::collection::vec((any::<prop::sample::Index>(), number()), 0..40),
        bytes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    ) {
        thread_local! {
            static WHOLE: [Vec<u8>; KINDS.len()] = KINDS.map(artefact);
        }
        let mut hostile = WHOLE.with(|whole| whole[kind].clone());
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

/// Characters that go on with a word, or end one, are spelled otherwise.
#[test]
fn affixes_are_read() {
    let ids = |affixes: Value, text: &str| {
        let mut json = json!({
            "version": "2.0",
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "BPE", "byte_level": false, "byte_fallback": false, "unk_token": "?",
                "vocab": {"?": 0, "a": 1, "b": 2, "+b": 3, "b.": 4, "+b.": 5, "ab": 6, "ab.": 7, "a.": 8},
                "merges": [["a", "+b."], ["a", "+b"], ["a", "b."]]},
        });
        for (name, affix) in affixes.as_object().unwrap() {
            json["model"][name] = affix.clone();
        }
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        let [has_prefix, has_suffix] =
            ["continuing_subword_prefix", "end_of_word_suffix"].map(|name| affixes.get(name).is_some());
        merges.retain(|merge| {
            let right = merge[1].as_str().unwrap();
            right.starts_with('+') == has_prefix && right.ends_with('.') == has_suffix
        });
        let tokenizer = Tokenizer::load(tokenizer::build(json.to_string().as_bytes()).unwrap()).unwrap();
        let mut ids = Vec::new();
        tokenizer.encode_into(text, false, &mut ids).unwrap();
        ids
    };
    assert_eq!(ids(json!({"end_of_word_suffix": "."}), "ab b a bab"), [7, 4, 8, 2, 7]);
    assert_eq!(
        ids(json!({"continuing_subword_prefix": "+"}), "ab b a bab"),
        [6, 2, 1, 2, 0, 3]
    );
    let both = json!({"continuing_subword_prefix": "+", "end_of_word_suffix": "."});
    assert_eq!(ids(both, "ab b a abb"), [7, 4, 8, 1, 3, 5]);
}

#[test]
fn long_tokens_are_held_and_longer_ones_are_not() {
    let build = |longest: usize| {
        let json = json!({
            "version": "2.0",
            "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["a".repeat(longest), -1.0]]},
        });
        tokenizer::build(json.to_string().as_bytes())
    };
    assert!(build(1024).is_ok());
    let refused = build(1025).unwrap_err().to_string();
    assert!(refused.contains("1025 bytes"), "{refused}");
}

#[test]
fn words_beyond_memory_are_refused() {
    let tokenizer = Tokenizer::load(artefact(Kind::Unigram)).unwrap();
    let mut ids = vec![7];
    let refused = tokenizer.encode_into(&"a".repeat(12_000_001), true, &mut ids);
    assert!(matches!(refused, Err(EncodeError::WordTooLong { .. })));
    assert_eq!(ids, [7]);
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
    assert!(artefact.len() < 8 << 20, "{}", artefact.len());
}

#[test]
fn ids_that_the_library_cannot_cope_with_are_refused() {
    let refused = |vocab: Value| {
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
