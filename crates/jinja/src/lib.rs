//! Python's Jinja2, as `transformers` sets it up, on [`minijinja`].
//!
//! [`install`] gives an environment what minijinja does not have or does otherwise: filters, tests, methods, and how values are
//! printed. [`expressions`] does the same for operators, in a template's source. The crate is built for size.
//!
//! It runs on untrusted templates inside a wasm VM that does not survive a panic: no function here may panic, and what is made
//! is paid for in minijinja's fuel before it is made.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod arguments;
mod bounds;
pub mod expressions;
mod filters;
mod float;
mod json_dumps;
mod methods;
mod numbers;
mod percent;
mod repr;
mod sorting;
pub mod strftime;
mod strings;
mod tests_of_jinja;
mod text;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};

pub use filters::escaped;
pub use json_dumps::{dumps, dumps_indented};
pub use repr::{pay, str};
pub use text::{strip, strip_end};

/// What a template passed to `raise_exception`; found as the source of the error that ends the render.
#[derive(Debug)]
pub struct Raised(pub String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Makes `environment` behave as the one that `transformers` sets up. `now` is the time in seconds since 1970-01-01 UTC,
/// or `no_time`.
pub fn install(environment: &mut Environment<'_>, now: Arc<AtomicI64>, no_time: i64) {
    install_methods(environment, now, no_time);
    environment.set_formatter(write_value);
    for name in filters::UNKNOWN {
        environment.remove_filter(name);
    }
    for name in ["startingwith", "endingwith", "safe"] {
        environment.remove_test(name);
    }
    environment.remove_global("debug");
    for (name, filter) in filters::FILTERS {
        environment.add_filter(
            *name,
            move |state: &mut State<'_, '_>, value: &Value, args: Rest<ValueOrKwargs>| {
                let options = args.into_values();
                bounds::pay_options(state, value, &options)?;
                strings::pay_for(state, name, value.as_str().unwrap_or_default())?;
                filter(state, value, &options)
            },
        );
    }
    environment.add_filter("tojson", json_dumps::tojson);
    environment.add_test("sequence", tests_of_jinja::is_sequence);
    // As iterators are taken for sequences.
    environment.add_test("iterable", tests_of_jinja::is_sequence);
    environment.add_test("number", tests_of_jinja::is_number);
    environment.add_test("callable", tests_of_jinja::is_callable);
    environment.add_test("lower", tests_of_jinja::is_lower);
    environment.add_test("upper", tests_of_jinja::is_upper);
    environment.add_function("joiner", joiner);
    environment.add_function("__concat", concat);
    environment.add_function("__format", percent::modulo);
}

/// Methods, functions and bounds, which are the same in every Jinja.
pub fn install_methods(environment: &mut Environment<'_>, now: Arc<AtomicI64>, no_time: i64) {
    environment.set_unknown_method_callback(methods::call);
    bounds::install(environment);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| match now.load(Ordering::Relaxed) {
        time if time == no_time => Err(Error::new(
            ErrorKind::InvalidOperation,
            "strftime_now: the time is not known",
        )),
        time => strftime::format(format, time),
    });
}

fn joiner(state: &State<'_, '_>, separator: Option<Value>) -> Result<Value, Error> {
    bounds::pay_options(state, &Value::UNDEFINED, separator.as_slice())?;
    Ok(minijinja_contrib::globals::joiner(separator))
}

fn raise_exception(state: &mut State<'_, '_>, message: &Value) -> Result<Value, Error> {
    let message = str(state, message)?.into_owned();
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

/// `{{ value }}`.
fn write_value(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            output.write_str(&str(state, value)?).map_err(Error::from)
        }
        _ => escape_formatter(output, state, value),
    }
}

/// `text.strip(characters)`, which the `trim` filter is.
pub fn trim(text: &str, characters: Option<&str>) -> String {
    match characters {
        None => strip(text),
        Some(characters) => text.trim_matches(|character| characters.contains(character)),
    }
    .to_owned()
}

/// `a ~ b ~ …`, as which it stands in the source that minijinja compiles.
fn concat(state: &mut State<'_, '_>, operands: Rest<Value>) -> Result<String, Error> {
    let mut text = String::new();
    for operand in &*operands {
        pay(state, operand)?;
        text.push_str(&str(state, operand)?);
    }
    Ok(text)
}
