//! Filters that compare what is in a list or dict.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, State, Value};

use super::arguments::{bind, error, flag};
use super::bounds::weigh;

pub(super) fn sort(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [reverse, case_sensitive, attribute] = bind(args, ["reverse", "case_sensitive", "attribute"])?;
    // By several attributes, if there are commas.
    let attributes = attribute.map_or_else(Vec::new, |attribute| match attribute.as_str() {
        Some(names) => names.split(',').map(Value::from).collect(),
        None => vec![attribute],
    });
    let mut keyed = keyed(state, value, |item| {
        let key = |attribute| Ok(folded(self::attribute(item, attribute)?, case_sensitive.as_ref()));
        match attributes.as_slice() {
            [] => Ok(folded(item.clone(), case_sensitive.as_ref())),
            attributes => attributes.iter().map(key).collect(),
        }
    })?;
    sort_by_key(state, &mut keyed, flag(reverse.as_ref()))?;
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

pub(super) fn dictsort(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [case_sensitive, by, reverse] = bind(args, ["case_sensitive", "by", "reverse"])?;
    let by_value = match by.as_ref().map_or(Some("key"), Value::as_str) {
        Some("key") => false,
        Some("value") => true,
        _ => return Err(error("dictsort: `by` is \"key\" or \"value\"")),
    };
    if value.kind() != ValueKind::Map {
        return Err(error("dictsort: expected a dict"));
    }
    let mut keyed = Vec::new();
    for key in value.try_iter()? {
        state.consume_fuel(1)?;
        let item = value.get_item(&key)?;
        let by = if by_value { item.clone() } else { key.clone() };
        keyed.push((
            folded(by, case_sensitive.as_ref()),
            Value::from(Tuple::new(vec![key, item])),
        ));
    }
    sort_by_key(state, &mut keyed, flag(reverse.as_ref()))?;
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

/// `min` and `max`: the first of the least, or of the greatest.
pub(super) fn extreme(state: &State<'_, '_>, value: &Value, args: &[Value], greatest: bool) -> Result<Value, Error> {
    let [case_sensitive, attribute] = bind(args, ["case_sensitive", "attribute"])?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(state, value, |item| {
        key(item, attribute.as_ref(), case_sensitive.as_ref())
    })? {
        let is_better = match &best {
            None => true,
            Some((known, _)) if greatest => compare(&key, known)? == Ordering::Greater,
            Some((known, _)) => compare(&key, known)? == Ordering::Less,
        };
        if is_better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

pub(super) fn unique(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [case_sensitive, attribute] = bind(args, ["case_sensitive", "attribute"])?;
    let mut seen = BTreeSet::new();
    let keyed = keyed(state, value, |item| {
        key(item, attribute.as_ref(), case_sensitive.as_ref())
    })?;
    if keyed.iter().any(|(key, _)| !is_hashable(key)) {
        return Err(error("unique: lists and dicts cannot be told apart"));
    }
    pay_comparisons(state, &keyed)?;
    let fresh = keyed.into_iter().filter(|(key, _)| seen.insert(key.clone()));
    Ok(fresh.map(|(_, item)| item).collect())
}

pub(super) fn groupby(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [attribute, default, case_sensitive] = bind(args, ["attribute", "default", "case_sensitive"])?;
    let attribute = attribute.ok_or_else(|| error("groupby needs an attribute"))?;
    let key = |item: &Value| {
        let key = self::attribute(item, &attribute)?;
        let default = default.as_ref().filter(|_| key.is_undefined());
        Ok::<_, Error>(default.cloned().unwrap_or(key))
    };
    let mut keyed = keyed(state, value, |item| Ok(folded(key(item)?, case_sensitive.as_ref())))?;
    sort_by_key(state, &mut keyed, false)?;
    let mut groups = Vec::new();
    for group in keyed.chunk_by(|(a, _), (b, _)| a == b) {
        let label = group.first().map_or(Ok(Value::UNDEFINED), |(_, item)| key(item))?;
        let items: Value = group.iter().map(|(_, item)| item.clone()).collect();
        groups.push(Value::from_object(Group { label, items }));
    }
    Ok(Value::from(groups))
}

/// A pair with names.
#[derive(Debug)]
struct Group {
    label: Value,
    items: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_usize(), key.as_str()) {
            (Some(0), _) | (_, Some("grouper")) => Some(self.label.clone()),
            (Some(1), _) | (_, Some("list")) => Some(self.items.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

/// Whether it is one of [`groupby`]'s pairs, which are tuples in Python.
pub(super) fn is_group(value: &Value) -> bool {
    value.downcast_object_ref::<Group>().is_some()
}

/// What is at the end of a path such as `a.b` or `items.0`.
pub(super) fn attribute(item: &Value, path: &Value) -> Result<Value, Error> {
    let Some(names) = path.as_str() else {
        return item.get_item(path);
    };
    names
        .split('.')
        .try_fold(item.clone(), |item, name| match name.parse::<usize>() {
            Ok(index) => item.get_item(&Value::from(index)),
            Err(_) => item.get_item(&Value::from(name)),
        })
}

fn key(item: &Value, attribute: Option<&Value>, case_sensitive: Option<&Value>) -> Result<Value, Error> {
    let key = attribute.map_or_else(|| Ok(item.clone()), |attribute| self::attribute(item, attribute));
    Ok(folded(key?, case_sensitive))
}

/// Texts without case, unless they are to be told apart by it.
fn folded(key: Value, case_sensitive: Option<&Value>) -> Value {
    match key.as_str() {
        Some(text) if !flag(case_sensitive) => Value::from(text.to_lowercase()),
        _ => key,
    }
}

/// All items with their keys.
fn keyed(
    state: &State<'_, '_>,
    value: &Value,
    key: impl Fn(&Value) -> Result<Value, Error>,
) -> Result<Vec<(Value, Value)>, Error> {
    let pair = |item: Value| {
        // Those of a sum of lists may be many times the same one.
        weigh(state, &item)?;
        Ok((key(&item)?, item))
    };
    value.try_iter()?.map(pair).collect()
}

/// As many as sorting takes at most.
fn pay_comparisons(state: &State<'_, '_>, keyed: &[(Value, Value)]) -> Result<(), Error> {
    let comparisons = u64::from((keyed.len() as u64).max(2).ilog2());
    for (key, _) in keyed {
        let once = weigh(state, key)?;
        state.consume_fuel(once.saturating_mul(comparisons))?;
    }
    Ok(())
}

fn sort_by_key(state: &State<'_, '_>, keyed: &mut [(Value, Value)], reverse: bool) -> Result<(), Error> {
    pay_comparisons(state, keyed)?;
    // What cannot be compared with one other cannot be sorted.
    if let Some(((first, _), rest)) = keyed.split_first() {
        rest.iter().try_for_each(|(key, _)| compare(first, key).map(drop))?;
    }
    keyed.sort_by(|(a, _), (b, _)| if reverse { b.cmp(a) } else { a.cmp(b) });
    Ok(())
}

/// `a < b` and so on, where Python compares them.
fn compare(a: &Value, b: &Value) -> Result<Ordering, Error> {
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    match (a.kind(), b.kind()) {
        _ if is_number(a) && is_number(b) => Ok(a.cmp(b)),
        (ValueKind::String, ValueKind::String) => Ok(a.cmp(b)),
        (ValueKind::Seq, ValueKind::Seq) => {
            for (a, b) in a.try_iter()?.zip(b.try_iter()?) {
                if a != b {
                    return compare(&a, &b);
                }
            }
            Ok(a.cmp(b))
        }
        _ => Err(error("values that cannot be compared")),
    }
}

fn is_hashable(value: &Value) -> bool {
    value.is_tuple() || !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}
