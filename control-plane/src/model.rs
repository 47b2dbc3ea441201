//! A Hugging Face model directory: what a pool's filters need to turn a request into tokens.

mod images;
mod patterns;
mod prompts;
mod template;

use std::fmt::Display;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use router_core::fleet::ArtefactId;
use tokenizer::Tokenizer;

use crate::config::PromptsConfig;
pub use prompts::{Manner, PromptTokens, Unread};
pub use template::Template;

/// Longest file that is read from a model directory, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What follows if [`Model::inexact_because`] says why.
pub const INEXACT: &str = "the model cannot be used as a whole: what needs the missing part is routed by load";

/// Bytes that filters fetch by their content address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artefact {
    /// Address of `content`.
    pub id: ArtefactId,
    /// The bytes.
    pub content: Bytes,
}

impl Artefact {
    fn new(content: Vec<u8>) -> Self {
        Self {
            id: ArtefactId::of(&content),
            content: content.into(),
        }
    }
}

/// What a model directory yielded. A part that cannot be used says why; what needs it is then routed by load.
pub struct Model {
    /// The tokenizer and what filters load it from.
    pub tokenizer: Result<(Tokenizer, Artefact), String>,
    /// What makes prompts of requests.
    pub template: Template,
}

impl Model {
    /// Loads and tries out everything in `directory`: `tokenizer.json` and, where they are there, `tokenizer_config.json`,
    /// `chat_template.jinja`, `config.json` and the files of an image processor. A few seconds for a vocabulary of 150,000.
    pub fn load(directory: &Path, prompts: &PromptsConfig) -> Self {
        let tokenizer = load_tokenizer(directory);
        let loaded = tokenizer.as_ref().ok().map(|(tokenizer, _)| tokenizer);
        let template = Template::load(directory, prompts, loaded);
        Self { tokenizer, template }
    }

    /// What filters need of it, as far as it can be used.
    pub fn artefacts(&self) -> impl Iterator<Item = &Artefact> {
        let tokenizer = self.tokenizer.as_ref().ok().map(|(_, artefact)| artefact);
        tokenizer.into_iter().chain([&self.template.artefact])
    }

    /// Why not all requests of this model can be routed exactly; `None` if they can.
    pub fn inexact_because(&self) -> Option<String> {
        let template = &self.template.unusable_because;
        let reasons: Vec<_> = [self.tokenizer.as_ref().err(), template.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

fn load_tokenizer(directory: &Path) -> Result<(Tokenizer, Artefact), String> {
    let json = read(&directory.join("tokenizer.json"))?;
    let failed = |error: &dyn Display| format!("tokenizer.json: {error}");
    // The tokenizer library reads the canonical layout only, so whatever Hugging Face wrote is converted here.
    let mut value = serde_json::from_slice(&json).map_err(|error| failed(&error))?;
    tk_convert::canonicalize_value(&mut value).map_err(|error| failed(&error))?;
    // What makes texts of ids is of no use here, and may have what the library refuses.
    value.as_object_mut().and_then(|tokenizer| tokenizer.remove("decoder"));
    let canonical = serde_json::to_vec(&value).map_err(|error| failed(&error))?;
    let artefact = tokenizer::build(&canonical).map_err(|error| {
        let error = error.to_string();
        let original = serde_json::from_slice(&json).unwrap_or_default();
        patterns::unsupported(&original, &error).map_or(error, |why| failed(&why))
    })?;
    let artefact = Artefact::new(artefact);
    let tokenizer = Tokenizer::load(artefact.content.to_vec()).map_err(|error| error.to_string())?;
    Ok((tokenizer, artefact))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |why: String| format!("{}: {why}", path.display());
    let length = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(failed(format!(
            "{length} bytes are more than the limit of {MAX_FILE_BYTES}"
        )));
    }
    fs::read(path).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests;
