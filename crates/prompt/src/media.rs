//! Images, audio and video in messages, and what of a prompt stands before them.
//!
//! An engine renders the template with something in their place, tokenizes, and then puts tokens there that depend on the
//! medium and the model. What stands before the first of them is as in any other prompt, and so is what follows those of
//! which all is known ([`crate::images`]).
//!
//! Source: `vllm/renderers/chat_utils.py`, vLLM 0.32 (`_parse_chat_message_content_mm_part`,
//! `_get_full_multimodal_text_prompt`).

use crate::body::Media;
use crate::error::PromptError;
use crate::images::{Image, Images};
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
    /// A text that stands where the part stood, from that medium of the conversation on; before, as [`StandIn::Engine`].
    Mark { from: usize },
}

impl StandIn {
    /// All media are marked.
    pub(crate) const MARK: Self = Self::Mark { from: 0 };

    /// For what follows so many media.
    pub(crate) fn after(self, media: usize) -> Self {
        match self {
            Self::Engine => Self::Engine,
            Self::Mark { from } => Self::Mark {
                from: from.saturating_sub(media),
            },
        }
    }
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
/// many there are. `images` is what is known of them.
pub(crate) fn located(
    rules: &Rules,
    format: ContentFormat,
    images: Images<'_>,
    render: impl Fn(StandIn) -> Result<(String, usize), PromptError>,
) -> Result<Rendered, PromptError> {
    let (text, count) = render(StandIn::Engine)?;
    if count == 0 {
        return Ok(Rendered { text, media: None });
    }
    if rules.images_first {
        let before_all = "an image, before all text with this model,";
        return Err(PromptError::Multimodal(before_all.to_owned()));
    }
    let length = images.placeholder.len();
    let mut images = placed(images, &text, format);
    let before = if images.len() == count {
        text.len()
    } else {
        let (marked, _) = render(StandIn::Mark { from: images.len() })?;
        let before = known_bytes(&text, &marked, format)?;
        images.retain(|image| image.at.saturating_add(length) <= before);
        before
    };
    let media = Media { count, before, images };
    Ok(Rendered {
        text,
        media: Some(media),
    })
}

/// The images that are known, where they stand in the text: engines take one placeholder after the other for them. None if
/// there are more or fewer of those than images, as when a client wrote one, or if no template wrote them.
fn placed(images: Images<'_>, text: &str, format: ContentFormat) -> Vec<Image> {
    let Images {
        mut leading,
        count,
        placeholder,
    } = images;
    let is_known = format == ContentFormat::Parts && !leading.is_empty() && text.matches(placeholder).count() == count;
    if !is_known {
        leading.clear();
    }
    for (image, (at, _)) in leading.iter_mut().zip(text.match_indices(placeholder)) {
        image.at = at;
    }
    leading
}

/// Bytes of `text` that do not depend on media: `marked` is the same with [`StandIn::Mark`] of those that are not known.
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
