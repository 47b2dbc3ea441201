//! Numbers as `int`, `float` and `round` make them.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, State, Value, filters};

use super::arguments::{bind, error, integer};
use super::text::strip;

/// A `bool` as the number that it is in Python; anything else as it is.
pub(super) fn without_bool(value: &Value) -> Value {
    match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        _ => value.clone(),
    }
}

/// The `int` filter.
pub(super) fn int(value: &Value, default: Value, base: i64) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if let Some(number) = parse_int(text, base)? {
            return Ok(Value::from(number));
        }
        return match parse_float(text)? {
            Some(number) if number.is_finite() => truncated(number),
            _ => Ok(default),
        };
    }
    match value.kind() {
        ValueKind::Number if value.is_integer() => Ok(value.clone()),
        ValueKind::Number => match f64::try_from(value.clone())? {
            number if number.is_nan() => Ok(default),
            number => truncated(number),
        },
        ValueKind::Bool => Ok(without_bool(value)),
        ValueKind::Undefined => Err(error("an undefined value is no number")),
        _ => Ok(default),
    }
}

/// The `float` filter.
pub(super) fn float(value: &Value, default: Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return Ok(parse_float(text)?.map_or(default, Value::from));
    }
    match value.kind() {
        ValueKind::Number | ValueKind::Bool => Ok(Value::from(f64::try_from(without_bool(value))?)),
        ValueKind::Undefined => Err(error("an undefined value is no number")),
        _ => Ok(default),
    }
}

/// The `round` filter.
pub(super) fn round(_: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [precision, method] = bind(args, ["precision", "method"])?;
    let precision = i32::try_from(integer(precision.as_ref(), 0)?).map_err(|_| error("round: precision"))?;
    let method = method.as_ref().and_then(Value::as_str).unwrap_or("common");
    let mut value = without_bool(value);
    if method != "common" && value.kind() == ValueKind::Number {
        value = Value::from(f64::try_from(value)?);
    }
    filters::round(
        value,
        Some(precision),
        Some(method),
        Kwargs::from_iter(Vec::<(String, Value)>::new()),
    )
}

/// Towards zero, in the range that is exact here.
pub(super) fn truncated(number: f64) -> Result<Value, Error> {
    let number = number.trunc();
    if number.abs() < 1e38 {
        Ok(Value::from(number as i128))
    } else {
        Err(error("the number is too large"))
    }
}

/// `int(text, base)`; `None`: it is no number.
fn parse_int(text: &str, base: i64) -> Result<Option<i128>, Error> {
    let text = strip(text);
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = match text.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => Some(16),
        Some("0o") => Some(8),
        Some("0b") => Some(2),
        _ => None,
    };
    let (base, text) = match (prefixed, base) {
        (Some(of_text), base) if base == of_text || base == 0 => {
            let rest = text.get(2..).unwrap_or_default();
            (of_text, rest.strip_prefix('_').unwrap_or(rest))
        }
        // Only zero may start with a zero.
        (None, 0) if text.starts_with('0') && !text.bytes().all(|byte| matches!(byte, b'0' | b'_')) => return Ok(None),
        (_, 0) => (10, text),
        (_, 2..=36) => (base, text),
        _ => return Ok(None),
    };
    let Some(digits) = digits(text)? else {
        return Ok(None);
    };
    let base = u32::try_from(base).unwrap_or(10);
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Ok(None);
    }
    let number = i128::from_str_radix(&digits, base).map_err(|_| error("the number is too large"))?;
    Ok(Some(if negative { number.saturating_neg() } else { number }))
}

/// `float(text)`; `None`: it is no number.
fn parse_float(text: &str) -> Result<Option<f64>, Error> {
    Ok(digits(strip(text))?.and_then(|text| text.parse().ok()))
}

/// Without the underscores that may stand between digits; `None` if they stand elsewhere.
fn digits(text: &str) -> Result<Option<String>, Error> {
    if text
        .chars()
        .any(|character| !character.is_ascii() && character.is_numeric())
    {
        return Err(error("digits beyond ASCII are not known"));
    }
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    let well_placed = bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte != b'_' || (digit(at.checked_sub(1)) && digit(at.checked_add(1))));
    Ok(well_placed.then(|| text.replace('_', "")))
}
