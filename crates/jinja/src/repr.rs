//! `str(value)` and `repr(value)`. What they write costs fuel: a template can build a value in which another stands many times.

use std::borrow::Cow;

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::{float, sorting, strings};

/// Deeper than any request can nest; a template can build a value that contains itself.
const MAX_DEPTH: usize = 512;

/// `str(value)`: what Jinja's output and its string filters make of a value.
pub fn str<'v>(state: &State<'_, '_>, value: &'v Value) -> Result<Cow<'v, str>, Error> {
    match value.as_str() {
        Some(text) => Ok(Cow::Borrowed(text)),
        None if value.is_undefined() => Ok(Cow::Borrowed("")),
        None => {
            let mut text = String::new();
            repr(state, value, &mut text, 0)?;
            Ok(Cow::Owned(text))
        }
    }
}

/// Pays for a value that is written, before it is, without what is in it.
pub fn pay(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    state.consume_fuel(cost(value))
}

/// One unit of fuel, and one for 64 bytes of a text.
pub(super) fn cost(value: &Value) -> u64 {
    let bytes = value.as_str().map_or(0, str::len);
    (bytes as u64 / 64).saturating_add(1)
}

fn repr(state: &State<'_, '_>, value: &Value, text: &mut String, depth: usize) -> Result<(), Error> {
    pay(state, value)?;
    let inside = depth.saturating_add(1);
    match value.kind() {
        _ if depth > MAX_DEPTH => text.push_str("..."),
        ValueKind::String => {
            let inside = value.as_str().unwrap_or_default();
            strings::pay_for(state, "repr", inside)?;
            string(inside, text);
        }
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => text.push_str(&float::repr(number)),
            Err(_) => text.push_str(&value.to_string()),
        },
        ValueKind::Undefined => text.push_str("Undefined"),
        // A sum of lists is an iterable in minijinja.
        ValueKind::Seq | ValueKind::Iterable => {
            let is_tuple = value.is_tuple() || sorting::is_group(value);
            let (open, close) = if is_tuple { ('(', ')') } else { ('[', ']') };
            text.push(open);
            let mut count = 0_usize;
            for item in value.try_iter().into_iter().flatten() {
                separate(count, text);
                count = count.saturating_add(1);
                repr(state, &item, text, inside)?;
            }
            if is_tuple && count == 1 {
                text.push(',');
            }
            text.push(close);
        }
        ValueKind::Map => {
            text.push('{');
            for (count, key) in value.try_iter().into_iter().flatten().enumerate() {
                separate(count, text);
                repr(state, &key, text, inside)?;
                text.push_str(": ");
                repr(state, &value.get_item(&key).unwrap_or_default(), text, inside)?;
            }
            text.push('}');
        }
        // `None`, `True`, integers: as minijinja prints them.
        _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

fn separate(count: usize, text: &mut String) {
    if count > 0 {
        text.push_str(", ");
    }
}

fn string(content: &str, text: &mut String) {
    let quote = if content.contains('\'') && !content.contains('"') {
        '"'
    } else {
        '\''
    };
    text.push(quote);
    for character in content.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            _ if character == quote => {
                text.push('\\');
                text.push(quote);
            }
            _ if is_printable(character) => text.push(character),
            _ => text.push_str(&match u32::from(character) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    text.push(quote);
}

/// `str.isprintable`. Rust's own tables, of the same Unicode categories, are reached through `escape_debug`, which
/// additionally escapes quotes and a combining mark at the start of a text.
pub(super) fn is_printable(character: char) -> bool {
    matches!(character, ' '..='~') || {
        let mut buffer = String::from("a");
        buffer.push(character);
        buffer.escape_debug().nth(1) == Some(character)
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;
    use minijinja::value::Tuple;

    use super::*;

    #[test]
    fn as_python_prints_them() {
        let list = Value::from(vec![
            Value::from(()),
            Value::from(true),
            Value::from(-3),
            Value::from(1e-7),
            Value::from("it's"),
            Value::from("both ' and \""),
            Value::from("é e\u{301} \u{200b}\u{7f}\u{e000}\u{1f600}\u{e0001}\n\\"),
            Value::from(Tuple::new(vec![Value::from(1)])),
            Value::from_pairs([("k", Value::from("v"))]),
        ]);
        let expected = concat!(
            r#"[None, True, -3, 1e-07, "it's", 'both \' and "', "#,
            "'é e\u{301} \\u200b\\x7f\\ue000\u{1f600}\\U000e0001\\n\\\\', (1,), {'k': 'v'}]"
        );
        let environment = Environment::new();
        let state = environment.empty_state();
        assert_eq!(str(&state, &list).unwrap(), expected);
        assert_eq!(str(&state, &Value::from("plain'\n")).unwrap(), "plain'\n");
        assert_eq!(str(&state, &Value::UNDEFINED).unwrap(), "");
    }
}
