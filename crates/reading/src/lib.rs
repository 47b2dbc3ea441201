//! From a request's body to the blocks of its prompt: rendered, tokenized and hashed, or remembered.
//!
//! The filter decides by it, and the control plane asks it what filters see: in parity, and in `warmpath inspect`.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod call;

use memory::Memory;
use prompt::{Body, ChatTemplate, Frontend, Prompt, PromptError, Shape};
use router_core::fleet::ArtefactId;
use router_core::hash::{BlockLayout, HashSeed, SequenceHash};
use tokenizer::{EncodeError, Tokenizer};
use work::Work;

use crate::call::Call;

/// How long a body may be whose prompt is read, in bytes, unless a filter's configuration says otherwise.
pub const DEFAULT_MAX_PROMPT_BYTES: usize = 4 << 20;
/// What a filter's memory of prompts may take, in bytes, unless its configuration says otherwise.
pub const DEFAULT_MEMORY_BYTES: usize = 8 << 20;

/// Bytes of a body per token of its prompt, to guess at prompts that are not read.
pub const BYTES_PER_TOKEN: u64 = 4;

/// A prompt's text, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recall {
    /// In all.
    pub bytes: u64,
    /// Of that, what was remembered and not tokenized again.
    pub remembered: u64,
}

/// A prompt as far as it was understood.
pub struct Reading {
    /// Known or guessed.
    pub input_tokens: u64,
    /// Whether the pool's workers take token ids.
    pub inject_tokens: bool,
    /// Its full blocks, or why they are not known.
    pub known: Result<Blocks, &'static str>,
}

impl Reading {
    /// Of a prompt that is not read, of a body of so many bytes.
    pub fn guessed(inject_tokens: bool, reason: &'static str, bytes: u64) -> Self {
        Self {
            input_tokens: bytes / BYTES_PER_TOKEN,
            inject_tokens,
            known: Err(reason),
        }
    }
}

/// What the known blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Those of the prompt.
    Prompt,
    /// Those of the first of several prompts.
    FirstPrompt,
    /// Those of a prompt with images in it, of which all is known.
    PromptWithMedia,
    /// The first ones of the prompt, up to the first image or the like that is not known.
    TextBeforeMedia,
}

/// Of a prompt, and what else was found out on the way.
pub struct Blocks {
    /// Their hashes.
    pub hashes: Vec<SequenceHash>,
    /// What they are.
    pub extent: Extent,
    /// What of the text that they are made of was remembered.
    pub recall: Recall,
    /// The token ids: of a prompt that came as text, where workers take them, and wherever they are to be kept.
    pub tokens: Option<Vec<u32>>,
}

/// A prompt that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The body gives none.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Its text gives no tokens.
    #[error(transparent)]
    Tokens(#[from] EncodeError),
}

impl ReadError {
    /// A label for a metric: snake case, of a small fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Prompt(error) => error.reason(),
            Self::Tokens(error) => error.reason(),
        }
    }
}

/// How the prompts of a pool are read.
#[derive(Clone, Copy)]
pub struct Reader<'r> {
    /// What their texts are tokenized with.
    pub tokenizer: &'r Tokenizer,
    /// Names it.
    pub tokenizer_id: ArtefactId,
    /// What makes prompts of requests.
    pub template: Option<&'r ChatTemplate>,
    /// How their tokens are cut into blocks.
    pub layout: BlockLayout,
    /// Whether the pool's workers take token ids.
    pub inject_tokens: bool,
    /// Whether the ids of every prompt are wanted; else only those that workers take.
    pub keep_tokens: bool,
}

impl Reader<'_> {
    /// What the hashes of a request's blocks start from. `lora`: the adapter that it is for; `tenant`: see
    /// [`Body::cache_namespace`].
    pub fn seed(&self, body: &Body<'_>, lora: Option<&str>, tenant: Option<&str>) -> HashSeed {
        let frontend = self
            .template
            .map_or(Frontend::Vllm, |template| template.rules().frontend);
        HashSeed::new(lora, body.cache_namespace(frontend, tenant))
    }

    /// From the prompt that the template made of `body` to its blocks, with the work of its request.
    ///
    /// # Errors
    /// When it cannot be tokenized, or takes more work than it may.
    pub fn read(
        self,
        memory: &mut Memory,
        body: &Body<'_>,
        prompt: &Prompt<'_>,
        seed: HashSeed,
        work: &Work,
    ) -> Result<Reading, ReadError> {
        let extent = match body.is_batch() {
            true => Extent::FirstPrompt,
            false => Extent::Prompt,
        };
        let call = Call {
            memory,
            reader: self,
            seed,
            extent,
            work,
        };
        match prompt {
            Prompt::Tokens(tokens) => Ok(call.ids(tokens, Recall::default())),
            Prompt::Text {
                text,
                add_special_tokens,
                media: None,
            } => {
                // That embeddings take token ids is not known.
                let takes_tokens = self.inject_tokens && body.shape() != Shape::Embeddings && extent == Extent::Prompt;
                call.text(text, *add_special_tokens, takes_tokens)
            }
            Prompt::Text {
                text,
                add_special_tokens,
                media: Some(media),
            } => call.text_with(media, text, *add_special_tokens),
            // A worker that takes token ids truncates prompts in its own way.
            Prompt::Truncated { .. } if self.inject_tokens => {
                Err(PromptError::UnsupportedField("truncate_prompt_tokens").into())
            }
            Prompt::Truncated {
                text,
                add_special_tokens,
                truncation,
            } => call.truncated(text, *add_special_tokens, *truncation),
            Prompt::Pieces(pieces) => call.pieces(pieces),
        }
    }
}
