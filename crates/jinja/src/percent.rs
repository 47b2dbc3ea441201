//! Formatting of texts: `%`, the `format` filter and `str.format`.

use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, State, Value, filters, formatting};

use super::arguments::error;
use super::bounds::pay_places;
use super::{numbers, repr, strings};

/// `text % right`. What is to be formatted by names may be a dict.
pub(super) fn modulo(state: &mut State<'_, '_>, text: &Value, right: &Value) -> Result<Value, Error> {
    let args: Vec<Value> = match right.kind() {
        ValueKind::Map if text.as_str().is_some_and(|text| text.contains("%(")) => {
            vec![Value::from(named(right, |value| Ok(value.clone()))?)]
        }
        _ if right.is_tuple() => right.try_iter()?.collect(),
        _ => vec![right.clone()],
    };
    format(state, text, &args)
}

/// The `format` filter.
pub(super) fn format(state: &mut State<'_, '_>, text: &Value, args: &[Value]) -> Result<Value, Error> {
    let conversions = conversions(text.as_str().unwrap_or_default());
    pay_places(state, conversions.len(), args)?;
    let is_list = |arg: &Value| matches!(arg.kind(), ValueKind::Seq | ValueKind::Map);
    if args.len() > conversions.len() && !matches!(args, [only] if is_list(only)) {
        return Err(error("not all arguments converted during string formatting"));
    }
    let mut conversions = conversions.into_iter();
    let args = printed(args, |arg| match conversions.next() {
        Some(('s', spec)) => {
            let text = repr::str(state, arg)?;
            check_padding(&text, spec)?;
            Ok(Value::from(text))
        }
        Some(('d' | 'i', _)) if arg.kind() == ValueKind::Number && !arg.is_integer() => {
            numbers::truncated(f64::try_from(arg.clone())?)
        }
        Some(_) if !matches!(arg.kind(), ValueKind::Number | ValueKind::Bool | ValueKind::String) => {
            Err(error("a number is required"))
        }
        _ => Ok(arg.clone()),
    })?;
    filters::format(state, text, Rest(args.into_iter().map(ValueOrKwargs::from).collect()))
}

/// `str.format`. minijinja does not count what widths make of it, so all numbers in the text are paid for.
pub(super) fn str_format(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let numbers = text.split(|character: char| !character.is_ascii_digit());
    let widths = numbers.filter(|number| !number.is_empty());
    let widths = widths.map(|number| number.parse().unwrap_or(usize::MAX));
    strings::pay(state, widths.fold(0, usize::saturating_add))?;
    pay_places(state, text.matches('{').count(), args)?;
    let fields = text.split('{').filter_map(|field| field.split_once('}'));
    let specs: Vec<&str> = fields.filter_map(|(field, _)| Some(field.split_once(':')?.1)).collect();
    let args = printed(args, |arg| {
        match arg.kind() {
            ValueKind::String | ValueKind::Bool => {
                let text = repr::str(state, arg)?;
                specs.iter().try_for_each(|spec| check_padding(&text, spec))?;
            }
            ValueKind::Number => {}
            // Items cannot be picked from it any more.
            _ => return repr::str(state, arg).map(Value::from),
        }
        Ok(arg.clone())
    })?;
    formatting::format(FormatStyle::StrFormat, text, &args).map(Value::from)
}

/// minijinja pads by bytes, and fills up texts with spaces where zeros are asked for.
fn check_padding(text: &str, spec: &str) -> Result<(), Error> {
    // A specification for a number is no matter here.
    let of_text = spec.ends_with(|last: char| last == 's' || !last.is_ascii_alphabetic());
    if !of_text || (text.is_ascii() && !spec.starts_with('0') && !spec.contains([',', '_'])) {
        Ok(())
    } else {
        Err(error("this text is padded otherwise in Python"))
    }
}

/// The letter of the conversion of each argument, and what stands before it.
fn conversions(text: &str) -> Vec<(char, &str)> {
    let mut conversions = Vec::new();
    let mut rest = text;
    while let Some((_, tail)) = rest.split_once('%') {
        let named = tail.strip_prefix('(').and_then(|tail| tail.split_once(')'));
        let tail = named.map_or(tail, |(_, tail)| tail);
        let in_spec = |character: char| matches!(character, '0'..='9' | '-' | '+' | ' ' | '#' | '.' | '*');
        let conversion = tail.trim_start_matches(in_spec);
        let spec = tail.strip_suffix(conversion).unwrap_or_default();
        conversions.extend(spec.matches('*').map(|width| ('*', width)));
        let mut characters = conversion.chars();
        if let Some(letter) = characters.next().filter(|letter| *letter != '%') {
            conversions.push((letter, spec));
        }
        rest = characters.as_str();
    }
    conversions
}

/// Arguments with Python's texts in place of some of them.
fn printed(args: &[Value], mut print: impl FnMut(&Value) -> Result<Value, Error>) -> Result<Vec<Value>, Error> {
    let arg = |arg: &Value| match arg.is_kwargs() {
        true => named(arg, &mut print).map(Value::from),
        false => print(arg),
    };
    args.iter().map(arg).collect()
}

/// What a dict has, as named arguments.
fn named(dict: &Value, mut print: impl FnMut(&Value) -> Result<Value, Error>) -> Result<Kwargs, Error> {
    let entry = |name: Value| {
        let value = print(&dict.get_item(&name)?)?;
        Ok((name.as_str().unwrap_or_default().to_owned(), value))
    };
    dict.try_iter()?.map(entry).collect()
}
