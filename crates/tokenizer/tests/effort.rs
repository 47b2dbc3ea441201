//! What texts take of the work that they may take: counted, not timed.

use std::path::Path;

use tokenizer::{EncodeError, Tokenizer};

/// One with a pre-tokenizer and one without.
const MODELS: [&str; 2] = ["qwen3", "gemma3"];

fn artefact(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/models")
        .join(name);
    let json = tk_convert::canonicalize_file(dir.join("tokenizer.json")).expect("no model: run scripts/setup test");
    tokenizer::build(json.as_bytes()).unwrap().bytes
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::load(artefact(name)).unwrap()
}

/// Steps for a text, as a share of its bytes; or why there are none.
fn steps_per_byte(tokenizer: &Tokenizer, text: &str) -> Result<f64, EncodeError> {
    let cutter = tokenizer.cutter().unwrap();
    let mut effort = cutter.effort(text.len());
    let allowed = effort.left();
    cutter.encode_into(text, 0, &mut effort, &mut Vec::new())?;
    Ok((allowed - effort.left()) as f64 / text.len() as f64)
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
fn natural_texts_stay_well_below_it() {
    for model in MODELS {
        let artefact = artefact(model);
        for (kind, text) in natural() {
            // Nothing is remembered.
            let tokenizer = Tokenizer::load(artefact.clone()).unwrap();
            let steps = steps_per_byte(&tokenizer, &text).unwrap_or_else(|error| panic!("{model}, {kind}: {error}"));
            println!("{model}, {kind}: {steps:.2} steps per byte of {}", text.len());
            let limit = if model == "gemma3" { 3.0 } else { 1.0 };
            assert!(steps < limit * 0.75, "{model}, {kind}: {steps:.2} steps per byte");
        }
    }
}

/// Words of very many characters of every kind, ten million letters among them: encoded or refused, with no more work than
/// a text of that length may take. (What goes on without an end shows as a test that does not end.)
#[test]
fn hostile_texts_take_no_more() {
    const CHARACTERS: usize = 200_000;
    let ranges: [&[(u32, u32)]; 8] = [
        &[(0x61, 0x7a)],
        &[(0x30, 0x39)],
        &[(0x20, 0x20), (0x09, 0x0a)],
        &[(0x300, 0x36f)],
        &[(0x1f300, 0x1f9ff), (0x200d, 0x200d)],
        &[(0x4e00, 0x9fff)],
        &[(0x21, 0x2f)],
        &[(0x20, 0xffff), (0x10000, 0x1ffff)],
    ];
    let mut texts: Vec<String> = ranges.iter().map(|ranges| of_characters(CHARACTERS, ranges)).collect();
    let runs = [
        "a",
        "0",
        " ",
        "\n",
        "-",
        "<",
        "'s",
        "\u{301}",
        "你",
        "▁",
        "👍",
        "ᄀ\u{1161}",
        "<|im_end",
    ];
    texts.extend(runs.map(|unit| unit.repeat(CHARACTERS / unit.chars().count())));
    texts.push(of_characters(10_000_000, &[(0x61, 0x7a)]));
    let (mut encoded, mut refused) = (0, 0);
    for model in MODELS {
        let tokenizer = load(model);
        for text in &texts {
            match steps_per_byte(&tokenizer, text) {
                Ok(_) => encoded += 1,
                Err(error) => {
                    assert_eq!(error.reason(), "tokenizer_limit", "{error}");
                    refused += 1;
                }
            }
        }
    }
    println!("{encoded} encoded, {refused} refused");
    assert!(encoded > 10 && refused > 5, "{encoded} encoded, {refused} refused");
}

/// Work that is done for one piece is missing for the next.
#[test]
fn pieces_share_it() {
    let tokenizer = load("qwen3");
    let piece = of_characters(50_000, &[(0x61, 0x7a)]);
    let cutter = tokenizer.cutter().unwrap();
    let mut effort = cutter.effort(piece.len());
    let mut pieces = (0..20).map(|index| {
        let piece = format!("{index}{piece}");
        cutter.encode_into(&piece, 0, &mut effort, &mut Vec::new())
    });
    assert!(pieces.any(|encoded| matches!(encoded, Err(EncodeError::TooMuchWork))));
}
