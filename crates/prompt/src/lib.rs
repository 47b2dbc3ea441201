//! From an OpenAI-style request body to the prompt text, and usage out of a response.
//!
//! A prompt here must be the prompt the engine makes, to the byte, or every block hash after it is wrong. So this crate
//! follows vLLM's request model and Hugging Face's template rendering, or Dynamo's own of both, and where it cannot be exact it
//! refuses with a reason instead of guessing. In the order of a request:
//!
//! - [`json`] reads JSON, borrowing from the body;
//! - [`body`] picks the fields out of it and names what is wrong;
//! - `conversation` makes chat messages of the other shapes' conversations, and `messages` normalises messages and tools as vLLM does before it renders them;
//! - `media` tells what of a prompt stands before its images, audio and video, [`images`] which images are known;
//! - `dynamo` does both as Dynamo's frontend does, for pools behind one;
//! - `harmony` writes gpt-oss's prompts, which vLLM makes without a template;
//! - [`template`] renders the model's chat template, with [`minijinja`] made to behave like Python's Jinja by [`jinja`];
//! - [`token_data`] puts token ids into the body, for workers that take them;
//! - [`usage`] reads the token counts from the response as it passes.
//!
//! It runs on untrusted bytes inside a wasm VM that does not survive a panic: no function here may panic.

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

pub mod body;
mod conversation;
mod dynamo;
mod error;
mod harmony;
pub mod images;
pub mod json;
mod media;
mod messages;
mod model_text;
mod rules;
pub mod template;
pub mod token_data;
mod truncation;
pub mod usage;

pub use body::{Body, Media, Piece, Prompt, Shape};
pub use error::{BodyError, PromptError};
pub use images::{Image, ImageProcessor};
pub use model_text::{ModelText, ModelTextError};
pub use rules::{Frontend, Rules};
pub use template::{ChatTemplate, TemplateError};
pub use truncation::Truncation;
pub use usage::{Usage, UsageReader};
