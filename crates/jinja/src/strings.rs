//! Methods of `str`.

use minijinja::value::{StringInput, Tuple, ValueKind};
use minijinja::{Error, State, Value, filters};

use super::arguments::{bind, error, flag, integer, text};
use super::text::is_space;

/// `Ok(None)`: not one of ours.
pub(super) fn call(state: &State<'_, '_>, value: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let holds = |test: fn(char) -> Option<bool>| {
        let [] = bind(args, [])?;
        let all = value.chars().map(test).collect::<Option<Vec<bool>>>();
        let all = all.ok_or_else(|| error("it is not known what kind of characters these are"))?;
        Ok::<_, Error>(Some(Value::from(!all.is_empty() && !all.contains(&false))))
    };
    let filled = |pad| {
        let [width, fill] = bind(args, ["width", "fillchar"])?;
        let fill = fill.as_ref().map_or(Ok(" "), text)?;
        let mut fill = fill.chars();
        let (Some(fill), None) = (fill.next(), fill.next()) else {
            return Err(error("the fill character must be exactly one character long"));
        };
        let width = width.ok_or_else(|| error("expected a width"))?;
        padded(state, value, i64::try_from(width)?, fill, pad).map(Some)
    };
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let [set] = bind(args, ["chars"])?;
            let set = set.filter(|set| !set.is_none());
            let set = set.as_ref().map(text).transpose()?;
            let stripped = |character| set.map_or_else(|| is_space(character), |set| set.contains(character));
            let start = if method == "rstrip" {
                value
            } else {
                value.trim_start_matches(stripped)
            };
            let left = if method == "lstrip" {
                start
            } else {
                start.trim_end_matches(stripped)
            };
            pay_trimmed(state, value, left)?;
            Value::from(left)
        }
        "split" | "rsplit" => split(value, args, method == "rsplit")?,
        "splitlines" => {
            let [keep_ends] = bind(args, ["keepends"])?;
            lines(value, flag(keep_ends.as_ref()))
                .into_iter()
                .map(Value::from)
                .collect()
        }
        "join" => join(state, value, args)?,
        "replace" => {
            let [old, new, count] = bind(args, ["old", "new", "count"])?;
            let (Some(old), Some(new)) = (old, new) else {
                return Err(error("replace needs two texts"));
            };
            replace(state, value, text(&old)?, text(&new)?, integer(count.as_ref(), -1)?)?
        }
        "removeprefix" => {
            let prefix = only(args)?;
            Value::from(value.strip_prefix(text(&prefix)?).unwrap_or(value))
        }
        "removesuffix" => {
            let suffix = only(args)?;
            Value::from(value.strip_suffix(text(&suffix)?).unwrap_or(value))
        }
        "partition" | "rpartition" => {
            let separator = only(args)?;
            let separator = text(&separator)?;
            let [head, between, tail] = match (separator, method) {
                ("", _) => return Err(error("empty separator")),
                (_, "partition") => value
                    .split_once(separator)
                    .map_or([value, "", ""], |(head, tail)| [head, separator, tail]),
                _ => value
                    .rsplit_once(separator)
                    .map_or(["", "", value], |(head, tail)| [head, separator, tail]),
            };
            Value::from(Tuple::new([head, between, tail].map(Value::from).to_vec()))
        }
        "startswith" | "endswith" => {
            let [wanted, start, end] = bind(args, ["", "", ""])?;
            let wanted = wanted.ok_or_else(|| error("expected a text"))?;
            let (part, _) = part(value, start.as_ref(), end.as_ref())?;
            let has = |wanted: &Value| {
                let wanted = text(wanted)?;
                Ok::<_, Error>(part.is_some_and(|part| {
                    if method == "startswith" {
                        part.starts_with(wanted)
                    } else {
                        part.ends_with(wanted)
                    }
                }))
            };
            match wanted.as_str() {
                Some(_) => Value::from(has(&wanted)?),
                None if wanted.kind() == ValueKind::Seq => {
                    let mut found = false;
                    for wanted in wanted.try_iter()? {
                        found = found || has(&wanted)?;
                    }
                    Value::from(found)
                }
                None => return Err(error("expected a text or a tuple of texts")),
            }
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [wanted, start, end] = bind(args, ["", "", ""])?;
            let wanted = wanted.ok_or_else(|| error("expected a text"))?;
            let wanted = text(&wanted)?;
            let (part, before) = part(value, start.as_ref(), end.as_ref())?;
            if method == "count" {
                return Ok(Some(Value::from(part.map_or(0, |part| part.matches(wanted).count()))));
            }
            let found = part.and_then(|part| {
                let at = if method.starts_with('r') {
                    part.rfind(wanted)
                } else {
                    part.find(wanted)
                };
                at.and_then(|at| part.get(..at))
            });
            match found {
                Some(head) => Value::from(before.saturating_add(head.chars().count())),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(error("substring not found")),
            }
        }
        "center" => return filled(Pad::Both),
        "ljust" => return filled(Pad::End),
        "rjust" => return filled(Pad::Start),
        "zfill" => {
            let width = i64::try_from(only(args)?)?;
            let (sign, digits) = match value.chars().next() {
                Some('+' | '-') => value.split_at_checked(1).unwrap_or_default(),
                _ => ("", value),
            };
            let width = width.saturating_sub(if sign.is_empty() { 0 } else { 1 });
            let digits = padded(state, digits, width, '0', Pad::Start)?;
            Value::from([sign, digits.as_str().unwrap_or_default()].concat())
        }
        "expandtabs" => {
            let [width] = bind(args, ["tabsize"])?;
            expanded(
                state,
                value,
                usize::try_from(integer(width.as_ref(), 8)?).unwrap_or_default(),
            )?
        }
        "upper" => {
            let [] = bind(args, [])?;
            Value::from(value.to_uppercase())
        }
        "lower" => {
            let [] = bind(args, [])?;
            Value::from(value.to_lowercase())
        }
        // Of others folding is not the same as lower case.
        "casefold" if value.is_ascii() => {
            let [] = bind(args, [])?;
            Value::from(value.to_ascii_lowercase())
        }
        "capitalize" => {
            let [] = bind(args, [])?;
            capitalized(state, value)?
        }
        "swapcase" => {
            let [] = bind(args, [])?;
            Value::from(swapped(value))
        }
        "title" => {
            let [] = bind(args, [])?;
            Value::from(title(state, value)?)
        }
        "islower" | "isupper" => {
            let [] = bind(args, [])?;
            Value::from(has_case(value, method == "isupper"))
        }
        "istitle" => {
            let [] = bind(args, [])?;
            Value::from(is_titled(value))
        }
        "isspace" => return holds(|character| Some(is_space(character))),
        "isalpha" => return holds(is_letter),
        "isalnum" => return holds(is_alphanumeric),
        // In Python some ideographs are numbers, and which numbers are digits is not known beyond ASCII.
        "isdecimal" | "isdigit" | "isnumeric" => {
            return holds(|character| match character.is_ascii() {
                true => Some(character.is_ascii_digit()),
                false => (!character.is_numeric() && character < '\u{3005}').then_some(false),
            });
        }
        "isascii" => {
            let [] = bind(args, [])?;
            Value::from(value.is_ascii())
        }
        "isidentifier" if value.is_ascii() => {
            let [] = bind(args, [])?;
            let is_word = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            Value::from(is_word && value.bytes().next().is_some_and(|byte| !byte.is_ascii_digit()))
        }
        "isprintable" => {
            let [] = bind(args, [])?;
            Value::from(value.chars().all(super::repr::is_printable))
        }
        _ => return Ok(None),
    }))
}

/// Pays for what a method or a filter takes longer for than minijinja asks fuel for: it looks up what each character is.
pub(super) fn pay_for(state: &State<'_, '_>, name: &str, text: &str) -> Result<(), Error> {
    let times = match name {
        "float" | "int" | "isalnum" | "isalpha" | "isdecimal" | "isdigit" | "isidentifier" | "islower"
        | "isnumeric" | "isspace" | "istitle" | "isupper" | "urlencode" | "wordcount" => 12,
        "isprintable" => 24,
        "capitalize" | "casefold" | "lower" | "repr" | "swapcase" | "title" | "upper" => 3,
        _ => return Ok(()),
    };
    pay(state, text.len().saturating_mul(times))
}

/// Pays for what was looked at to take it away at the ends.
pub(super) fn pay_trimmed(state: &State<'_, '_>, text: &str, trimmed: &str) -> Result<(), Error> {
    pay(state, text.len().saturating_sub(trimmed.len()).saturating_mul(4))
}

/// Pays for so many bytes that are about to be made.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64)
}

pub(super) fn replace(state: &State<'_, '_>, value: &str, old: &str, new: &str, count: i64) -> Result<Value, Error> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if new.len() > old.len() {
        let found = value.matches(old).take(count).count();
        pay(state, found.saturating_mul(new.len()))?;
    }
    Ok(Value::from(value.replacen(old, new, count)))
}

/// Where padding goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pad {
    Start,
    End,
    Both,
}

pub(super) fn padded(state: &State<'_, '_>, value: &str, width: i64, fill: char, pad: Pad) -> Result<Value, Error> {
    let width = usize::try_from(width).unwrap_or_default();
    let missing = width.saturating_sub(value.chars().count());
    pay(state, missing.saturating_mul(fill.len_utf8()))?;
    let start = match pad {
        Pad::Start => missing,
        Pad::End => 0,
        // Of an odd number one more before than behind if the width is odd, too.
        Pad::Both => (missing / 2).saturating_add(missing & width & 1),
    };
    let run = |length: usize| std::iter::repeat_n(fill, length);
    let padded: String = run(start)
        .chain(value.chars())
        .chain(run(missing.saturating_sub(start)))
        .collect();
    Ok(Value::from(padded))
}

/// `splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    const ENDS: &[char] = &[
        '\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}',
    ];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ENDS) {
        let (line, tail) = rest.split_at_checked(at).unwrap_or((rest, ""));
        let end = match tail.chars().next() {
            Some('\r') if tail.starts_with("\r\n") => 2,
            end => end.map_or(0, char::len_utf8),
        };
        let whole = rest.get(..at.saturating_add(end)).unwrap_or(line);
        lines.push(if keep_ends { whole } else { line });
        rest = tail.get(end..).unwrap_or_default();
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `isalpha` of one character; `None`: Rust's tables do not tell. (They take signs with vowels and letters in circles for
/// letters, too.)
fn is_letter(character: char) -> Option<bool> {
    match u32::from(character) {
        _ if character.is_ascii() => Some(character.is_ascii_alphabetic()),
        _ if !character.is_alphabetic() => Some(false),
        0x345 | 0x2160..=0x24ff | 0x1f130..=0x1f189 => Some(false),
        // Hebrew, Arabic, kana, ideographs, Hangul.
        0x5d0..=0x5ea | 0x620..=0x64a | 0x3041..=0x3096 | 0x30a1..=0x30fa | 0x3400..=0x9fff | 0xac00..=0xd7a3 => {
            Some(true)
        }
        _ => (character.is_lowercase() || character.is_uppercase() || is_title(character)).then_some(true),
    }
}

/// `isalnum` of one character.
pub(super) fn is_alphanumeric(character: char) -> Option<bool> {
    if character.is_numeric() {
        Some(true)
    } else {
        is_letter(character)
    }
}

/// Whether there are letters with case, and all of them have this one.
pub(super) fn has_case(text: &str, upper: bool) -> bool {
    let mut found = false;
    for character in text.chars() {
        let (is_upper, is_lower) = (character.is_uppercase(), character.is_lowercase());
        if (if upper { is_lower } else { is_upper }) || is_title(character) {
            return false;
        }
        found |= is_upper || is_lower;
    }
    found
}

/// Whether words start with an upper case letter, and only they.
fn is_titled(text: &str) -> bool {
    let (mut found, mut in_word) = (false, false);
    for character in text.chars() {
        let starts_word = character.is_uppercase() || is_title(character);
        if (starts_word && in_word) || (character.is_lowercase() && !in_word) {
            return false;
        }
        in_word = starts_word || character.is_lowercase();
        found |= in_word;
    }
    found
}

/// A letter of two, of which the first is in upper case.
fn is_title(character: char) -> bool {
    matches!(u32::from(character),
        0x1c5 | 0x1c8 | 0x1cb | 0x1f2 | 0x1f88..=0x1f8f | 0x1f98..=0x1f9f | 0x1fa8..=0x1faf | 0x1fbc | 0x1fcc | 0x1ffc)
}

fn capitalized(state: &State<'_, '_>, text: &str) -> Result<Value, Error> {
    Ok(filters::capitalize(StringInput::new(state, &Value::from(text))?))
}

fn title(state: &State<'_, '_>, text: &str) -> Result<String, Error> {
    let has_case = |character: char| character.is_lowercase() || character.is_uppercase() || is_title(character);
    let mut titled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(has_case) {
        let (before, words) = rest.split_at_checked(start).unwrap_or((rest, ""));
        let end = words.find(|character| !has_case(character)).unwrap_or(words.len());
        let (word, after) = words.split_at_checked(end).unwrap_or((words, ""));
        titled.push_str(before);
        titled.push_str(capitalized(state, word)?.as_str().unwrap_or_default());
        rest = after;
    }
    titled.push_str(rest);
    Ok(titled)
}

fn swapped(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_lowercase() {
            swapped.extend(character.to_uppercase());
        } else if is_title(character) {
            swapped.push(character);
        } else {
            swapped.extend(character.to_lowercase());
        }
    }
    swapped
}

fn split(value: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let [separator, limit] = bind(args, ["sep", "maxsplit"])?;
    let separator = separator.filter(|separator| !separator.is_none());
    // A negative limit is none.
    let limit = usize::try_from(integer(limit.as_ref(), -1)?).unwrap_or(usize::MAX);
    let parts_at_most = limit.saturating_add(1);
    let mut parts: Vec<&str> = match &separator {
        None => words(value, limit, from_end),
        Some(separator) if from_end => value.rsplitn(parts_at_most, text(separator)?).collect(),
        Some(separator) => value.splitn(parts_at_most, text(separator)?).collect(),
    };
    if separator.as_ref().and_then(Value::as_str) == Some("") {
        return Err(error("empty separator"));
    }
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// What is between white space; after so many splits, the rest as it is but for white space where the last split was.
fn words(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = if from_end {
        text.trim_end_matches(is_space)
    } else {
        text.trim_start_matches(is_space)
    };
    while !rest.is_empty() && words.len() < limit {
        let (word, tail) = if from_end {
            rest.rsplit_once(is_space)
                .map_or((rest, ""), |(tail, word)| (word, tail))
        } else {
            rest.split_once(is_space).unwrap_or((rest, ""))
        };
        words.push(word);
        rest = if from_end {
            tail.trim_end_matches(is_space)
        } else {
            tail.trim_start_matches(is_space)
        };
    }
    if !rest.is_empty() {
        words.push(rest);
    }
    words
}

fn join(state: &State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let items = only(args)?;
    if items.is_undefined() {
        return Ok(Value::from(""));
    }
    let mut joined = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let item = text(&item)?.to_owned();
        pay(state, separator.len().saturating_add(item.len()).saturating_add(64))?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(&item);
    }
    Ok(Value::from(joined))
}

fn expanded(state: &State<'_, '_>, text: &str, width: usize) -> Result<Value, Error> {
    pay(state, text.matches('\t').count().saturating_mul(width))?;
    let mut expanded = String::new();
    let mut column = 0_usize;
    for character in text.chars() {
        match character {
            '\t' => {
                let spaces = column.checked_rem(width).map_or(0, |used| width.saturating_sub(used));
                expanded.extend(std::iter::repeat_n(' ', spaces));
                column = column.saturating_add(spaces);
            }
            _ => {
                expanded.push(character);
                column = if matches!(character, '\n' | '\r') {
                    0
                } else {
                    column.saturating_add(1)
                };
            }
        }
    }
    Ok(Value::from(expanded))
}

/// The part of a text that two indices name, as in a slice, and how many characters are before it; `None`: it begins
/// behind the end.
fn part<'t>(text: &'t str, start: Option<&Value>, end: Option<&Value>) -> Result<(Option<&'t str>, usize), Error> {
    let given = |index: Option<&Value>| match index {
        Some(index) if !index.is_none() => i64::try_from(index.clone()).map(Some),
        _ => Ok(None),
    };
    let (start, end) = (given(start)?, given(end)?);
    if (start, end) == (None, None) {
        return Ok((Some(text), 0));
    }
    let length = text.chars().count();
    let index = |index: i64| match usize::try_from(index) {
        Ok(index) => index,
        Err(_) => length.saturating_sub(usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let (start, end) = (start.map_or(0, index), end.map_or(length, index).min(length));
    let offset = |index: usize| text.char_indices().nth(index).map_or(text.len(), |(offset, _)| offset);
    let part = if start > end {
        None
    } else {
        text.get(offset(start)..offset(end))
    };
    Ok((part, start))
}

fn only(args: &[Value]) -> Result<Value, Error> {
    match bind(args, [""])? {
        [Some(only)] => Ok(only),
        _ => Err(error("expected one argument")),
    }
}
