//! From prompts to blocks: what counts of each kind, against hashing all its tokens.

use super::*;
use crate::artefacts::Kind;
use proptest::prelude::*;
use router_core::hash::{BlockHasher, HashSeed, local_hashes, media_hash, sequence_hashes};
use serde_json::{Map, Value, json};

const BLOCK: u32 = 4;

/// Special tokens, which are where texts may be cut.
const SPECIAL: [&str; 4] = ["<s>", "</s>", "<|image|>", "<|message|>"];
/// Takes parts, and puts the image where it was.
const PARTS: &str = "{% for m in messages %}<s>{{ m.role }}{% if m.content is string %}{{ m.content }}{% else %}\
    {% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<|image|>{% endif %}{% endfor %}{% endif %}</s>{% endfor %}";

/// Every byte is a token.
fn byte_level() -> Vec<u8> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let bytes = (0..256).filter(printable).chain(256..324).filter_map(char::from_u32);
    let vocab: Map<String, Value> = bytes.zip(0..).map(|(byte, id)| (byte.to_string(), json!(id))).collect();
    let added = SPECIAL.iter().zip(256..).map(|(content, id)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    });
    let json = json!({"version": "2.0", "added_tokens": added.collect::<Vec<_>>(),
        "model": {"type": "BPE", "byte_level": true, "vocab": vocab, "merges": []}});
    tokenizer::build(json.to_string().as_bytes()).expect("builds")
}

/// Travels as JSON, so that nobody says where its texts may be cut.
fn unigram() -> Vec<u8> {
    let json = r#"{"version":"2.0","model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.0],["b",-2.0],["ab",-1.5]]}}"#;
    tokenizer::build(json.as_bytes()).expect("builds")
}

/// A pool and what its requests are read with.
struct Model {
    pool: Pool,
    artefacts: Artefacts,
    memory: Memory,
}

impl Model {
    fn new(tokenizer: Vec<u8>, template: &Value) -> Self {
        let mut model = Self::not_loaded(tokenizer, template);
        while let Some(loaded) = model.artefacts.load_next() {
            assert_eq!(loaded.outcome, Ok(()));
        }
        model
    }

    fn not_loaded(tokenizer: Vec<u8>, template: &Value) -> Self {
        let template = template.to_string().into_bytes();
        let mut artefacts = Artefacts::default();
        let [tokenizer_id, template_id] = [tokenizer, template].map(|bytes| {
            let id = ArtefactId::of(&bytes);
            assert_eq!(artefacts.take(id, bytes.len() as u64, 0, &bytes), Ok(()));
            id
        });
        artefacts.want([(tokenizer_id, Kind::Tokenizer), (template_id, Kind::Template)].into());
        let pool = Pool {
            tokenizer: Some(tokenizer_id),
            template: Some(template_id),
            layout: BlockLayout::plain(BLOCK).expect("positive"),
            ..pool("p")
        };
        let memory = Memory::new(1 << 20, [1, 2]);
        Self {
            pool,
            artefacts,
            memory,
        }
    }

    fn of_parts() -> Self {
        Self::new(byte_level(), &json!({"chat_template": PARTS}))
    }

    fn read(&mut self, shape: Shape, body: &Value) -> Result<Blocks, &'static str> {
        let bytes = body.to_string();
        let body = Body::read(shape, bytes.as_bytes()).expect("reads");
        let Self {
            pool,
            artefacts,
            memory,
        } = self;
        understand(artefacts, memory, pool, Whose::default(), &body, &body.work(), NOW)?.known
    }

    /// The blocks of a text, without memory and by other functions.
    fn blocks(&self, text: &str) -> Vec<SequenceHash> {
        self.hashes(&self.ids(text))
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let tokenizer = self
            .artefacts
            .tokenizer(self.pool.tokenizer.expect("has one"))
            .expect("is loaded");
        tokenizer.encode_into(text, false, &mut ids).expect("encodes");
        ids
    }

    fn hashes(&self, ids: &[u32]) -> Vec<SequenceHash> {
        sequence_hashes(local_hashes(ids, self.pool.layout, HashSeed::PLAIN))
    }
}

fn user(parts: Value) -> Value {
    json!({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]})
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn image() -> Value {
    json!({"type": "image_url", "image_url": {"url": "x"}})
}

/// An image of which all is known, of 20 tokens.
fn known_image(uuid: &str) -> Value {
    // A PNG of 560 x 28 pixels, as far as its size is in it.
    let url = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAjAAAAAc";
    json!({"type": "image_url", "image_url": {"url": url}, "uuid": uuid})
}

impl Model {
    /// As [`Model::of_parts`], of the Qwen-VL family.
    fn of_images() -> Self {
        let images = json!({"placeholder": "<|image|>", "placeholder_id": 258, "patch_size": 14, "merge_size": 2,
            "min_pixels": 1, "max_pixels": 1_000_000});
        Self::new(byte_level(), &json!({"chat_template": PARTS, "images": images}))
    }
}

#[test]
fn images_that_are_known_count() {
    let mut model = Model::of_images();
    let body = |parts: Value| user(json!([text("before"), known_image("cat"), text("after"), parts]));
    let [head, tail] = ["<s>systembe brief</s><s>userbefore", "after"].map(|text| model.ids(text));
    let start = [head.clone(), vec![258; 20], tail].concat();
    let mut hasher = BlockHasher::new(HashSeed::PLAIN);
    let mut blocks = |ids: &[u32]| {
        let locals = model.pool.layout.blocks(ids).enumerate().map(|(number, block)| {
            let (start, end) = (number * BLOCK as usize, (number + 1) * BLOCK as usize);
            let cats = usize::from(start < head.len() + 20 && head.len() < end);
            hasher.local(block, &[media_hash("cat")][..cats])
        });
        sequence_hashes(locals)
    };
    let whole = blocks(&[start.clone(), model.ids("!</s>")].concat());
    let known = blocks(&start);
    for _ in ["read", "remembered"] {
        let read = model.read(Shape::Chat, &body(text("!"))).expect("is read");
        assert_eq!((read.extent, &read.hashes), (Extent::PromptWithMedia, &whole));
        // Up to the second image, of which nothing is known.
        let read = model.read(Shape::Chat, &body(image())).expect("is read");
        assert_eq!((read.extent, &read.hashes), (Extent::TextBeforeMedia, &known));
    }
    let other = user(json!([text("before"), known_image("dog"), text("after"), text("!")]));
    let other = model.read(Shape::Chat, &other).expect("is read").hashes;
    let shared = whole.iter().zip(&other).take_while(|(one, two)| one == two).count();
    assert_eq!((shared, other.len()), (head.len() / BLOCK as usize, whole.len()));
}

proptest! {
    /// Whatever tokens the engine puts in an image's place, the blocks that we look up are the first ones of its prompt.
    #[test]
    fn blocks_before_an_image_do_not_depend_on_it(
        before in "[a-z <>/s|]{0,40}",
        after in "[a-z <>/s]{0,20}",
        instead in proptest::collection::vec(0..260_u32, 0..12),
    ) {
        let mut model = Model::of_parts();
        let read = model.read(Shape::Chat, &user(json!([text(&before), image(), text(&after)]))).expect("is read");
        prop_assert_eq!(read.extent, Extent::TextBeforeMedia);
        let start = "<s>systembe brief</s><s>user";
        prop_assert!(read.hashes.len() >= model.ids(start).len() / BLOCK as usize);
        let head = model.ids(&format!("{start}{before}"));
        let tail = model.ids(&format!("{after}</s>"));
        prop_assert!(model.hashes(&[head, instead, tail].concat()).starts_with(&read.hashes));
    }
}

#[test]
fn without_a_block_before_an_image_load_decides() {
    let reason = |model: &mut Model, body: &Value| model.read(Shape::Chat, body).map(|_| ()).unwrap_err();
    let first = json!({"messages": [{"role": "u", "content": [image(), text("what is it, and where, and why?")]}]});
    assert_eq!(reason(&mut Model::of_parts(), &first), "multimodal");
    let late = user(json!([text("abababababababab"), image()]));
    assert!(Model::of_parts().read(Shape::Chat, &late).is_ok());
    let mut uncut = Model::new(unigram(), &json!({"chat_template": PARTS}));
    assert_eq!(reason(&mut uncut, &late), "multimodal");
}

/// A worker gets no ids of a prompt with images, neither ours nor the client's.
#[test]
fn ids_of_prompts_with_images_are_nobodys() {
    let mut model = Model::of_images();
    model.pool.inject_tokens = true;
    for image in [image(), known_image("cat")] {
        let with_image = user(json!([text("what is it?"), image]));
        let known = model.read(Shape::Chat, &with_image);
        assert_eq!(known.as_ref().map(|blocks| blocks.tokens.clone()).ok(), Some(None));
        assert_eq!(new_body(with_image.to_string().as_bytes(), &known), None);
        let mut forged = with_image;
        forged["nvext"] = json!({"token_data": [1, 2, 3]});
        let Some(NewBody::WithoutTokens(body)) = new_body(forged.to_string().as_bytes(), &known) else {
            panic!("the client's ids stay");
        };
        forged["nvext"] = json!({"token_data": null});
        assert_eq!(serde_json::from_slice::<Value>(&body).expect("is JSON"), forged);
    }

    let without = user(json!([text("what is it?")]));
    let known = model.read(Shape::Chat, &without);
    let ids = model.ids("<s>systembe brief</s><s>userwhat is it?</s>");
    assert_eq!(known.map(|blocks| blocks.tokens).ok(), Some(Some(ids)));
}

#[test]
fn of_a_truncated_prompt_what_is_kept_counts() {
    let mut model = Model::of_parts();
    let body = |keep: u32| json!({"prompt": "one two three four five", "truncate_prompt_tokens": keep});
    for _ in ["tokenized", "remembered"] {
        let read = model.read(Shape::Completions, &body(10)).expect("is read");
        assert_eq!(read.hashes, model.blocks(" four five"));
    }
    let whole = model.read(Shape::Completions, &body(100)).expect("is read");
    assert_eq!(whole.hashes, model.blocks("one two three four five"));
    model.pool.inject_tokens = true;
    let reason = model.read(Shape::Completions, &body(10)).map(|_| ()).unwrap_err();
    assert_eq!(reason, "unsupported_field");
}

/// gpt-oss's prompts, whose parts are tokenized one by one.
#[test]
fn prompts_in_parts_are_remembered() {
    let mut model = Model::new(byte_level(), &json!({"rules": {"harmony": true}}));
    let long = "Tell me more about it. ".repeat(200);
    let mut messages = vec![json!({"role": "user", "content": format!("{long}</s>")})];
    let mut read = |messages: &[Value]| {
        model
            .read(Shape::Chat, &json!({"messages": messages}))
            .expect("is read")
    };
    let first = read(&messages);
    assert_eq!(first.recall.remembered, 0);
    messages.push(json!({"role": "assistant", "content": "No."}));
    messages.push(json!({"role": "user", "content": "Why?"}));
    let second = read(&messages);
    let shared = first
        .hashes
        .iter()
        .zip(&second.hashes)
        .take_while(|(one, other)| one == other)
        .count();
    assert!(shared * BLOCK as usize > long.len(), "{shared} blocks");
    assert!(second.recall.remembered as usize > long.len(), "{:?}", second.recall);
    assert!(second.recall.remembered < second.recall.bytes, "{:?}", second.recall);
}

#[test]
fn no_prompt_is_read_before_all_that_decides_it_is_loaded() {
    let mut model = Model::not_loaded(byte_level(), &json!({"chat_template": PARTS}));
    let requests = [
        (Shape::Chat, user(json!("a chat"))),
        (Shape::Completions, json!({"prompt": "a text"})),
        (Shape::Completions, json!({"prompt": [1, 2, 3, 4]})),
    ];
    let mut outcomes = || {
        let read = |(shape, body): &(Shape, Value)| model.read(*shape, body).map(|_| ());
        let outcomes: Vec<_> = requests.iter().map(read).collect();
        (outcomes, model.artefacts.load_next().is_some())
    };
    assert_eq!(outcomes(), (vec![Err("not_loaded"); 3], true));
    assert_eq!(outcomes(), (vec![Err("not_loaded"); 3], true));
    assert_eq!(outcomes(), (vec![Ok(()); 3], false));
}
