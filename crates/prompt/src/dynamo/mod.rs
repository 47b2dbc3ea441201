//! Prompts as NVIDIA Dynamo's frontend makes them, 1.6.1.
//!
//! It reads every conversation into chat messages ([`chat`], [`anthropic`], [`responses`]), of which only what its types
//! know is left ([`message`]), settles how the model is to think ([`arguments`]), fits the messages to what the template
//! is found to take ([`habits`], [`fit`]), and renders with a Jinja that is not quite Python's ([`environment`]). Special
//! tokens are what the template writes: none are added.
//!
//! The crates `dynamo-llm` 1.6.1, `dynamo-renderer` 8.0.3 and `dynamo-protocols` 8.2.0 are what its wheel is built from. What
//! they refuse is mostly let through here, as the prompt of such a request does not matter. The order of a message's keys
//! is not followed: no template prints a whole message.

mod anthropic;
mod arguments;
mod chat;
pub(crate) mod environment;
mod fit;
mod habits;
mod message;
mod responses;
mod tools;

use std::borrow::Cow;

use minijinja::Value;
use work::Work;

use crate::body::{NODE, Prompt, Shape};
use crate::error::PromptError;
use crate::images::Images;
use crate::json::Json;
use crate::media::{self, StandIn};
use crate::messages::{self, ContentFormat};
use crate::template::{ChatTemplate, Rendered, continued};
use chat::Chat;
pub(crate) use habits::Habits;

/// The prompt of a conversation. `work` is that of the request.
pub(crate) fn conversation(
    shape: Shape,
    fields: &Json<'_>,
    work: &Work,
    template: &ChatTemplate,
    habits: &Habits,
) -> Result<Prompt<'static>, PromptError> {
    let parser = template.rules().reasoning_parser.as_deref();
    let chat = match shape {
        Shape::Chat => chat::read(fields, parser)?,
        Shape::Messages => anthropic::read(fields, parser)?,
        Shape::Responses => responses::read(fields, parser)?,
        Shape::Completions | Shape::Embeddings => return Err(PromptError::UnsupportedField("messages")),
    };
    // Where the template leaves media out, their place is not known, whatever it takes.
    let Rendered { text, media } =
        media::located(template.rules(), ContentFormat::Parts, Images::default(), |stand_in| {
            // For the first rendering, values were paid for with the body.
            if stand_in == StandIn::MARK {
                work.take(fields.nodes(), NODE)?;
            }
            render(&chat, stand_in, work, template, habits)
        })?;
    Ok(Prompt::Text {
        text: Cow::Owned(text),
        add_special_tokens: false,
        media,
    })
}

/// The prompt of a text completion.
pub(crate) fn completion(text: &str) -> Prompt<'_> {
    Prompt::Text {
        text: without_nul(Cow::Borrowed(text)),
        add_special_tokens: false,
        media: None,
    }
}

/// A text as it is tokenized.
fn without_nul(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', ""))
    } else {
        text
    }
}

/// The text with something in place of media, and how many those are.
fn render(
    chat: &Chat<'_>,
    stand_in: StandIn,
    work: &Work,
    template: &ChatTemplate,
    habits: &Habits,
) -> Result<(String, usize), PromptError> {
    let tools = chat
        .tools
        .as_ref()
        .filter(|_| !(chat.tool_choice_none && template.rules().exclude_tools_when_tool_choice_none));
    let mut messages = chat.messages.clone();
    let media = messages.iter().map(message::Message::media).sum();
    if stand_in == StandIn::MARK {
        messages.iter_mut().for_each(message::Message::mark_media);
    }
    if chat.continue_final_message {
        fit::tag_last_text(&mut messages)?;
    }
    let habits = habits.given_tools(tools.is_some());
    fit::fit(&mut messages, habits);
    let variables = variables(chat, messages, tools, template, habits, work)?;
    let text = template.render_variables(variables, work)?;
    let text = match chat.continue_final_message {
        true => continued::cut_at_tag(text)?,
        false => text,
    };
    Ok((without_nul(Cow::Owned(text)).into_owned(), media))
}

/// Later ones win, so no argument takes the place of a message.
fn variables(
    chat: &Chat<'_>,
    messages: Vec<message::Message<'_>>,
    tools: Option<&Value>,
    template: &ChatTemplate,
    habits: &habits::GivenTools,
    work: &Work,
) -> Result<Value, PromptError> {
    let messages = messages
        .into_iter()
        .map(|message| message.into_value(habits.takes_argument_texts, work))
        .collect::<Result<Value, _>>()?;
    let defaults = template.default_kwargs().iter();
    let mut variables: Vec<_> = defaults.map(|(name, value)| (&**name, value.clone())).collect();
    for (name, argument) in chat.arguments.iter() {
        variables.push((name, messages::value(argument)?));
    }
    variables.extend(habits::TOKENS.map(|name| (name, template.special_token(name))));
    variables.extend([
        ("messages", messages),
        ("tools", tools.cloned().unwrap_or_else(|| Value::from(()))),
        ("add_generation_prompt", Value::from(chat.add_generation_prompt)),
    ]);
    Ok(Value::from_pairs(variables))
}
