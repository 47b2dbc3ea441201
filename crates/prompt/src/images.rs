//! Images of which everything that enters a prompt is known: their identity, and which tokens and how many stand for them.
//!
//! vLLM takes a part's `uuid` for the image's identity, unless options for the medium come with the request
//! (`vllm/multimodal/processing/inputs.py`, 0.32). Models of the Qwen-VL family have as many of one token for an image as its
//! size says, which stands at the start of the data of a `data:` URL.

use serde::{Deserialize, Serialize};
use work::{HASHED_TOKEN, Work};

use crate::error::PromptError;
use crate::json::Json;
use crate::media::Medium;

/// How many tokens a model has for an image: what `Qwen2VLImageProcessor` of `transformers` 5 does with its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageProcessor {
    /// The special token that a template writes for an image.
    pub placeholder: String,
    /// The same token's id, which the engine puts there as often as the image has tokens.
    pub placeholder_id: u32,
    /// Side of a patch in pixels.
    pub patch_size: u32,
    /// Patches to the side of the square that becomes a token.
    pub merge_size: u32,
    /// Pixels that an image is enlarged to at least.
    pub min_pixels: u32,
    /// Pixels that an image is reduced to at most.
    pub max_pixels: u32,
}

/// An image in a prompt's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As engines publish it.
    pub identifier: String,
    /// Where its placeholder starts in the text, in bytes.
    pub at: usize,
    /// The token of the placeholder, which stands there as often as `tokens` says.
    pub token: u32,
    /// How many tokens it has.
    pub tokens: usize,
}

/// Images of a conversation, before it is rendered.
#[derive(Debug, Default)]
pub(crate) struct Images<'a> {
    /// The leading ones that are known, up to the first medium that is not. Where they stand is not known yet.
    pub(crate) leading: Vec<Image>,
    /// How many images there are.
    pub(crate) count: usize,
    /// What a template writes for one.
    pub(crate) placeholder: &'a str,
}

/// An image that engines refuse is larger (`VLLM_MAX_IMAGE_PIXELS`).
const MOST_PIXELS: u64 = 178_956_970;
/// No model has that much context; of patches without a size there would be infinitely many.
const MOST_TOKENS: usize = 1 << 20;
/// Engines refuse images whose sides have a larger ratio.
const MOST_RATIO: f64 = 200.0;
/// Base64 characters of an image that are decoded to find its size: for nearly all the first number is enough. A photo can
/// have a preview and color profiles before it.
const HEADERS: [usize; 2] = [4 << 10, 256 << 10];
/// What decoding such a character costs, in nanoseconds (see [`work`]).
const DECODED: u64 = 4;

impl ImageProcessor {
    /// Tokens of an image. `None`: the engine refuses it.
    pub fn tokens(&self, [width, height]: [u32; 2]) -> Option<usize> {
        if width == 0 || height == 0 || u64::from(width).saturating_mul(u64::from(height)) > MOST_PIXELS {
            return None;
        }
        let sides = [width, height].map(f64::from);
        let [width, height] = sides;
        if width.max(height) / width.min(height) > MOST_RATIO {
            return None;
        }
        let [least, most] = [self.min_pixels, self.max_pixels].map(f64::from);
        // Sides are counted in tokens. `transformers` has the same in pixels, all products exact.
        let token = f64::from(self.patch_size) * f64::from(self.merge_size);
        let rounded = sides.map(|side| (side / token).round_ties_even());
        let pixels: f64 = rounded.iter().map(|side| side * token).product();
        let [columns, rows] = if pixels > most {
            let by = (width * height / most).sqrt();
            sides.map(|side| (side / by / token).floor().max(1.0))
        } else if pixels < least {
            let by = (least / (height * width)).sqrt();
            sides.map(|side| (side * by / token).ceil())
        } else {
            rounded
        };
        let tokens = (columns * rows) as usize;
        (1..=MOST_TOKENS).contains(&tokens).then_some(tokens)
    }
}

/// What is known of the images in `messages`. `work` is that of the request.
pub(crate) fn known<'a>(
    messages: &[Json<'_>],
    processor: &'a ImageProcessor,
    work: &Work,
) -> Result<Images<'a>, PromptError> {
    let mut images = Images {
        placeholder: &processor.placeholder,
        ..Images::default()
    };
    let mut all_known = true;
    for part in messages.iter().flat_map(parts) {
        let Some(medium) = Medium::of_part(part) else {
            continue;
        };
        let is_image = medium == Medium::Image;
        images.count = images.count.saturating_add(usize::from(is_image));
        let image = match is_image && all_known {
            true => image(part, processor, work)?,
            false => None,
        };
        all_known = image.is_some();
        images.leading.extend(image);
    }
    Ok(images)
}

fn parts<'r, 'a>(message: &'r Json<'a>) -> &'r [Json<'a>] {
    match message.get_set("content") {
        Some(Json::Array(parts)) => parts,
        _ => &[],
    }
}

fn image(part: &Json<'_>, processor: &ImageProcessor, work: &Work) -> Result<Option<Image>, PromptError> {
    let identifier = part.get("uuid").and_then(Json::as_str).filter(|uuid| !uuid.is_empty());
    let url = part.get("image_url");
    let url = url.and_then(|url| url.as_str().or_else(|| url.get("url")?.as_str()));
    let (Some(identifier), Some(url)) = (identifier, url) else {
        return Ok(None);
    };
    let size = size(url, work)?;
    let Some(tokens) = size.and_then(|size| processor.tokens(size)) else {
        return Ok(None);
    };
    work.take(tokens, HASHED_TOKEN)?;
    Ok(Some(Image {
        identifier: identifier.to_owned(),
        at: 0,
        token: processor.placeholder_id,
        tokens,
    }))
}

/// Width and height of the image in a `data:` URL, as its file says: it may be turned by a quarter (EXIF), which changes
/// nothing in the number of its tokens.
fn size(url: &str, work: &Work) -> Result<Option<[u32; 2]>, PromptError> {
    let Some(data) = base64_data(url) else {
        return Ok(None);
    };
    for most in HEADERS {
        let header = data.get(..most.min(data.len())).unwrap_or_default();
        work.take(header.len(), DECODED)?;
        let Some(header) = decoded(header) else {
            return Ok(None);
        };
        if let Ok(size) = imagesize::blob_size(&header) {
            let side = |pixels: usize| u32::try_from(pixels).ok();
            return Ok(side(size.width).zip(side(size.height)).map(<[u32; 2]>::from));
        }
        if data.len() <= most {
            break;
        }
    }
    Ok(None)
}

/// What follows `data:[<type>][;<parameter>]*;base64,`.
fn base64_data(url: &str) -> Option<&[u8]> {
    let (scheme, rest) = url.split_at_checked(5)?;
    let (kind, data) = rest.split_once(',')?;
    let is_base64 = kind.rsplit_once(';').is_some_and(|(_, encoding)| encoding == "base64");
    (scheme.eq_ignore_ascii_case("data:") && is_base64).then_some(data.as_bytes())
}

/// What base64 says, as far as it is in groups of four characters and not padded. `None`: some of it is none. (This is all that
/// is needed; the library takes 4 kB of the module.)
fn decoded(base64: &[u8]) -> Option<Vec<u8>> {
    let base64 = base64.split(|character| *character == b'=').next().unwrap_or_default();
    let (groups, _) = base64.as_chunks::<4>();
    let mut bytes = Vec::with_capacity(base64.len());
    for group in groups {
        let mut bits = 0;
        for character in group {
            bits = bits << 6 | sextet(*character)?;
        }
        let [_, three @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(&three);
    }
    Some(bytes)
}

fn sextet(character: u8) -> Option<u32> {
    let (first, value) = match character {
        b'A'..=b'Z' => (b'A', 0_u8),
        b'a'..=b'z' => (b'a', 26),
        b'0'..=b'9' => (b'0', 52),
        b'+' => (b'+', 62),
        b'/' => (b'/', 63),
        _ => return None,
    };
    Some(character.wrapping_sub(first).wrapping_add(value).into())
}
