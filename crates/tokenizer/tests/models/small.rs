//! Small models with every kind of section filled, for tests and fuzz targets of artefacts (`fuzz/src/lib.rs`).

use serde_json::{Map, Value, json};

/// The canonical `tokenizer.json` of a small BPE model with something of everything: byte-level, or with a fallback to bytes.
pub fn bpe(byte_level: bool) -> Value {
    let mut vocab = Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(id.into());
    };
    // GPT-2's printable stand-ins for bytes.
    let printable = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}');
    printable
        .chain('\u{100}'..='\u{143}')
        .for_each(|stand_in| add(stand_in.into()));
    (0..=255).for_each(|byte| add(format!("<0x{byte:02X}>")));
    let merges = [
        ["a", "b"],
        ["ab", "c"],
        ["\u{c3}", "\u{a9}"],
        ["b", "c"],
        ["\u{120}", "a"],
    ];
    merges.iter().for_each(|pair| add(pair.concat()));
    let added = [
        added(vocab.len(), "<|end|>", true),
        added(vocab.len() + 1, "word", false),
    ];
    json!({
        "version": "2.0",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": false},
        "added_tokens": added,
        "model": {"type": "BPE", "byte_level": byte_level, "byte_fallback": !byte_level, "vocab": vocab, "merges": merges},
    })
}

/// The canonical `tokenizer.json` of a small BPE model that spells bytes otherwise inside and at the end of a word.
pub fn bpe_with_affixes() -> Value {
    let mut json = bpe(true);
    let vocab = json["model"]["vocab"].as_object().expect("a vocabulary").clone();
    let spellings = vocab.keys().filter(|token| token.chars().count() == 1);
    let spellings = spellings.flat_map(|token| [format!("+{token}"), format!("{token}."), format!("+{token}.")]);
    let tokens = spellings.chain(["ab".to_owned(), "ab.".to_owned(), "\u{c3}\u{a9}.".to_owned()]);
    let mut all = vocab.clone();
    for token in tokens {
        let id = all.len();
        all.entry(token).or_insert(id.into());
    }
    json["added_tokens"][0]["id"] = all.len().into();
    json["added_tokens"][1]["id"] = (all.len() + 1).into();
    json["model"]["vocab"] = all.into();
    json["model"]["merges"] = json!([["a", "+b"], ["a", "+b."], ["\u{c3}", "+\u{a9}."]]);
    json["model"]["continuing_subword_prefix"] = "+".into();
    json["model"]["end_of_word_suffix"] = ".".into();
    json
}

/// The canonical `tokenizer.json` of a small Unigram model with something of everything.
pub fn unigram() -> Value {
    let bytes = (0..=0xff).map(|byte| (format!("<0x{byte:02X}>"), -9.0));
    let tokens =
        ["a", "b", "ab", "abc", "cab", "\u{65e5}", "\u{2581}", "\u{2581}a"].map(|token| (token.to_owned(), -1.5));
    let vocab: Vec<_> = std::iter::once(("<unk>".to_owned(), 0.0))
        .chain(tokens)
        .chain(bytes)
        .collect();
    json!({
        "version": "2.0",
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": charsmap()},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "MetaspaceNormalizer", "replacement": "\u{2581}", "prepend": "always", "drop_whitespace": false}]},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": "\u{2581}"}, "behavior": "MergedWithNext", "invert": false},
        "added_tokens": [added(vocab.len(), "<|end|>", true), added(vocab.len() + 1, "word", false)],
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": vocab},
    })
}

/// The canonical `tokenizer.json` of a small WordPiece model with something of everything.
pub fn word_piece() -> Value {
    json!({
        "version": "2.0",
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [added(9, "<|end|>", true), added(10, "word", false)],
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20,
            "vocab": {"[UNK]": 0, "a": 1, "abc": 2, "##a": 3, "##ab": 4, "##c": 5, "##bc": 6, "\u{65e5}": 7, "e": 8}},
    })
}

/// A character map from \u{e9} to e, in base 64: a trie of 256 units, of which all but the first ones are zero, and a text.
fn charsmap() -> String {
    format!("AAQAAAAAAwCpDQAAAAAAgMOsAgAA{}AABlAA==", "A".repeat(1340))
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": !special, "lstrip": !special, "rstrip": !special,
        "normalized": !special, "special": special})
}
