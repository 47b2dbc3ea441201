//! The chat template of a model directory, and the rules by which the pool's workers make prompts.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prompt::{ChatTemplate, Frontend, ModelText, Rules};
use serde::Deserialize;
use serde_json::json;
use tokenizer::Tokenizer;

use super::{Artefact, images, read};
use crate::config::PromptsConfig;

/// What makes prompts of requests.
pub struct Template {
    /// Of a model whose chat template cannot be used it has the rules only: texts are read by them, conversations are not.
    pub compiled: ChatTemplate,
    /// The JSON of its [`ModelText`].
    pub artefact: Artefact,
    /// Why conversations cannot be read; `None` if they can.
    pub unusable_because: Option<String>,
}

impl Template {
    /// `tokenizer` is the model's, if it has one that can be used.
    pub(super) fn load(directory: &Path, prompts: &PromptsConfig, tokenizer: Option<&Tokenizer>) -> Self {
        let rules = rules(directory, prompts);
        let read = model_text(directory, prompts, rules.clone(), tokenizer);
        let compiled = read.and_then(|text| match ChatTemplate::compile(&text) {
            Ok(compiled) => Ok((compiled, text)),
            Err(error) => Err(error.to_string()),
        });
        let (compiled, text, unusable_because) = match compiled {
            Ok((compiled, text)) => {
                let missing = is_missing(&text).then(|| "the model has no chat template".to_owned());
                (compiled, text, missing)
            }
            Err(why) => {
                let rules = alone(rules);
                let text = ModelText {
                    rules: rules.clone(),
                    ..ModelText::default()
                };
                (ChatTemplate::without_source(rules), text, Some(why))
            }
        };
        Self {
            compiled,
            artefact: Artefact::new(json!(text).to_string().into_bytes()),
            unusable_because,
        }
    }

    /// Tells the time, for templates that write the date.
    pub fn set_now(&self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.compiled.set_now(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}

fn rules(directory: &Path, prompts: &PromptsConfig) -> Rules {
    Rules {
        harmony: prompts.rules.frontend == Frontend::Vllm && prompts.harmony.unwrap_or_else(|| is_gpt_oss(directory)),
        images_first: is_one_of(model_type(directory).as_deref(), &IMAGES_FIRST),
        ..prompts.rules.clone()
    }
}

/// Of a model whose template or special tokens are not known: templates of requests would be given too little.
fn alone(rules: Rules) -> Rules {
    Rules {
        trust_request_chat_template: false,
        default_chat_template_kwargs: serde_json::Map::new(),
        ..rules
    }
}

fn model_text(
    directory: &Path,
    prompts: &PromptsConfig,
    rules: Rules,
    tokenizer: Option<&Tokenizer>,
) -> Result<ModelText, String> {
    let model_type = model_type(directory);
    if rules.frontend == Frontend::Dynamo && is_one_of(model_type.as_deref(), &WITHOUT_TEMPLATE_IN_DYNAMO) {
        return Err(format!(
            "{CONFIG}: Dynamo's frontend writes prompts of `{}` without a template, in a way that is not known here",
            model_type.unwrap_or_default()
        ));
    }
    let of_model = directory.join("chat_template.jinja");
    let jinja_path = prompts.chat_template.as_ref().unwrap_or(&of_model);
    let needed = prompts.chat_template.is_some() || jinja_path.is_file();
    let config_path = directory.join(TOKENIZER_CONFIG);
    if !config_path.is_file() {
        if needed && !rules.harmony {
            return Err(format!(
                "{}: no such file; the special tokens that a chat template may name stand there",
                config_path.display()
            ));
        }
        // Models that serve texts only often come without.
        return Ok(ModelText {
            rules: alone(rules),
            ..ModelText::default()
        });
    }
    let config = read(&config_path)?;
    let jinja = needed.then(|| read(jinja_path)).transpose()?;
    let jinja = jinja
        .map(String::from_utf8)
        .transpose()
        .map_err(|error| format!("{}: {error}", jinja_path.display()))?;
    let mut text = ModelText::from_files(&config, jinja.as_deref()).map_err(|error| error.to_string())?;
    if rules.frontend == Frontend::Vllm && prompts.chat_template.is_none() {
        let of_tokenizer = text.chat_template.clone();
        if let Some(source) = images::processor_template(directory)? {
            text.chat_template = Some(source);
            text.tool_use_template = text.tool_use_template.or(of_tokenizer);
        }
    }
    if rules.frontend == Frontend::Vllm && !prompts.mm_options {
        text.images = images::processor(directory, model_type.as_deref(), tokenizer)?;
    }
    Ok(ModelText { rules, ..text })
}

/// Whether there is no template for any conversation.
fn is_missing(text: &ModelText) -> bool {
    // Dynamo's frontend renders the default one.
    let tool_use = text
        .tool_use_template
        .as_ref()
        .filter(|_| text.rules.frontend == Frontend::Vllm);
    text.chat_template.as_ref().or(tool_use).is_none() && !text.rules.harmony
}

/// `model_type` of models before whose prompts vLLM puts the images (`PromptInsertion` at the start in
/// `vllm/model_executor/models`).
const IMAGES_FIRST: [&str; 4] = ["blip-2", "molmo", "openvla", "paligemma"];

/// `model_type` of models for which Dynamo's frontend has code in place of a template (`prompt_formatter_from_mdc`).
const WITHOUT_TEMPLATE_IN_DYNAMO: [&str; 5] = [
    "deepseek_v32",
    "deepseek_v3_2",
    "deepseek_v4",
    "deepseek_v41",
    "kimi_k3",
];

/// As vLLM sees it: by `model_type` in `config.json`. Without that file, by special tokens that no other model has.
fn is_gpt_oss(directory: &Path) -> bool {
    if directory.join(CONFIG).is_file() {
        return model_type(directory).as_deref() == Some("gpt_oss");
    }
    let text = read(&directory.join(TOKENIZER_CONFIG)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    ["<|constrain|>", "<|channel|>", "<|call|>"]
        .iter()
        .all(|token| text.contains(token))
}

pub(super) const CONFIG: &str = "config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

fn is_one_of(model_type: Option<&str>, types: &[&str]) -> bool {
    model_type.is_some_and(|model| types.contains(&model))
}

/// What `config.json` says of the model, if it is there and does.
fn model_type(directory: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        model_type: Option<String>,
    }
    let json = read(&directory.join(CONFIG)).ok()?;
    serde_json::from_slice::<Config>(&json).ok()?.model_type
}
