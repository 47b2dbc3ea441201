//! vLLM's `KVEventBatch` as it comes over the wire, in every form: batch and events may each be an array or a map.
//! Formats: `vllm/distributed/kv_events.py`; lenient where publishers differ, so an element of an unexpected type is
//! read as [`Scalar::Other`] or left out rather than failing the batch.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

use super::EngineHash;

/// Bounds on one message; real ones stay far below. Over them the message is refused.
const MAX_EVENTS: usize = 1 << 20;
const MAX_BLOCKS: usize = 1 << 20;
const MAX_TOKENS: usize = 1 << 24;
const MAX_KEYS: usize = 1 << 12;

#[derive(Debug, Default)]
pub(super) struct RawBatch {
    pub(super) events: List<RawEvent, MAX_EVENTS>,
}

/// The union of all events' fields.
#[derive(Debug, Default)]
pub(super) struct RawEvent {
    pub(super) tag: Scalar,
    pub(super) block_hashes: List<RawHash, MAX_BLOCKS>,
    pub(super) parent_block_hash: Option<RawHash>,
    pub(super) token_ids: Tokens,
    pub(super) block_size: Scalar,
    pub(super) medium: Scalar,
    pub(super) lora_name: LoraName,
    pub(super) cache_salt: Scalar,
    pub(super) extra_keys: Option<List<Option<List<Scalar, MAX_KEYS>>, MAX_BLOCKS>>,
    pub(super) kv_cache_spec_kind: Scalar,
    pub(super) locality: Scalar,
}

/// A value whose type differs between publishers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Scalar {
    #[default]
    Nil,
    Integer(i128),
    Text(String),
    /// Anything else.
    Other,
}

/// vLLM sends a name; SGLang may send `{"cache_salt": …}` in its place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LoraName {
    pub(super) name: Option<String>,
    pub(super) cache_salt: Option<String>,
}

#[derive(Debug)]
pub(super) struct RawHash(pub(super) EngineHash);

/// `[int]`, or `[[int, int]]` from eagle workers, which are told apart because their blocks hash otherwise.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    pub(super) bigrams: bool,
}

/// An array of at most `MAX` elements; nil is empty.
#[derive(Debug)]
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl RawEvent {
    /// Reads the value of the field with this name; that of an unknown name is skipped.
    fn read<'de, V: NextValue<'de>>(&mut self, name: &str, value: &mut V) -> Result<(), V::Error> {
        match name {
            "type" => self.tag = value.next()?,
            "block_hashes" => self.block_hashes = value.next()?,
            "parent_block_hash" => self.parent_block_hash = value.next()?,
            "token_ids" => self.token_ids = value.next()?,
            "block_size" => self.block_size = value.next()?,
            "medium" => self.medium = value.next()?,
            "lora_name" => self.lora_name = value.next()?,
            "cache_salt" => self.cache_salt = value.next()?,
            "extra_keys" => self.extra_keys = value.next()?,
            "kv_cache_spec_kind" => self.kv_cache_spec_kind = value.next()?,
            "locality" => self.locality = value.next()?,
            _ => {
                value.next::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Field names of the array form, by position after the tag.
fn fields_of(tag: &Scalar) -> &'static [&'static str] {
    match tag {
        Scalar::Text(tag) if tag == "BlockStored" => &[
            "block_hashes",
            "parent_block_hash",
            "token_ids",
            "block_size",
            "lora_id",
            "medium",
            "lora_name",
            "extra_keys",
            "group_idx",
            "kv_cache_spec_kind",
            "kv_cache_spec_sliding_window",
            "locality",
            "ownership",
        ],
        Scalar::Text(tag) if tag == "BlockRemoved" => &[
            "block_hashes",
            "medium",
            "group_idx",
            "kv_cache_spec_kind",
            "kv_cache_spec_sliding_window",
            "locality",
            "ownership",
        ],
        _ => &[],
    }
}

/// The value at hand: of a map's entry, or at an array's next place (the default where the array ends).
trait NextValue<'de> {
    type Error;
    fn next<T: Deserialize<'de> + Default>(&mut self) -> Result<T, Self::Error>;
}

struct OfMap<A>(A);

impl<'de, A: MapAccess<'de>> NextValue<'de> for OfMap<A> {
    type Error = A::Error;

    fn next<T: Deserialize<'de> + Default>(&mut self) -> Result<T, A::Error> {
        self.0.next_value()
    }
}

struct OfArray<A>(A);

impl<'de, A: SeqAccess<'de>> NextValue<'de> for OfArray<A> {
    type Error = A::Error;

    fn next<T: Deserialize<'de> + Default>(&mut self) -> Result<T, A::Error> {
        Ok(self.0.next_element()?.unwrap_or_default())
    }
}

/// Reads what is left of an array, so that the reader stands behind it.
fn skip_rest<'de, A: SeqAccess<'de>>(mut array: A) -> Result<(), A::Error> {
    while array.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Implements `Deserialize` by `deserialize_any` with the given visitor methods.
macro_rules! deserialize_any {
    ($type:ty, $expecting:literal, { $($methods:tt)* }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Any;
                impl<'de> Visitor<'de> for Any {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    $($methods)*
                }
                deserializer.deserialize_any(Any)
            }
        }
    };
}

deserialize_any!(RawBatch, "a batch as an array or a map", {
    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<RawBatch, A::Error> {
        let missing = || A::Error::custom("a batch needs a timestamp and events");
        array.next_element::<IgnoredAny>()?.ok_or_else(missing)?;
        let events = array.next_element()?.ok_or_else(missing)?;
        skip_rest(array)?;
        Ok(RawBatch { events })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawBatch, A::Error> {
        let mut batch = RawBatch::default();
        while let Some(Key(key)) = map.next_key()? {
            match key.as_str() {
                "events" => batch.events = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(batch)
    }
});

deserialize_any!(RawEvent, "an event as an array or a map", {
    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<RawEvent, A::Error> {
        let mut values = OfArray(array);
        let mut event = RawEvent {
            tag: values.next()?,
            ..RawEvent::default()
        };
        for name in fields_of(&event.tag) {
            event.read(name, &mut values)?;
        }
        skip_rest(values.0)?;
        Ok(event)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawEvent, A::Error> {
        let mut event = RawEvent::default();
        let mut values = OfMap(map);
        while let Some(Key(key)) = values.0.next_key()? {
            event.read(&key, &mut values)?;
        }
        Ok(event)
    }
});

/// A map's key; keys that are no text are none of ours.
struct Key(String);

deserialize_any!(Key, "a key", {
    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(Key(key.to_owned()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Key, E> {
        Ok(Key(String::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Key, E> {
        Ok(Key(String::new()))
    }
});

deserialize_any!(Scalar, "any value", {
    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Nil)
    }

    fn visit_none<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Nil)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Scalar, A::Error> {
        skip_rest(array)?;
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
});

deserialize_any!(LoraName, "a LoRA name", {
    fn visit_unit<E>(self) -> Result<LoraName, E> {
        Ok(LoraName::default())
    }

    fn visit_none<E>(self) -> Result<LoraName, E> {
        Ok(LoraName::default())
    }

    fn visit_str<E>(self, name: &str) -> Result<LoraName, E> {
        Ok(LoraName {
            name: Some(name.to_owned()),
            cache_salt: None,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LoraName, A::Error> {
        let mut found = LoraName::default();
        while let Some(Key(key)) = map.next_key()? {
            if let ("cache_salt", Scalar::Text(salt)) = (key.as_str(), map.next_value()?) {
                found.cache_salt = Some(salt);
            }
        }
        Ok(found)
    }
});

deserialize_any!(RawHash, "a block hash: an integer or bytes", {
    fn visit_u64<E>(self, hash: u64) -> Result<RawHash, E> {
        Ok(RawHash(EngineHash(hash)))
    }

    fn visit_i64<E>(self, hash: i64) -> Result<RawHash, E> {
        Ok(RawHash(EngineHash(hash.cast_unsigned())))
    }

    fn visit_bytes<E>(self, digest: &[u8]) -> Result<RawHash, E> {
        Ok(RawHash(EngineHash(xxh3_64(digest))))
    }
});

deserialize_any!(Tokens, "token ids", {
    fn visit_unit<E>(self) -> Result<Tokens, E> {
        Ok(Tokens::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Tokens, A::Error> {
        let mut tokens = Tokens::default();
        while let Some(token) = array.next_element()? {
            match token {
                Token::Plain(id) => tokens.ids.push(id),
                Token::Bigram => tokens.bigrams = true,
            }
            if tokens.ids.len() > MAX_TOKENS {
                return Err(A::Error::custom(format!(
                    "more than {MAX_TOKENS} token ids in one event"
                )));
            }
        }
        Ok(tokens)
    }
});

enum Token {
    Plain(u32),
    Bigram,
}

deserialize_any!(Token, "a token id", {
    fn visit_u64<E: Error>(self, id: u64) -> Result<Token, E> {
        u32::try_from(id)
            .map(Token::Plain)
            .map_err(|_| E::custom(format!("token id {id} is beyond 32 bits")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Token, A::Error> {
        skip_rest(array)?;
        Ok(Token::Bigram)
    }
});

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {MAX} elements")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(List::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        // Grows as elements come: the announced length is a claim.
        let mut list = Vec::new();
        while let Some(element) = array.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::custom(format!("an array has more than {MAX} elements")));
            }
            list.push(element);
        }
        Ok(List(list))
    }
}
