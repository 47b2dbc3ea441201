//! What decides a prompt besides request, model and template: who renders it, and with which command line.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who makes prompts of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frontend {
    /// vLLM's API server, 0.32.
    #[default]
    Vllm,
    /// NVIDIA Dynamo's frontend, 1.6.1.
    Dynamo,
}

/// How the workers of a pool make prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    pub frontend: Frontend,
    /// The model is gpt-oss, which vLLM renders without a template: see [`harmony`](crate::harmony).
    pub harmony: bool,
    /// The model's images stand before all text, wherever the request has them.
    pub images_first: bool,
    /// Tools are left out of the prompt where `tool_choice` is `none`.
    pub exclude_tools_when_tool_choice_none: bool,
    /// Variables of the template, where a request does not set them.
    pub default_chat_template_kwargs: Map<String, Value>,
    /// With which of its parsers of reasoning Dynamo's workers run.
    pub reasoning_parser: Option<String>,
    /// The `chat_template` of a request is used; otherwise workers refuse such requests.
    pub trust_request_chat_template: bool,
}
