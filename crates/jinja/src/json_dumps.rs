//! The `tojson` filter of `transformers`: Python's `json.dumps` with `ensure_ascii=False`.

use std::fmt::Write;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{bind, flag};
use super::float;
use super::repr::pay;

/// Deeper than any request can nest; a template can build a value that contains itself.
const MAX_DEPTH: usize = 512;

pub(super) fn tojson(state: &State<'_, '_>, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = bind(&args.into_values(), names)?;
    let indent = match indent {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(MAX_INDENT)),
        }),
    };
    let separators = separators.filter(|separators| !separators.is_none());
    let separator = |index, default: &str| match &separators {
        None => Ok(default.to_owned()),
        Some(pair) => {
            let separator = pair.get_item_by_index(index)?;
            separator
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| unserializable("separators"))
        }
    };
    let mut writer = Writer {
        text: String::new(),
        ensure_ascii: flag(ensure_ascii.as_ref()),
        sort_keys: flag(sort_keys.as_ref()),
        item_separator: separator(0, if indent.is_some() { "," } else { ", " })?,
        key_separator: separator(1, ": ")?,
        indent,
        pay: &|value| pay(state, value),
    };
    writer.value(value, 0)?;
    Ok(writer.text)
}

/// `json.dumps` as it is without arguments, of what comes from JSON.
pub fn dumps(value: &Value) -> Result<String, Error> {
    Writer::new(true, None, &|_| Ok(())).written(value)
}

/// `json.dumps` with `ensure_ascii=False`, and with so many spaces for each level if `indent` is given.
pub fn dumps_indented(state: &State<'_, '_>, value: &Value, indent: Option<usize>) -> Result<String, Error> {
    let indent = indent.map(|indent| " ".repeat(indent.min(MAX_INDENT)));
    Writer::new(false, indent, &|value| pay(state, value)).written(value)
}

/// Keeps a template from asking for gigabytes of spaces.
const MAX_INDENT: usize = 64;

struct Writer<'p> {
    text: String,
    ensure_ascii: bool,
    sort_keys: bool,
    item_separator: String,
    key_separator: String,
    indent: Option<String>,
    /// Pays for a value before it is written.
    pay: &'p dyn Fn(&Value) -> Result<(), Error>,
}

impl<'p> Writer<'p> {
    fn new(ensure_ascii: bool, indent: Option<String>, pay: &'p dyn Fn(&Value) -> Result<(), Error>) -> Self {
        Self {
            text: String::new(),
            ensure_ascii,
            sort_keys: false,
            item_separator: if indent.is_some() { "," } else { ", " }.to_owned(),
            key_separator: ": ".to_owned(),
            indent,
            pay,
        }
    }

    fn written(mut self, value: &Value) -> Result<String, Error> {
        self.value(value, 0)?;
        Ok(self.text)
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deeply"));
        }
        (self.pay)(value)?;
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.array(value, depth)?,
            ValueKind::Map => self.object(value, depth)?,
            kind => return Err(unserializable(&kind.to_string())),
        }
        Ok(())
    }

    fn array(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('[');
        let inside = depth.saturating_add(1);
        let mut empty = true;
        for item in value.try_iter()? {
            self.start_item(&mut empty, inside);
            self.value(&item, inside)?;
        }
        self.end(empty, depth);
        self.text.push(']');
        Ok(())
    }

    fn object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('{');
        let inside = depth.saturating_add(1);
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        let mut empty = true;
        for key in keys {
            self.start_item(&mut empty, inside);
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                ValueKind::None => self.string("null"),
                ValueKind::Bool => self.string(if key.is_true() { "true" } else { "false" }),
                ValueKind::Number => {
                    let number = number(&key)?;
                    self.string(&number);
                }
                kind => return Err(unserializable(&format!("{kind} as a key"))),
            }
            self.text.push_str(&self.key_separator);
            self.value(&value.get_item(&key)?, inside)?;
        }
        self.end(empty, depth);
        self.text.push('}');
        Ok(())
    }

    fn start_item(&mut self, empty: &mut bool, depth: usize) {
        if !*empty {
            self.text.push_str(&self.item_separator);
        }
        *empty = false;
        self.line_break(depth);
    }

    fn end(&mut self, empty: bool, depth: usize) {
        if !empty {
            self.line_break(depth);
        }
    }

    fn line_break(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            for _ in 0..depth {
                self.text.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        let mut rest = text;
        while let Some(at) = rest.find(|character| self.is_escaped(character)) {
            let (plain, tail) = rest.split_at_checked(at).unwrap_or((rest, ""));
            self.text.push_str(plain);
            let mut characters = tail.chars();
            if let Some(character) = characters.next() {
                self.escape(character);
            }
            rest = characters.as_str();
        }
        self.text.push_str(rest);
        self.text.push('"');
    }

    fn is_escaped(&self, character: char) -> bool {
        matches!(character, '"' | '\\' | '\0'..='\x1f') || (self.ensure_ascii && character >= '\x7f')
    }

    fn escape(&mut self, character: char) {
        match character {
            '"' => self.text.push_str("\\\""),
            '\\' => self.text.push_str("\\\\"),
            '\n' => self.text.push_str("\\n"),
            '\r' => self.text.push_str("\\r"),
            '\t' => self.text.push_str("\\t"),
            '\x08' => self.text.push_str("\\b"),
            '\x0c' => self.text.push_str("\\f"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    // Writing to a `String` cannot fail.
                    let _ = write!(self.text, "\\u{unit:04x}");
                }
            }
        }
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    Ok(if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float::repr(number)
    })
}

fn unserializable(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: cannot serialize {what}"))
}
