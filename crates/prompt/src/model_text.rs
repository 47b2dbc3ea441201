//! What the control plane takes from a model directory and ships to the filter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::images::ImageProcessor;
use crate::rules::Rules;

/// What decides the prompts of a model: chat templates, the special tokens they may name, and the workers' rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelText {
    /// The source of the chat template; `None` for a model that has none. It serves text completions only, unless
    /// `tool_use_template` is there: then conversations with tools, too, and `transformers` refuses others.
    #[serde(default)]
    pub chat_template: Option<String>,
    /// The template for requests with tools, where the model names one apart.
    #[serde(default)]
    pub tool_use_template: Option<String>,
    /// By their names in a template: `bos_token`, `eos_token`, …
    #[serde(default)]
    pub special_tokens: BTreeMap<String, String>,
    #[serde(default)]
    pub additional_special_tokens: Vec<String>,
    #[serde(default)]
    pub rules: Rules,
    /// How many tokens the model has for an image; `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageProcessor>,
}

/// Why a model directory's texts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelTextError {
    #[error("tokenizer_config.json is not a JSON object: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("tokenizer_config.json: `{field}` {why}")]
    BadField { field: String, why: &'static str },
}

/// The attributes that `transformers` hands to a template (`PreTrainedTokenizerBase.special_tokens_map`).
const SPECIAL_TOKENS: &[&str] = &[
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

impl ModelText {
    /// Takes what is needed from the files of a Hugging Face model directory. The template of `chat_template.jinja` wins
    /// over `chat_template` in `tokenizer_config.json`, which is a text or a list of named texts (`default`, `tool_use`).
    pub fn from_files(tokenizer_config_json: &[u8], chat_template_jinja: Option<&str>) -> Result<Self, ModelTextError> {
        let config: Map<String, Value> = serde_json::from_slice(tokenizer_config_json)?;
        let mut text = match chat_template_jinja {
            Some(source) => Self {
                chat_template: Some(source.to_owned()),
                ..Self::default()
            },
            None => named_templates(config.get("chat_template"))?,
        };
        for name in SPECIAL_TOKENS {
            if let Some(token) = config.get(*name).filter(|token| !token.is_null()) {
                text.special_tokens.insert((*name).to_owned(), token_text(name, token)?);
            }
        }
        if let Some(Value::Array(tokens)) = config.get("additional_special_tokens") {
            let tokens = tokens
                .iter()
                .map(|token| token_text("additional_special_tokens", token));
            text.additional_special_tokens = tokens.collect::<Result<_, _>>()?;
        }
        Ok(text)
    }
}

fn named_templates(field: Option<&Value>) -> Result<ModelText, ModelTextError> {
    let bad = |why| ModelTextError::BadField {
        field: "chat_template".to_owned(),
        why,
    };
    let mut text = ModelText::default();
    match field {
        None | Some(Value::Null) => {}
        Some(Value::String(source)) => text.chat_template = Some(source.clone()),
        Some(Value::Array(named)) => {
            for entry in named {
                let part = |key| entry.get(key).and_then(Value::as_str);
                let (Some(name), Some(source)) = (part("name"), part("template")) else {
                    return Err(bad("has an entry without `name` and `template`"));
                };
                match name {
                    "default" => text.chat_template = Some(source.to_owned()),
                    "tool_use" => text.tool_use_template = Some(source.to_owned()),
                    // Used only by callers of `transformers` that name it (`rag`).
                    _ => {}
                }
            }
        }
        Some(_) => return Err(bad("is neither a text nor a list")),
    }
    Ok(text)
}

/// A token is written as its text, or as the object that `tokenizers` calls `AddedToken`.
fn token_text(field: &str, token: &Value) -> Result<String, ModelTextError> {
    let text = token.as_str().or_else(|| token.get("content")?.as_str());
    text.map(str::to_owned).ok_or_else(|| ModelTextError::BadField {
        field: field.to_owned(),
        why: "is no token",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_with_one_template() {
        let config = br#"{"chat_template":"T","bos_token":null,"eos_token":{"content":"</s>","lstrip":false},
            "pad_token":"<pad>","additional_special_tokens":["<a>",{"content":"<b>"}],"model_max_length":1e30}"#;
        let expected = ModelText {
            chat_template: Some("T".to_owned()),
            tool_use_template: None,
            special_tokens: [("eos_token", "</s>"), ("pad_token", "<pad>")]
                .map(|(name, token)| (name.to_owned(), token.to_owned()))
                .into(),
            additional_special_tokens: vec!["<a>".to_owned(), "<b>".to_owned()],
            rules: Rules::default(),
            images: None,
        };
        assert_eq!(ModelText::from_files(config, None).unwrap(), expected);
        let from_file = ModelText {
            chat_template: Some("J".to_owned()),
            ..expected
        };
        assert_eq!(ModelText::from_files(config, Some("J")).unwrap(), from_file);
        let shipped = serde_json::to_vec(&from_file).unwrap();
        assert_eq!(serde_json::from_slice::<ModelText>(&shipped).unwrap(), from_file);
    }

    #[test]
    fn a_config_with_named_templates() {
        let config = br#"{"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"U"},
            {"name":"rag","template":"R"}]}"#;
        let expected = ModelText {
            chat_template: Some("D".to_owned()),
            tool_use_template: Some("U".to_owned()),
            ..ModelText::default()
        };
        assert_eq!(ModelText::from_files(config, None).unwrap(), expected);
    }

    #[test]
    fn a_config_with_no_default_template() {
        let config = br#"{"chat_template":[{"name":"tool_use","template":"U"},{"name":"rag","template":"R"}]}"#;
        let expected = ModelText {
            tool_use_template: Some("U".to_owned()),
            ..ModelText::default()
        };
        assert_eq!(ModelText::from_files(config, None).unwrap(), expected);
    }

    #[test]
    fn errors_name_the_field() {
        for (config, message) in [
            (r#"[]"#, "not a JSON object"),
            (r#"{"chat_template":3}"#, "`chat_template` is neither"),
            (
                r#"{"chat_template":[{"name":"default"}]}"#,
                "`chat_template` has an entry",
            ),
            (r#"{"bos_token":7}"#, "`bos_token` is no token"),
        ] {
            let error = ModelText::from_files(config.as_bytes(), None).unwrap_err().to_string();
            assert!(error.contains(message), "{config}: {error}");
        }
        assert!(serde_json::from_str::<ModelText>(r#"{"surprise":1}"#).is_err());
    }
}
