//! JSON as a request body needs it: read once, strings borrowed from the body, key order kept.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON value that borrows from the text it was read from.
///
/// Depth is bounded by `serde_json` (128 levels), size by the text: the worst text (`[[],[],…`) takes 16 times its size.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Signed(i64),
    /// Written with a fraction or an exponent. See [`Json::Inexact`] for what is not here.
    Float(f64),
    /// A number whose text cannot be told from what the reader hands on: an integer beyond 64 bits and a huge float read
    /// alike, and so do `-0` and `-0.0`, but Python prints them differently. Nothing that depends on such a number is
    /// rendered.
    Inexact,
    String(Cow<'a, str>),
    /// A non-empty array of nothing but 32-bit unsigned numbers, in 4 bytes each: a prompt given as token ids can have a
    /// million of them.
    Tokens(Vec<u32>),
    Array(Vec<Self>),
    /// Entries in the order of the text, duplicate keys included.
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl<'a> Json<'a> {
    /// The value of `key`; of several entries the last, as Python's `dict` has it. `None` also when this is no object.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(entries) => entries
                .iter()
                .rev()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// Like [`Json::get`], with an explicit `null` as good as absent.
    pub fn get_set(&self, key: &str) -> Option<&Self> {
        self.get(key).filter(|value| !matches!(value, Json::Null))
    }

    /// Like [`Json::get`], to be changed.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match self {
            Self::Object(entries) => entries
                .iter_mut()
                .rev()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The same value, its texts borrowed from this one.
    pub(crate) fn borrowed(&self) -> Json<'_> {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Unsigned(number) => Json::Unsigned(*number),
            Self::Signed(number) => Json::Signed(*number),
            Self::Float(number) => Json::Float(*number),
            Self::Inexact => Json::Inexact,
            Self::String(text) => Json::String(Cow::Borrowed(text)),
            Self::Tokens(numbers) => Json::Tokens(numbers.clone()),
            Self::Array(items) => Json::Array(items.iter().map(Json::borrowed).collect()),
            Self::Object(entries) => {
                let entries = entries.iter();
                Json::Object(
                    entries
                        .map(|(key, value)| (Cow::Borrowed(&**key), value.borrowed()))
                        .collect(),
                )
            }
        }
    }

    /// Number of values in it, itself included; one for all of [`Json::Tokens`].
    pub(crate) fn nodes(&self) -> usize {
        let inner: usize = match self {
            Self::Array(items) => items.iter().map(Json::nodes).sum(),
            Self::Object(entries) => entries.iter().map(|(_, value)| value.nodes()).sum(),
            _ => 0,
        };
        inner.saturating_add(1)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            _ => None,
        }
    }

    /// A boolean as pydantic's lax mode takes it, which the engines' request models use.
    /// Source: <https://docs.pydantic.dev/latest/concepts/conversion_table/>.
    pub fn as_lax_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Unsigned(0) => Some(false),
            Self::Unsigned(1) => Some(true),
            Self::Float(0.0) => Some(false),
            Self::Float(1.0) => Some(true),
            Self::String(text) => match text.to_ascii_lowercase().as_str() {
                "0" | "off" | "f" | "false" | "n" | "no" => Some(false),
                "1" | "on" | "t" | "true" | "y" | "yes" => Some(true),
                _ => None,
            },
            _ => None,
        }
    }

    /// The type as JSON calls it, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Signed(_) | Self::Float(_) | Self::Inexact => "a number",
            Self::String(_) => "a string",
            Self::Tokens(_) | Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Json::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(u64::try_from(value).map_or(Json::Signed(value), Json::Unsigned))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        // `serde_json` turns integers below -2^63 and from 2^64 on into floats.
        let may_be_an_integer = value <= -(2f64.powi(63)) || value >= 2f64.powi(64);
        let negative_zero = value == 0.0 && value.is_sign_negative();
        Ok(if may_be_an_integer || negative_zero {
            Json::Inexact
        } else {
            Json::Float(value)
        })
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut tokens = Vec::new();
        while let Some(item) = seq.next_element::<Json<'de>>()? {
            match item {
                Json::Unsigned(number) if u32::try_from(number).is_ok() => {
                    tokens.extend(u32::try_from(number));
                }
                other => return mixed_array(tokens, other, seq),
            }
        }
        Ok(if tokens.is_empty() {
            Json::Array(Vec::new())
        } else {
            Json::Tokens(tokens)
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Json::Object(entries))
    }
}

fn mixed_array<'de, A: SeqAccess<'de>>(tokens: Vec<u32>, next: Json<'de>, mut seq: A) -> Result<Json<'de>, A::Error> {
    let mut items: Vec<_> = tokens.into_iter().map(|token| Json::Unsigned(token.into())).collect();
    items.push(next);
    while let Some(item) = seq.next_element()? {
        items.push(item);
    }
    Ok(Json::Array(items))
}

/// An object's key, borrowed where it has no escapes (a plain `Cow` would always be owned).
pub(crate) struct Key<'a>(pub(crate) Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object key")
            }

            fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(value)))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(value.to_owned())))
            }
        }

        deserializer.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Json<'_> {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn string(text: &str) -> Json<'_> {
        Json::String(Cow::Borrowed(text))
    }

    #[test]
    fn every_kind_of_value() {
        let value = read(r#"{"a":[null,true,-3,4,0.5,"x"],"b":[1,2,4294967295],"c":[1,4294967296],"d":{},"e":[]}"#);
        let expected = Json::Object(vec![
            (
                "a".into(),
                Json::Array(vec![
                    Json::Null,
                    Json::Bool(true),
                    Json::Signed(-3),
                    Json::Unsigned(4),
                    Json::Float(0.5),
                    string("x"),
                ]),
            ),
            ("b".into(), Json::Tokens(vec![1, 2, u32::MAX])),
            (
                "c".into(),
                Json::Array(vec![Json::Unsigned(1), Json::Unsigned(1 << 32)]),
            ),
            ("d".into(), Json::Object(vec![])),
            ("e".into(), Json::Array(vec![])),
        ]);
        assert_eq!(value, expected);
    }

    #[test]
    fn strings_without_escapes_are_borrowed() {
        let value = read(r#"{"plain":"é","escaped":"\u00e9"}"#);
        assert!(matches!(value.get("plain"), Some(Json::String(Cow::Borrowed("é")))));
        assert!(matches!(value.get("escaped"), Some(Json::String(Cow::Owned(text))) if text == "é"));
    }

    #[test]
    fn the_last_of_duplicate_keys_wins() {
        assert_eq!(read(r#"{"a":1,"b":2,"a":3}"#).get("a"), Some(&Json::Unsigned(3)));
        assert_eq!(read(r#"{"a":1,"a":null}"#).get_set("a"), None);
    }

    #[test]
    fn numbers_are_exact_or_marked() {
        for (text, expected) in [
            ("18446744073709551615", Json::Unsigned(u64::MAX)),
            ("-9223372036854775808", Json::Signed(i64::MIN)),
            ("18446744073709551616", Json::Inexact),
            ("-9223372036854775809", Json::Inexact),
            ("1e30", Json::Inexact),
            ("-0", Json::Inexact),
            ("-0.0", Json::Inexact),
            ("0.1", Json::Float(0.1)),
            ("1.0", Json::Float(1.0)),
            ("1E2", Json::Float(100.0)),
            ("8.41e21", Json::Inexact),
            // Needs a correctly rounded reader.
            ("0.30000000000000004", Json::Float(0.1 + 0.2)),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            " ",
            "{",
            "NaN",
            "[Infinity]",
            r#""\ud800""#,
            "01",
            "{\"a\":1,}",
            "'a'",
            "\u{feff}{}",
            &deep,
        ] {
            assert!(
                serde_json::from_str::<Json<'_>>(text).is_err(),
                "{}",
                &text[..text.len().min(20)]
            );
        }
    }
}
