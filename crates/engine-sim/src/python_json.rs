//! JSON text as Python's `json.dumps` writes it: spaces after separators, Python's float notation.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use serde_json::{Error, Map, Value};

/// The arguments of `json.dumps`.
#[derive(Clone, Debug, Default)]
pub struct Format {
    /// Escape everything outside of ASCII.
    pub ensure_ascii: bool,
    /// Spaces per level; `None`: all on one line.
    pub indent: Option<usize>,
    /// Between items, and between key and value. Default `(", ", ": ")`, without the first space when indented.
    pub separators: Option<(String, String)>,
    /// Order keys by code point instead of as they came.
    pub sort_keys: bool,
}

/// The value as JSON text.
pub fn dumps(value: Value, format: &Format) -> Result<String, Error> {
    let value = if format.sort_keys { sorted(value) } else { value };
    let default_item = if format.indent.is_some() { "," } else { ", " };
    let (item, key) = format
        .separators
        .as_ref()
        .map_or((default_item, ": "), |(item, key)| (item, key));
    let python = Python {
        ensure_ascii: format.ensure_ascii,
        indent: format.indent,
        item,
        key,
        depth: 0,
        empty: true,
    };
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, python))?;
    String::from_utf8(bytes).map_err(|error| Error::io(io::Error::other(error)))
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            Value::Object(Map::from_iter(entries))
        }
        other => other,
    }
}

struct Python<'a> {
    ensure_ascii: bool,
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    depth: usize,
    /// Whether the container being written has no item yet.
    empty: bool,
}

impl Python<'_> {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.new_line(writer)?;
        }
        self.empty = false;
        writer.write_all(bracket)
    }

    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:width$}", "", width = indent * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for Python<'_> {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float_repr(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ensure_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() {
                write!(writer, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }
}

/// Python's `repr(float)`: the shortest digits that round-trip, with an exponent below 1e-4 and from 1e16 on.
fn float_repr(value: f64) -> String {
    if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e16) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent
            .strip_prefix('-')
            .map_or(('+', exponent), |exponent| ('-', exponent));
        format!("{digits}e{sign}{exponent:0>2}")
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Expected texts are the output of CPython 3.12's `json.dumps(..., ensure_ascii=False)`.
    #[test]
    fn writes_like_python() {
        let value =
            json!({"b": [1, 2.5, 1.0, 1e16, 1e-5, 123456789012345.0, -0.0], "a": {}, "é\n": "\u{7f}\u{1}/\"\\"});
        let text = dumps(value, &Format::default());
        assert_eq!(
            text.ok().as_deref(),
            Some(
                "{\"b\": [1, 2.5, 1.0, 1e+16, 1e-05, 123456789012345.0, -0.0], \"a\": {}, \
                 \"é\\n\": \"\u{7f}\\u0001/\\\"\\\\\"}"
            )
        );
    }

    #[test]
    fn writes_indented_sorted_ascii_like_python() {
        let format = Format {
            ensure_ascii: true,
            indent: Some(2),
            separators: None,
            sort_keys: true,
        };
        let text = dumps(json!({"b": [], "a": ["é😀", {"x": null}]}), &format);
        let want =
            "{\n  \"a\": [\n    \"\\u00e9\\ud83d\\ude00\",\n    {\n      \"x\": null\n    }\n  ],\n  \"b\": []\n}";
        assert_eq!(text.ok().as_deref(), Some(want));
    }
}
