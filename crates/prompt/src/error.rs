//! What can be wrong with a request, and the short labels that metrics use for it.

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// `line` and `column` count from 1, the column in bytes.
    #[error("the body is not JSON: line {line}, column {column}: {message}")]
    NotJson {
        line: usize,
        column: usize,
        message: String,
    },
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("the body has no `{0}`")]
    NoPrompt(&'static str),
    #[error("`{field}` {why}")]
    BadField { field: &'static str, why: String },
}

impl BodyError {
    /// A label for a metric: snake case, of a small fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotJson { .. } => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::NoPrompt(_) => "no_prompt",
            Self::BadField { .. } => "bad_field",
        }
    }
}

/// Why a body that was read gives no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// Malformed: an engine refuses it too.
    #[error("`{field}` {why}")]
    BadField { field: &'static str, why: String },
    /// Well-formed, but its effect on the prompt is not modelled here.
    #[error("`{0}` changes the prompt in a way that is not supported")]
    UnsupportedField(&'static str),
    /// A part that is no text and whose place in the prompt is not known.
    #[error("where {0} stands in the prompt is not known")]
    Multimodal(String),
    /// See [`Json::Inexact`](crate::json::Json::Inexact).
    #[error("a number in the prompt is beyond 64 bits or is a negative zero")]
    InexactNumber,
    #[error("chat request, but the model has no chat template")]
    NoTemplate,
    /// The template called `raise_exception`: it refuses this conversation, as it does in the engine.
    #[error("the chat template refused the conversation: {0}")]
    Refused(String),
    #[error("the chat template failed: {0}")]
    Template(String),
    /// The template did more work or wrote more text than a body of this size can ask for.
    #[error("rendering exceeded its limit: {0}")]
    LimitExceeded(&'static str),
}

impl From<work::Exhausted> for PromptError {
    fn from(_: work::Exhausted) -> Self {
        Self::LimitExceeded("work")
    }
}

impl PromptError {
    /// A label for a metric: snake case, of a small fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadField { .. } => "bad_field",
            Self::UnsupportedField(_) => "unsupported_field",
            Self::Multimodal(_) => "multimodal",
            Self::InexactNumber => "inexact_number",
            Self::NoTemplate => "no_template",
            Self::Refused(_) => "template_refused",
            Self::Template(_) => "template_error",
            Self::LimitExceeded(_) => "template_limit",
        }
    }
}
