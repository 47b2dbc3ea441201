//! What a model directory comes to.

use std::fs;
use std::path::Path;

use control_plane::config::PromptsConfig;
use control_plane::model::Model;
use prompt::{Frontend, ModelText};

#[test]
fn models_for_which_dynamo_has_no_template_are_refused() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("tokenizer_config.json"), r#"{"chat_template": "x"}"#).unwrap();
    let reason = |model_type: &str, frontend| {
        let config = format!(r#"{{"model_type": "{model_type}"}}"#);
        fs::write(directory.join("config.json"), config).unwrap();
        Model::load(&directory, &PromptsConfig::of(frontend)).template.err()
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
        let (_, artefact) = model.template?;
        let text: ModelText = serde_json::from_slice(&artefact.content).unwrap();
        Ok::<_, String>([text.chat_template, text.tool_use_template].map(Option::unwrap_or_default))
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
