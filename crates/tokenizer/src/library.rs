//! The tokenizer library as it is: what flat tables are compared with.

use tk_encode::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

use crate::{EncodeError, LoadError, limits, read_json};

/// A tokenizer of the library, for comparisons: it has no bounds on what a text may cost.
pub struct Library(PipelineTokenizer);

impl Library {
    /// Reads a `tokenizer.json` of canonical layout.
    ///
    /// # Errors
    /// When the library refuses it, or it asks for more than [`crate::build`] allows.
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        let pipeline = read_json(json)?;
        limits::check(&pipeline)?;
        Ok(Self(pipeline))
    }

    /// Appends the ids of `text`, as [`crate::Tokenizer::encode_into`] does.
    ///
    /// # Errors
    /// When the library has no ids for it.
    pub fn encode_into(&self, text: &str, add_special_tokens: bool, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        encode(&self.0, text, add_special_tokens, ids)
    }
}

pub(crate) fn encode(
    pipeline: &PipelineTokenizer,
    text: &str,
    add_special_tokens: bool,
    ids: &mut Vec<u32>,
) -> Result<(), EncodeError> {
    let options = EncodeOptions {
        add_special_tokens,
        encode_special_tokens: false,
        padding: Override::Off,
        truncation: Override::Off,
    };
    let mut tokens: Vec<PipelineToken> = Vec::with_capacity(text.len() / 4);
    pipeline
        .encode_into(text, &options, &mut tokens)
        .map_err(|error| EncodeError::Failed(error.to_string()))?;
    ids.extend_from_slice(PipelineToken::cast_slice(&tokens));
    Ok(())
}
