//! Token ids into a request body: `nvext.token_data`, which a Dynamo frontend takes in place of its own template and
//! tokenizer (Dynamo 1.6.1, `lib/llm/src/protocols/common/extensions.rs`).
//!
//! The body is not written anew: `serde_json` finds what stands where, and a few bytes are put there. So everything
//! else that the client wrote stays as it was, spelling, duplicate keys and white space included.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::Key;

/// Text in place of a range of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// Byte positions in the body; empty where nothing is replaced.
    pub range: Range<usize>,
    /// What goes there: JSON in UTF-8.
    pub text: Vec<u8>,
}

impl Splice {
    /// Sets `nvext.token_data` to `ids`, whatever the client said there. `None`: the body is no JSON object, or its
    /// `nvext` is none, not even `null`.
    pub fn token_data(body: &[u8], ids: &[u32]) -> Option<Self> {
        let list = serde_json::to_vec(ids).ok()?;
        let Some(nvext) = find(body, 0, "nvext")? else {
            return insertion(body, 0, &[br#""nvext":{"token_data":"#, list.as_slice(), b"}"]);
        };
        match find(nvext.text, nvext.start, "token_data")? {
            Some(old) => Some(Self {
                range: old.range(),
                text: list,
            }),
            None => insertion(nvext.text, nvext.start, &[br#""token_data":"#, list.as_slice()]),
        }
    }

    /// Sets a `nvext.token_data` of the client's own to `null`, which counts as absent. `None`: there is none.
    pub fn no_token_data(body: &[u8]) -> Option<Self> {
        let nvext = find(body, 0, "nvext")??;
        let old = find(nvext.text, nvext.start, "token_data")??;
        Some(Self {
            range: old.range(),
            text: b"null".to_vec(),
        })
    }

    /// The body with the change made; `None` if the range is not in it.
    pub fn apply(&self, body: &[u8]) -> Option<Vec<u8>> {
        let (before, after) = (body.get(..self.range.start)?, body.get(self.range.end..)?);
        Some([before, self.text.as_slice(), after].concat())
    }
}

/// A value in a body, and where it starts there.
struct Placed<'a> {
    text: &'a [u8],
    start: usize,
}

impl Placed<'_> {
    fn range(&self) -> Range<usize> {
        self.start..self.start.saturating_add(self.text.len())
    }
}

/// The value of `key` in an object whose text starts at `start` in the body; of several the last, as readers have it.
/// The outer `None`: no object.
fn find<'a>(object: &'a [u8], start: usize, key: &str) -> Option<Option<Placed<'a>>> {
    let mut reader = serde_json::Deserializer::from_slice(object);
    let last = reader.deserialize_map(LastOf(key)).ok()?;
    reader.end().ok()?;
    let Some(value) = last else {
        return Some(None);
    };
    let text = value.get().as_bytes();
    let offset = text.as_ptr().addr().checked_sub(object.as_ptr().addr())?;
    Some(Some(Placed {
        text,
        start: start.checked_add(offset)?,
    }))
}

struct LastOf<'k>(&'k str);

impl<'de> Visitor<'de> for LastOf<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut last = None;
        while let Some(Key(key)) = map.next_key()? {
            if key == self.0 {
                last = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(last)
    }
}

/// A new last entry of a JSON object whose text starts at `start` in the body.
fn insertion(object: &[u8], start: usize, entry: &[&[u8]]) -> Option<Splice> {
    let inside = object.trim_ascii_end().strip_suffix(b"}")?;
    let separator: &[u8] = if inside.trim_ascii_end().ends_with(b"{") {
        b""
    } else {
        b","
    };
    let place = start.checked_add(inside.len())?;
    Some(Splice {
        range: place..place,
        text: [&[separator], entry].concat().concat(),
    })
}
