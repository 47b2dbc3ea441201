//! What a template does with unusual conversations, found out by trying, as vLLM does when it starts.
//!
//! Source: `vllm/entrypoints/anthropic/serving.py`, vLLM 0.32.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use minijinja::{Environment, Value};
use work::{Limits, Work};

use super::output::BoundedText;
use super::{ChatTemplate, FUEL, NO_TIME, Request, TEMPLATE, output_limit, syntax};
use crate::images::Images;
use crate::json::Json;
use crate::messages::KeyOrder;

/// Whether the template refuses a system message that is not the first (`_detect_merge_inline_system`). vLLM tries in a
/// plain Jinja environment, so any template that needs more, such as `raise_exception` or the `generation` tag, counts
/// as refusing.
pub(super) fn wants_system_first(source: &str) -> bool {
    let message = |role: &str| Value::from_pairs([("role", role), ("content", "t")]);
    let messages: Value = ["system", "user", "system", "user"].map(message).into_iter().collect();
    let variables = Value::from_pairs([("messages", messages), ("add_generation_prompt", Value::from(false))]);
    let rendered = || -> Result<(), minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_syntax(syntax()?);
        jinja::install(&mut environment, Arc::new(AtomicI64::new(NO_TIME)), NO_TIME);
        environment.remove_global("raise_exception");
        environment.remove_global("strftime_now");
        environment.set_fuel(Some(Limits::DEFAULT.base / FUEL));
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        environment.add_template_owned(TEMPLATE, jinja::expressions::rewritten(&source, &syntax()?, true)?)?;
        let mut nowhere = BoundedText::new(output_limit(0), 0);
        let template = environment.get_template(TEMPLATE)?;
        template.render_captured_to(variables, &mut nowhere).map(drop)
    };
    rendered().is_err()
}

impl ChatTemplate {
    /// Whether system messages in a conversation are to be moved to its start.
    pub(crate) fn wants_system_first(&self) -> bool {
        self.wants_system_first
    }

    /// The `reasoning_effort` that stands for a request not to think: `none`, unless the template takes that for one
    /// of the others or refuses it (`_probe_disabled_thinking_effort`).
    pub(crate) fn effort_of_no_thinking(&self) -> &'static str {
        self.effort_of_no_thinking.get_or_init(|| {
            if self.rules().harmony {
                // Refuses `none`.
                return "low";
            }
            let none = self.greeting("none");
            let efforts = ["low", "medium", "high", "xhigh", "max"];
            if none.is_none() || efforts.iter().any(|effort| self.greeting(effort) == none) {
                "low"
            } else {
                "none"
            }
        })
    }

    fn greeting(&self, effort: &str) -> Option<String> {
        let text = |text: &'static str| Json::String(text.into());
        let message = Json::Object(vec![("role".into(), text("user")), ("content".into(), text("Hi"))]);
        let request = Request {
            template: None,
            messages: &[message],
            key_order: KeyOrder::OfTheType,
            tools: None,
            documents: None,
            reasoning_effort: Some(&Json::String(effort.into())),
            kwargs: &[],
            add_generation_prompt: true,
            continue_final_message: false,
            images: Images::default(),
        };
        self.render(request, &Work::new(Limits::DEFAULT, 0))
            .ok()
            .map(|rendered| rendered.text)
    }
}
