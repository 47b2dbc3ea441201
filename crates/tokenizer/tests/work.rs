//! What texts take of the work that they may take: counted, not timed.

use std::path::Path;

use tokenizer::{EncodeError, Tokenizer};
use work::{Limits, Work};

/// One with a pre-tokenizer, one without, and two that are not BPE.
const MODELS: [&str; 4] = ["qwen3", "gemma3", "afaanoromo_unigram", "afaanoromo_wordpiece"];

fn artefact(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/models")
        .join(name);
    let json = tk_convert::canonicalize_file(dir.join("tokenizer.json")).expect("no model: run scripts/setup test");
    let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
    if name == "afaanoromo_unigram" {
        // Else it refuses all characters that are not in its vocabulary.
        json["model"]["unk_id"] = 1.into();
    }
    tokenizer::build(json.to_string().as_bytes()).unwrap()
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::load(artefact(name)).unwrap()
}

/// What a text costs, in nanoseconds.
fn cost(tokenizer: &Tokenizer, text: &str) -> u64 {
    let (cutter, work) = (tokenizer.cutter(), Work::unbounded());
    cutter.encode_into(text, 0, &work, &mut Vec::new()).unwrap();
    u64::MAX - work.left()
}

fn cost_per_byte(tokenizer: &Tokenizer, text: &str) -> f64 {
    cost(tokenizer, text) as f64 / text.len() as f64
}

/// The prose, manifests and code of this repository, each kind as one text.
fn natural() -> Vec<(&'static str, String)> {
    let kinds = ["md", "rs", "yaml"];
    let mut texts = kinds.map(|kind| (kind, String::new()));
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), &mut texts);
    texts.into()
}

fn collect(dir: &Path, texts: &mut [(&'static str, String); 3]) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            collect(&path, texts);
        }
        let kind = path.extension().unwrap_or_default();
        if let Some((_, text)) = texts.iter_mut().find(|(known, _)| *known == kind)
            && let Ok(content) = std::fs::read_to_string(&path)
        {
            text.push_str(&content);
        }
    }
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

fn of_characters(count: usize, ranges: &[(u32, u32)]) -> String {
    let mut state = 7;
    let character = |_| {
        let (first, last) = ranges[random(&mut state) as usize % ranges.len()];
        char::from_u32(first + random(&mut state) as u32 % (last - first + 1)).unwrap_or('x')
    };
    (0..count).map(character).collect()
}

#[test]
fn natural_texts_stay_well_below_what_they_may_cost() {
    for model in MODELS {
        let artefact = artefact(model);
        for (kind, text) in natural() {
            // Nothing is remembered.
            let cost = cost(&Tokenizer::load(artefact.clone()).unwrap(), &text);
            let allowed = Work::new(Limits::DEFAULT, text.len()).left();
            println!("{model}, {kind}: {cost} of {allowed} ns for {} bytes", text.len());
            assert!(cost < allowed / 2, "{model}, {kind}: {cost} of {allowed} ns");
        }
    }
}

/// A word of ten million letters: left, or encoded in as many looks as a short one takes for each letter.
#[test]
fn words_without_an_end_cost_as_much_for_each_letter_as_short_ones() {
    for model in MODELS {
        let tokenizer = load(model);
        let [short, long] = [2_000, 10_000_000].map(|letters| of_characters(letters, &[(0x61, 0x7a)]));
        let (of_short, of_long) = (cost_per_byte(&tokenizer, &short), cost_per_byte(&tokenizer, &long));
        assert!(
            of_long < of_short * 1.2,
            "{model}: {of_short:.1} and {of_long:.1} ns per byte"
        );
    }
}

/// Work that is done for one piece is missing for the next.
#[test]
fn pieces_share_it() {
    let tokenizer = load("qwen3");
    let piece = of_characters(50_000, &[(0x61, 0x7a)]);
    let work = Work::new(Limits::DEFAULT, piece.len());
    let mut pieces = (0..20).map(|index| {
        let piece = format!("{index}{piece}");
        tokenizer.cutter().encode_into(&piece, 0, &work, &mut Vec::new())
    });
    assert!(pieces.any(|encoded| matches!(encoded, Err(EncodeError::TooMuchWork(_)))));
}
