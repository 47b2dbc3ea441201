//! Lists and dicts that are printed as in Python wherever minijinja makes a text of them.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr};

use super::repr;

/// The formatter reaches `{{ value }}` only; `~`, `join` and `format` ask the value itself.
struct Printed(DynObject);

/// A list or dict that prints itself; other values as they are.
pub(crate) fn printed(value: Value) -> Value {
    match value.as_object() {
        Some(object) => Value::from_object(Printed(object.clone())),
        None => value,
    }
}

impl Object for Printed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        self.0.repr()
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get_value(key)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.0.get_value_by_str(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.0.enumerate()
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.0.enumerator_len()
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Debug for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&repr::str(&Value::from_dyn_object(self.0.clone())))
    }
}
