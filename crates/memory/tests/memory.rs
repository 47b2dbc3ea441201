//! Whatever is remembered, what is read is what tokenizing and hashing the whole text gives. `WARMPATH_TOKENIZER_DIRS`
//! may name more model directories, separated by `:`.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use memory::{Content, Memory, Part, Prompt, Reading, Text};
use proptest::prelude::*;
use router_core::hash::{BlockLayout, HashSeed, local_hashes, sequence_hashes};
use tokenizer::Tokenizer;
use work::Work;

fn model_dirs() -> Vec<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/models/qwen3");
    let model = std::env::var_os("WARMPATH_MODEL_DIR").map_or(default, PathBuf::from);
    let more = std::env::var("WARMPATH_TOKENIZER_DIRS");
    std::iter::once(model)
        .chain(more.iter().flat_map(|dirs| dirs.split(':')).map(PathBuf::from))
        .collect()
}

fn build(json: &str) -> Tokenizer {
    Tokenizer::load(tokenizer::build(json.as_bytes()).expect("builds")).expect("loads")
}

/// The real models, and one that travels as JSON and cannot be cut.
static MODELS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let json =
        |dir: PathBuf| tk_convert::canonicalize_file(dir.join("tokenizer.json")).expect("no model: run scripts/setup");
    let unigram = r#"{"version":"2.0","model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.0],["b",-2.0],["ab",-1.5]]}}"#;
    let real = model_dirs().into_iter().map(|dir| build(&json(dir)));
    real.chain([build(unigram)]).collect()
});

/// How a text is read.
#[derive(Clone, Copy, Debug)]
struct Manner {
    model: usize,
    add_special_tokens: bool,
    want_tokens: bool,
    layout: BlockLayout,
    seed: HashSeed,
}

fn manner() -> impl Strategy<Value = Manner> {
    let layout = (
        prop_oneof![Just(1_u32), Just(3), Just(16), Just(64), Just(1000)],
        any::<bool>(),
    );
    let model = prop_oneof![3 => Just(0), 1 => 0..MODELS.len()];
    let salt = prop_oneof![4 => Just(None), 1 => Just(Some("salt"))];
    (model, any::<bool>(), any::<bool>(), layout, salt).prop_map(
        |(model, add_special_tokens, want_tokens, (block_size, eagle), salt)| Manner {
            model,
            add_special_tokens,
            want_tokens,
            layout: BlockLayout {
                eagle,
                ..BlockLayout::plain(block_size).expect("positive")
            },
            seed: HashSeed::new(None, salt),
        },
    )
}

fn prompt_of<'a>(content: Content<'a>, manner: Manner) -> Prompt<'a> {
    let Manner {
        model,
        want_tokens,
        layout,
        seed,
        ..
    } = manner;
    Prompt {
        content,
        tokenizer: &MODELS[model],
        tokenizer_id: [model as u8; 16],
        layout,
        seed,
        want_tokens,
    }
}

/// Without memory, and by other functions.
fn expected(text: &str, manner: Manner) -> Reading {
    let mut tokens = Vec::new();
    MODELS[manner.model]
        .encode_into(text, manner.add_special_tokens, &mut tokens)
        .expect("encodes");
    reading_of(tokens, manner)
}

fn reading_of(tokens: Vec<u32>, manner: Manner) -> Reading {
    Reading {
        blocks: sequence_hashes(local_hashes(&tokens, manner.layout, manner.seed)),
        input_tokens: tokens.len(),
        tokens: if manner.want_tokens { tokens } else { Vec::new() },
        remembered_bytes: 0,
    }
}

/// Reads, compares and returns how many bytes were remembered.
fn check(memory: &mut Memory, text: &str, manner: Manner) -> usize {
    let content = Content::Text(Text {
        text,
        add_special_tokens: manner.add_special_tokens,
        is_whole: true,
        images: &[],
    });
    check_content(memory, content, manner, expected(text, manner))
}

fn check_content(memory: &mut Memory, content: Content<'_>, manner: Manner, expected: Reading) -> usize {
    let reading = memory
        .read(prompt_of(content, manner), &Work::unbounded())
        .expect("reads");
    let remembered_bytes = reading.remembered_bytes;
    let known = Reading {
        remembered_bytes: 0,
        ..reading
    };
    assert!(known == expected, "{manner:?}");
    remembered_bytes
}

/// As [`check`], of parts that are tokenized one by one.
fn check_parts(memory: &mut Memory, parts: &[Part<'_>], manner: Manner) -> usize {
    let (tokenizer, mut tokens) = (&MODELS[manner.model], Vec::new());
    for part in parts {
        let encoded = match part {
            Part::Special(token) => tokenizer.encode_into(token, false, &mut tokens),
            Part::Text(text) => {
                // Each with all the effort of its own.
                tokenizer.encode_plain_into(text, &Work::unbounded(), &mut tokens)
            }
        };
        encoded.expect("encodes");
    }
    check_content(memory, Content::Parts(parts), manner, reading_of(tokens, manner))
}

/// Passages that a conversation is made of: prose, code, Chinese, and what tokenizers cut at and stumble over.
fn passages() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(7);
    let words = "the of router cache prefix don't Über naïve 日本語 你好，世界。 x=1; if(a<b){return} 3.14 \u{301} — … <|im_start|> </s> <b>".split(' ');
    let words: Vec<&str> = words.collect();
    let breaks = [" ", " ", " ", " ", "\n", "\n\n", "  ", "\t", ""];
    (0..24)
        .map(|number| {
            let length = [3, 40, 300, 900][number % 4];
            (0..length)
                .map(|_| [words[random.usize(..words.len())], breaks[random.usize(..breaks.len())]].concat())
                .collect()
        })
        .collect()
}

static PASSAGES: LazyLock<Vec<String>> = LazyLock::new(passages);

/// Turns that each begin with a special token of one of the models.
fn conversation(turns: &[usize]) -> String {
    let marks = [
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<start_of_turn>model\n",
        "<｜User｜>",
        "<|eot_id|>",
        "<|start|>user<|message|>",
    ];
    let turn = |(place, passage): (usize, &usize)| [marks[place % marks.len()], &PASSAGES[*passage]].concat();
    turns.iter().enumerate().map(turn).collect()
}

/// A change between two readings.
#[derive(Clone, Debug)]
enum Change {
    /// Another turn.
    Append(usize),
    /// Another passage in the middle.
    Edit(prop::sample::Index, usize),
    /// One turn less in the middle, so that all others move.
    Drop(prop::sample::Index),
    /// Text put in or taken away anywhere.
    Splice(prop::sample::Index, usize, &'static str),
}

fn change() -> impl Strategy<Value = Change> {
    let passage = || 0..PASSAGES.len();
    let splices = vec!["", "x", " ", "\n", "<", "<|im_start|>", "é", "\u{301}", "日"];
    prop_oneof![
        3 => passage().prop_map(Change::Append),
        1 => (any::<prop::sample::Index>(), passage()).prop_map(|(at, passage)| Change::Edit(at, passage)),
        1 => any::<prop::sample::Index>().prop_map(Change::Drop),
        2 => (any::<prop::sample::Index>(), 0..5_usize, proptest::sample::select(splices))
            .prop_map(|(at, length, with)| Change::Splice(at, length, with)),
    ]
}

fn splice(text: &mut String, at: &prop::sample::Index, length: usize, with: &str) {
    let boundary = |text: &str, place: usize| {
        (place..)
            .find(|place| text.is_char_boundary(*place))
            .expect("the end is one")
    };
    let start = boundary(text, at.index(text.len() + 1));
    let end = boundary(text, (start + length).min(text.len()));
    text.replace_range(start..end, with);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn memory_changes_nothing(
        budget in prop_oneof![Just(0_usize), 1..20_000_usize, 20_000..400_000_usize, Just(8 << 20)],
        key in any::<[u64; 2]>(),
        first in proptest::collection::vec(0..PASSAGES.len(), 1..8),
        manners in proptest::collection::vec(manner(), 1..4),
        changes in proptest::collection::vec(change(), 1..10),
    ) {
        let mut memory = Memory::new(budget, key);
        let mut turns = first;
        let mut text = conversation(&turns);
        for (number, change) in changes.iter().enumerate() {
            check(&mut memory, &text, manners[number % manners.len()]);
            prop_assert!(memory.bytes() <= budget);
            match change {
                Change::Append(passage) => turns.push(*passage),
                Change::Edit(at, passage) if !turns.is_empty() => *at.get_mut(&mut turns) = *passage,
                Change::Drop(at) if !turns.is_empty() => { turns.remove(at.index(turns.len())); }
                Change::Splice(at, length, with) => {
                    splice(&mut text, at, *length, with);
                    continue;
                }
                Change::Edit(..) | Change::Drop(_) => {}
            }
            text = conversation(&turns);
        }
    }
}

/// Messages as gpt-oss's are written: headers between special tokens, contents of several texts.
fn messages(turns: &[Vec<String>]) -> Vec<Part<'_>> {
    fn message(texts: &[String]) -> Vec<Part<'_>> {
        let header = [
            Part::Special("<|im_start|>"),
            Part::Text("user"),
            Part::Special("<|im_end|>"),
        ];
        let texts = texts.iter().map(|text| Part::Text(text));
        let end = [Part::Special("<|endoftext|>")];
        header.into_iter().chain(texts).chain(end).collect()
    }
    turns
        .iter()
        .flat_map(|texts| message(texts))
        .chain([Part::Special("<|im_start|>"), Part::Text("assistant")])
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn memory_changes_nothing_of_parts(
        budget in prop_oneof![Just(0_usize), 1..20_000_usize, 20_000..400_000_usize, Just(8 << 20)],
        key in any::<[u64; 2]>(),
        first in proptest::collection::vec(proptest::collection::vec(0..PASSAGES.len(), 1..3), 1..8),
        manners in proptest::collection::vec(manner(), 1..4),
        changes in proptest::collection::vec(change(), 1..10),
    ) {
        let mut memory = Memory::new(budget, key);
        let passages = |places: &Vec<usize>| places.iter().map(|place| PASSAGES[*place].clone()).collect::<Vec<_>>();
        let mut turns: Vec<_> = first.iter().map(passages).collect();
        for (number, change) in changes.iter().enumerate() {
            check_parts(&mut memory, &messages(&turns), manners[number % manners.len()]);
            prop_assert!(memory.bytes() <= budget);
            match change {
                Change::Append(passage) => turns.push(vec![PASSAGES[*passage].clone()]),
                Change::Edit(at, passage) if !turns.is_empty() => at.get_mut(&mut turns)[0] = PASSAGES[*passage].clone(),
                Change::Drop(at) if !turns.is_empty() => { turns.remove(at.index(turns.len())); }
                Change::Splice(at, length, with) if !turns.is_empty() => splice(&mut at.get_mut(&mut turns)[0], at, *length, with),
                // The same characters in other parts.
                Change::Edit(..) | Change::Drop(_) | Change::Splice(..) => turns.push(vec![String::new(), "<|im_end|>".to_owned()]),
            }
        }
    }
}

/// The same characters have other tokens where another part of them is a special token, or parts end elsewhere.
#[test]
fn parts_are_told_apart_by_kind_and_length() {
    let filler = "one two three ".repeat(200);
    let ends = |parts: &[Part<'static>]| parts.to_vec();
    let middles = [
        ends(&[Part::Special("<|im_end|>")]),
        ends(&[Part::Text("<|im_end|>")]),
        ends(&[Part::Text("hel"), Part::Text("lo")]),
        ends(&[Part::Text("hell"), Part::Text("o")]),
    ];
    let mut memory = Memory::new(8 << 20, [1, 2]);
    let mut distinct = std::collections::BTreeSet::new();
    for middle in &middles {
        let mut parts = vec![Part::Text("start")];
        parts.extend(middle);
        // Long enough for a piece of its own, up to a special token.
        parts.extend([Part::Text(&filler), Part::Special("<|im_end|>"), Part::Text("rest")]);
        let manner = Manner {
            want_tokens: true,
            ..PLAIN
        };
        check_parts(&mut memory, &parts, manner);
        distinct.insert(
            memory
                .read(prompt_of(Content::Parts(&parts), manner), &Work::unbounded())
                .expect("reads")
                .tokens,
        );
    }
    assert_eq!(distinct.len(), middles.len());
}

#[test]
fn of_known_messages_only_what_is_new_is_tokenized() {
    let turn = |passage: usize| vec![PASSAGES[passage].clone()];
    let mut turns: Vec<_> = [2, 3, 6, 7, 10, 11, 14, 15].into_iter().map(turn).collect();
    let bytes = |turns: &[Vec<String>]| messages(turns).iter().map(|part| part.as_str().len()).sum::<usize>();
    let mut memory = Memory::new(8 << 20, [1, 2]);
    assert_eq!(check_parts(&mut memory, &messages(&turns), PLAIN), 0);
    turns.push(vec!["And then?".to_owned()]);
    let remembered = check_parts(&mut memory, &messages(&turns), PLAIN);
    assert!(
        remembered * 100 > bytes(&turns) * 80,
        "{remembered} of {}",
        bytes(&turns)
    );
    // An edit in the middle costs its surroundings.
    turns[4][0].insert(20, '?');
    let remembered = check_parts(&mut memory, &messages(&turns), PLAIN);
    assert!(remembered + 12_000 > bytes(&turns), "{remembered} of {}", bytes(&turns));
}

const PLAIN: Manner = Manner {
    model: 0,
    add_special_tokens: false,
    want_tokens: false,
    layout: BlockLayout {
        block_size: std::num::NonZeroU32::new(16).unwrap(),
        eagle: false,
    },
    seed: HashSeed::PLAIN,
};

fn long_conversation() -> String {
    conversation(&[2, 3, 6, 7, 10, 11, 14, 15])
}

#[test]
fn of_a_known_conversation_only_what_is_new_is_tokenized() {
    let mut memory = Memory::new(8 << 20, [1, 2]);
    let text = long_conversation();
    assert_eq!(check(&mut memory, &text, PLAIN), 0);
    let longer = format!("{text}<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n");
    let remembered = check(&mut memory, &longer, PLAIN);
    assert!(remembered * 100 > text.len() * 80, "{remembered} of {}", text.len());
    // Other blocks, another tenant, and with the tokens themselves.
    for other in [
        Manner {
            layout: BlockLayout::plain(64).expect("positive"),
            ..PLAIN
        },
        Manner {
            seed: HashSeed::new(Some("lora"), Some("salt")),
            ..PLAIN
        },
        Manner {
            want_tokens: true,
            ..PLAIN
        },
    ] {
        assert!(check(&mut memory, &longer, other) >= remembered, "{other:?}");
    }
}

#[test]
fn an_edit_in_the_middle_costs_its_surroundings() {
    for edit in ["?", "", " a longer insertion in the midst of it all, ", "<|im_start|>"] {
        let mut memory = Memory::new(8 << 20, [1, 2]);
        let text = long_conversation();
        check(&mut memory, &text, PLAIN);
        let mut edited = text.clone();
        let middle = (text.len() / 2..)
            .find(|place| text.is_char_boundary(*place))
            .expect("the end is one");
        edited.insert_str(middle, edit);
        let remembered = check(&mut memory, &edited, PLAIN);
        assert!(
            remembered + 12_000 > text.len(),
            "{edit:?}: {remembered} of {}",
            text.len()
        );
    }
}

/// Block hashes are kept while ids that nobody uses age.
#[test]
fn a_conversation_that_goes_on_keeps_its_place_among_others() {
    let mut memory = Memory::new(1 << 20, [1, 2]);
    let text = long_conversation();
    check(&mut memory, &text, PLAIN);
    let mut others = 0;
    for number in 0..30 {
        others += check(
            &mut memory,
            &format!("{number} {text}").replace("the", &format!("the{number}")),
            PLAIN,
        );
        let remembered = check(&mut memory, &text, PLAIN);
        assert!(
            remembered * 100 > text.len() * 80,
            "{number}: {remembered} of {}",
            text.len()
        );
    }
    assert!(others < 30 * text.len() / 2, "{others}");
    assert!(memory.bytes() > (1 << 20) / 2);
}

#[test]
fn the_start_of_a_prompt_is_read_without_what_comes_after_prompts() {
    // With a post-processor that adds a token on either side. A byte-level vocabulary has a character for each byte.
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let bytes = (0..256).filter(printable).chain(256..324).filter_map(char::from_u32);
    let vocab: Vec<_> = bytes
        .enumerate()
        .map(|(id, byte)| format!("{:?}:{id}", byte.to_string()))
        .collect();
    let flags = r#""single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true"#;
    let json = format!(
        r#"{{"version":"2.0","added_tokens":[{{"id":257,"content":"<s>",{flags}}},{{"id":258,"content":"</s>",{flags}}}],
        "post_processor":{{"type":"TemplateProcessing","single":[{{"ids":[257]}},{{"seq":"A"}},{{"ids":[258]}}],"pair":[{{"seq":"A"}},{{"seq":"B"}}]}},
        "model":{{"type":"BPE","byte_level":true,"vocab":{{{},"ab":256}},"merges":[["a","b"]]}}}}"#,
        vocab.join(","),
    );
    let tokenizer = build(&json);
    for budget in [0, 1 << 20] {
        let mut memory = Memory::new(budget, [1, 2]);
        for (is_whole, expected) in [(false, vec![257, 256]), (true, vec![257, 256, 258])] {
            let prompt = Prompt {
                content: Content::Text(Text {
                    text: "ab",
                    add_special_tokens: true,
                    is_whole,
                    images: &[],
                }),
                tokenizer: &tokenizer,
                tokenizer_id: [0; 16],
                layout: BlockLayout::plain(1).expect("positive"),
                seed: HashSeed::PLAIN,
                want_tokens: true,
            };
            let reading = memory.read(prompt, &Work::unbounded()).expect("reads");
            assert_eq!(
                (reading.tokens, reading.input_tokens),
                (expected.clone(), expected.len()),
                "{budget}"
            );
        }
    }
}
