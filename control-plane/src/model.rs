//! A Hugging Face model directory: what a pool's filters need to turn a request into tokens.

mod images;
mod patterns;
mod template;

use std::fmt::Display;
use std::fs;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use prompt::{Media, Piece, Prompt};
use router_core::fleet::ArtefactId;
use router_core::hash::media_hash;
use tokenizer::Tokenizer;
use work::Work;

use crate::config::PromptsConfig;
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

/// A prompt as a filter sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The text, if the prompt came as one; if it is truncated, as it was before.
    pub text: Option<String>,
    /// Otherwise this is what stands before the first image or the like that is not known.
    pub is_whole: bool,
    /// Where among the ids its images are, and their identities in block hashes.
    pub images: Vec<(Range<usize>, u64)>,
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

    /// The token ids of a prompt, as far as they are known. `work` is that of its request.
    ///
    /// # Errors
    /// If there is no tokenizer, or it fails.
    pub fn tokens(&self, prompt: Prompt<'_>, work: &Work) -> Result<PromptTokens, String> {
        let tokenizer = || Ok::<_, String>(&self.tokenizer.as_ref().map_err(|why| format!("tokenizer: {why}"))?.0);
        let mut ids = Vec::new();
        let text = match prompt {
            Prompt::Tokens(ids) => {
                return Ok(PromptTokens {
                    ids,
                    text: None,
                    is_whole: true,
                    images: Vec::new(),
                });
            }
            Prompt::Text {
                text,
                media: Some(media),
                add_special_tokens,
            } => return with_media(tokenizer()?, &text, add_special_tokens, &media, work),
            Prompt::Text {
                text,
                add_special_tokens,
                media: None,
            } => {
                let encoded = tokenizer()?.encode_within(&text, add_special_tokens, work, &mut ids);
                encoded.map_err(|error| error.to_string())?;
                text.into_owned()
            }
            Prompt::Truncated {
                text,
                add_special_tokens,
                truncation,
            } => {
                let tokenizer = tokenizer()?;
                let encoded = tokenizer.encode_into(&text, add_special_tokens, &mut ids);
                encoded.map_err(|error| error.to_string())?;
                let around = if add_special_tokens { tokenizer.around() } else { [0; 2] };
                ids = truncation.apply(&ids, around).map_err(|error| error.to_string())?;
                text.into_owned()
            }
            Prompt::Pieces(pieces) => {
                let tokenizer = tokenizer()?;
                for piece in &pieces {
                    let encoded = match piece {
                        Piece::Special(token) => tokenizer.encode_within(token, false, work, &mut ids),
                        Piece::Text(text) => tokenizer.encode_plain_into(text, work, &mut ids),
                    };
                    encoded.map_err(|error| error.to_string())?;
                }
                pieces.iter().map(Piece::as_str).collect()
            }
        };
        Ok(PromptTokens {
            ids,
            text: Some(text),
            is_whole: true,
            images: Vec::new(),
        })
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

/// A prompt with media in it, up to the first that is not known.
fn with_media(
    tokenizer: &Tokenizer,
    text: &str,
    add_special_tokens: bool,
    media: &Media,
    work: &Work,
) -> Result<PromptTokens, String> {
    let mut encoded = Vec::new();
    let (known, outcome) = match (media.are_known(), tokenizer.cutter()) {
        (true, _) => {
            let outcome = tokenizer.encode_within(text, add_special_tokens, work, &mut encoded);
            (text, outcome)
        }
        (false, Some(cutter)) => {
            let known = &text[..cutter.settled(text, media.before)];
            if add_special_tokens {
                encoded.extend_from_slice(cutter.prefix());
            }
            (known, cutter.encode_into(known, 0, work, &mut encoded))
        }
        (false, None) => ("", Ok(())),
    };
    outcome.map_err(|error| error.to_string())?;
    let mut tokens = PromptTokens {
        ids: Vec::with_capacity(encoded.len()),
        text: Some(known.to_owned()),
        is_whole: media.are_known(),
        images: Vec::new(),
    };
    let mut images = media.images.iter().peekable();
    for id in encoded {
        match images.next_if(|image| image.token == id) {
            None => tokens.ids.push(id),
            Some(image) => {
                let start = tokens.ids.len();
                tokens.ids.resize(start + image.tokens, id);
                let range = start..tokens.ids.len();
                tokens.images.push((range, media_hash(&image.identifier)));
            }
        }
    }
    Ok(tokens)
}

fn load_tokenizer(directory: &Path) -> Result<(Tokenizer, Artefact), String> {
    let json = read(&directory.join("tokenizer.json"))?;
    let failed = |error: &dyn Display| format!("tokenizer.json: {error}");
    // The tokenizer library reads the canonical layout only, so whatever Hugging Face wrote is converted here.
    let mut value = serde_json::from_slice(&json).map_err(|error| failed(&error))?;
    tk_convert::canonicalize_value(&mut value).map_err(|error| failed(&error))?;
    let canonical = serde_json::to_vec(&value).map_err(|error| failed(&error))?;
    let tokenizer::Artefact { bytes, not_flat } = tokenizer::build(&canonical).map_err(|error| {
        let error = error.to_string();
        let original = serde_json::from_slice(&json).unwrap_or_default();
        patterns::unsupported(&original, &error).map_or(error, |why| failed(&why))
    })?;
    if let Some(reason) = not_flat {
        tracing::warn!(
            directory = %directory.display(), reason,
            "the tokenizer has no flat tables: filters take about a second and ten times the memory to load it"
        );
    }
    let artefact = Artefact::new(bytes);
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
