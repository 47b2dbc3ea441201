//! `KVEventBatch` as it comes over the wire from vLLM, SGLang and TensorRT-LLM, in every form: batch and events may each
//! be an array or a map. Formats: `vllm/distributed/kv_events.py`, and what Dynamo's `zmq_wire` takes besides; lenient
//! where publishers differ, so an element of an unexpected type is read as `Other` rather than failing the batch. Not so
//! what tells blocks: a removal that cannot be read is not to be passed over.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::xxh3_64;

use super::extra_keys::{BlockKeys, MediaInfo};
use super::{Batch, EngineHash};

/// Bounds on one message; real ones stay far below. Over them the message is refused.
const MAX_EVENTS: usize = 1 << 16;
const MAX_BLOCKS: usize = 1 << 17;
const MAX_TOKENS: usize = 1 << 22;
/// Elements behind the fields of an array that all forms have.
const MAX_TRAILING: usize = 16;

/// Each event is converted as it comes, so that what is left out takes no memory.
#[derive(Debug, Default)]
pub(super) struct RawBatch(pub(super) Batch);

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
    pub(super) extra_keys: List<BlockKeys, MAX_BLOCKS>,
    pub(super) block_mm_infos: List<MediaInfo, MAX_BLOCKS>,
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

/// `[int]`, or `[[int, int]]` from eagle workers: each token with the one after it.
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
            "block_mm_infos" => self.block_mm_infos = value.next()?,
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
        ],
        Scalar::Text(tag) if tag == "BlockRemoved" => &["block_hashes", "medium"],
        _ => &[],
    }
}

/// An element behind those fields.
#[derive(Debug, Default)]
enum Trailing {
    #[default]
    Nil,
    Integer,
    Text(String),
    Media(List<MediaInfo, MAX_BLOCKS>),
    Other,
}

impl RawEvent {
    /// vLLM goes on with `group_idx`, `kv_cache_spec_kind`, `kv_cache_spec_sliding_window`, `locality`, `ownership`. Older
    /// publishers leave some of them out, and Dynamo's put `block_mm_infos` before them: then types tell what is what.
    fn read_trailing(&mut self, trailing: Vec<Trailing>) {
        use Trailing::{Integer, Media, Nil, Text};
        let in_order = matches!(
            trailing.as_slice(),
            [Nil | Integer, Nil | Text(_), Nil | Integer, Nil | Text(_), ..]
        );
        let mut is_first_text = true;
        for (index, element) in trailing.into_iter().enumerate() {
            match element {
                Text(text) if in_order && index == 1 => self.kv_cache_spec_kind = Scalar::Text(text),
                Text(text) if in_order && index == 3 => self.locality = Scalar::Text(text),
                _ if in_order => {}
                Text(text) if matches!(text.as_str(), "LOCAL" | "REMOTE") => self.locality = Scalar::Text(text),
                Text(text) if std::mem::take(&mut is_first_text) => self.kv_cache_spec_kind = Scalar::Text(text),
                Media(infos) => self.block_mm_infos = infos,
                _ => {}
            }
        }
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
pub(super) fn skip_rest<'de, A: SeqAccess<'de>>(mut array: A) -> Result<(), A::Error> {
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

pub(super) use deserialize_any;

deserialize_any!(RawBatch, "a batch as an array or a map", {
    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<RawBatch, A::Error> {
        let missing = || A::Error::custom("a batch needs a timestamp and events");
        array.next_element::<IgnoredAny>()?.ok_or_else(missing)?;
        let Events(mut batch) = array.next_element()?.ok_or_else(missing)?;
        batch.dp_rank = array.next_element::<Scalar>()?.unwrap_or_default().rank();
        skip_rest(array)?;
        Ok(RawBatch(batch))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawBatch, A::Error> {
        let (mut events, mut rank) = (None, None);
        while let Some(Key(key)) = map.next_key()? {
            match key.as_str() {
                "events" => events = Some(map.next_value()?),
                "data_parallel_rank" => rank = map.next_value::<Scalar>()?.rank(),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let Events(mut batch) = events.ok_or_else(|| A::Error::custom("a batch needs events"))?;
        batch.dp_rank = rank;
        Ok(RawBatch(batch))
    }
});

struct Events(Batch);

deserialize_any!(Events, "an array of events", {
    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Events, A::Error> {
        let mut batch = Batch::default();
        let mut count = 0;
        while let Some(event) = array.next_element::<RawEvent>()? {
            count += 1;
            if count > MAX_EVENTS {
                return Err(A::Error::custom(format!("more than {MAX_EVENTS} events")));
            }
            event.add_to(&mut batch);
        }
        Ok(Events(batch))
    }
});

impl Scalar {
    fn rank(&self) -> Option<u32> {
        match self {
            Self::Integer(rank) => u32::try_from(*rank).ok(),
            _ => None,
        }
    }
}

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
        let mut trailing = Vec::new();
        while trailing.len() < MAX_TRAILING
            && let Some(element) = values.0.next_element()?
        {
            trailing.push(element);
        }
        skip_rest(values.0)?;
        event.read_trailing(trailing);
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
pub(super) struct Key(pub(super) String);

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

deserialize_any!(Trailing, "any value", {
    fn visit_unit<E>(self) -> Result<Trailing, E> {
        Ok(Trailing::Nil)
    }

    fn visit_none<E>(self) -> Result<Trailing, E> {
        Ok(Trailing::Nil)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Trailing, E> {
        Ok(Trailing::Integer)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Trailing, E> {
        Ok(Trailing::Integer)
    }

    fn visit_str<E>(self, text: &str) -> Result<Trailing, E> {
        Ok(Trailing::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Trailing, E> {
        Ok(Trailing::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Trailing, E> {
        Ok(Trailing::Other)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Trailing, E> {
        Ok(Trailing::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Trailing, A::Error> {
        ListVisitor(PhantomData).visit_seq(array).map(Trailing::Media)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Trailing, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Trailing::Other)
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
        let mut after = None;
        while let Some(Token(id, next)) = array.next_element()? {
            if !tokens.ids.is_empty() && tokens.bigrams != next.is_some() {
                return Err(A::Error::custom("token ids both alone and in pairs"));
            }
            tokens.bigrams = next.is_some();
            tokens.ids.push(id);
            after = next;
            if tokens.ids.len() > MAX_TOKENS {
                return Err(A::Error::custom(format!(
                    "more than {MAX_TOKENS} token ids in one event"
                )));
            }
        }
        tokens.ids.extend(after);
        Ok(tokens)
    }
});

/// A token id, and the next one where the publisher gives pairs.
struct Token(u32, Option<u32>);

deserialize_any!(Token, "a token id or a pair of them", {
    fn visit_u64<E: Error>(self, id: u64) -> Result<Token, E> {
        let id = u32::try_from(id).map_err(|_| E::custom(format!("token id {id} is beyond 32 bits")))?;
        Ok(Token(id, None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Token, A::Error> {
        let pair = (array.next_element()?, array.next_element()?);
        match (pair, array.next_element::<IgnoredAny>()?) {
            ((Some(id), Some(next)), None) => Ok(Token(id, Some(next))),
            _ => Err(A::Error::custom("token ids neither alone nor in pairs")),
        }
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
