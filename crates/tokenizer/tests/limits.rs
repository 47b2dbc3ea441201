//! What a `tokenizer.json` may ask for, and what it costs where it asks for much.

use serde_json::{Value, json};
use tokenizer::{EncodeError, LoadError, Tokenizer};
use work::{Limits, Work};

/// A tokenizer of words with a normalizer, an added token that is normalized, and flat tables.
fn words(normalizer: Value) -> Value {
    json!({
        "version": "2.0",
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [{"id": 2, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false}],
        "model": {"type": "WordLevel", "unk_token": "x", "vocab": {"x": 0, "the": 1}},
    })
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn sequence(normalizers: Vec<Value>) -> Value {
    json!({"type": "Sequence", "normalizers": normalizers})
}

fn build(json: &Value) -> Result<Vec<u8>, LoadError> {
    tokenizer::build(json.to_string().as_bytes())
}

/// A character map from `a` to a text, in base 64.
fn charsmap(text: &str) -> String {
    let mut map = yada::builder::DoubleArrayBuilder::build(&[("a", 0)]).unwrap();
    map.splice(0..0, (map.len() as u32).to_le_bytes());
    map.extend_from_slice(text.as_bytes());
    map.push(0);
    base64(&map)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of_three = |three: &[u8]| {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(*three.get(at).unwrap_or(&0)));
        let digit = |at: u32| char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 0x3f]);
        let digits = (0..=three.len() as u32).map(digit);
        digits.chain("==".chars()).take(4).collect::<String>()
    };
    bytes.chunks(3).map(of_three).collect()
}

#[test]
fn what_no_real_tokenizer_has_is_refused() {
    let long = "a".repeat(257);
    let many = |one: Value| vec![one; 17];
    let with = |pointer: &str, value: Value| {
        let mut json = words(json!(null));
        json[pointer] = value;
        json
    };
    let around = |ids: usize| {
        let ids = vec![1; ids];
        let pair = json!([{"seq": "A"}, {"seq": "B"}]);
        with(
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"ids": ids}, {"seq": "A"}], "pair": pair}),
        )
    };
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"String": pattern}, "behavior": "Isolated", "invert": false});
    let cases = [
        (
            words(replace("a", &long)),
            "normalizer Replace: bytes of content: 257, more than 256; the file is damaged",
        ),
        (words(replace(&long, "a")), "normalizer Replace: bytes of pattern: 257"),
        (
            words(json!({"type": "Prepend", "prepend": long})),
            "normalizer Prepend: bytes of prepend: 257",
        ),
        (
            words(json!({"type": "Precompiled", "precompiled_charsmap": charsmap(&long)})),
            "normalizer Precompiled: bytes of a text in precompiled_charsmap: 257",
        ),
        (
            words(sequence(many(json!({"type": "NFC"})))),
            "normalizer: in a row: 17, more than 16",
        ),
        (
            with(
                "pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": many(split(" "))}),
            ),
            "pre_tokenizer: in a row: 17, more than 16",
        ),
        (
            with("pre_tokenizer", split(&long)),
            "pre_tokenizer Split: bytes of pattern: 257",
        ),
        (
            around(65),
            "post_processor: ids before or behind a text: 65, more than 64",
        ),
        (
            with(
                "added_tokens",
                json!([{"id": 2, "content": "a".repeat(5 << 20), "special": true}]),
            ),
            "added_tokens: bytes of all content: 5242880, more than 4194304",
        ),
        // Each of them is short: what they make of the added token is not.
        (
            words(sequence(vec![replace("e", &"e".repeat(200)); 3])),
            "normalizer: \"<|end|>\"... of 7 bytes becomes very long",
        ),
        (
            words(sequence(vec![replace("q", &"q".repeat(200)); 3])),
            "normalizer: \"The quick brown fox'\"... of 66 bytes becomes very long",
        ),
    ];
    for (json, expected) in cases {
        let refused = build(&json).map(drop).unwrap_err().to_string();
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    for json in [words(replace("a", &long[..256])), around(64)] {
        assert!(build(&json).is_ok());
    }
}

/// What normalizers write is taken from the work of the request, and not written once there is none left. Without work that
/// ends, a text does not get longer than texts may be.
#[test]
fn texts_that_normalizers_make_long_are_given_up() {
    let to = |character: char| character.to_string().repeat(240 / character.len_utf8());
    let growing = [
        sequence(vec![replace("a", &to('a')); 3]),
        sequence(vec![
            json!({"type": "Precompiled", "precompiled_charsmap": charsmap(&to('a'))}),
            replace("a", &to('b')),
            replace("b", &to('c')),
        ]),
        sequence(vec![
            replace("a", &to('é')),
            json!({"type": "ByteLevel"}),
            json!({"type": "ByteLevel"}),
            replace("©", &to('b')),
            replace("b", &to('c')),
        ]),
        sequence(vec![
            replace("a", &to('\u{fdfa}')),
            json!({"type": "NFKC"}),
            replace("\u{627}", &to('b')),
            replace("b", &to('c')),
        ]),
    ];
    let text = "a".repeat(64);
    for normalizer in growing {
        let tokenizer = Tokenizer::load(build(&words(normalizer.clone())).unwrap()).unwrap();
        let mut ids = vec![7];
        let encoded = tokenizer.encode_within(&text, false, &Work::new(Limits::DEFAULT, text.len()), &mut ids);
        assert!(
            matches!(encoded, Err(EncodeError::TooMuchWork(_))),
            "{normalizer}: {encoded:?}"
        );
        let encoded = tokenizer.encode_into(&text, false, &mut ids);
        assert!(
            matches!(encoded, Err(EncodeError::TooMuchWork(_) | EncodeError::TooLong { .. })),
            "{normalizer}: {encoded:?}"
        );
        assert_eq!(ids, [7]);
    }
}

/// Between added tokens there is little text, before which much may be put.
#[test]
fn what_is_put_before_each_text_is_counted() {
    let mut json = words(json!({"type": "Prepend", "prepend": "a".repeat(256)}));
    json["added_tokens"][0]["normalized"] = json!(false);
    let tokenizer = Tokenizer::load(build(&json).unwrap()).unwrap();
    json["normalizer"] = json!(null);
    let plain = Tokenizer::load(build(&json).unwrap()).unwrap();
    let text = "b<|end|>".repeat(1000);
    let [prepended, plain] = [tokenizer, plain].map(|tokenizer| {
        let work = Work::unbounded();
        tokenizer.encode_within(&text, false, &work, &mut Vec::new()).unwrap();
        u64::MAX - work.left()
    });
    assert!(prepended > plain + 1000 * 256, "{prepended} {plain}");
}
