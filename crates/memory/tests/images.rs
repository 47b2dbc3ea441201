//! Texts with images in them: whatever is remembered, their blocks are those of the prompt that the engine has.

use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use memory::{Content, Image, Memory, Prompt, Reading, Text};
use proptest::prelude::*;
use router_core::hash::{BlockHasher, BlockLayout, HashSeed, MediaRun, sequence_hashes};
use tokenizer::Tokenizer;
use work::Work;

const PAD: &str = "<|image_pad|>";

/// Qwen3's, which knows Qwen-VL's tokens.
static MODEL: LazyLock<Tokenizer> = LazyLock::new(|| {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/models/qwen3");
    let directory = std::env::var_os("WARMPATH_MODEL_DIR").map_or(default, Into::into);
    let file = directory.join("tokenizer.json");
    let json = tk_convert::canonicalize_file(file).expect("no model: run scripts/setup");
    let flat = tokenizer::build(json.as_bytes()).expect("builds");
    Tokenizer::load(flat).expect("loads")
});

/// A text, or an image with so many tokens.
#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Image { identity: u64, count: usize },
}

fn part() -> impl Strategy<Value = Part> {
    // Long enough to be remembered, short, and where texts are cut.
    let text = prop_oneof![
        "([a-z]{1,7} ){200,400}",
        "[a-z \n]{0,40}",
        Just("<|im_start|>user\n".to_owned())
    ];
    prop_oneof![
        text.prop_map(Part::Text),
        (1..4_u64, prop_oneof![Just(1), Just(4), Just(200), 1..40_usize])
            .prop_map(|(identity, count)| Part::Image { identity, count }),
    ]
}

/// The text that a template writes, and its images.
fn prompt(parts: &[Part], token: u32) -> (String, Vec<Image>) {
    let (mut text, mut images) = (String::new(), Vec::new());
    for part in parts {
        match part {
            Part::Text(more) => text.push_str(more),
            Part::Image { identity, count } => {
                let run = MediaRun {
                    identity: *identity,
                    token,
                    count: *count,
                };
                images.push(Image { at: text.len(), run });
                text.push_str(PAD);
            }
        }
    }
    (text, images)
}

/// What an engine makes of it: texts tokenized between images, and identities by the place of their tokens.
fn expected(parts: &[Part], token: u32, layout: BlockLayout) -> Reading {
    let (mut tokens, mut media, mut text) = (Vec::new(), Vec::<(Range<usize>, u64)>::new(), String::new());
    let encode = |text: &mut String, tokens: &mut Vec<u32>| {
        MODEL
            .encode_into(&std::mem::take(text), false, tokens)
            .expect("encodes");
    };
    for part in parts {
        match part {
            Part::Text(more) => text.push_str(more),
            Part::Image { identity, count } => {
                encode(&mut text, &mut tokens);
                media.push((tokens.len()..tokens.len() + count, *identity));
                tokens.extend(std::iter::repeat_n(token, *count));
            }
        }
    }
    encode(&mut text, &mut tokens);
    let mut hasher = BlockHasher::new(HashSeed::PLAIN);
    let size = layout.tokens_per_block();
    let locals = layout.blocks(&tokens).enumerate().map(|(number, block)| {
        let of_block = number * size..(number + 1) * size;
        let reaches_in = |(range, _): &&(Range<usize>, u64)| range.start < of_block.end && of_block.start < range.end;
        let identities: Vec<u64> = media.iter().filter(reaches_in).map(|(_, identity)| *identity).collect();
        hasher.local(block, &identities)
    });
    Reading {
        blocks: sequence_hashes(locals),
        input_tokens: tokens.len(),
        tokens,
        remembered_bytes: 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Images come and go in a conversation, and others take their place.
    #[test]
    fn memory_changes_nothing(
        budget in prop_oneof![Just(0_usize), 1_000..40_000_usize, Just(8 << 20)],
        parts in proptest::collection::vec(part(), 1..16),
        others in proptest::collection::vec((any::<prop::sample::Index>(), part()), 0..6),
        block_size in prop_oneof![Just(1_u32), Just(16), Just(100), Just(900)],
        eagle in any::<bool>(),
    ) {
        let mut memory = Memory::new(budget, [1, 2]);
        let layout = BlockLayout { eagle, ..BlockLayout::plain(block_size).expect("positive") };
        let tokenizer = &*MODEL;
        let mut token = Vec::new();
        tokenizer.encode_into(PAD, false, &mut token).expect("encodes");
        let [token] = *token else { panic!("{token:?}") };
        let mut conversations = vec![parts];
        for (at, other) in others {
            let mut next = conversations.last().expect("one").clone();
            *at.get_mut(&mut next) = other;
            conversations.push(next);
        }
        conversations.extend_from_within(..);
        for parts in conversations {
            let (text, images) = prompt(&parts, token);
            for want_tokens in [false, true] {
                let prompt = Prompt {
                    content: Content::Text(Text { text: &text, add_special_tokens: false, is_whole: true, images: &images }),
                    tokenizer,
                    tokenizer_id: [0; 16],
                    layout,
                    seed: HashSeed::PLAIN,
                    want_tokens,
                };
                let mut read = memory.read(prompt, &Work::unbounded()).expect("reads");
                let mut expected = expected(&parts, token, layout);
                read.remembered_bytes = 0;
                if !want_tokens {
                    expected.tokens.clear();
                }
                prop_assert!(read == expected, "{:?}", parts);
            }
        }
    }
}

/// Reads a text with one image in it.
fn read(memory: &mut Memory, text: &str, identity: u64, block_size: u32) -> Reading {
    let tokenizer = &*MODEL;
    let run = MediaRun {
        identity,
        token: 151_655,
        count: 100,
    };
    let images = [Image {
        at: text.find(PAD).expect("there"),
        run,
    }];
    let prompt = Prompt {
        content: Content::Text(Text {
            text,
            add_special_tokens: false,
            is_whole: true,
            images: &images,
        }),
        tokenizer,
        tokenizer_id: [0; 16],
        layout: BlockLayout::plain(block_size).expect("positive"),
        seed: HashSeed::PLAIN,
        want_tokens: false,
    };
    memory.read(prompt, &Work::unbounded()).expect("reads")
}

/// A conversation that goes on behind an image is known up to there, and with another image it is not.
#[test]
fn an_image_is_remembered_as_itself() {
    let tokenizer = &*MODEL;
    let mut memory = Memory::new(1 << 20, [1, 2]);
    let words = "some words to read ".repeat(200);
    let text = format!("<|im_start|>{words}{PAD}<|im_end|>{words}<|im_start|>{words}");
    let [first, other, again] = [1, 2, 1].map(|identity| read(&mut memory, &text, identity, 16));
    assert_eq!((&again.blocks, again.input_tokens), (&first.blocks, first.input_tokens));
    assert!(again.remembered_bytes > text.len() / 2, "{}", again.remembered_bytes);
    let shared = first.blocks.iter().zip(&other.blocks);
    let shared = shared.take_while(|(one, two)| one == two).count();
    let mut before = Vec::new();
    let encoded = tokenizer.encode_into(&text[..text.find(PAD).expect("there")], false, &mut before);
    encoded.expect("encodes");
    assert_eq!(shared, before.len() / 16);
}

/// A block may start with an image and end in what comes after all that is remembered.
#[test]
fn an_image_reaches_beyond_what_is_remembered() {
    for block_size in [16, 300, 600] {
        let mut memory = Memory::new(1 << 20, [1, 2]);
        for end in ["first", "second"] {
            let words = "some words to read ".repeat(100);
            let text = format!("{PAD}{words}<|im_start|>{}", format!("{end} ").repeat(600));
            let found = read(&mut memory, &text, 1, block_size);
            let expected = read(&mut Memory::new(0, [0; 2]), &text, 1, block_size);
            assert!(end == "first" || found.remembered_bytes > words.len());
            assert!(found.blocks == expected.blocks, "{block_size} {end}");
        }
    }
}
