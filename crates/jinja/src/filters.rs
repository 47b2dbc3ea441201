//! Jinja2's filters, where minijinja's write something else or are not there. What they make is paid for before it is made.

use std::borrow::Cow;

use minijinja::value::{StringInput, ValueKind};
use minijinja::{Error, State, Value, filters};

use super::arguments::{bind, error, flag, integer, text};
use super::bounds::weigh;
use super::text::is_space;
use super::{numbers, percent, repr, sorting, strings, trim};

type Filter = fn(&mut State<'_, '_>, &Value, &[Value]) -> Result<Value, Error>;

pub(super) const FILTERS: &[(&str, Filter)] = &[
    ("abs", |_, value, args| {
        let [] = bind(args, [])?;
        filters::abs(numbers::without_bool(value))
    }),
    ("batch", |state, value, args| {
        let [count, fill] = bind(args, ["linecount", "fill_with"])?;
        weigh(state, value)?;
        filters::batch(state, value.clone(), count_of(count)?, fill)
    }),
    ("capitalize", |state, value, args| {
        let [] = bind(args, [])?;
        let value = Value::from(str(state, value)?);
        Ok(filters::capitalize(StringInput::new(state, &value)?))
    }),
    ("center", |state, value, args| {
        let [width] = bind(args, ["width"])?;
        let value = str(state, value)?;
        strings::padded(state, &value, integer(width.as_ref(), 80)?, ' ', strings::Pad::Both)
    }),
    ("d", default),
    ("default", default),
    ("dictsort", sorting::dictsort),
    ("e", escape),
    ("escape", escape),
    ("float", |_, value, args| {
        let [default] = bind(args, ["default"])?;
        numbers::float(value, default.unwrap_or_else(|| Value::from(0.0)))
    }),
    ("forceescape", escape),
    ("format", |state, value, args| {
        let value = Value::from(str(state, value)?);
        percent::format(state, &value, args)
    }),
    ("groupby", sorting::groupby),
    ("indent", indent),
    ("int", |_, value, args| {
        let [default, base] = bind(args, ["default", "base"])?;
        numbers::int(
            value,
            default.unwrap_or_else(|| Value::from(0)),
            integer(base.as_ref(), 10)?,
        )
    }),
    ("join", join),
    ("lower", |state, value, args| {
        let [] = bind(args, [])?;
        Ok(Value::from(str(state, value)?.to_lowercase()))
    }),
    ("max", |state, value, args| sorting::extreme(state, value, args, true)),
    ("min", |state, value, args| sorting::extreme(state, value, args, false)),
    ("replace", |state, value, args| {
        let [old, new, count] = bind(args, ["old", "new", "count"])?;
        let (Some(old), Some(new)) = (old, new) else {
            return Err(error("replace needs two texts"));
        };
        let count = count.filter(|count| !count.is_none());
        let (value, old, new) = (str(state, value)?, str(state, &old)?, str(state, &new)?);
        strings::replace(state, &value, &old, &new, integer(count.as_ref(), -1)?)
    }),
    ("round", numbers::round),
    ("safe", string),
    ("slice", |state, value, args| {
        let [count, fill] = bind(args, ["slices", "fill_with"])?;
        weigh(state, value)?;
        filters::slice(state, value.clone(), count_of(count)?, fill)
    }),
    ("sort", sorting::sort),
    ("string", string),
    ("title", |state, value, args| {
        let [] = bind(args, [])?;
        Ok(Value::from(title(&str(state, value)?)))
    }),
    ("trim", |state, value, args| {
        let [characters] = bind(args, ["chars"])?;
        let characters = characters.filter(|characters| !characters.is_none());
        let characters = characters.as_ref().map(text).transpose()?;
        let value = str(state, value)?;
        let trimmed = trim(&value, characters);
        strings::pay_trimmed(state, &value, &trimmed)?;
        Ok(Value::from(trimmed))
    }),
    ("truncate", truncate),
    ("unique", sorting::unique),
    ("upper", |state, value, args| {
        let [] = bind(args, [])?;
        Ok(Value::from(str(state, value)?.to_uppercase()))
    }),
    ("urlencode", urlencode),
    ("wordcount", |state, value, args| {
        let [] = bind(args, [])?;
        let text = str(state, value)?;
        let mut in_word = false;
        let mut words = 0;
        for character in text.chars() {
            let was_in_word = in_word;
            in_word = character == '_'
                || strings::is_alphanumeric(character)
                    .ok_or_else(|| error("it is not known what kind of characters these are"))?;
            words += usize::from(in_word && !was_in_word);
        }
        Ok(Value::from(words))
    }),
];

/// Those of minijinja that Jinja2 does not have, or with which it does something else.
pub(super) const UNKNOWN: &[&str] = &["attr", "bool", "chain", "lines", "pprint", "split", "zip"];

fn str<'v>(state: &State<'_, '_>, value: &'v Value) -> Result<Cow<'v, str>, Error> {
    repr::str(state, value)
}

fn count_of(count: Option<Value>) -> Result<usize, Error> {
    count.ok_or_else(|| error("expected a number"))?.try_into()
}

fn string(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [] = bind(args, [])?;
    Ok(Value::from(str(state, value)?))
}

fn default(_: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [other, boolean] = bind(args, ["default_value", "boolean"])?;
    Ok(
        if value.is_undefined() || (flag(boolean.as_ref()) && !value.is_true()) {
            other.unwrap_or_else(|| Value::from(""))
        } else {
            value.clone()
        },
    )
}

/// With the entities that MarkupSafe writes.
fn escape(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [] = bind(args, [])?;
    Ok(Value::from(escaped(&str(state, value)?, ["&#39;", "&#34;"])))
}

/// The `escape` filter, with these entities for `'` and `"`.
pub fn escaped(text: &str, [apostrophe, quote]: [&str; 2]) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str(apostrophe),
            '"' => escaped.push_str(quote),
            other => escaped.push(other),
        }
    }
    escaped
}

fn indent(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [width, first, blank] = bind(args, ["width", "first", "blank"])?;
    let indention = match width.as_ref().and_then(Value::as_str) {
        Some(indention) => indention.to_owned(),
        None => {
            let width = usize::try_from(integer(width.as_ref(), 4)?).unwrap_or_default();
            strings::pay(state, width)?;
            " ".repeat(width)
        }
    };
    // Jinja2 adds a line break before it splits, so that one at the end stays.
    let ended = format!("{}\n", text(value)?);
    let lines = strings::lines(&ended, false);
    strings::pay(state, lines.len().saturating_mul(indention.len()))?;
    let mut indented = String::new();
    for (index, line) in lines.iter().enumerate() {
        let is_first = index == 0;
        if !is_first {
            indented.push('\n');
        }
        if if is_first {
            flag(first.as_ref())
        } else {
            !line.is_empty() || flag(blank.as_ref())
        } {
            indented.push_str(&indention);
        }
        indented.push_str(line);
    }
    Ok(Value::from(indented))
}

fn join(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [separator, attribute] = bind(args, ["d", "attribute"])?;
    let separator = separator.unwrap_or_else(|| Value::from(""));
    let separator = str(state, &separator)?;
    let mut joined = String::new();
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            strings::pay(state, separator.len())?;
            joined.push_str(&separator);
        }
        let item = match &attribute {
            Some(attribute) => sorting::attribute(&item, attribute)?,
            None => item,
        };
        repr::pay(state, &item)?;
        joined.push_str(&str(state, &item)?);
    }
    Ok(Value::from(joined))
}

/// Unlike the method of texts, which begins a word at every letter behind something else.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    for word in text.split_inclusive(|character| is_space(character) || "-({[<".contains(character)) {
        let mut rest = word.chars();
        titled.extend(rest.next().into_iter().flat_map(char::to_uppercase));
        titled.push_str(&rest.as_str().to_lowercase());
    }
    titled
}

fn truncate(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [length, kill_words, end, leeway] = bind(args, ["length", "killwords", "end", "leeway"])?;
    let end = end.unwrap_or_else(|| Value::from("..."));
    let end = text(&end)?;
    let leeway = leeway.filter(|leeway| !leeway.is_none());
    let length = usize::try_from(integer(length.as_ref(), 255)?).ok();
    let leeway = usize::try_from(integer(leeway.as_ref(), 5)?).ok();
    let kept = length.and_then(|length| length.checked_sub(end.chars().count()));
    let (Some(length), Some(leeway), Some(kept)) = (length, leeway, kept) else {
        return Err(error("expected a length that `end` fits in"));
    };
    if value.len().is_some_and(|given| given <= length.saturating_add(leeway)) {
        return Ok(value.clone());
    }
    let value = text(value)?;
    strings::pay(state, end.len())?;
    let start: String = value.chars().take(kept).collect();
    let start = match start.rsplit_once(' ') {
        Some((words, _)) if !flag(kill_words.as_ref()) => words,
        _ => &start,
    };
    Ok(Value::from([start, end].concat()))
}

/// `urllib.parse.quote`, or of pairs as in a query.
fn urlencode(state: &mut State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [] = bind(args, [])?;
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map => value
            .try_iter()?
            .map(|key| Ok((key.clone(), value.get_item(&key)?)))
            .collect::<Result<_, Error>>()?,
        ValueKind::Seq | ValueKind::Iterable => value
            .try_iter()?
            .map(|pair| match (pair.kind(), pair.len()) {
                (ValueKind::Seq, Some(2)) => Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?)),
                _ => Err(error("expected pairs")),
            })
            .collect::<Result<_, Error>>()?,
        _ => return Ok(Value::from(quoted(&str(state, value)?, false))),
    };
    let mut query = String::new();
    for (key, value) in &pairs {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(&quoted(&str(state, key)?, true));
        query.push('=');
        query.push_str(&quoted(&str(state, value)?, true));
    }
    Ok(Value::from(query))
}

fn quoted(text: &str, in_query: bool) -> String {
    let mut quoted = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => quoted.push(char::from(byte)),
            b'/' if !in_query => quoted.push('/'),
            b' ' if in_query => quoted.push('+'),
            _ => quoted.push_str(&format!("%{byte:02X}")),
        }
    }
    quoted
}
