//! Bounds on what minijinja does without asking for fuel.
//!
//! It compares, orders and hashes values as deep as they go: a list of two that are lists of two and so on takes one step to
//! make longer and twice the time to compare. It adds lists without making one: what goes over a sum goes over the sums that it
//! is of. And it finds the place of a character by counting from the start.
//!
//! So a value is paid for by all that is in it, as often as it is there, when it is put into another and when it is compared;
//! a sum of lists is a list, and is paid for; and so is a text that is looked into. What filters and tests do is bounded here,
//! what operators do in [`crate::expressions`].

use std::borrow::Cow;
use std::sync::Arc;

use minijinja::value::{DynObject, Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, functions, tests};

use super::{repr, strings};

/// Deeper than any request can nest.
const MAX_DEPTH: usize = 200;

/// A unit of fuel is worth as many items that are put into a list, or gone over.
const ITEMS: u64 = 2;

type Compares = fn(&Value, &Value) -> bool;

/// Gives an environment what [`crate::expressions`] writes into templates, and bounds on all else that needs some.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_function("__paid", paid);
    environment.add_function("__kept", kept);
    environment.add_function("__whole", whole);
    environment.add_function("__searched", searched);
    environment.add_function("__indexed", indexed);
    environment.add_function("__sliced", sliced);
    environment.add_function(
        "dict",
        |state: &mut State<'_, '_>, value: Option<Value>, more: Kwargs| paid(state, functions::dict(value, more)?),
    );
    environment.add_function(
        "namespace",
        |state: &mut State<'_, '_>, defaults: Option<ValueOrKwargs>| paid(state, functions::namespace(defaults)?),
    );
    // Those that are true compare or put together all that is in the value.
    for (name, looks_inside, filter) in [
        ("attr", true, Value::from_function(filters::attr)),
        ("batch", true, Value::from_function(filters::batch)),
        ("chain", true, Value::from_function(filters::chain)),
        ("dictsort", true, Value::from_function(filters::dictsort)),
        ("groupby", true, Value::from_function(filters::groupby)),
        ("map", false, Value::from_function(filters::map)),
        ("max", true, Value::from_function(filters::max)),
        ("min", true, Value::from_function(filters::min)),
        ("reject", false, Value::from_function(filters::reject)),
        ("rejectattr", false, Value::from_function(filters::rejectattr)),
        ("select", false, Value::from_function(filters::select)),
        ("selectattr", false, Value::from_function(filters::selectattr)),
        ("slice", true, Value::from_function(filters::slice)),
        ("sort", true, Value::from_function(filters::sort)),
        ("sum", true, Value::from_function(filters::sum)),
        ("unique", true, Value::from_function(filters::unique)),
        ("zip", true, Value::from_function(filters::zip)),
    ] {
        environment.add_filter(
            name,
            move |state: &mut State<'_, '_>, value: Value, options: Rest<ValueOrKwargs>| {
                if looks_inside {
                    weigh(state, &value)?;
                }
                let mut args = options.into_values();
                pay_options(state, &value, &args)?;
                args.insert(0, value);
                let result = filter.call(state, &args)?;
                whole(state, result)
            },
        );
    }
    environment.add_filter(
        "format",
        |state: &mut State<'_, '_>, text: &Value, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            pay_places(state, text.as_str().unwrap_or_default().matches('%').count(), &args)?;
            filters::format(state, text, Rest(args.into_iter().map(ValueOrKwargs::from).collect()))
        },
    );
    let comparisons: [(&[&str], Compares); 7] = [
        (&["==", "eq", "equalto"], tests::is_eq),
        (&["!=", "ne"], tests::is_ne),
        (&["<", "lt", "lessthan"], tests::is_lt),
        (&["<=", "le"], tests::is_le),
        (&[">", "gt", "greaterthan"], tests::is_gt),
        (&[">=", "ge"], tests::is_ge),
        (&["sameas"], tests::is_sameas),
    ];
    for (names, test) in comparisons {
        for name in names {
            environment.add_test(*name, move |state: &State<'_, '_>, value: &Value, other: &Value| {
                weigh(state, other)?;
                Ok::<_, Error>(test(value, other))
            });
        }
    }
    for (name, test) in [
        (
            "startingwith",
            tests::is_startingwith as fn(Cow<'_, str>, Cow<'_, str>) -> bool,
        ),
        ("endingwith", tests::is_endingwith),
    ] {
        environment.add_test(
            name,
            move |state: &State<'_, '_>, text: Cow<'_, str>, part: Cow<'_, str>| {
                strings::pay(state, part.len())?;
                Ok::<_, Error>(test(text, part))
            },
        );
    }
    for (name, method, test) in [
        ("lower", "islower", tests::is_lower as fn(&Value) -> bool),
        ("upper", "isupper", tests::is_upper),
    ] {
        environment.add_test(name, move |state: &State<'_, '_>, value: &Value| {
            strings::pay_for(state, method, value.as_str().unwrap_or_default())?;
            Ok::<_, Error>(test(value))
        });
    }
    environment.add_test("in", |state: &State<'_, '_>, value: &Value, other: &Value| {
        weigh(state, value)?;
        tests::is_in(state, value, &searched(state, other.clone())?)
    });
}

/// What is put into another value, compared, or looked up: `[a, b]`, `… == b`.
fn paid(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    weigh(state, &value)?;
    Ok(value)
}

/// What becomes an attribute of a namespace: no other namespace, as that may have the first one for an attribute, or twice a
/// third one.
fn kept(value: Value) -> Result<Value, Error> {
    match is_namespace(&value) {
        true => Err(Error::new(ErrorKind::InvalidOperation, "a namespace in a namespace")),
        false => Ok(value),
    }
}

/// A sum, a product or a slice, which minijinja computes whenever it is gone over, if it is one of lists.
fn whole(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let is_lazy = value
        .as_object()
        .is_some_and(|object| object.type_name().contains("Merge"));
    match value.kind() {
        ValueKind::Map if is_lazy => {
            let mut pairs = Vec::new();
            for key in value.try_iter()? {
                state.consume_fuel(1)?;
                pairs.push((key.clone(), value.get_item(&key)?));
            }
            Ok(pairs.into_iter().collect())
        }
        ValueKind::Iterable => Ok(Value::make_object_iterable(items(state, &value)?, |items| {
            Box::new(items.iter().cloned())
        })),
        ValueKind::Seq if is_lazy => Ok(Value::from(items(state, &value)?)),
        _ => Ok(value),
    }
}

fn items(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>, Error> {
    let mut items = Vec::new();
    for item in value.try_iter()? {
        if (items.len() as u64).is_multiple_of(ITEMS) {
            state.consume_fuel(1)?;
        }
        items.push(item);
    }
    Ok(items)
}

/// What `in` looks into, for something that is [`paid`]: it is compared with all that is in a list. A dict looks for it by its
/// hash, and minijinja asks fuel for a text.
fn searched(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        weigh(state, &value)?;
    }
    Ok(Looked::into(value))
}

/// What `[…]` looks into, a slice apart. In a text the characters are counted, which minijinja asks fuel for as it is a result.
fn indexed(value: Value) -> Value {
    Looked::into(value)
}

/// A list or a dict that is a result, for which minijinja would ask fuel as if it were made.
#[derive(Debug)]
struct Looked(DynObject);

impl Looked {
    fn into(value: Value) -> Value {
        match value.as_object().filter(|_| is_container(&value)) {
            Some(object) => Value::from_object(Self(object.clone())),
            None => value,
        }
    }
}

impl Object for Looked {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        self.0.repr()
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get_value(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.0.enumerate()
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.0.enumerator_len()
    }
}

/// What a slice is taken of: it is gone over from its start. minijinja asks fuel for a text as it is a result.
fn sliced(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    state.consume_fuel(length(&value) / ITEMS)?;
    Ok(value)
}

/// How many items a list has; nothing else has any.
fn length(value: &Value) -> u64 {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.len().unwrap_or_default() as u64,
        _ => 0,
    }
}

/// Pays for what a filter is told beside the value: it may come to be in the result, and a name of an attribute is read for
/// each item.
pub(super) fn pay_options(state: &State<'_, '_>, value: &Value, options: &[Value]) -> Result<(), Error> {
    let items = length(value);
    for option in options {
        let weight = weigh_at(state, option, 1)?;
        // Nothing for a short one, with its own name or without.
        state.consume_fuel(items.saturating_mul(weight / 8))?;
    }
    Ok(())
}

/// Pays for a text with so many places for `args`, each of which may stand in all of them.
pub(super) fn pay_places(state: &State<'_, '_>, places: usize, args: &[Value]) -> Result<(), Error> {
    for arg in args {
        let once = weigh_at(state, arg, 1)?;
        state.consume_fuel(once.saturating_mul(places as u64))?;
    }
    Ok(())
}

/// Pays a unit of fuel for everything that is in a value, as often as it is there, and one for each 64 bytes of texts.
/// Returns what was paid.
///
/// # Errors
/// When there is not so much, when the value nests too deeply, and when there is a namespace in it, as that may come to hold the
/// value.
pub(super) fn weigh(state: &State<'_, '_>, value: &Value) -> Result<u64, Error> {
    weigh_at(state, value, 0)
}

fn weigh_at(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<u64, Error> {
    let mut weight = repr::cost(value);
    state.consume_fuel(weight)?;
    if !is_container(value) {
        return Ok(weight);
    }
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::OutOfFuel, "a value nests too deeply"));
    }
    if depth > 0 && is_namespace(value) {
        return Err(Error::new(ErrorKind::InvalidOperation, "a namespace in another value"));
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        let inside = depth.saturating_add(1);
        if is_map {
            weight = weight.saturating_add(weigh_at(state, &value.get_item(&item)?, inside)?);
        }
        weight = weight.saturating_add(weigh_at(state, &item, inside)?);
    }
    Ok(weight)
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::Map)
}

fn is_namespace(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|object| object.type_name().ends_with("Namespace"))
}
