//! Messages made to fit the template: the order of the steps is that of `HfTokenizerConfigJsonFormatter::render`.

use std::borrow::Cow;

use super::habits::GivenTools;
use super::message::{Content, Message, Part, Reasoning};
use crate::error::PromptError;
use crate::template::continued;

pub(super) fn fit(messages: &mut Vec<Message<'_>>, habits: &GivenTools) {
    if habits.wants_system_first {
        make_system_first(messages);
    }
    if habits.wants_users_apart {
        merge_users(messages);
    }
    for message in messages {
        fit_content(&mut message.content, habits);
        if message.role == "assistant" {
            fit_reasoning(message, habits);
        }
    }
}

/// Leading system messages become one, later ones the user's.
fn make_system_first(messages: &mut Vec<Message<'_>>) {
    let is_system = |message: &&Message<'_>| message.role == "system";
    let leading = messages.iter().take_while(is_system).count();
    let trailing: Vec<_> = messages.drain(leading.min(1)..leading).collect();
    if let Some(first) = messages.first_mut() {
        trailing
            .into_iter()
            .for_each(|message| append(&mut first.content, message.content));
    }
    for message in messages
        .iter_mut()
        .skip(leading.min(1))
        .filter(|message| message.role == "system")
    {
        message.role = "user";
    }
}

fn merge_users(messages: &mut Vec<Message<'_>>) {
    let mut merged: Vec<Message<'_>> = Vec::with_capacity(messages.len());
    for message in messages.drain(..) {
        match merged.last_mut() {
            Some(last) if last.role == "user" && message.role == "user" => append(&mut last.content, message.content),
            _ => merged.push(message),
        }
    }
    *messages = merged;
}

fn append<'r>(content: &mut Content<'r>, more: Content<'r>) {
    let text_part = |text: Cow<'r, str>| (!text.is_empty()).then_some(Part::Text(text));
    *content = match (std::mem::replace(content, Content::Absent), more) {
        (Content::Absent, more) => more,
        (content, Content::Absent) => content,
        (Content::Text(mut text), Content::Text(more)) => {
            if !text.is_empty() && !more.is_empty() {
                text.to_mut().push_str("\n\n");
            }
            text.to_mut().push_str(&more);
            Content::Text(text)
        }
        (Content::Text(text), Content::Parts(more)) => {
            Content::Parts(text_part(text).into_iter().chain(more).collect())
        }
        (Content::Parts(mut parts), Content::Text(more)) => {
            parts.extend(text_part(more));
            Content::Parts(parts)
        }
        (Content::Parts(mut parts), Content::Parts(more)) => {
            parts.extend(more);
            Content::Parts(parts)
        }
    };
}

/// A template takes parts or a text. Parts that are more than texts stay, unless it is known what stands for them.
fn fit_content(content: &mut Content<'_>, habits: &GivenTools) {
    let parts = match content {
        Content::Text(text) if habits.wants_parts => {
            *content = Content::Parts(vec![Part::Text(std::mem::take(text))]);
            return;
        }
        Content::Parts(parts) if !habits.wants_parts && !parts.is_empty() => parts,
        Content::Absent | Content::Text(_) | Content::Parts(_) => return,
    };
    let texts = parts.iter().map(|part| match part {
        Part::Text(text) => Some(&**text),
        Part::Refusal(_) | Part::Medium(_) => None,
    });
    let text = match (texts.clone().collect::<Option<Vec<_>>>(), habits.medium_text) {
        (Some(texts), _) => texts.join("\n"),
        (None, None) => return,
        (None, Some(medium)) => with_media(texts, medium),
    };
    *content = Content::Text(Cow::Owned(text));
}

/// Texts and, for each `None`, what stands for a medium.
fn with_media<'t>(texts: impl Iterator<Item = Option<&'t str>>, medium: &str) -> String {
    let (mut written, mut number) = (String::new(), 0_usize);
    for text in texts {
        if let Some(text) = text {
            written.push_str(text);
        } else {
            number = number.saturating_add(1);
            written.push_str(&medium.replace("{n}", &number.to_string()));
        }
    }
    written
}

/// For a template that does not know reasoning, it stands before the content.
fn fit_reasoning(message: &mut Message<'_>, habits: &GivenTools) {
    let segments = match &message.reasoning {
        None => return,
        Some(Reasoning::Text(text)) => std::slice::from_ref(text),
        Some(Reasoning::Segments(segments)) => segments,
    };
    let thought = || segments.iter().filter(|segment| !segment.is_empty());
    if !habits.knows_reasoning {
        if thought().next().is_none() {
            return;
        }
        let tagged: String = thought().map(|segment| format!("<think>{segment}</think>")).collect();
        match &mut message.content {
            Content::Absent => message.content = Content::Text(Cow::Owned(tagged)),
            Content::Text(text) => text.to_mut().insert_str(0, &tagged),
            Content::Parts(parts) => parts.insert(0, Part::Text(Cow::Owned(tagged))),
        }
        message.reasoning = None;
    } else if habits.wants_reasoning_text && matches!(message.reasoning, Some(Reasoning::Segments(_))) {
        let joined = thought().map(|segment| &**segment).collect::<Vec<_>>().join("\n");
        message.reasoning = Some(Reasoning::Text(Cow::Owned(joined)));
    }
}

/// Marks where the last message is to be continued.
pub(super) fn tag_last_text(messages: &mut [Message<'_>]) -> Result<(), PromptError> {
    let text = messages.last_mut().and_then(|last| match &mut last.content {
        Content::Text(text) => Some(text).filter(|text| !text.is_empty()),
        Content::Parts(parts) => parts.iter_mut().rev().find_map(|part| match part {
            Part::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }),
        Content::Absent => None,
    });
    text.ok_or_else(continued::not_found)?.to_mut().push_str(continued::TAG);
    Ok(())
}
