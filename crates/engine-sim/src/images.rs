//! Images in chats, as vLLM has them for a model that takes texts: the placeholders of a message stand before its text,
//! each is as many tokens as the image has, and blocks that an image reaches into have its identity in their hash.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_128;

/// What stands for an image in a text (Qwen's).
pub const PLACEHOLDER: &str = "<|vision_start|><|image_pad|><|vision_end|>";
/// The token of it that stands for the image itself.
pub const PAD: &str = "<|image_pad|>";
/// Tokens of every image; real models tell by its size.
const TOKENS: usize = 70;

/// An image in a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What tells it from others, as engines publish it.
    pub identity: String,
    /// Where its tokens are.
    pub tokens: Range<usize>,
}

/// The identity of an image, by where it comes from.
pub fn identity(url: &str) -> String {
    format!("{:032x}", xxh3_128(url.as_bytes()))
}

/// Fills images in where `pad` stands.
pub fn fill(ids: Vec<u32>, pad: Option<u32>, identities: Vec<String>) -> (Vec<u32>, Vec<Image>) {
    let mut filled = Vec::with_capacity(ids.len());
    let mut images = Vec::new();
    let mut identities = identities.into_iter();
    for id in ids {
        let start = filled.len();
        filled.push(id);
        if Some(id) == pad
            && let Some(identity) = identities.next()
        {
            filled.resize(start + TOKENS, id);
            let tokens = start..filled.len();
            images.push(Image { identity, tokens });
        }
    }
    (filled, images)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::CacheKeys;

    #[test]
    fn images_take_the_place_of_their_tokens_and_enter_the_blocks_that_they_reach_into() {
        let names = ["x", "y"].map(str::to_owned).to_vec();
        let (filled, images) = fill(vec![1, 9, 2, 9, 9], Some(9), names);
        let nines = vec![9; TOKENS];
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
            .map(|index| keys.of_block(index, 71).unwrap_or_default())
            .collect();
        assert_eq!(of_blocks, [vec!["x", "salt"], vec!["y"], vec![], vec![]]);
    }
}
