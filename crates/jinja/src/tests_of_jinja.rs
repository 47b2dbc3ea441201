//! Tests (`is …`) that ask about Python types.

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::{repr, strings};

/// Has a length and items: in Python also strings, dicts and Jinja's `Undefined`. (Slices are iterables in minijinja.)
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq
            | ValueKind::Iterable
            | ValueKind::Map
            | ValueKind::String
            | ValueKind::Bytes
            | ValueKind::Undefined
    )
}

/// Functions and macros, and in Python also Jinja's `Undefined`.
pub(super) fn is_callable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
}

/// What is asked is asked of the text that the value is printed as.
pub(super) fn is_lower(state: &State<'_, '_>, value: &Value) -> Result<bool, Error> {
    let text = repr::str(state, value)?;
    strings::pay_for(state, "islower", &text)?;
    Ok(strings::has_case(&text, false))
}

/// As [`is_lower`].
pub(super) fn is_upper(state: &State<'_, '_>, value: &Value) -> Result<bool, Error> {
    let text = repr::str(state, value)?;
    strings::pay_for(state, "isupper", &text)?;
    Ok(strings::has_case(&text, true))
}

/// In Python a `bool` is a number.
pub(super) fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}
