//! Artefacts of tokenizers that somebody has changed: refused, or good for some ids. The input says what is written where,
//! four bytes each.

#![no_main]

use std::sync::LazyLock;

use fuzz::models;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokenizer::Tokenizer;
use xxhash_rust::xxh3::xxh3_64;

const TEXTS: [&str; 4] = [
    "abc abcab \u{e9}<|end|>word",
    "\u{65e5}\u{672c} e\u{301} \u{10ffff}\r\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabcabcab",
    "abc\u{2581}\u{65e5}\u{672c}\u{e9}\u{e9}\u{65e5}ab\u{1f600}\u{65e5}\u{672c}\u{2581}abc",
];

fuzz_target!(|changes: &[u8]| {
    let Some((&choice, changes)) = changes.split_first() else {
        return;
    };
    let mut artefact = ARTEFACTS[usize::from(choice) % ARTEFACTS.len()].clone();
    for change in changes.as_chunks::<6>().0 {
        let [low, high, value @ ..] = *change;
        let word = usize::from(u16::from_le_bytes([low, high])) % (artefact.len() / 4);
        artefact[4 * word..][..4].copy_from_slice(&value);
    }
    // Magic and checksum are right: what they show is shown.
    artefact[..8].copy_from_slice(b"WARMTOK\0");
    let checksum = xxh3_64(&artefact[16..]);
    artefact[8..16].copy_from_slice(&checksum.to_le_bytes());
    let Ok(tokenizer) = Tokenizer::load(artefact) else {
        return;
    };
    for text in TEXTS {
        let mut ids = Vec::new();
        if tokenizer.encode_into(text, true, &mut ids).is_ok() {
            assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        }
    }
});

/// Every section has something in it, in one of them.
static ARTEFACTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let models = [
        models::bpe(true),
        models::bpe(false),
        models::unigram(),
        models::word_piece(),
        models::bpe_with_affixes(),
    ];
    models.into_iter().map(artefact).collect()
});

fn artefact(json: Value) -> Vec<u8> {
    tokenizer::build(json.to_string().as_bytes()).expect("it can be built")
}
