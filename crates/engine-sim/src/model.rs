//! The model as its directory describes it: tokenizer, chat template, lengths.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::{Map, Value as Json};
use tokenizers::Tokenizer;

use crate::images::Processor;
use crate::template::{ChatTemplate, token_text};

/// When `tokenizer_config.json` gives no `model_max_length` (or the "very large" placeholder of `transformers`).
const DEFAULT_MAX_LENGTH: usize = 131_072;

/// Everything needed to turn requests into tokens and back.
pub struct Model {
    tokenizer: Tokenizer,
    /// `None`: chat requests are refused.
    pub template: Option<ChatTemplate>,
    /// What it makes of images; its template takes parts. `None`: as many tokens of each, and the template takes texts.
    pub images: Option<Processor>,
    /// The token that ends an answer.
    pub eos: Option<u32>,
    /// The tokenizer's own limit.
    pub max_length: usize,
}

impl Model {
    /// Reads a Hugging Face model directory.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("tokenizer.json");
        let tokenizer =
            Tokenizer::from_file(&path).map_err(|error| anyhow!("cannot load {}: {error}", path.display()))?;
        let path = dir.join("tokenizer_config.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: Map<String, Json> =
            serde_json::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        let eos = config
            .get("eos_token")
            .and_then(token_text)
            .and_then(|token| tokenizer.token_to_id(token));
        let max_length = config
            .get("model_max_length")
            .and_then(Json::as_u64)
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(DEFAULT_MAX_LENGTH);
        Ok(Self {
            template: ChatTemplate::load(dir, &config)?,
            images: Processor::load(dir)?,
            tokenizer,
            eos,
            max_length,
        })
    }

    /// Token ids of a text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> anyhow::Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, add_special_tokens)
            .map_err(|error| anyhow!("cannot tokenize: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What each token adds to the text, in order. A token that ends inside a character adds nothing; the one that
    /// completes the character adds it whole. Special tokens add nothing.
    pub fn pieces(&self, ids: &[u32]) -> anyhow::Result<Vec<String>> {
        let mut stream = self.tokenizer.decode_stream(true);
        ids.iter()
            .map(|&id| {
                stream
                    .step(id)
                    .map(Option::unwrap_or_default)
                    .map_err(|error| anyhow!("cannot decode: {error}"))
            })
            .collect()
    }

    /// Number of ids that mean something.
    pub fn vocabulary_len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}
