//! Models that are compared: those that `scripts/setup test` fetches, and such with the parts of others.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tk_encode::utils::byte_level::BYTES_CHAR_LOOKUP;

/// The `tokenizer.json` of a model that `scripts/setup test` fetches.
pub(crate) fn model(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/models")
        .join(name);
    assert!(
        dir.join("tokenizer.json").exists(),
        "no model in {}: run scripts/setup test",
        dir.display()
    );
    std::fs::read_to_string(dir.join("tokenizer.json")).unwrap()
}

/// A WordPiece vocabulary with what BERT puts before it.
pub(crate) fn bert() -> String {
    let mut json: Value = serde_json::from_str(&model("afaanoromo_wordpiece")).unwrap();
    json["normalizer"] = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true});
    json["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
    json["post_processor"] = json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
    json.to_string()
}

/// BERT's parts around a vocabulary of all scripts, made of Gemma's: what starts a word there does so here.
pub(crate) fn large_word_piece(lowercase: bool, strip_accents: Value, clean_text: bool) -> String {
    let bpe: Value = serde_json::from_str(&model("gemma3")).unwrap();
    let mut vocab = serde_json::Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(id.into());
    };
    for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] {
        add(token.to_owned());
    }
    for (token, _) in bpe["model"]["vocab"].as_object().unwrap() {
        let token = if lowercase { token.to_lowercase() } else { token.clone() };
        match token.strip_prefix('▁') {
            Some(word) => add(word.to_owned()),
            None => add(format!("##{token}")),
        }
        if token.chars().count() == 1 {
            add(token);
        }
    }
    vocab.remove("");
    json!({
        "version": "1.0",
        "normalizer": {"type": "BertNormalizer", "clean_text": clean_text, "handle_chinese_chars": clean_text,
            "strip_accents": strip_accents, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [added(2, "[CLS]", false, false), added(3, "[SEP]", false, false), added(4, "[MASK]", false, true),
            added(300_000, "Straße", true, false)],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    })
    .to_string()
}

pub(crate) fn word_level() -> String {
    let mut json: Value = serde_json::from_str(&large_word_piece(true, json!(true), true)).unwrap();
    let vocab = json["model"]["vocab"].take();
    json["model"] = json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab});
    json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Whitespace"}, {"type": "Punctuation", "behavior": "Isolated"}]});
    json.to_string()
}

/// A BPE model that spells what goes on with a word with `prefix` before it, and what ends one with `suffix` behind it; made of
/// the words of this repository's documentation.
pub(crate) fn with_affixes(prefix: &str, suffix: &str, byte_level: bool) -> String {
    const WORDS: usize = 1500;
    const MERGES: usize = 600;
    let spelled = |word: &str| -> Vec<String> {
        let plain: Vec<String> = match byte_level {
            true => word
                .bytes()
                .map(|byte| BYTES_CHAR_LOOKUP[usize::from(byte)].to_string())
                .collect(),
            false => word.chars().map(String::from).collect(),
        };
        let last = plain.len().saturating_sub(1);
        let plain = plain.into_iter().enumerate();
        plain
            .map(|(at, symbol)| {
                let [before, after] =
                    [(at > 0, prefix), (at == last, suffix)].map(|(is, affix)| if is { affix } else { "" });
                format!("{before}{symbol}{after}")
            })
            .collect()
    };
    let text = concat!(
        include_str!("../../../../docs/prompts.md"),
        " é̀ 日本語 日 naïve Straße фраза мир"
    );
    let words = text
        .split_whitespace()
        .take(WORDS)
        .chain(text.split_whitespace().rev().take(8));
    let mut words: Vec<Vec<String>> = words.map(spelled).collect();
    let mut tokens = vec!["<unk>".to_owned()];
    let mut add = |token: String| {
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    };
    if byte_level {
        for spelling in *BYTES_CHAR_LOOKUP {
            add(spelling.to_string());
            add(format!("{prefix}{spelling}"));
            add(format!("{spelling}{suffix}"));
            add(format!("{prefix}{spelling}{suffix}"));
        }
    }
    words.iter().flatten().cloned().for_each(&mut add);
    let mut merges = Vec::new();
    for _ in 0..MERGES {
        let mut counts = BTreeMap::new();
        for pair in words.iter().flat_map(|word| word.windows(2)) {
            *counts.entry([pair[0].clone(), pair[1].clone()]).or_insert(0) += 1;
        }
        let Some((pair, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else {
            break;
        };
        let token = [pair[0].as_str(), &pair[1][prefix.len()..]].concat();
        for word in &mut words {
            while let Some(at) = word.windows(2).position(|two| two == pair.as_slice()) {
                word.splice(at..at + 2, [token.clone()]);
            }
        }
        add(token);
        merges.push(pair);
    }
    let vocab: serde_json::Map<_, _> = tokens
        .into_iter()
        .zip(0..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let [normalizer, pre_tokenizer] = match byte_level {
        true => [
            json!({"type": "NFC"}),
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        ],
        false => [
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": false}),
            json!({"type": "BertPreTokenizer"}),
        ],
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "decoder": null,
        "added_tokens": [added(0, "<unk>", false, false)], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": prefix,
            "end_of_word_suffix": suffix, "fuse_unk": true, "byte_fallback": false, "vocab": vocab, "merges": merges},
    })
    .to_string()
}

/// As it is, it refuses all characters that are not in its vocabulary.
pub(crate) fn with_an_unknown_token() -> String {
    let mut json: Value = serde_json::from_str(&model("afaanoromo_unigram")).unwrap();
    json["model"]["unk_id"] = json!(1);
    json.to_string()
}

/// A Unigram vocabulary of 64,256 tokens with what other models put before and behind theirs.
fn sentence_piece(parts: &Value, byte_fallback: bool) -> String {
    let mut json: Value = serde_json::from_str(&model("mon_unigram")).unwrap();
    json.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    json["model"]["byte_fallback"] = json!(byte_fallback);
    json.to_string()
}

/// And BGE-M3, and multilingual E5.
pub(crate) fn xlm_roberta(byte_fallback: bool) -> String {
    let parts = json!({
        "normalizer": nmt_nfkc(),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}]},
        "added_tokens": [added(1, "<s>", false, false), added(2, "</s>", false, false), added(3, "<pad>", false, false),
            added(0, "<unk>", false, false), added(5, "<mask>", true, true)],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
    });
    sentence_piece(&parts, byte_fallback)
}

pub(crate) fn t5(byte_fallback: bool) -> String {
    sentence_piece(&parts_of_t5(), byte_fallback)
}

/// As `transformers` converts it now. So do DeBERTa-v3, mBART, NLLB and Pegasus look.
fn parts_of_t5() -> Value {
    json!({
        "normalizer": {"type": "Sequence", "normalizers": [
            nmt_nfkc(),
            {"type": "Strip", "strip_left": false, "strip_right": true},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "added_tokens": [added(2, "</s>", false, false), added(9, "<extra id>", true, false)],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
    })
}

pub(crate) fn albert(byte_fallback: bool) -> String {
    let parts = json!({
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "``"}, "content": "\""},
            {"type": "Replace", "pattern": {"String": "''"}, "content": "\""},
            {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, nmt_nfkc()]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "add_prefix_space": true}]},
        "added_tokens": [added(7, "[MASK]", false, true), added(8, "<Word>", true, false)],
    });
    sentence_piece(&parts, byte_fallback)
}

/// Whole texts are words.
pub(crate) fn llama(byte_fallback: bool) -> String {
    let parts = json!({
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "added_tokens": [added(1, "<s>", false, false)],
    });
    sentence_piece(&parts, byte_fallback)
}

pub(crate) fn first_word(byte_fallback: bool) -> String {
    let parts = json!({
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
        "added_tokens": [added(1, "<s>", false, false), added(4, "Ａ b", true, false)],
    });
    sentence_piece(&parts, byte_fallback)
}

fn added(id: u32, content: &str, normalized: bool, lstrip: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": false,
        "normalized": normalized, "special": !normalized})
}

/// Gemma's 262,144 tokens with scores by their rank, of which many are equal.
pub(crate) fn large_unigram() -> String {
    let bpe: Value = serde_json::from_str(&model("gemma3")).unwrap();
    let mut tokens: Vec<(&String, u64)> = bpe["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (token, id.as_u64().unwrap()))
        .collect();
    tokens.sort_by_key(|(_, id)| *id);
    let score = |id: u64| -((id / 16 + 2) as f64).ln();
    let vocab: Vec<_> = tokens.iter().map(|(token, id)| (token, score(*id))).collect();
    let mut json = parts_of_t5();
    json["version"] = json!("1.0");
    json["model"] = json!({"type": "Unigram", "unk_id": 3, "byte_fallback": false, "vocab": vocab});
    json.to_string()
}

/// A model in which nearly all ways to split a text have the same score, and a token of unknown characters only.
pub(crate) fn equal_scores(byte_fallback: bool) -> String {
    let few = [
        "a", "b", "aa", "ab", "ba", "bb", "aab", "aba", "bab", "bbb", " ", "  ", "é", "e\u{301}", "<u>x",
    ];
    let bytes = (0..=0xff).map(|byte| format!("<0x{byte:02X}>"));
    let mut vocab = vec![("<u>".to_owned(), 0.0), ("xyz".to_owned(), -200.0)];
    vocab.extend(few.map(|token| (token.to_owned(), -0.1 * token.chars().count() as f64)));
    vocab.extend(bytes.map(|byte| (byte, -8.0)));
    json!({
        "version": "1.0", "added_tokens": [],
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": byte_fallback, "vocab": vocab},
    })
    .to_string()
}

/// SentencePiece's `nmt_nfkc` map, which lies in the sources of the crate that reads it.
fn nmt_nfkc() -> Value {
    let cargo = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages
        .iter()
        .find(|package| package["name"] == "spm_precompiled")
        .unwrap();
    let map = Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("test.json");
    serde_json::from_slice(&std::fs::read(map).unwrap()).unwrap()
}
