//! What requests cost that are made to cost much, from body to blocks. Counted, not timed: that the counts are worth what
//! they say is for `scripts/bench hostile` to show.

use super::*;
use crate::artefacts::Kind;
use prompt::ModelText;
use serde_json::json;
use std::path::Path;
use work::hostile::requests;

/// More than any of these requests costs.
const AMPLE: Limits = Limits {
    base: 1 << 50,
    per_byte: 0,
};

/// As those of Qwen-VL do it.
const WITH_IMAGES: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}\
    {% else %}{% for p in m.content %}{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
    {% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}";

struct Model {
    name: &'static str,
    tokenizer: Vec<u8>,
    text: ModelText,
}

impl Model {
    /// Byte-level and normalized; the same with images; without a pre-tokenizer; Unigram; in the Harmony format.
    fn all() -> [Self; 5] {
        let images = json!({"placeholder": "<|image_pad|>", "placeholder_id": 151_655, "patch_size": 14, "merge_size": 2,
            "min_pixels": 3_136, "max_pixels": 12_845_056});
        let with_images = json!({"chat_template": WITH_IMAGES, "images": images});
        let mut harmony = Self::load("gptoss");
        harmony.text.rules.harmony = true;
        [
            Self::load("qwen3"),
            Self {
                name: "qwen3 with images",
                text: serde_json::from_value(with_images).expect("is one"),
                ..Self::load("qwen3")
            },
            Self::load("gemma3"),
            Self::load("afaanoromo_unigram"),
            harmony,
        ]
    }

    fn load(name: &'static str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/models")
            .join(name);
        let json = tk_convert::canonicalize_file(dir.join("tokenizer.json")).expect("no model: run scripts/setup test");
        let plain = br#"{"chat_template":"{% for message in messages %}{{ message.content }}{% endfor %}"}"#;
        let config = std::fs::read(dir.join("tokenizer_config.json")).unwrap_or_else(|_| plain.to_vec());
        let jinja = std::fs::read_to_string(dir.join("chat_template.jinja")).ok();
        Self {
            name,
            tokenizer: tokenizer::build(json.as_bytes()).expect("builds"),
            text: ModelText::from_files(&config, jinja.as_deref()).expect("reads"),
        }
    }

    /// With nothing remembered.
    fn reader(&self, memory_bytes: usize) -> Reader {
        let mut artefacts = Artefacts::default();
        let template = serde_json::to_vec(&self.text).expect("is JSON");
        let [tokenizer, template] = [&self.tokenizer, &template].map(|bytes| {
            let id = ArtefactId::of(bytes);
            assert_eq!(artefacts.take(id, bytes.len() as u64, 0, bytes), Ok(()));
            id
        });
        artefacts.want(vec![(tokenizer, Kind::Tokenizer), (template, Kind::Template)]);
        while let Some(loaded) = artefacts.load_next() {
            assert_eq!(loaded.outcome, Ok(()), "{}", self.name);
        }
        Reader {
            pool: Pool {
                tokenizer: Some(tokenizer),
                template: Some(template),
                ..pool("p")
            },
            artefacts,
            memory: Memory::new(memory_bytes, [0; 2]),
        }
    }
}

struct Reader {
    pool: Pool,
    artefacts: Artefacts,
    memory: Memory,
}

impl Reader {
    /// Nothing if the prompt is known as far as it can be, else why the request is routed by load.
    fn read(&mut self, path: &str, body: &str, work: &Work) -> Result<(), &'static str> {
        let body =
            Body::read(Shape::of_path(path).expect("is one"), body.as_bytes()).map_err(|error| error.reason())?;
        let Self {
            pool,
            artefacts,
            memory,
        } = self;
        understand(artefacts, memory, pool, Whose::default(), &body, work, NOW)?.known?;
        Ok(())
    }
}

/// Reasons of requests that are no prompts for some model.
const REFUSALS: [&str; 6] = [
    "template_refused",
    "template_error",
    "tokenizer_error",
    "bad_field",
    "multimodal",
    "unsupported_field",
];

/// Twice the body, twice the work, within a little: nothing in a body makes work grow faster than its length.
#[test]
fn work_is_linear_in_the_body() {
    // Loaded anew for each request, which takes longest with the others.
    let models = Model::all()
        .into_iter()
        .filter(|model| !["gemma3", "afaanoromo_unigram"].contains(&model.name));
    std::thread::scope(|scope| {
        models.for_each(|model| {
            scope.spawn(move || is_linear(&model));
        });
    });
}

fn is_linear(model: &Model) {
    const BYTES: usize = 20_000;
    let cost = |path, body: &str| {
        let work = Work::new(AMPLE, body.len());
        let outcome = model.reader(0).read(path, body, &work);
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
        assert!(
            outcome.is_ok() || outcome.is_err_and(|reason| REFUSALS.contains(&reason)),
            "{}, {}: {outcome:?}",
            model.name,
            half.name
        );
    }
}

/// However little a request may cost, it does not cost more, and says why it was left.
#[test]
fn what_takes_too_much_is_left() {
    const BYTES: usize = 20_000;
    let mut left = [0; 2];
    for model in Model::all() {
        let mut reader = model.reader(0);
        for request in requests(BYTES) {
            for per_byte in [1, 25] {
                let limits = Limits { base: 20_000, per_byte };
                let work = Work::new(limits, request.body.len());
                match reader.read(request.path, &request.body, &work) {
                    Err("template_limit") => left[0] += 1,
                    Err("tokenizer_limit") => left[1] += 1,
                    Ok(()) => {}
                    Err(reason) => assert!(REFUSALS.contains(&reason), "{}, {}: {reason}", model.name, request.name),
                }
            }
        }
    }
    assert!(left.iter().all(|count| *count >= 20), "{left:?}");
}

/// What is remembered is not paid for again.
#[test]
fn known_prompts_cost_little() {
    let mut reader = Model::load("qwen3").reader(64 << 20);
    let text: String = (1..20_000_u64)
        .map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let mut cost = || {
        let work = Work::new(AMPLE, body.len());
        reader.read("/v1/chat/completions", &body, &work).expect("is read");
        AMPLE.base - work.left()
    };
    let (first, second) = (cost(), cost());
    assert!(second * 3 < first * 2, "{first} ns, then {second} ns");
}
