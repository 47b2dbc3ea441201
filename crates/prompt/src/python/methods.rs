//! Methods of `str`, `list` and `dict`: those whose result differs from, or which are absent in, `minijinja_contrib`.

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::text::is_space;

/// The callback for methods that minijinja does not know.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let ours = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Seq => list_method(value, method, args),
        ValueKind::Map if method == "copy" => from_args::<()>(args).map(|()| Some(value.clone())),
        _ => Ok(None),
    };
    match ours? {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `Ok(None)`: not one of ours.
fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "strip" => Value::from(match optional(args)? {
            None => text.trim_matches(is_space),
            Some(set) => text.trim_matches(|character| set.contains(character)),
        }),
        "lstrip" => Value::from(match optional(args)? {
            None => text.trim_start_matches(is_space),
            Some(set) => text.trim_start_matches(|character| set.contains(character)),
        }),
        "rstrip" => Value::from(match optional(args)? {
            None => text.trim_end_matches(is_space),
            Some(set) => text.trim_end_matches(|character| set.contains(character)),
        }),
        "split" if args.is_empty() => text
            .split(is_space)
            .filter(|part| !part.is_empty())
            .map(Value::from)
            .collect(),
        "title" if args.is_empty() => Value::from(title(text)),
        "removeprefix" => {
            let prefix = required(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = required(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let separator = required(args)?;
            triple(
                text.split_once(separator)
                    .map_or([text, "", ""], |(head, tail)| [head, separator, tail]),
            )
        }
        "rpartition" => {
            let separator = required(args)?;
            triple(
                text.rsplit_once(separator)
                    .map_or(["", "", text], |(head, tail)| [head, separator, tail]),
            )
        }
        "rsplit" => rsplit(text, args)?,
        "swapcase" => Value::from(text.chars().map(swapped).collect::<String>()),
        "index" | "rindex" => {
            let part = required(args)?;
            let found = if method == "index" {
                text.find(part)
            } else {
                text.rfind(part)
            };
            let at = found
                .and_then(|at| text.get(..at))
                .ok_or_else(|| error("substring not found"))?;
            Value::from(at.chars().count())
        }
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|character| character.is_ascii_digit())),
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn list_method(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => from_args::<()>(args).map(|()| Some(list.clone())),
        "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let position = list.try_iter()?.position(|item| item == wanted);
            position
                .map(|position| Some(Value::from(position)))
                .ok_or_else(|| error("value is not in list"))
        }
        _ => Ok(None),
    }
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit): (String, Option<i64>) = from_args(args)?;
    // A negative limit is none.
    let limit = limit
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = text.rsplitn(limit.saturating_add(1), &separator).collect();
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}

/// A letter after a letter in lower case, any other letter in title case (of which Rust has only upper case: the same but
/// for a few digraphs).
fn title(text: &str) -> String {
    let mut after_letter = false;
    let mut titled = String::with_capacity(text.len());
    for character in text.chars() {
        if after_letter {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        after_letter = character.is_lowercase() || character.is_uppercase();
    }
    titled
}

fn swapped(character: char) -> char {
    let mut cased: Box<dyn Iterator<Item = char>> = if character.is_lowercase() {
        Box::new(character.to_uppercase())
    } else {
        Box::new(character.to_lowercase())
    };
    cased.next().unwrap_or(character)
}

fn triple(parts: [&str; 3]) -> Value {
    Value::from(Tuple::new(parts.map(Value::from).to_vec()))
}

fn optional(args: &[Value]) -> Result<Option<&str>, Error> {
    match args {
        [] => Ok(None),
        [only] if only.is_none() => Ok(None),
        _ => required(args).map(Some),
    }
}

fn required(args: &[Value]) -> Result<&str, Error> {
    match args {
        [only] => only.as_str().ok_or_else(|| error("expected a string")),
        _ => Err(error("expected one argument")),
    }
}

fn error(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
