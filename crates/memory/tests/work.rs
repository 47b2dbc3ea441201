//! What requests cost that are made to cost much, from body to blocks, as the filter reads them. Counted, not timed: that
//! the counts are worth what they say is for `scripts/bench hostile` to show.

use std::path::{Path, PathBuf};

use memory::{Content, Memory, Text};
use prompt::{Body, ChatTemplate, ModelText, Prompt, Shape};
use router_core::hash::{BlockLayout, HashSeed};
use tokenizer::Tokenizer;
use work::hostile::requests;
use work::{Limits, Work};

/// Byte-level and normalized; without a pre-tokenizer; in the library.
const MODELS: [&str; 3] = ["qwen3", "gemma3", "afaanoromo_unigram"];

/// More than any of these requests costs.
const AMPLE: Limits = Limits {
    base: 1 << 50,
    per_byte: 0,
};

struct Model {
    name: &'static str,
    artefact: Vec<u8>,
    template: ChatTemplate,
}

impl Model {
    fn load(name: &'static str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../target/models")
            .join(name);
        let json = tk_convert::canonicalize_file(dir.join("tokenizer.json")).expect("no model: run scripts/setup test");
        let read = |file: &str| -> Option<Vec<u8>> { std::fs::read(PathBuf::from(&dir).join(file)).ok() };
        let plain = br#"{"chat_template":"{% for message in messages %}{{ message.content }}{% endfor %}"}"#;
        let config = read("tokenizer_config.json").unwrap_or_else(|| plain.to_vec());
        let jinja = read("chat_template.jinja").map(|text| String::from_utf8(text).unwrap());
        let text = ModelText::from_files(&config, jinja.as_deref()).unwrap();
        Self {
            name,
            artefact: tokenizer::build(json.as_bytes()).unwrap().bytes,
            template: ChatTemplate::compile(&text).unwrap(),
        }
    }

    /// With nothing remembered.
    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::load(self.artefact.clone()).unwrap()
    }

    /// Tokens of a request's prompt, or why it is routed by load.
    fn read(
        &self,
        tokenizer: &Tokenizer,
        memory: &mut Memory,
        path: &str,
        body: &str,
        work: &Work,
    ) -> Result<usize, &'static str> {
        let body = Body::read(Shape::of_path(path).unwrap(), body.as_bytes()).map_err(|error| error.reason())?;
        let prompt = body.prompt_within(Some(&self.template), work);
        match prompt.map_err(|error| error.reason())? {
            Prompt::Tokens(ids) => Ok(ids.len()),
            Prompt::Pieces(_) | Prompt::Truncated { .. } => unreachable!("none of them is gpt-oss or truncated"),
            Prompt::Text {
                text,
                add_special_tokens,
                media: _,
            } => {
                let prompt = memory::Prompt {
                    content: Content::Text(Text {
                        text: &text,
                        add_special_tokens,
                        is_whole: true,
                        images: &[],
                    }),
                    tokenizer,
                    tokenizer_id: [0; 16],
                    layout: BlockLayout::plain(16).unwrap(),
                    seed: HashSeed::new(None, None),
                    want_tokens: false,
                };
                memory
                    .read(prompt, work)
                    .map(|read| read.input_tokens)
                    .map_err(|error| error.reason())
            }
        }
    }
}

/// Twice the body, twice the work, within a little: nothing in a body makes work grow faster than its length.
#[test]
fn work_is_linear_in_the_body() {
    const BYTES: usize = 20_000;
    // Loaded anew for each request, which takes long with the others.
    for model in [Model::load("qwen3")] {
        let cost = |path, body: &str| {
            let work = Work::new(AMPLE, body.len());
            let outcome = model.read(&model.tokenizer(), &mut Memory::new(0, [0; 2]), path, body, &work);
            (AMPLE.base - work.left(), outcome)
        };
        for (half, whole) in requests(BYTES).into_iter().zip(requests(2 * BYTES)) {
            let ((of_half, _), (of_whole, outcome)) = (cost(half.path, &half.body), cost(whole.path, &whole.body));
            // A template's own texts, and small words that come up again and again.
            assert!(
                of_whole <= 2 * of_half + of_half / 10 + 100_000,
                "{}, {}: {of_half} ns, of twice as much {of_whole} ns",
                model.name,
                half.name
            );
            let refusals = ["template_refused", "template_error", "tokenizer_error", "bad_field"];
            assert!(
                outcome.is_ok() || outcome.is_err_and(|reason| refusals.contains(&reason)),
                "{}, {}: {outcome:?}",
                model.name,
                half.name
            );
        }
    }
}

/// However little a request may cost, it does not cost more, and says why it was left.
#[test]
fn what_takes_too_much_is_left() {
    const BYTES: usize = 20_000;
    let mut left = [0; 2];
    for model in MODELS.map(Model::load) {
        let tokenizer = model.tokenizer();
        for request in requests(BYTES) {
            for per_byte in [1, 25] {
                let limits = Limits { base: 20_000, per_byte };
                let work = Work::new(limits, request.body.len());
                match model.read(
                    &tokenizer,
                    &mut Memory::new(0, [0; 2]),
                    request.path,
                    &request.body,
                    &work,
                ) {
                    Err("template_limit") => left[0] += 1,
                    Err("tokenizer_limit") => left[1] += 1,
                    Ok(_) | Err("template_refused" | "template_error" | "tokenizer_error" | "bad_field") => {}
                    Err(reason) => panic!("{}, {}: {reason}", model.name, request.name),
                }
            }
        }
    }
    assert!(left.iter().all(|count| *count >= 20), "{left:?}");
}

/// What is remembered is not paid for again.
#[test]
fn known_prompts_cost_little() {
    let model = Model::load("qwen3");
    let (tokenizer, mut memory) = (model.tokenizer(), Memory::new(64 << 20, [0; 2]));
    let text: String = (1..20_000_u64)
        .map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let mut cost = || {
        let work = Work::new(AMPLE, body.len());
        model
            .read(&tokenizer, &mut memory, "/v1/chat/completions", &body, &work)
            .unwrap();
        AMPLE.base - work.left()
    };
    let (first, second) = (cost(), cost());
    assert!(second * 3 < first * 2, "{first} ns, then {second} ns");
}
