//! Cut wherever the rules allow it, every text has the ids that it has whole. `WARMPATH_TOKENIZER_DIRS` may name more
//! model directories, separated by `:`.

use crate::Tokenizer;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use work::Work;

fn model_dirs() -> Vec<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/models/qwen3");
    let model = std::env::var_os("WARMPATH_MODEL_DIR").map_or(default, PathBuf::from);
    let more = std::env::var("WARMPATH_TOKENIZER_DIRS");
    std::iter::once(model)
        .chain(more.iter().flat_map(|dirs| dirs.split(':')).map(PathBuf::from))
        .collect()
}

fn load(json: &str) -> Tokenizer {
    Tokenizer::load(crate::build(json.as_bytes()).expect("builds")).expect("loads")
}

static MODELS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let models = model_dirs().into_iter().map(|dir| {
        load(&tk_convert::canonicalize_file(dir.join("tokenizer.json")).expect("no model: run scripts/setup"))
    });
    models.chain(small_models()).collect()
});

/// Models of a few tokens with every pre-tokenizer that is known, and added tokens of every kind.
fn small_models() -> impl Iterator<Item = Tokenizer> {
    use tk_encode::utils::byte_level::BYTES_CHAR_LOOKUP;
    let split = |regex: &str| serde_json::json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let deepseek: Vec<_> = tk_encode::utils::DEEPSEEK_PATTERNS.map(split).to_vec();
    let pre_tokenizers = [
        split(GPT2),
        split(CL100K),
        split(O200K),
        serde_json::json!({"type": "Sequence", "pretokenizers": deepseek}),
        serde_json::json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
        serde_json::Value::Null,
    ];
    let mut vocab = serde_json::Map::new();
    let mut merges = Vec::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(id.into());
    };
    for character in BYTES_CHAR_LOOKUP.iter() {
        add(character.to_string());
    }
    // Merges across everything that may meet at a cut: a word that is cut in two would show.
    for left in ["a", "b", "Z", "'", "s", "/", "!", "Ġ", "Ċ", "č", "ĉ", "1"] {
        for right in ["Ġ", "Ċ", "č", "a", "b", "s", "/", "!", "1"] {
            add(format!("{left}{right}"));
            merges.push([left, right]);
        }
    }
    let normalizers = [
        serde_json::Value::Null,
        serde_json::json!({"type": "NFC"}),
        serde_json::json!({"type": "Lowercase"}),
        serde_json::json!({"type": "MetaspaceNormalizer", "replacement": "▁", "prepend": "first", "drop_whitespace": false}),
    ];
    let flags = [
        [false, false, false],
        [true, false, false],
        [false, true, false],
        [true, true, false],
        [false, false, true],
    ];
    let mut models = Vec::new();
    for pre_tokenizer in pre_tokenizers {
        for flags in flags {
            let (number, last) = (models.len(), vocab.len());
            let added = |index, content| added(last + index, content, flags, number % 3 == 0);
            let json = serde_json::json!({
                "version": "2.0",
                "normalizer": normalizers[number % 4],
                "pre_tokenizer": pre_tokenizer,
                "added_tokens": [added(0, "<|a|>"), added(1, "<|a|><|b|>"), added(2, "ab"), added(3, "b<")],
                "model": {"type": "BPE", "byte_level": true, "vocab": vocab, "merges": merges},
            });
            models.push(load(&json.to_string()));
        }
    }
    models.extend(
        flags
            .into_iter()
            .zip(["always", "first", "never"].into_iter().cycle())
            .map(unigram),
    );
    models.extend(flags.map(word_piece));
    models.into_iter()
}

/// An added token. `flags`: left strip, right strip, single word.
fn added(id: usize, content: &str, [lstrip, rstrip, single_word]: [bool; 3], normalized: bool) -> serde_json::Value {
    serde_json::json!({"id": id, "content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
        "normalized": normalized, "special": false})
}

fn word_piece(flags: [bool; 3]) -> Tokenizer {
    let added = |id, content, normalized| added(id, content, flags, normalized);
    let json = serde_json::json!({
        "version": "2.0",
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [added(8, "<|a|>", false), added(9, "<|a|><|b|>", false), added(10, "ab", true), added(11, "b<", false)],
        "model": {"type": "WordPiece", "unk_token": "u", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
            "vocab": {"u": 0, "a": 1, "b": 2, "##a": 3, "##b": 4, "the": 5, "日": 6, "##é": 7}},
    });
    load(&json.to_string())
}

/// Of Unigram models only what stands between added tokens is cut.
fn unigram((flags, prepend): ([bool; 3], &str)) -> Tokenizer {
    let added = |id, content, normalized| added(id, content, flags, normalized);
    let vocab = ["<unk>", "▁", "a", "b", "ab", "▁a", "b▁", "▁▁", "▁b", "the", "\n"].map(|token| (token, -1.0));
    let json = serde_json::json!({
        "version": "2.0",
        "normalizer": {"type": "MetaspaceNormalizer", "replacement": "▁", "prepend": prepend, "drop_whitespace": false},
        "added_tokens": [added(11, "<|a|>", false), added(12, "<|a|><|b|>", false), added(13, "ab", true), added(14, "b<", false)],
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab},
    });
    load(&json.to_string())
}

/// Texts of fragments that meet in every way.
fn texts() -> impl Strategy<Value = String> {
    let fragments: Vec<&str> = "a|b|Z|ab|abc|the|don't|'s|'S|'|é|e\u{301}|\u{301}|ß|Ж|ﬁ|日|本|四|五|。|，|かが|か\u{3099}|한|1|23|4567|½|!|!!|/|//|?\n|!/|\
         .|,|_|-|(|)|\u{a0}|\u{3000}|\u{200d}|👍🏽|\u{c5c}|\u{1fae9}|\u{897}|<|><|<|a|<|im_start|>|user|assistant|<|im_end|>|<think>|</think>|\
         <｜User｜>|<｜Assistant｜>|<bos>|<start_of_turn>|<end_of_turn>|<|eot_id|>|<|start_header_id|>|<|start|>|<|message|>|<|channel|>|▁|▁▁|[multimodal]"
        .split('|')
        .collect();
    let fragment = prop_oneof![
        4 => proptest::sample::select(fragments).prop_map(str::to_owned),
        3 => proptest::sample::select(vec![" ", " ", "  ", "   ", "\n", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\n\t", "\u{2028}"]).prop_map(str::to_owned),
        1 => proptest::sample::select(vec![
            "<|a|>", "<|a|><|b|>", "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>", "<|begin_of_text|>", "<|eot_id|>", "<|start|>user<|message|>",
            "<｜User｜>", "<start_of_turn>user\n", "<end_of_turn>\n", "<think>", "<tool_call>", "</s>", "<table>",
        ]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[a-zA-Z]{1,9} [a-zA-Z]{1,9}\n?[a-zA-Z]{0,9}",
    ];
    proptest::collection::vec(fragment, 0..60).prop_map(|fragments| fragments.concat())
}

fn whole(model: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    model.encode_into(text, true, &mut ids).expect("encodes");
    ids
}

fn in_pieces(model: &Tokenizer, text: &str) -> Vec<u32> {
    let cutter = model.cutter();
    let mut ids = cutter.prefix().to_vec();
    let mut start = 0;
    for end in cutter.cuts(text).chain([text.len()]) {
        assert!(start < end || text.is_empty(), "{start} {end}");
        let piece = &text[start..end];
        cutter
            .encode_into(piece, start, &Work::unbounded(), &mut ids)
            .expect("encodes");
        start = end;
    }
    ids.extend_from_slice(cutter.suffix());
    ids
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pieces_have_the_ids_of_the_whole(text in texts()) {
        for model in MODELS.iter() {
            prop_assert_eq!(in_pieces(model, &text), whole(model, &text));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pieces_have_the_ids_of_the_whole_without_added_tokens(text in texts()) {
        for model in MODELS.iter() {
            let encode = |piece: &str, ids: &mut Vec<u32>| model.encode_plain_into(piece, &Work::unbounded(), ids);
            let (mut whole, mut in_pieces, mut start) = (Vec::new(), Vec::new(), 0);
            encode(&text, &mut whole).expect("encodes");
            for end in model.cutter().plain_cuts(&text).chain([text.len()]) {
                encode(&text[start..end], &mut in_pieces).expect("encodes");
                start = end;
            }
            prop_assert_eq!(in_pieces, whole);
        }
    }
}

/// The ids up to a place, without those that come after a text.
fn up_to(model: &Tokenizer, text: &str) -> Vec<u32> {
    let cutter = model.cutter();
    let mut ids = cutter.prefix().to_vec();
    cutter
        .encode_into(text, 0, &Work::unbounded(), &mut ids)
        .expect("encodes");
    ids
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn settled_ids_are_the_first_ones_whatever_follows(known in texts(), next in texts(), other in texts()) {
        for model in MODELS.iter() {
            // A character that is in no added token, so that none goes across.
            let text = format!("{known}\u{fdd0}{next}");
            let settled = model.cutter().settled(&text, known.len());
            let ids = up_to(model, &text[..settled]);
            for whole in [whole(model, &text), whole(model, &format!("{known}{other}")), whole(model, &known)] {
                prop_assert!(settled == 0 || whole.starts_with(&ids), "{settled}");
            }
        }
    }
}

#[test]
fn texts_are_settled_up_to_the_last_place() {
    let qwen = &MODELS[0];
    for (known, next, expected) in [
        ("<|im_start|>user\nWhat is in it? Tell", " me", 27),
        ("<|im_start|>user\nWhat is in it? Tell", "<|vision_start|>", 36),
        ("<|im_end|>\n<|im_start|>user\n", "x", 11),
        ("<|im_end|>\n<|im_start|>user\n", "<|vision_start|>", 28),
        ("<|im_end|>\n<|im_start|>", "<|vision_start|>", 11),
        ("Tell m", "e", 4),
        ("Tell ", "me", 0),
        ("Tell me", "", 4),
        ("", "Tell me", 0),
    ] {
        let text = format!("{known}{next}");
        let cutter = qwen.cutter();
        assert_eq!(cutter.settled(&text, known.len()), expected, "{text:?}");
    }
    let whole_words = MODELS.iter().find(|model| model.cutter().settled("a <|a|> b", 9) == 0);
    assert!(
        whole_words.is_some(),
        "a token that looks at what follows settles nothing"
    );
}

fn cuts(model: &Tokenizer, text: &str) -> Vec<usize> {
    model.cutter().cuts(text).collect()
}

#[test]
fn texts_are_cut_where_it_is_proven() {
    let qwen = &MODELS[0];
    // Eight bytes after a cut are looked at.
    let cases: [(&str, &[usize]); 8] = [
        ("one two, three four five", &[3, 14]),
        ("one  two\nthree four\n\n4 five seventy", &[9, 14, 27]),
        ("日本語。\n四五\n\u{3000}六七", &[13]),
        ("<|im_start|>user\nHi there<|im_end|>\n<|im_start|>", &[17, 25, 36]),
        ("x <|im_start|>", &[2]),
        ("the end", &[]),
        ("a b", &[]),
        ("", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(cuts(qwen, text), expected, "{text:?}");
    }
    let plain: Vec<_> = qwen
        .cutter()
        .plain_cuts("<|im_start|>user\nHi there, you<|im_end|>")
        .collect();
    assert_eq!(plain, [17, 19], "only in plain text");
}
