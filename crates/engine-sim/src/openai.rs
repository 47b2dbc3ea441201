//! Request bodies of the OpenAI-compatible API, as vLLM reads them. Unknown fields are ignored.

use serde::Deserialize;
use serde_json::{Map, Value as Json};

/// `max_tokens` when a request names none.
const DEFAULT_MAX_TOKENS: u64 = 16;

/// What chat and text completions have in common.
#[derive(Clone, Debug, Deserialize)]
pub struct Sampling {
    /// Served model, alias or LoRA adapter. Default: the first model.
    pub model: Option<String>,
    /// Answer as server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// Details of streaming.
    pub stream_options: Option<StreamOptions>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u64>,
    /// The newer name of `max_tokens`; it wins.
    pub max_completion_tokens: Option<u64>,
    /// Number of choices; only 1 is simulated.
    pub n: Option<u64>,
    /// Decides the answer, together with the engine's own seed.
    pub seed: Option<i64>,
    /// Go on to `max_tokens`.
    pub ignore_eos: Option<bool>,
    /// Separates the prefix cache of this request from others.
    pub cache_salt: Option<String>,
}

impl Sampling {
    /// Most tokens of the answer.
    pub fn max_tokens(&self) -> u64 {
        self.max_completion_tokens
            .or(self.max_tokens)
            .unwrap_or(DEFAULT_MAX_TOKENS)
    }

    /// Whether a stream ends with a chunk that carries `usage`.
    pub fn include_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .and_then(|options| options.include_usage)
            .unwrap_or(false)
    }
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct StreamOptions {
    /// End with a chunk that carries `usage`.
    pub include_usage: Option<bool>,
}

/// Body of `POST /v1/chat/completions`, and the part of `POST /tokenize` about chats.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatRequest {
    /// Common fields.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// What goes into the template.
    #[serde(flatten)]
    pub prompt: ChatPrompt,
}

/// The fields that decide a chat's prompt.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatPrompt {
    /// The conversation as it came.
    pub messages: Vec<Map<String, Json>>,
    /// Tool definitions.
    pub tools: Option<Vec<Tool>>,
    /// Documents for retrieval templates.
    pub documents: Option<Json>,
    /// End with the header of a new assistant message. Default true.
    pub add_generation_prompt: Option<bool>,
    /// End inside the final message.
    pub continue_final_message: Option<bool>,
    /// Let the tokenizer add its own special tokens. Default false: the template has them.
    pub add_special_tokens: Option<bool>,
    /// Variables for the template.
    pub chat_template_kwargs: Option<Map<String, Json>>,
    /// Passed on to the template.
    pub reasoning_effort: Option<String>,
}

/// A tool as vLLM 0.32 dumps it: known fields in this order, absent ones as null but for the last two, others dropped
/// (`vllm/entrypoints/generate/base/protocol.py`, `FunctionDefinition`).
#[derive(Clone, Debug, Deserialize)]
pub struct Tool {
    /// Always `function`.
    #[serde(default = "function")]
    pub r#type: String,
    /// The function.
    pub function: Function,
    /// Whether the tool is to be looked for first; the function takes it over.
    pub defer_loading: Option<bool>,
}

/// The function of a [`Tool`].
#[derive(Clone, Debug, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// For the model to read.
    pub description: Option<String>,
    /// JSON schema.
    pub parameters: Option<Map<String, Json>>,
    /// Whether arguments must keep to the schema.
    pub strict: Option<bool>,
    /// As in [`Tool`].
    pub defer_loading: Option<bool>,
}

fn function() -> String {
    "function".to_owned()
}

impl Tool {
    /// As the template sees it.
    pub fn into_json(self) -> Json {
        let Function {
            name,
            description,
            parameters,
            strict,
            defer_loading,
        } = self.function;
        let mut function = Map::new();
        function.insert("name".to_owned(), name.into());
        function.insert("description".to_owned(), description.into());
        function.insert("parameters".to_owned(), parameters.map_or(Json::Null, Json::Object));
        let optional = [
            ("strict", strict),
            ("defer_loading", defer_loading.or(self.defer_loading)),
        ];
        let given = |(key, value): (&str, Option<bool>)| Some((key.to_owned(), Json::Bool(value?)));
        function.extend(optional.into_iter().filter_map(given));
        let mut tool = Map::new();
        tool.insert("type".to_owned(), self.r#type.into());
        tool.insert("function".to_owned(), function.into());
        tool.extend([("defer_loading", self.defer_loading)].into_iter().filter_map(given));
        Json::Object(tool)
    }
}

/// Body of `POST /v1/completions`.
#[derive(Clone, Debug, Deserialize)]
pub struct CompletionRequest {
    /// Common fields.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// The prompt.
    pub prompt: Prompt,
    /// Let the tokenizer add its own special tokens. Default true.
    pub add_special_tokens: Option<bool>,
}

/// A prompt, or a batch of which only the first is answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several lists of token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// Body of `POST /tokenize`.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenizeRequest {
    /// Served model, alias or LoRA adapter.
    pub model: Option<String>,
    /// Text form.
    pub prompt: Option<String>,
    /// Let the tokenizer add its own special tokens. Default: true for text, false for chats.
    pub add_special_tokens: Option<bool>,
}
