//! What Python's Jinja does and minijinja does not.

mod float;
mod json_dumps;
mod methods;
mod printed;
mod repr;
pub(crate) mod strftime;
mod tests_of_jinja;
mod text;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};

pub(crate) use json_dumps::{dumps, dumps_indented};
pub(crate) use printed::printed;
pub(crate) use repr::str;
pub(crate) use text::{strip, strip_end};

/// What a template passed to `raise_exception`; found as the source of the error that ends the render.
#[derive(Debug)]
pub(crate) struct Raised(pub(crate) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Makes `environment` behave as the one that `transformers` sets up. `now` is the time in seconds since 1970-01-01 UTC,
/// or `no_time`.
pub(crate) fn install(environment: &mut Environment<'_>, now: Arc<AtomicI64>, no_time: i64) {
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(write_value);
    environment.add_filter("tojson", json_dumps::tojson);
    environment.add_filter("trim", |value: &Value, characters: Option<&str>| {
        trim(&str(value), characters)
    });
    environment.add_filter("string", |value: &Value| str(value).into_owned());
    environment.add_filter("format", format);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    // Writes a different layout.
    environment.remove_filter("pprint");
    environment.add_test("sequence", tests_of_jinja::is_sequence);
    environment.add_test("iterable", tests_of_jinja::is_iterable);
    environment.add_test("number", tests_of_jinja::is_number);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: String| {
        match now.load(Ordering::Relaxed) {
            time if time == no_time => Err(Error::new(
                ErrorKind::InvalidOperation,
                "strftime_now: the time is not known",
            )),
            time => strftime::format(&format, time),
        }
    });
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

/// `{{ value }}`.
fn write_value(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            output.write_str(&str(value)).map_err(Error::from)
        }
        _ => escape_formatter(output, state, value),
    }
}

/// `text.strip(characters)`, which the `trim` filter is.
pub(crate) fn trim(text: &str, characters: Option<&str>) -> String {
    match characters {
        None => strip(text),
        Some(characters) => text.trim_matches(|character| characters.contains(character)),
    }
    .to_owned()
}

/// The `format` filter. Where all is to be written as text, numbers are, too.
fn format(state: &mut State<'_, '_>, text: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    let mut conversions = text.as_str().unwrap_or_default().split('%').skip(1);
    let mut arguments = arguments.0;
    if conversions.all(|conversion| conversion.starts_with('s')) {
        for argument in &mut arguments {
            if argument.kind() == ValueKind::Number {
                *argument = Value::from(str(argument).into_owned());
            }
        }
    }
    let arguments = arguments.into_iter().map(|argument| argument.into()).collect();
    minijinja::filters::format(state, text, Rest(arguments))
}

/// The `default` filter, whose `boolean` has a name.
fn default(
    state: &State<'_, '_>,
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let other = match other {
        Some(other) => other,
        None => named
            .get::<Option<Value>>("default_value")?
            .unwrap_or_else(|| Value::from("")),
    };
    let boolean = match boolean {
        Some(boolean) => boolean,
        None => named.get::<Option<bool>>("boolean")?.unwrap_or_default(),
    };
    named.assert_all_used()?;
    minijinja::filters::default(state, value, Rest(vec![other, boolean.into()]))
}

/// The `escape` filter, with the entities that MarkupSafe writes.
fn escape(value: &Value) -> String {
    let mut escaped = String::new();
    for character in str(value).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            other => escaped.push(other),
        }
    }
    escaped
}
