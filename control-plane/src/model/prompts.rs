//! Prompts as a filter reads them that remembers none, with all that there is to show of them.

use std::num::NonZeroU32;
use std::ops::Range;

use memory::Memory;
use prompt::{Body, Image, Piece, Prompt, PromptError};
use reading::{DEFAULT_MEMORY_BYTES, Extent, Reader};
use router_core::hash::{BlockLayout, HashSeed, SequenceHash, media_hash};
use work::Work;

use super::Model;

/// How a request is read, besides what its model says.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How tokens are cut into blocks.
    pub layout: BlockLayout,
    /// What the blocks' hashes start from.
    pub seed: HashSeed,
    /// Whether the workers take token ids.
    pub inject_tokens: bool,
}

/// For whom only the tokens count.
impl Default for Manner {
    fn default() -> Self {
        Self {
            // So that what stands before an image is some blocks, however short it is.
            layout: BlockLayout {
                block_size: NonZeroU32::MIN,
                eagle: false,
            },
            seed: HashSeed::PLAIN,
            inject_tokens: false,
        }
    }
}

/// A prompt that was read.
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
    /// Hashes of the full blocks.
    pub blocks: Vec<SequenceHash>,
}

/// A prompt that cannot be read: its request is routed by load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {why}")]
pub struct Unread {
    /// As filters count it.
    pub reason: &'static str,
    /// In words.
    pub why: String,
    /// The text, if it came so far.
    pub text: Option<String>,
}

impl Model {
    /// The prompt of a body, with the work of its request.
    ///
    /// # Errors
    /// With the reason for which it is not read.
    pub fn read(&self, body: &Body<'_>, manner: Manner, work: &Work) -> Result<PromptTokens, Unread> {
        let unread = |reason, why, text| Unread { reason, why, text };
        let (tokenizer, artefact) = match &self.tokenizer {
            Ok((tokenizer, artefact)) => (tokenizer, artefact),
            Err(why) => return Err(unread("no_tokenizer", why.clone(), None)),
        };
        let reader = Reader {
            tokenizer,
            tokenizer_id: artefact.id,
            template: Some(&self.template.compiled),
            layout: manner.layout,
            inject_tokens: manner.inject_tokens,
            keep_tokens: true,
        };
        let prompt = body.prompt_within(reader.template, work).map_err(|error| {
            let of_model = self.template.unusable_because.clone();
            let of_model = of_model.filter(|_| error == PromptError::NoTemplate);
            unread(error.reason(), of_model.unwrap_or_else(|| error.to_string()), None)
        })?;
        let text = text(&prompt);
        // It is for this prompt alone, so nobody can gain by knowing its key.
        let mut memory = Memory::new(DEFAULT_MEMORY_BYTES, [0; 2]);
        let read = reader.read(&mut memory, body, &prompt, manner.seed, work);
        let blocks = match read.map(|read| read.known) {
            Ok(Ok(blocks)) => blocks,
            Ok(Err(reason)) => {
                let why = "no block is full before the first image or the like that is not known";
                return Err(unread(reason, why.to_owned(), text));
            }
            Err(error) => return Err(unread(error.reason(), error.to_string(), text)),
        };
        let ids = blocks.tokens.unwrap_or_default();
        let known = usize::try_from(blocks.recall.bytes).unwrap_or(usize::MAX);
        let is_whole = blocks.extent != Extent::TextBeforeMedia;
        Ok(PromptTokens {
            text: match is_whole {
                true => text,
                false => text.and_then(|text| Some(text.get(..known)?.to_owned())),
            },
            is_whole,
            images: places(images(&prompt, known), &ids),
            ids,
            blocks: blocks.hashes,
        })
    }
}

/// All of a prompt's text.
fn text(prompt: &Prompt<'_>) -> Option<String> {
    match prompt {
        Prompt::Text { text, .. } | Prompt::Truncated { text, .. } => Some(text.clone().into_owned()),
        Prompt::Pieces(pieces) => Some(pieces.iter().map(Piece::as_str).collect()),
        Prompt::Tokens(_) => None,
    }
}

/// The images in the first `known` bytes of a prompt's text.
fn images<'p>(prompt: &'p Prompt<'_>, known: usize) -> impl Iterator<Item = &'p Image> {
    let media = match prompt {
        Prompt::Text { media, .. } => media.as_ref(),
        _ => None,
    };
    let images = media.into_iter().flat_map(|media| &media.images);
    images.take_while(move |image| image.at < known)
}

/// Where images are among ids. The first of an image's tokens that comes behind those of the last one is its own.
fn places<'p>(images: impl Iterator<Item = &'p Image>, ids: &[u32]) -> Vec<(Range<usize>, u64)> {
    let mut end = 0;
    let places = images.map_while(|image| {
        let start = end + ids[end..].iter().position(|id| *id == image.token)?;
        end = start + image.tokens;
        Some((start..end, media_hash(&image.identifier)))
    });
    places.collect()
}
