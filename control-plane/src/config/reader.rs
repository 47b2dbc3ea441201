//! Reads a YAML document without giving up at the first mistake: every mistake is collected, with the key's path, the
//! line, the value and the likely cause. Whoever reads a map names all its keys; the rest are mistakes too.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// An untyped YAML value and the line it stands on.
#[derive(Clone, Debug)]
pub(super) struct Node {
    line: u64,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Everything that is wrong with a file.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<String>);

impl Mistakes {
    /// Notes that the value at `path` is wrong.
    pub(super) fn add(&mut self, at: &At<'_>, value: impl fmt::Display, why: impl fmt::Display) {
        self.0.push(match at.line {
            0 => format!("{}: {value}: {why}", at.path),
            line => format!("{} (line {line}): {value}: {why}", at.path),
        });
    }

    /// One line for each mistake, in the order of the document.
    pub(super) fn into_lines(self) -> Vec<String> {
        self.0
    }
}

/// A place in the document: what it holds, if anything, and how to name it.
#[derive(Clone, Debug)]
pub(super) struct At<'n> {
    path: String,
    line: u64,
    node: Option<&'n Node>,
}

impl<'n> At<'n> {
    /// The whole document.
    pub(super) fn root(node: &'n Node) -> Self {
        Self {
            path: "(file)".to_owned(),
            line: node.line,
            node: Some(node),
        }
    }

    fn child(&self, step: &str, node: Option<&'n Node>) -> Self {
        let path = match self.path.as_str() {
            "(file)" => step.trim_start_matches('.').to_owned(),
            path => format!("{path}{step}"),
        };
        Self {
            path,
            line: node.map_or(self.line, |node| node.line),
            node,
        }
    }

    /// How to name this place: `pools[0].workers[1].endpoint`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether the key was there with a value.
    pub(super) fn is_set(&self) -> bool {
        self.node.is_some_and(|node| !matches!(node.value, Value::Null))
    }

    /// The keys of a map, each exactly once in `keys` order; unknown keys are mistakes. An absent map has no keys set.
    pub(super) fn fields<const N: usize>(&self, mistakes: &mut Mistakes, keys: [&str; N]) -> [Self; N] {
        const NONE: &[(String, Node)] = &[];
        let entries: &'n [(String, Node)] = match self.node.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries,
            None | Some(Value::Null) => NONE,
            Some(other) => {
                mistakes.add(self, other, "must be a map of keys to values");
                NONE
            }
        };
        for (key, node) in entries {
            if !keys.contains(&key.as_str()) {
                let known = keys.join(", ");
                let at = self.child(&format!(".{key}"), Some(node));
                mistakes.add(&at, &node.value, format!("unknown key; known here: {known}"));
            }
        }
        keys.map(|key| {
            let found = entries.iter().find(|(name, _)| name == key);
            self.child(&format!(".{key}"), found.map(|(_, node)| node))
        })
    }

    /// The items of a list; none if absent.
    pub(super) fn items(&self, mistakes: &mut Mistakes) -> Vec<Self> {
        match self.node.map(|node| &node.value) {
            Some(Value::List(items)) => {
                let item = |(index, node)| self.child(&format!("[{index}]"), Some(node));
                items.iter().enumerate().map(item).collect()
            }
            None | Some(Value::Null) => Vec::new(),
            Some(other) => {
                mistakes.add(self, other, "must be a list");
                Vec::new()
            }
        }
    }

    /// The items of a list, or the one value that stands for a list of one.
    pub(super) fn one_or_more(&self, mistakes: &mut Mistakes) -> Vec<Self> {
        match self.node.map(|node| &node.value) {
            Some(Value::Text(_) | Value::Integer(_)) => vec![self.clone()],
            _ => self.items(mistakes),
        }
    }

    /// A map of any keys and values; empty if absent.
    pub(super) fn object(&self, mistakes: &mut Mistakes) -> serde_json::Map<String, serde_json::Value> {
        match self.node.map(|node| node.value.to_json()) {
            None | Some(serde_json::Value::Null) => serde_json::Map::new(),
            Some(serde_json::Value::Object(map)) => map,
            Some(other) => {
                mistakes.add(self, other, "must be a map");
                serde_json::Map::new()
            }
        }
    }

    /// A text that is not empty; `None` if absent or wrong.
    pub(super) fn text(&self, mistakes: &mut Mistakes) -> Option<&'n str> {
        match self.node.map(|node| &node.value) {
            Some(Value::Text(text)) if !text.trim().is_empty() => Some(text),
            None | Some(Value::Null) => None,
            Some(other) => {
                mistakes.add(self, other, "must be a text; quote it if it looks like a number");
                None
            }
        }
    }

    /// As [`At::text`], and no mistake shows what it is.
    pub(super) fn hidden_text(&self, mistakes: &mut Mistakes) -> Option<&'n str> {
        match self.node.map(|node| &node.value) {
            Some(Value::Text(text)) if !text.trim().is_empty() => Some(text),
            None | Some(Value::Null) => None,
            Some(_) => {
                mistakes.add(self, "(hidden)", "must be a text; quote it if it looks like a number");
                None
            }
        }
    }

    /// As [`At::text`], where `off` is among the words: YAML 1.1 takes it for false.
    pub(super) fn word(&self, mistakes: &mut Mistakes) -> Option<&'n str> {
        match self.node.map(|node| &node.value) {
            Some(Value::Bool(false)) => Some("off"),
            _ => self.text(mistakes),
        }
    }

    /// As [`At::text`], and a mistake if absent.
    pub(super) fn required_text(&self, mistakes: &mut Mistakes) -> Option<&'n str> {
        self.require(mistakes);
        self.text(mistakes)
    }

    /// Notes a mistake if the key is absent.
    pub(super) fn require(&self, mistakes: &mut Mistakes) {
        if !self.is_set() {
            mistakes.add(self, "absent", "required");
        }
    }

    /// A whole number in `range`.
    pub(super) fn integer(&self, mistakes: &mut Mistakes, range: std::ops::RangeInclusive<u32>, default: u32) -> u32 {
        let (low, high) = (range.start(), range.end());
        match self.node.map(|node| &node.value) {
            None | Some(Value::Null) => default,
            Some(Value::Integer(number)) if (i128::from(*low)..=i128::from(*high)).contains(number) => {
                u32::try_from(*number).unwrap_or(default)
            }
            Some(other) => {
                mistakes.add(self, other, format!("must be a whole number from {low} to {high}"));
                default
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, mistakes: &mut Mistakes, default: bool) -> bool {
        match self.node.map(|node| &node.value) {
            None | Some(Value::Null) => default,
            Some(Value::Bool(value)) => *value,
            Some(other) => {
                mistakes.add(self, other, "must be true or false");
                default
            }
        }
    }

    /// A finite number that is not negative.
    pub(super) fn weight(&self, mistakes: &mut Mistakes, default: f64) -> f64 {
        let number = match self.node.map(|node| &node.value) {
            None | Some(Value::Null) => return default,
            Some(Value::Float(number)) => *number,
            #[allow(clippy::cast_precision_loss, reason = "a weight needs no 64 bits")]
            Some(Value::Integer(number)) => *number as f64,
            Some(_) => f64::NAN,
        };
        if number.is_finite() && number >= 0.0 {
            return number;
        }
        let shown = self.node.map_or_else(String::new, |node| node.value.to_string());
        mistakes.add(self, shown, "must be a finite number of at least 0");
        default
    }

    /// A time span such as `500ms`, `60s`, `5m` or `1h`, in milliseconds.
    pub(super) fn milliseconds(
        &self,
        mistakes: &mut Mistakes,
        range: std::ops::RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let text = match self.node.map(|node| &node.value) {
            None | Some(Value::Null) => return default,
            Some(Value::Text(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        match parse_milliseconds(&text) {
            Some(span) if range.contains(&span) => return span,
            Some(_) => {
                let (low, high) = (range.start(), range.end());
                mistakes.add(self, text, format!("must lie between {low}ms and {high}ms"));
            }
            None => mistakes.add(
                self,
                text,
                "must be a time span with a unit, such as 500ms, 60s, 5m or 1h",
            ),
        }
        default
    }
}

fn parse_milliseconds(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

impl Value {
    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Integer(value) => i64::try_from(*value).map_or(serde_json::Value::Null, Into::into),
            Self::Float(value) => (*value).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Map(entries) => {
                let entries = entries.iter();
                entries.map(|(key, node)| (key.clone(), node.value.to_json())).collect()
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a map"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Value::Map(map))
    }
}
