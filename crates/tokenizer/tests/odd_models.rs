//! Made-up models against `tokenizers` 0.23: what real vocabularies never have, but files may.

use serde_json::{Value, json};
use tk_encode::utils::byte_level::char_to_byte;
use tokenizer::Tokenizer;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) as usize % end
    }
}

/// Byte-level models that no one would train: merges that go past the borders of characters, in ranks of any order, words
/// that are tokens although merging would not make them, and tokens that are not spelled in bytes. Pieces and characters that are merged beforehand must be the same.
#[test]
fn odd_byte_level_models_give_the_same_ids() {
    let mut random = Random(1);
    let (mut models, mut compared) = (0, 0);
    for round in 0..400 {
        let json = odd_byte_level_model(&mut random, round % 2 == 0, round % 3 == 0).to_string();
        let theirs: tokenizers::Tokenizer = json.parse().unwrap();
        let canonical = tk_convert::canonicalize_str(&json).unwrap();
        // Our library gives other ids for some of them, and then there is no artefact.
        let artefact = match tokenizer::build(canonical.as_bytes()) {
            Ok(artefact) => artefact,
            Err(why) => {
                assert!(why.to_string().contains("other ids than the library"), "{why}");
                continue;
            }
        };
        models += 1;
        let ours = Tokenizer::load(artefact).unwrap();
        for _ in 0..40 {
            let text: String = (0..30).map(|_| ODD[random.below(ODD.len())]).collect();
            let text = text.replace("wé", "<|new|>");
            let mut ids = Vec::new();
            ours.encode_into(&text, false, &mut ids).unwrap();
            let expected = theirs.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(ids, expected.get_ids(), "{text:?} {json}");
            compared += ids.len();
        }
    }
    println!("{models} models, {compared} tokens compared");
    assert!(models > 100 && compared > 100_000);
}

/// Letters of one to four bytes, of which some share bytes, and a space.
const ODD: [char; 10] = ['a', 'w', 'é', 'ê', 'ß', '中', '丰', '文', '\u{20000}', ' '];

fn odd_byte_level_model(random: &mut Random, any_order: bool, ignore_merges: bool) -> Value {
    let spelled = |byte: u8| {
        ('\0'..'\u{144}')
            .find(|&spelling| char_to_byte(spelling) == Some(byte))
            .unwrap()
            .to_string()
    };
    let mut tokens: Vec<String> = (0..=255).map(spelled).collect();
    let mut merges: Vec<[String; 2]> = Vec::new();
    while merges.len() < 50 {
        // Two neighbours in a text as it is merged so far.
        let text: String = (0..4).map(|_| ODD[random.below(ODD.len())]).collect();
        let mut symbols: Vec<String> = text.bytes().map(spelled).collect();
        for [left, right] in &merges {
            while let Some(at) = symbols
                .windows(2)
                .position(|pair| pair == [left.as_str(), right.as_str()])
            {
                symbols.splice(at..at + 2, [[left.as_str(), right.as_str()].concat()]);
            }
        }
        let at = random.below(symbols.len());
        let Some([left, right]) = symbols.get(at..at + 2).and_then(|pair| pair.first_chunk()) else {
            continue;
        };
        let token = [left.as_str(), right.as_str()].concat();
        if !tokens.contains(&token) {
            tokens.push(token);
            merges.push([left.clone(), right.clone()]);
        }
    }
    if any_order {
        (1..merges.len()).for_each(|at| merges.swap(at, random.below(at + 1)));
    }
    // Not spelled in bytes, so that no text has it.
    tokens.push("文".to_owned());
    if ignore_merges {
        tokens.push("a中文w".bytes().map(spelled).collect());
    }
    // Its id counts from the number of tokens.
    let added = json!({"id": tokens.len(), "content": "<|new|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let vocab: serde_json::Map<String, Value> = (0..).zip(tokens).map(|(id, token)| (token, json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges}})
}
