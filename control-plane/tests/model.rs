//! What a model directory comes to.

use std::fs;
use std::path::Path;

use control_plane::config::PromptsConfig;
use control_plane::model::Model;
use prompt::Frontend;

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
