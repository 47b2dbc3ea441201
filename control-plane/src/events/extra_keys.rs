//! What enters a block's hash beside its tokens: `extra_keys` as vLLM lists them, `block_mm_infos` as Dynamo does.
//!
//! vLLM's order in a block is LoRA name, multimodal identifiers, salt (only in the first block of a sequence), embeddings
//! (`generate_block_hash_extra_keys`). Nothing but order and shape tells them apart, so this is read with care: what may
//! be something unknown ends the run, as a block under a wrong hash is found by nobody, or by the wrong request.

use std::fmt;

use super::raw::{Key, List, deserialize_any, skip_rest};
use router_core::hash::{is_media_digest, media_hash};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

const MAX_KEYS: usize = 1 << 12;
/// Before a namespace, in Dynamo's engines.
const SALT_PREFIX: &str = "dynamo-cache-salt:";

/// The keys of one block; nil: none.
#[derive(Debug, Default)]
pub(super) struct BlockKeys(List<ExtraKey, MAX_KEYS>);

/// The multimodal objects of one block; nil: none.
#[derive(Debug, Default)]
pub(super) struct MediaInfo(List<MediaObject, MAX_KEYS>);

#[derive(Debug, PartialEq)]
enum ExtraKey {
    Text(String),
    /// `[identity, offset]`: a multimodal object.
    Media(u64),
    /// Nil, or anything that is not known.
    Other,
}

#[derive(Debug)]
struct MediaObject(u64);

/// What the keys of a store's blocks say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extra {
    /// The cache namespace that a root's first block names.
    pub(super) salt: Option<String>,
    /// Identities by block, empty if there are none at all.
    pub(super) media: Vec<Vec<u64>>,
    /// Leading blocks whose keys are understood; `None`: all.
    pub(super) known: Option<usize>,
}

/// Reads the keys of consecutive blocks. `lora`: the store's adapter, which stands first in each block's list.
pub(super) fn read(keys: &[BlockKeys], infos: &[MediaInfo], is_root: bool, lora: Option<&str>) -> Extra {
    let mut extra = Extra::default();
    for (index, BlockKeys(List(items))) in keys.iter().enumerate() {
        let is_first = index == 0 && is_root;
        let items = match items.as_slice() {
            [ExtraKey::Text(first), rest @ ..] if Some(first.as_str()) == lora => rest,
            all => all,
        };
        let mut media = Vec::new();
        for (place, item) in items.iter().enumerate() {
            match item {
                ExtraKey::Media(identity) => media.push(*identity),
                ExtraKey::Text(text) => match salt_of(text).filter(|_| is_first && place + 1 == items.len()) {
                    Some(salt) => extra.salt = Some(salt.to_owned()).filter(|salt| !salt.is_empty()),
                    None => media.push(media_hash(text)),
                },
                ExtraKey::Other => {
                    extra.known = Some(index);
                    return extra;
                }
            }
        }
        extra.add_media(index, media);
    }
    for (index, MediaInfo(List(objects))) in infos.iter().enumerate() {
        let media = objects.iter().map(|MediaObject(identity)| *identity).collect();
        extra.add_media(index, media);
    }
    extra
}

impl Extra {
    /// Both fields may tell of a block; then they tell the same.
    fn add_media(&mut self, index: usize, media: Vec<u64>) {
        if media.is_empty() {
            return;
        }
        if self.media.len() <= index {
            self.media.resize_with(index + 1, Vec::new);
        }
        self.media[index] = media;
    }
}

/// The namespace, if a text in a salt's place is one. 64 hexadecimal digits are an image's digest; should a tenant's salt
/// look like that, its blocks are found by nobody.
fn salt_of(text: &str) -> Option<&str> {
    match text.strip_prefix(SALT_PREFIX) {
        Some(salt) => Some(salt),
        None => (!is_media_digest(text)).then_some(text),
    }
}

impl<'de> Deserialize<'de> for BlockKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        List::deserialize(deserializer).map(Self)
    }
}

deserialize_any!(ExtraKey, "an extra key", {
    fn visit_str<E>(self, text: &str) -> Result<ExtraKey, E> {
        Ok(ExtraKey::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<ExtraKey, E> {
        Ok(ExtraKey::Other)
    }

    fn visit_none<E>(self) -> Result<ExtraKey, E> {
        Ok(ExtraKey::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<ExtraKey, E> {
        Ok(ExtraKey::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<ExtraKey, E> {
        Ok(ExtraKey::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<ExtraKey, E> {
        Ok(ExtraKey::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<ExtraKey, E> {
        Ok(ExtraKey::Other)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<ExtraKey, E> {
        Ok(ExtraKey::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<ExtraKey, A::Error> {
        let identity = array.next_element()?;
        let offset = array.next_element::<Identity>()?;
        skip_rest(array)?;
        Ok(match (identity, offset) {
            (Some(Identity(Some(identity))), Some(_)) => ExtraKey::Media(identity),
            _ => ExtraKey::Other,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ExtraKey, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(ExtraKey::Other)
    }
});

/// A multimodal object's name: an identifier, or its hash.
#[derive(Default)]
struct Identity(Option<u64>);

deserialize_any!(Identity, "a multimodal identity", {
    fn visit_unit<E>(self) -> Result<Identity, E> {
        Ok(Identity(None))
    }

    fn visit_none<E>(self) -> Result<Identity, E> {
        Ok(Identity(None))
    }

    fn visit_u64<E>(self, hash: u64) -> Result<Identity, E> {
        Ok(Identity(Some(hash)))
    }

    fn visit_i64<E>(self, hash: i64) -> Result<Identity, E> {
        Ok(Identity(Some(hash.cast_unsigned())))
    }

    fn visit_str<E>(self, identifier: &str) -> Result<Identity, E> {
        Ok(Identity(Some(media_hash(identifier))))
    }
});

deserialize_any!(MediaInfo, "a block's multimodal objects", {
    fn visit_unit<E>(self) -> Result<MediaInfo, E> {
        Ok(MediaInfo::default())
    }

    fn visit_none<E>(self) -> Result<MediaInfo, E> {
        Ok(MediaInfo::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<MediaInfo, E> {
        Ok(MediaInfo::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MediaInfo, A::Error> {
        let mut found = MediaInfo::default();
        while let Some(Key(key)) = map.next_key()? {
            match key.as_str() {
                "mm_objects" => found.0 = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
});

deserialize_any!(MediaObject, "a multimodal object", {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MediaObject, A::Error> {
        let mut hash = None;
        while let Some(Key(key)) = map.next_key()? {
            match key.as_str() {
                "mm_hash" => Identity(hash) = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        hash.map(MediaObject)
            .ok_or_else(|| serde::de::Error::custom("a multimodal object without mm_hash"))
    }
});
