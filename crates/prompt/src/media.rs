//! Images, audio and video in messages, and what of a prompt stands before them.
//!
//! An engine renders the template with something in their place, tokenizes, and then puts tokens there that depend on the
//! medium and the model. What stands before the first of them is as in any other prompt.
//!
//! Source: `vllm/renderers/chat_utils.py`, vLLM 0.32 (`_parse_chat_message_content_mm_part`,
//! `_get_full_multimodal_text_prompt`).

use crate::body::Media;
use crate::error::PromptError;
use crate::json::Json;
use crate::messages::ContentFormat;
use crate::rules::Rules;
use crate::template::Rendered;

/// A part of a message that is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Image,
    Audio,
    Video,
    /// What an embedding layer made of a text (`prompt_embeds`), which stands in the middle of the text.
    Embeddings,
}

/// What a rendering has in place of media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StandIn {
    /// What the engine has, as far as it is known.
    Engine,
    /// A text that stands where the part stood.
    Mark,
}

/// In no text that means something, and in no token.
pub(crate) const MARK: &str = "\u{fdd0}";
/// Where templates take texts, only the model's code knows what stands there.
pub(crate) const UNKNOWN: &str = "\u{fdd1}";
/// What vLLM writes for [`Medium::Embeddings`].
pub(crate) const EMBEDDINGS: &str = "<prompt_embeds>";

impl Medium {
    /// The medium that a part holds. Parts that have no type, or an identity of their own (`uuid`), are told by their
    /// keys.
    pub(crate) fn of_part(part: &Json<'_>) -> Option<Self> {
        let of_key = |key: &str| match key {
            "image_url" | "image_pil" | "image_embeds" => Some(Self::Image),
            "audio_url" | "audio_embeds" | "input_audio" => Some(Self::Audio),
            "video_url" | "video_embeds" => Some(Self::Video),
            "prompt_embeds" => Some(Self::Embeddings),
            _ => None,
        };
        match (part.get_set("type").and_then(Json::as_str), part.get_set("uuid")) {
            (Some("input_image"), None) => Some(Self::Image),
            (Some(kind), None) => of_key(kind),
            _ => {
                let keys = [
                    "image_url",
                    "image_pil",
                    "image_embeds",
                    "audio_embeds",
                    "video_embeds",
                    "prompt_embeds",
                    "audio_url",
                    "input_audio",
                    "video_url",
                ];
                keys.into_iter().find(|key| part.get(key).is_some()).and_then(of_key)
            }
        }
    }

    /// Its type in the parts that templates get. `None`: they get a text.
    pub(crate) fn part_type(self) -> Option<&'static str> {
        match self {
            Self::Image => Some("image"),
            Self::Audio => Some("audio"),
            Self::Video => Some("video"),
            Self::Embeddings => None,
        }
    }
}

/// What `render` makes of a conversation, and where its media are. It renders with something in their place, and says how
/// many there are.
pub(crate) fn located(
    rules: &Rules,
    format: ContentFormat,
    render: impl Fn(StandIn) -> Result<(String, usize), PromptError>,
) -> Result<Rendered, PromptError> {
    let (text, count) = render(StandIn::Engine)?;
    let media = match count {
        0 => None,
        _ if rules.images_first => {
            let before_all = "an image, before all text with this model,";
            return Err(PromptError::Multimodal(before_all.to_owned()));
        }
        count => {
            let (marked, _) = render(StandIn::Mark)?;
            let before = known_bytes(&text, &marked, format)?;
            Some(Media { count, before })
        }
    };
    Ok(Rendered { text, media })
}

/// Bytes of `text` that do not depend on media: `marked` is the same with [`StandIn::Mark`].
///
/// In texts, engines put all placeholders of a message at its start, or each where its part stood if they run with
/// `--interleave-mm-strings`, or where the client wrote it. `text` is the first, `marked` the second, and neither is the
/// last one's, so nothing that they have in common depends on which it is.
fn known_bytes(text: &str, marked: &str, format: ContentFormat) -> Result<usize, PromptError> {
    if text.contains(MARK) || marked.contains(UNKNOWN) {
        return Err(PromptError::Multimodal("an image beside U+FDD0 or U+FDD1".to_owned()));
    }
    if format == ContentFormat::Parts && marked.replace(MARK, "") == text {
        return Err(PromptError::Multimodal(
            "a part that the template leaves out".to_owned(),
        ));
    }
    let same = text
        .bytes()
        .zip(marked.bytes())
        .take_while(|(one, other)| one == other)
        .count();
    Ok(text.floor_char_boundary(same))
}

/// A part of a kind that engines refuse or that is not known.
pub(crate) fn unknown_part(kind: &str) -> PromptError {
    let kind: String = kind.chars().take(64).collect();
    PromptError::Multimodal(format!("a content part of type `{kind}`"))
}
