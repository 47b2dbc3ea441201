//! Images in chats, as vLLM has them: each is as many tokens as it has, in the place of its placeholder, and blocks that it
//! reaches into have its identity in their hash.
//!
//! For a model of the Qwen-VL family (its directory has a `preprocessor_config.json`), templates take parts and put the
//! placeholder there themselves. For others, the placeholders of a message stand before its text.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value as Json;
use xxhash_rust::xxh3::xxh3_128;

/// What stands for an image in a text (Qwen's).
pub const PLACEHOLDER: &str = "<|vision_start|><|image_pad|><|vision_end|>";
/// The token of it that stands for the image itself.
pub const PAD: &str = "<|image_pad|>";
/// Tokens of images whose size does not matter or is not known.
const TOKENS: usize = 70;

/// An image as a request has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What tells it from others, as engines publish it.
    pub identity: String,
    /// How many tokens it has.
    pub tokens: usize,
}

/// An image in a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What tells it from others, as engines publish it.
    pub identity: String,
    /// Where its tokens are.
    pub tokens: Range<usize>,
}

/// How a model of the Qwen-VL family makes tokens of images.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Processor {
    patch_size: u64,
    merge_size: u64,
    min_pixels: u64,
    max_pixels: u64,
}

impl Processor {
    /// That of a model directory, if it has one.
    pub fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join("preprocessor_config.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let processor: Self =
            serde_json::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        ensure!(processor.side() > 0, "{}: a token has no pixels", path.display());
        Ok(Some(processor))
    }

    /// Pixels along a token.
    fn side(&self) -> u64 {
        self.patch_size * self.merge_size
    }

    /// Tokens of an image, as `transformers` counts them, but in whole numbers: an image is scaled by the root of a limit
    /// over its pixels, so squares are compared.
    fn tokens(&self, sides: [u32; 2]) -> usize {
        let side = u128::from(self.side());
        let [width, height] = sides.map(u128::from);
        let square = |tokens: u128| (tokens * side).pow(2) * width * height;
        let scaled = |pixels: u128, limit: u64| pixels * pixels * u128::from(limit);
        let nearest = [width, height].map(|pixels| {
            let (whole, rest) = (pixels / side, pixels % side * 2);
            whole + u128::from(rest > side || (rest == side && whole % 2 == 1))
        });
        let area = nearest.iter().product::<u128>() * side * side;
        let [columns, rows] = if area > u128::from(self.max_pixels) {
            [width, height].map(|pixels| {
                let limit = scaled(pixels, self.max_pixels);
                (1..).take_while(|count| square(*count) <= limit).last().unwrap_or(1)
            })
        } else if area < u128::from(self.min_pixels) {
            [width, height].map(|pixels| {
                let limit = scaled(pixels, self.min_pixels);
                (1..).find(|count| square(*count) >= limit).unwrap_or(1)
            })
        } else {
            nearest
        };
        usize::try_from(columns * rows).unwrap_or(usize::MAX)
    }
}

impl Sent {
    /// What a content part of type `image_url` holds. For a model that is known, its `uuid` is the identity.
    pub fn of_part(part: &Json, processor: Option<&Processor>) -> Self {
        let by_place = || format!("{:032x}", xxh3_128(part["image_url"].to_string().as_bytes()));
        let uuid = part["uuid"].as_str().filter(|_| processor.is_some());
        let sides = part["image_url"]["url"].as_str().and_then(sides_of_png);
        Self {
            identity: uuid.map_or_else(by_place, str::to_owned),
            tokens: processor
                .zip(sides)
                .map_or(TOKENS, |(processor, sides)| processor.tokens(sides)),
        }
    }
}

/// Width and height of a PNG in a `data:` URL.
fn sides_of_png(url: &str) -> Option<[u32; 2]> {
    let (_, data) = url.split_once(";base64,")?;
    let header = STANDARD.decode(data.get(..32)?).ok()?;
    let side = |at: usize| Some(u32::from_be_bytes(*header.get(at..)?.first_chunk()?));
    header.starts_with(b"\x89PNG").then_some([side(16)?, side(20)?])
}

/// Fills images in where `pad` stands.
pub fn fill(ids: Vec<u32>, pad: Option<u32>, sent: Vec<Sent>) -> (Vec<u32>, Vec<Image>) {
    let mut filled = Vec::with_capacity(ids.len());
    let mut images = Vec::new();
    let mut sent = sent.into_iter();
    for id in ids {
        let start = filled.len();
        filled.push(id);
        if Some(id) == pad
            && let Some(Sent { identity, tokens }) = sent.next()
        {
            filled.resize(start + tokens, id);
            let tokens = start..filled.len();
            images.push(Image { identity, tokens });
        }
    }
    (filled, images)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hash::{CacheKeys, ExtraKey};

    #[test]
    fn images_take_the_place_of_their_tokens_and_enter_the_blocks_that_they_reach_into() {
        let sent = ["x", "y"].map(|identity| Sent {
            identity: identity.to_owned(),
            tokens: 70,
        });
        let (filled, images) = fill(vec![1, 9, 2, 9, 9], Some(9), sent.to_vec());
        let nines = vec![9; 70];
        assert_eq!(filled, [&[1][..], &nines, &[2], &nines, &[9]].concat());
        assert_eq!(
            images.iter().map(|image| image.tokens.clone()).collect::<Vec<_>>(),
            [1..71, 72..142]
        );
        let keys = CacheKeys {
            cache_salt: Some("salt".to_owned()),
            images,
            ..CacheKeys::default()
        };
        let of_blocks: Vec<_> = (0..4)
            .map(|index| keys.of_block(index, 60).unwrap_or_default())
            .collect();
        let image = |identity: &str, offset| ExtraKey::Image(identity.to_owned(), offset);
        let salt = ExtraKey::Name("salt".to_owned());
        assert_eq!(
            of_blocks,
            [
                vec![image("x", 1), salt],
                vec![image("x", -59), image("y", 12)],
                vec![image("y", -48)],
                vec![]
            ]
        );
    }

    /// Sizes and counts of `transformers`, but for images that it refuses.
    #[test]
    fn a_model_that_is_known_tells_by_the_size() {
        let recorded = include_str!("../../prompt/tests/data/qwen_vl_images.json");
        let recorded: Json = serde_json::from_str(recorded).expect("is JSON");
        for settings in recorded["processors"].as_array().expect("a list") {
            let processor: Processor = serde_json::from_value(settings.clone()).expect("settings");
            let sizes: Vec<(u32, u32, Option<usize>)> =
                serde_json::from_value(settings["sizes"].clone()).expect("sizes");
            for (width, height, tokens) in sizes {
                let found = processor.tokens([width, height]);
                assert_eq!(tokens.unwrap_or(found), found, "{width} x {height}");
            }
        }
    }

    #[test]
    fn a_part_tells_identity_and_size() {
        let processor = Processor {
            patch_size: 14,
            merge_size: 2,
            min_pixels: 3_136,
            max_pixels: 100_000,
        };
        let png = [
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            &560_u32.to_be_bytes()[..],
            &28_u32.to_be_bytes(),
        ]
        .concat();
        let url = format!("data:image/png;base64,{}", STANDARD.encode(png));
        for (url, tokens) in [(&*url, 20), ("https://pictures.example", TOKENS)] {
            let part = json!({"type": "image_url", "image_url": {"url": url}, "uuid": "x"});
            let identity = "x".to_owned();
            assert_eq!(Sent::of_part(&part, Some(&processor)), Sent { identity, tokens });
            assert_ne!(Sent::of_part(&part, None).identity, "x");
        }
    }
}
