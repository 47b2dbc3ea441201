//! A final message that the model is to continue: `render_jinja_template` in `transformers`.

use super::Request;
use crate::error::PromptError;
use crate::messages::Message;

/// Appended to the final message, it shows in the rendered text where that ends.
pub(crate) const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Tags the final message; returns its text as it was.
pub(super) fn tag(request: &Request<'_, '_>, messages: &mut [Message<'_>]) -> Result<String, PromptError> {
    let bad = |why: &str| PromptError::BadField {
        field: "continue_final_message",
        why: why.to_owned(),
    };
    if request.add_generation_prompt {
        return Err(bad(
            "cannot go with `add_generation_prompt`, which is on unless set to false",
        ));
    }
    let last = messages.last_mut().ok_or_else(|| bad("needs a message"))?;
    last.tag_last_text(TAG)
        .ok_or_else(|| bad("needs a text in the final message"))
}

/// Cuts the rendered text where the final message ends.
pub(crate) fn cut_at_tag(mut text: String) -> Result<String, PromptError> {
    let end = text.rfind(TAG.trim_end()).ok_or_else(not_found)?;
    let spacing_kept = text.get(end..).is_some_and(|rest| rest.starts_with(TAG));
    text.truncate(end);
    if !spacing_kept {
        text.truncate(jinja::strip_end(&text).len());
    }
    Ok(text)
}

/// The final message is not in the rendered text, or has none.
pub(crate) fn not_found() -> PromptError {
    PromptError::Refused("the final message to continue does not appear in the rendered text".into())
}
