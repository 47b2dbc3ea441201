//! The arguments of a request for its template, among which every way to ask for reasoning is said in all others.

use std::borrow::Cow;

use crate::conversation::bad;
use crate::error::PromptError;
use crate::json::Json;

/// By their names; of several of one name the last counts.
#[derive(Default)]
pub(super) struct Arguments<'r>(Vec<(&'r str, Json<'r>)>);

/// What templates may ask whether to think.
const SWITCHES: [&str; 2] = ["thinking", "enable_thinking"];
const MODE: &str = "thinking_mode";

impl<'r> Arguments<'r> {
    /// Those of a request.
    pub(super) fn read(fields: &'r Json<'_>) -> Result<Self, PromptError> {
        let field = if fields.get_set("chat_template_args").is_some() {
            "chat_template_args"
        } else {
            "chat_template_kwargs"
        };
        let mut arguments = Self::default();
        match fields.get_set(field) {
            None => {}
            Some(Json::Object(entries)) => {
                entries
                    .iter()
                    .for_each(|(name, value)| arguments.set(name, value.borrowed()));
            }
            Some(other) => return Err(bad(field, &format!("is {}", other.type_name()))),
        }
        Ok(arguments)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Json<'r>)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    pub(super) fn set(&mut self, name: &'r str, value: Json<'r>) {
        self.0.push((name, value));
    }

    fn get(&self, name: &str) -> Option<&Json<'r>> {
        self.0
            .iter()
            .rev()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    fn mode(&self) -> Option<String> {
        self.get(MODE).and_then(Json::as_str).map(str::to_ascii_lowercase)
    }

    fn switch(&mut self, on: bool) {
        for name in SWITCHES {
            self.set(name, Json::Bool(on));
        }
    }

    fn switch_and_mode(&mut self, on: bool) {
        self.switch(on);
        self.set(MODE, text(if on { "enabled" } else { "disabled" }));
    }

    /// What chats and responses say outside of the arguments. A switch wins over a mode, a mode over an effort.
    pub(super) fn settle_chat(
        &mut self,
        thinking: Option<&'r Json<'_>>,
        effort: Option<&'r Json<'_>>,
    ) -> Result<(), PromptError> {
        let effort = effort
            .map(Json::borrowed)
            .or_else(|| self.get("reasoning_effort").cloned());
        let effort = effort.filter(|effort| !matches!(effort, Json::Null));
        match thinking.map(|thinking| (thinking, thinking.get("type").and_then(Json::as_str))) {
            None => {}
            Some((Json::Bool(on), _)) => self.switch_and_mode(*on),
            Some((_, Some("enabled"))) => self.switch_and_mode(true),
            Some((_, Some("disabled"))) => self.switch_and_mode(false),
            Some((_, Some("adaptive"))) => {
                self.0.retain(|(name, _)| !SWITCHES.contains(name));
                self.set(MODE, text("adaptive"));
            }
            Some(_) => return Err(bad("thinking", "is neither a boolean nor of a known `type`")),
        }
        let switched = SWITCHES.iter().find_map(|name| match self.get(name) {
            Some(Json::Bool(on)) => Some(*on),
            _ => None,
        });
        let decided = switched.or_else(|| match self.mode().as_deref() {
            Some("adaptive") => None,
            Some("enabled") => Some(true),
            Some("disabled") => Some(false),
            _ => effort.as_ref().and_then(Json::as_str).map(|effort| effort != "none"),
        });
        if let Some(on) = decided {
            self.switch_and_mode(on);
        }
        if let Some(effort) = effort {
            self.set("reasoning_effort", effort);
        }
        Ok(())
    }

    /// What every request's arguments come to: both switches, of whatever type one was. Kimi thinks if nothing is said.
    pub(super) fn settle(&mut self, parser: Option<&str>) {
        let thinks = || matches!(parser, Some("kimi_k25" | "kimi_k3" | "kimi-k3")).then_some(true);
        if let Some(on) = self.is_on().or_else(thinks) {
            self.switch(on);
        }
    }

    fn is_on(&self) -> Option<bool> {
        for switch in SWITCHES.iter().filter_map(|name| self.get(name)) {
            match switch {
                Json::Bool(on) => return Some(*on),
                Json::String(text) => return Some(is_yes(text)),
                Json::Unsigned(number) => return Some(*number != 0),
                Json::Signed(_) | Json::Inexact => return Some(true),
                Json::Float(number) => return Some(*number != 0.0),
                Json::Null | Json::Tokens(_) | Json::Array(_) | Json::Object(_) => {}
            }
        }
        match self.get(MODE)? {
            Json::Bool(on) => Some(*on),
            Json::Unsigned(number) => Some(*number != 0),
            Json::String(mode) if mode.eq_ignore_ascii_case("enabled") || is_yes(mode) => Some(true),
            Json::String(mode) if mode.eq_ignore_ascii_case("disabled") || is_no(mode) => Some(false),
            _ => None,
        }
    }
}

fn text(text: &str) -> Json<'_> {
    Json::String(Cow::Borrowed(text))
}

fn is_yes(text: &str) -> bool {
    matches!(text.trim().to_lowercase().as_str(), "1" | "true" | "on" | "yes")
}

fn is_no(text: &str) -> bool {
    matches!(text.trim().to_lowercase().as_str(), "0" | "false" | "off" | "no")
}
