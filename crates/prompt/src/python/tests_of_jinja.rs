//! Tests (`is …`) that ask about Python types.

use minijinja::Value;
use minijinja::value::ValueKind;

/// Has a length and items: in Python also strings, dicts and Jinja's `Undefined`.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Bytes | ValueKind::Undefined
    )
}

/// Can be looped over: what [`is_sequence`] takes, and iterators.
pub(super) fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

/// In Python a `bool` is a number.
pub(super) fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}
