//! What a template takes, found out by trying when it is loaded: `dynamo-renderer`'s `template/formatters.rs`.

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::json;
use work::{Limits, Work};

use crate::template::Compiled;

/// The special tokens that a template may name.
pub(super) const TOKENS: [&str; 3] = ["bos_token", "eos_token", "unk_token"];

/// The habits of a template.
#[derive(Debug)]
pub(crate) struct Habits {
    with_tools: GivenTools,
    without: GivenTools,
}

/// The habits of a template that is given tools, or is not.
#[derive(Debug)]
pub(super) struct GivenTools {
    /// It leaves out a content that is a text.
    pub(super) wants_parts: bool,
    /// What it is given in place of an image or the like, `{n}` being its number in the message; `None`: a part.
    pub(super) medium_text: Option<&'static str>,
    /// It refuses a system message that is not the first.
    pub(super) wants_system_first: bool,
    /// It refuses two messages of the user in a row.
    pub(super) wants_users_apart: bool,
    /// It writes arguments of a tool call that are a text as they are.
    pub(super) takes_argument_texts: bool,
    /// It names `reasoning_content`.
    pub(super) knows_reasoning: bool,
    /// It writes that if it is a text, and not if it is a list.
    pub(super) wants_reasoning_text: bool,
}

impl Habits {
    /// Tries out a template. `token` gives the special tokens by their names.
    pub(crate) fn of(template: &Compiled, token: impl Fn(&str) -> Value) -> Self {
        let (source, tokens) = (template.source(), TOKENS.map(|name| (name, token(name))));
        let tool = json!({"type": "function", "function":
            {"name": "probe", "description": "", "parameters": {"type": "object", "properties": {}}}});
        let try_with = |tools| {
            GivenTools::of(&Trial {
                template,
                source: &source,
                tokens: &tokens,
                tools,
            })
        };
        Self {
            with_tools: try_with(Value::from(Serde(json!([tool])))),
            without: try_with(Value::from(())),
        }
    }

    pub(super) fn given_tools(&self, given: bool) -> &GivenTools {
        if given { &self.with_tools } else { &self.without }
    }
}

impl GivenTools {
    fn of(trial: &Trial<'_>) -> Self {
        let wants_parts = trial.wants_parts();
        let [wants_system_first, wants_users_apart] = trial.refusals();
        let takes_argument_texts = trial.takes_argument_texts();
        let knows_reasoning = trial.source.contains("reasoning_content");
        Self {
            wants_parts,
            medium_text: if wants_parts { None } else { trial.medium_text() },
            wants_system_first,
            wants_users_apart,
            takes_argument_texts,
            knows_reasoning,
            wants_reasoning_text: knows_reasoning && trial.wants_reasoning_text(takes_argument_texts),
        }
    }
}

/// A template to be tried out.
struct Trial<'t> {
    template: &'t Compiled,
    source: &'t str,
    tokens: &'t [(&'static str, Value)],
    tools: Value,
}

/// Stands for itself in no template.
const PROBE: &str = "\u{1}probe\u{1}";

impl Trial<'_> {
    fn wants_parts(&self) -> bool {
        let shows = |content| self.plain(&content).contains(PROBE);
        shows(json!([{"type": "text", "text": PROBE}])) && !shows(json!(PROBE))
    }

    /// By the marks of the families that are known.
    fn medium_text(&self) -> Option<&'static str> {
        let names = |marks: [&str; 2]| marks.iter().all(|mark| self.source.contains(mark));
        if names(["<|end|>", "<|assistant|>"]) {
            Some("<|image_{n}|>")
        } else if names(["USER:", "ASSISTANT:"]) {
            Some("<image>")
        } else if self.writes_contents_only() {
            Some("")
        } else {
            None
        }
    }

    fn writes_contents_only(&self) -> bool {
        let mixed = self.plain(&json!([{"type": "text", "text": PROBE}, {"type": "image"}]));
        self.plain(&json!(PROBE)).trim() == PROBE && mixed.contains('[') && mixed.contains("type")
    }

    /// A system message behind others, two of the user in a row.
    fn refusals(&self) -> [bool; 2] {
        let message = |(role, content): &(&str, &str)| json!({"role": role, "content": content});
        let refuses = |conversation: &[(&str, &str)]| {
            let conversation: Vec<_> = conversation.iter().map(message).collect();
            self.render(&json!(conversation), false).is_none()
        };
        let [system, user, assistant] = [("system", "s"), ("user", "u"), ("assistant", "a")];
        if refuses(&[system, user]) {
            return [false, false];
        }
        [
            refuses(&[system, user, system]) || refuses(&[system, user, assistant, system, user]),
            refuses(&[system, user, user]),
        ]
    }

    fn takes_argument_texts(&self) -> bool {
        let arguments = r#"{"probe": "value"}"#;
        self.source.contains("arguments is string")
            && self
                .called(&json!(arguments), None)
                .is_some_and(|text| text.contains(arguments))
    }

    fn wants_reasoning_text(&self, argument_texts: bool) -> bool {
        let last = "\u{1}last\u{1}";
        let arguments = if argument_texts { json!("{}") } else { json!({}) };
        let shows = |reasoning: serde_json::Value, thought: &str| {
            let text = self.called(&arguments, Some(reasoning));
            text.is_some_and(|text| text.contains(thought))
        };
        let list = json!([PROBE, last]);
        shows(json!(PROBE), PROBE) && !shows(list.clone(), PROBE) && !shows(list, last)
    }

    /// What it writes of a conversation with a tool call.
    fn called(&self, arguments: &serde_json::Value, reasoning: Option<serde_json::Value>) -> Option<String> {
        let call =
            json!({"id": "call_probe", "type": "function", "function": {"name": "probe", "arguments": arguments}});
        let mut assistant = json!({"role": "assistant", "content": "", "tool_calls": [call]});
        if let (Some(reasoning), Some(assistant)) = (reasoning, assistant.as_object_mut()) {
            assistant.insert("reasoning_content".to_owned(), reasoning);
        }
        let conversation = json!([
            {"role": "user", "content": "u"}, assistant, {"role": "tool", "tool_call_id": "call_probe", "content": "r"}
        ]);
        self.render(&conversation, true)
    }

    /// What it writes of a message of the user, without further variables; nothing if it fails.
    fn plain(&self, content: &serde_json::Value) -> String {
        let variables = [
            (
                "messages",
                Value::from(Serde(json!([{"role": "user", "content": content}]))),
            ),
            ("add_generation_prompt", Value::from(false)),
        ];
        self.template
            .render(Value::from_pairs(variables), &Work::new(Limits::DEFAULT, 0))
            .unwrap_or_default()
    }

    fn render(&self, messages: &serde_json::Value, add_generation_prompt: bool) -> Option<String> {
        let variables = [
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", self.tools.clone()),
        ];
        let variables = variables.into_iter().chain(self.tokens.iter().cloned());
        self.template
            .render(Value::from_pairs(variables), &Work::new(Limits::DEFAULT, 0))
            .ok()
    }
}
