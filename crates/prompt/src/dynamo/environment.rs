//! The Jinja that the frontend renders with: minijinja with less of Python than [`jinja`] makes it have.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};

use crate::json::Json;
use crate::messages;

/// Makes `environment` behave as the frontend's own. `now`, `no_time`: see [`jinja::install`].
pub(crate) fn install(environment: &mut Environment<'_>, now: Arc<AtomicI64>, no_time: i64) {
    jinja::install_methods(environment, now, no_time);
    environment.set_formatter(write_value);
    environment.add_filter("length", |value: Value| value.len().unwrap_or(0));
    environment.add_filter("string", |state: &State<'_, '_>, value: &Value| {
        text(state, value).map(Cow::into_owned)
    });
    environment.add_filter(
        "trim",
        |state: &State<'_, '_>, value: &Value, characters: Option<&str>| {
            text(state, value).map(|text| jinja::trim(&text, characters))
        },
    );
    // Writes a different layout in minijinja 2.
    environment.remove_filter("pprint");
    environment.add_filter("tojson", tojson);
    environment.add_filter("fromjson", fromjson);
    environment.add_filter("from_json", fromjson);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_test("sequence", |value: &Value| value.kind() == ValueKind::Seq);
    environment.add_test("iterable", |value: &Value| {
        value.as_str().is_some() || value.try_iter().is_ok()
    });
    environment.add_test("number", |value: &Value| value.kind() == ValueKind::Number);
}

/// `{{ value }}`.
fn write_value(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            output.write_str(&text(state, value)?).map_err(Error::from)
        }
        _ => escape_formatter(output, state, value),
    }
}

/// A float as in Python; lists and objects as minijinja 2 prints them, which is Rust's notation but for `True` and `None`.
fn text<'v>(state: &State<'_, '_>, value: &'v Value) -> Result<Cow<'v, str>, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let mut text = String::new();
            debug(state, value, &mut text, 0)?;
            Ok(Cow::Owned(text))
        }
        _ => jinja::str(state, value),
    }
}

/// Deeper than any request can nest; a template can build a value that contains itself.
const MAX_DEPTH: usize = 512;

fn debug(state: &State<'_, '_>, value: &Value, text: &mut String, depth: usize) -> Result<(), Error> {
    jinja::pay(state, value)?;
    let inside = depth.saturating_add(1);
    match value.kind() {
        _ if depth > MAX_DEPTH => text.push_str("..."),
        ValueKind::String => text.push_str(&format!("{:?}", value.as_str().unwrap_or_default())),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => text.push_str(&format!("{number:?}")),
            Err(_) => text.push_str(&value.to_string()),
        },
        ValueKind::Undefined => text.push_str("undefined"),
        ValueKind::Seq | ValueKind::Iterable => {
            text.push('[');
            for (count, item) in value.try_iter().into_iter().flatten().enumerate() {
                separate(count, text);
                debug(state, &item, text, inside)?;
            }
            text.push(']');
        }
        ValueKind::Map => {
            text.push('{');
            for (count, key) in value.try_iter().into_iter().flatten().enumerate() {
                separate(count, text);
                debug(state, &key, text, inside)?;
                text.push_str(": ");
                debug(state, &value.get_item(&key).unwrap_or_default(), text, inside)?;
            }
            text.push('}');
        }
        _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

fn separate(count: usize, text: &mut String) {
    if count > 0 {
        text.push_str(", ");
    }
}

/// `json.dumps`, of whose arguments only `indent` is known and all others are ignored.
fn tojson(state: &State<'_, '_>, value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    if value.is_undefined() {
        return Ok("null".to_owned());
    }
    let indent = kwargs.get::<usize>("indent").ok();
    let _ = kwargs.args().count();
    jinja::dumps_indented(state, value, indent)
}

/// A text as the JSON in it; anything else as it is.
fn fromjson(value: Value) -> Result<Value, Error> {
    let failed = |why: String| Error::new(ErrorKind::InvalidOperation, format!("fromjson: {why}"));
    match value.as_str() {
        None => Ok(value),
        Some(text) => {
            let json = serde_json::from_str::<Json<'_>>(text).map_err(|error| failed(error.to_string()))?;
            messages::value(&json).map_err(|error| failed(error.to_string()))
        }
    }
}

/// The `escape` filter, with the entities that minijinja writes.
fn escape(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    Ok(jinja::escaped(&text(state, value)?, ["&#x27;", "&quot;"]))
}
