//! What a model directory comes to.

use std::fs;
use std::path::{Path, PathBuf};

use control_plane::config::PromptsConfig;
use control_plane::model::{Manner, Model};
use prompt::{Body, Frontend, ModelText, Shape};
use serde_json::{Value, json};

/// A directory with these files.
fn directory(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    for (file, content) in files {
        fs::write(directory.join(file), content).unwrap();
    }
    directory
}

/// The ids of a body, or the reason that filters count.
fn ids(model: &Model, shape: Shape, body: &str) -> Result<Vec<u32>, &'static str> {
    let body = Body::read(shape, body.as_bytes()).unwrap();
    let read = model.read(&body, Manner::default(), &body.work());
    read.map(|prompt| prompt.ids).map_err(|unread| unread.reason)
}

/// As WordPiece and embedding models often come.
#[test]
fn a_tokenizer_alone_is_enough_for_texts() {
    let tokenizer = r###"{"version":"1.0","added_tokens":[],"normalizer":null,"decoder":null,
        "pre_tokenizer":{"type":"Whitespace"},
        "post_processor":{"type":"TemplateProcessing",
            "pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],
            "single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
            "special_tokens":{"[CLS]":{"id":"[CLS]","ids":[1],"tokens":["[CLS]"]}}},
        "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,
            "vocab":{"[UNK]":0,"[CLS]":1,"warm":2,"##er":3,"path":4}}}"###;
    let directory = directory("alone", &[("tokenizer.json", tokenizer)]);
    let load = |frontend| Model::load(&directory, &PromptsConfig::of(frontend));
    let model = load(Frontend::Vllm);
    assert_eq!(
        model.inexact_because().as_deref(),
        Some("the model has no chat template")
    );
    assert_eq!(
        ids(&model, Shape::Embeddings, r#"{"input":"warmer path"}"#),
        Ok(vec![1, 2, 3, 4])
    );
    assert_eq!(ids(&model, Shape::Completions, r#"{"prompt":"warm"}"#), Ok(vec![1, 2]));
    assert_eq!(ids(&model, Shape::Completions, r#"{"prompt":[4,2]}"#), Ok(vec![4, 2]));
    let chat = r#"{"messages":[{"role":"user","content":"warm"}],"chat_template":"{{ bos_token }}"}"#;
    assert_eq!(ids(&model, Shape::Chat, chat), Err("unsupported_field"));
    assert_eq!(ids(&model, Shape::Chat, r#"{"messages":[]}"#), Err("no_template"));
    // What the filters get says so, too: Dynamo's frontend adds no special tokens.
    let model = load(Frontend::Dynamo);
    assert_eq!(ids(&model, Shape::Completions, r#"{"prompt":"warm"}"#), Ok(vec![2]));
    let text: ModelText = serde_json::from_slice(&model.template.artefact.content).unwrap();
    assert_eq!(text.rules.frontend, Frontend::Dynamo);

    // The special tokens that a template may name are not known.
    fs::write(directory.join("chat_template.jinja"), "{{ bos_token }}").unwrap();
    let why = load(Frontend::Vllm).inexact_because().unwrap();
    assert!(why.contains("tokenizer_config.json: no such file"), "{why}");
}

#[test]
fn a_template_for_tools_alone_is_a_template() {
    let config = r#"{"chat_template":[{"name":"tool_use","template":"U"},{"name":"rag","template":"R"}]}"#;
    let directory = directory("tools", &[("tokenizer_config.json", config)]);
    let unusable = |frontend| {
        Model::load(&directory, &PromptsConfig::of(frontend))
            .template
            .unusable_because
    };
    assert_eq!(unusable(Frontend::Vllm), None);
    // It renders the default one.
    assert_eq!(
        unusable(Frontend::Dynamo).as_deref(),
        Some("the model has no chat template")
    );
}

#[test]
fn models_for_which_dynamo_has_no_template_are_refused() {
    let directory = directory("dynamo", &[("tokenizer_config.json", r#"{"chat_template": "x"}"#)]);
    let reason = |model_type: &str, frontend| {
        let config = format!(r#"{{"model_type": "{model_type}"}}"#);
        fs::write(directory.join("config.json"), config).unwrap();
        Model::load(&directory, &PromptsConfig::of(frontend))
            .template
            .unusable_because
    };
    let refused = "config.json: Dynamo's frontend writes prompts of `deepseek_v4` without a template, in a way that is not known here";
    assert_eq!(reason("deepseek_v4", Frontend::Dynamo).as_deref(), Some(refused));
    assert_eq!(reason("deepseek_v4", Frontend::Vllm), None);
    assert_eq!(reason("deepseek_v3", Frontend::Dynamo), None);
}

/// Of a model that takes images, the processor may have a template of its own, as Qwen2.5-VL's and Gemma 3's have.
#[test]
fn a_processors_template_is_for_requests_without_tools() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("processor-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let write = |file: &str, content: &str| fs::write(directory.join(file), content).unwrap();
    let shipped = |frontend| {
        let model = Model::load(&directory, &PromptsConfig::of(frontend));
        if let Some(why) = model.template.unusable_because {
            return Err(why);
        }
        let text: ModelText = serde_json::from_slice(&model.template.artefact.content).unwrap();
        Ok([text.chat_template, text.tool_use_template].map(Option::unwrap_or_default))
    };
    let found = |with: [&str; 2]| Ok(with.map(str::to_owned));
    write("tokenizer_config.json", r#"{"chat_template": "tokenizer"}"#);
    write("chat_template.json", r#"{"chat_template": "processor"}"#);
    assert_eq!(shipped(Frontend::Vllm), found(["tokenizer", ""]));
    write("preprocessor_config.json", "{}");
    assert_eq!(shipped(Frontend::Vllm), found(["processor", "tokenizer"]));
    assert_eq!(shipped(Frontend::Dynamo), found(["tokenizer", ""]));
    write("chat_template.jinja", "newer");
    assert_eq!(shipped(Frontend::Vllm), found(["processor", "newer"]));
    write("chat_template.json", r#"{"chat_template": ["processor"]}"#);
    let refused = "chat_template.json: `chat_template` is no text";
    assert_eq!(shipped(Frontend::Vllm), Err(refused.to_owned()));
    fs::remove_dir_all(&directory).unwrap();
}

/// GPT-2's, which the tokenizer library knows.
const KNOWN_REGEX: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

#[test]
fn a_regex_that_is_not_known_is_named_with_its_place() {
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let replace = |regex: &str| json!({"type": "Replace", "pattern": {"Regex": regex}, "content": "x"});
    let refused = |part: Value| {
        let mut tokenizer = json!({"normalizer": null, "pre_tokenizer": null,
            "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}});
        tokenizer
            .as_object_mut()
            .unwrap()
            .extend(part.as_object().unwrap().clone());
        let directory = directory("regex", &[("tokenizer.json", &tokenizer.to_string())]);
        Model::load(&directory, &PromptsConfig::default()).tokenizer.err()
    };
    let why = "none of the regexes that can be matched here, which are those of known tokenizers";
    let sequence = json!({"type": "Sequence", "pretokenizers": [split(KNOWN_REGEX), split(r"\d{1,5}")]});
    let long = "é".repeat(1_000);
    for (part, named) in [
        (
            json!({"pre_tokenizer": split("a+")}),
            r#"pre_tokenizer.pattern.Regex: "a+""#.to_owned(),
        ),
        (
            json!({"pre_tokenizer": sequence}),
            r#"pre_tokenizer.pretokenizers[1].pattern.Regex: "\\d{1,5}""#.to_owned(),
        ),
        (
            json!({"normalizer": replace("b|c"), "decoder": {"type": "Sequence", "decoders": [replace("d")]}}),
            // What makes texts of ids is of no use.
            r#"normalizer.pattern.Regex: "b|c""#.to_owned(),
        ),
        (
            json!({"normalizer": replace(&long)}),
            format!("normalizer.pattern.Regex: {:?}", "é".repeat(200)),
        ),
    ] {
        assert_eq!(
            refused(part.clone()),
            Some(format!("tokenizer.json: {named}: {why}")),
            "{part}"
        );
    }
    assert_eq!(refused(json!({"pre_tokenizer": split(KNOWN_REGEX)})), None);
    let of_another = refused(json!({"pre_tokenizer": split("a+"), "model": {"type": "WordSalad"}})).unwrap();
    assert!(
        of_another.starts_with("tokenizer.json is not supported: "),
        "{of_another}"
    );
}
