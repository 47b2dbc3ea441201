//! Methods of `str`, `list` and `dict`.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{bind, error, integer};
use super::bounds::weigh;
use super::{percent, strings};

/// The callback for methods that minijinja does not know.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let result = match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            strings::pay_for(state, method, text)?;
            match strings::call(state, text, method, args)? {
                None if method == "format" => Some(percent::str_format(state, text, args)?),
                result => result,
            }
        }
        ValueKind::Seq | ValueKind::Iterable => list_method(state, value, method, args)?,
        ValueKind::Map => dict_method(state, value, method, args)?,
        _ => None,
    };
    result.ok_or_else(|| ErrorKind::UnknownMethod.into())
}

fn dict_method(state: &State<'_, '_>, dict: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if method == "get" {
        let [key, default] = bind(args, ["", ""])?;
        let key = key.unwrap_or_default();
        weigh(state, &key)?;
        let found = dict.get_item(&key)?;
        let default = || default.unwrap_or_else(|| Value::from(()));
        return Ok(Some(if found.is_undefined() { default() } else { found }));
    }
    let item: fn(&Value, Value) -> Value = match method {
        "copy" => return bind(args, []).map(|[]| Some(dict.clone())),
        "keys" => |_, key| key,
        "values" => |dict, key| dict.get_item(&key).unwrap_or_default(),
        "items" => |dict, key| {
            let value = dict.get_item(&key).unwrap_or_default();
            Value::from(Tuple::new(vec![key, value]))
        },
        _ => return Ok(None),
    };
    let [] = bind(args, [])?;
    Ok(Some(Value::make_object_iterable(dict.clone(), move |dict| {
        // Collected, so that a loop knows its length.
        let keys: Vec<Value> = dict.try_iter().into_iter().flatten().collect();
        Box::new(keys.into_iter().map(move |key| item(dict, key)))
    })))
}

fn list_method(state: &State<'_, '_>, list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    // They compare.
    if matches!(method, "count" | "index") {
        weigh(state, list)?;
    }
    match method {
        "copy" => bind(args, []).map(|[]| Some(list.clone())),
        "count" => {
            let [wanted] = bind(args, [""])?;
            let count = list.try_iter()?.filter(|item| wanted.as_ref() == Some(item)).count();
            Ok(Some(Value::from(count)))
        }
        "index" => {
            let [wanted, start, end] = bind(args, ["", "", ""])?;
            let length = list.len().unwrap_or_default();
            let index = |index: i64| match usize::try_from(index) {
                Ok(index) => index,
                Err(_) => length.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
            };
            let (start, end) = (
                index(integer(start.as_ref(), 0)?),
                index(integer(end.as_ref(), i64::MAX)?),
            );
            let mut items = list.try_iter()?.enumerate().take(end).skip(start);
            let found = items.find(|(_, item)| wanted.as_ref() == Some(item));
            found
                .map(|(position, _)| Some(Value::from(position)))
                .ok_or_else(|| error("value is not in list"))
        }
        _ => Ok(None),
    }
}
