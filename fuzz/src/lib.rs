//! What several targets use.

use std::collections::BTreeSet;

use control_plane::events::Event;
use control_plane::index::{Change, Grid, Index, Shape};
use router_core::Slot;
use router_core::hash::{BlockLayout, SequenceHash};
use router_core::levels::Levels;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

/// Tokens per block of the recorded events.
pub const BLOCK_SIZE: u32 = 16;

/// Whether `bytes` are one MessagePack value and nothing else.
pub fn is_one_value(bytes: &[u8]) -> bool {
    let mut reader = rmp_serde::Deserializer::new(bytes);
    IgnoredAny::deserialize(&mut reader).is_ok() && reader.get_ref().is_empty()
}

/// An empty index that shows all tiers and soon has enough.
pub fn index() -> Index {
    Index::new(Shape {
        layout: BlockLayout::plain(BLOCK_SIZE).expect("not 0"),
        levels: Levels { host: true, disk: true },
        grid: Grid::default(),
        generation_blocks: 100,
        max_rank_blocks: 1_000,
        max_pool_blocks: 1_500,
    })
}

/// A view that is kept by the changes alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct View(BTreeSet<(Slot, SequenceHash)>);

impl View {
    /// What an index shows.
    pub fn of(index: &Index) -> Self {
        let holdings = index.holdings();
        Self(
            holdings
                .flat_map(|(slot, blocks)| blocks.map(move |(_, hash)| (slot, hash)))
                .collect(),
        )
    }

    /// Makes the changes: each appears that was not there, and goes that was.
    pub fn change(&mut self, changes: &[Change]) {
        for &Change { slot, hash, stored } in changes {
            let changed = if stored {
                self.0.insert((slot, hash))
            } else {
                self.0.remove(&(slot, hash))
            };
            assert!(changed, "{hash:?} of {slot:?} was so already: stored {stored}");
        }
    }
}

/// Takes the events into an index. What it says of its view is what it shows.
pub fn check_index<'a>(events: impl IntoIterator<Item = &'a Event>) {
    let (mut index, mut view, mut changes) = (index(), View::default(), Vec::new());
    for (number, event) in events.into_iter().enumerate() {
        // Two ranks in turn.
        let rank = Slot(u16::from(number % 2 == 1));
        index.apply(rank, event, &mut changes);
        if *event == Event::Cleared {
            index.drain(rank, usize::MAX, &mut changes);
        }
    }
    view.change(&changes);
    assert_eq!(view, View::of(&index));
}

/// The canonical `tokenizer.json` of a small BPE model with something of everything: byte-level, or with a fallback to bytes.
pub fn bpe_json(byte_level: bool) -> String {
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
    .to_string()
}

/// The canonical `tokenizer.json` of a small Unigram model with something of everything.
pub fn unigram_json() -> String {
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
    .to_string()
}

/// The canonical `tokenizer.json` of a small WordPiece model with something of everything.
pub fn word_piece_json() -> String {
    json!({
        "version": "2.0",
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [added(9, "<|end|>", true), added(10, "word", false)],
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20,
            "vocab": {"[UNK]": 0, "a": 1, "abc": 2, "##a": 3, "##ab": 4, "##c": 5, "##bc": 6, "\u{65e5}": 7, "e": 8}},
    })
    .to_string()
}

/// A character map from \u{e9} to e, in base 64: a trie of 256 units, of which all but the first ones are zero, and a text.
fn charsmap() -> String {
    format!("AAQAAAAAAwCpDQAAAAAAgMOsAgAA{}AABlAA==", "A".repeat(1340))
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": !special, "lstrip": !special, "rstrip": !special,
        "normalized": !special, "special": special})
}
