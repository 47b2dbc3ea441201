//! Arguments of filters and methods, by place or by name as in Python.

use minijinja::{Error, ErrorKind, Value};

/// A value for each of `names`, where it was given.
pub(super) fn bind<const N: usize>(args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    let mut bound = [const { None }; N];
    let mut places = bound.iter_mut();
    let mut named = None;
    for arg in args {
        if arg.is_kwargs() {
            named = Some(arg);
        } else {
            *places.next().ok_or_else(|| error("too many arguments"))? = Some(arg.clone());
        }
    }
    if let Some(named) = named {
        for name in named.try_iter()? {
            let place = names.iter().position(|known| name.as_str() == Some(known));
            let place = place.and_then(|place| bound.get_mut(place));
            *place.ok_or_else(|| error("unknown argument"))? = Some(named.get_item(&name)?);
        }
    }
    Ok(bound)
}

/// An argument that is a number.
pub(super) fn integer(arg: Option<&Value>, default: i64) -> Result<i64, Error> {
    arg.map_or(Ok(default), |arg| i64::try_from(arg.clone()))
}

/// Whether an argument is there and holds.
pub(super) fn flag(arg: Option<&Value>) -> bool {
    arg.is_some_and(Value::is_true)
}

/// An argument that must be a text.
pub(super) fn text(arg: &Value) -> Result<&str, Error> {
    arg.as_str().ok_or_else(|| error("expected a string"))
}

pub(super) fn error(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
