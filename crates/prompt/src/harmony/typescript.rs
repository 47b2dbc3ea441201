//! Tools as TypeScript types, as the Harmony library writes them (`json_schema_to_typescript` and
//! `template_tools_section` of `oss-harmony` 0.0.11, with its oddities).

use std::collections::{BTreeMap, BTreeSet};

use super::Tool;
use crate::error::PromptError;
use crate::json::Json;
use crate::messages;

/// Appends the section of the namespace `functions`. `limit` is what it may take in bytes: a schema of many small
/// levels becomes many long lines.
pub(super) fn tools_section(tools: &[Tool<'_>], out: &mut String, limit: usize) -> Result<(), PromptError> {
    out.push_str("# Tools\n\n## functions\n\nnamespace functions {\n");
    let mut writer = Writer {
        limit: out.len().saturating_add(limit),
        null_until: 0,
        out,
    };
    for tool in tools {
        for line in tool.description.lines() {
            writer.put(&["\n// ", line])?;
        }
        writer.put(&["\ntype ", tool.name, " = ("])?;
        if let Some(parameters) = tool.parameters {
            writer.put(&["_: "])?;
            writer.schema(parameters, "")?;
        }
        writer.put(&[") => any;\n"])?;
    }
    writer.put(&["\n} // namespace functions"])
}

struct Writer<'o> {
    out: &'o mut String,
    limit: usize,
    /// Where the last schema ends whose text says that it may be null.
    null_until: usize,
}

impl Writer<'_> {
    fn put(&mut self, texts: &[&str]) -> Result<(), PromptError> {
        for text in texts {
            self.out.push_str(text);
        }
        match self.out.len() > self.limit {
            true => Err(PromptError::LimitExceeded("output")),
            false => Ok(()),
        }
    }

    fn schema(&mut self, schema: &Json<'_>, indent: &str) -> Result<(), PromptError> {
        if let Some(variants) = variants(schema)? {
            return self.one_of(variants, indent);
        }
        if let Some(types) = schema.get("type").and_then(array) {
            let types: Vec<_> = types.iter().filter_map(Json::as_str).map(type_name).collect();
            if !types.is_empty() {
                return self.put(&[&types.join(" | ")]);
            }
        }
        match schema.get("type").and_then(Json::as_str) {
            Some("object") => self.object(schema, indent),
            Some("string") => {
                let values = schema.get("enum").and_then(array).unwrap_or_default();
                let values: Vec<_> = values.iter().filter_map(Json::as_str).collect();
                match values.is_empty() {
                    true => self.put(&["string"]),
                    false => self.put(&["\"", &values.join("\" | \""), "\""]),
                }
            }
            Some("number" | "integer") => self.put(&["number"]),
            Some("boolean") => self.put(&["boolean"]),
            Some("array") => match schema.get("items") {
                Some(items) => {
                    self.schema(items, indent)?;
                    self.put(&["[]"])
                }
                None => self.put(&["Array<any>"]),
            },
            _ => self.put(&["any"]),
        }
    }

    fn one_of(&mut self, variants: &[Json<'_>], indent: &str) -> Result<(), PromptError> {
        let inner = format!("{indent}   ");
        for variant in variants {
            self.put(&["\n", indent, " | "])?;
            self.nullable(variant, &inner)?;
            let mut comments = Vec::new();
            comments.extend(text_of(variant, "description").map(str::to_owned));
            if let Some(default) = variant.get("default") {
                comments.push(match default.as_str().filter(|_| !is_enum(variant)) {
                    Some(text) => format!("default: \"{text}\""),
                    None => format!("default: {}", dumped(default)?),
                });
            }
            self.comments(&comments)?;
        }
        Ok(())
    }

    fn object(&mut self, schema: &Json<'_>, indent: &str) -> Result<(), PromptError> {
        if let Some(description) = text_of(schema, "description") {
            self.put(&[indent, "// ", description, "\n"])?;
        }
        self.put(&["{\n"])?;
        let required: BTreeSet<&str> = schema
            .get("required")
            .and_then(array)
            .unwrap_or_default()
            .iter()
            .filter_map(Json::as_str)
            .collect();
        if let Some(Json::Object(entries)) = schema.get("properties") {
            // Of duplicate keys the first gives the place and the last the value, as in Python.
            let mut properties = BTreeMap::new();
            for (key, property) in entries {
                properties.insert(&**key, Some(property));
            }
            for key in entries.iter().map(|(key, _)| &**key) {
                let Some(property) = properties.get_mut(key).and_then(Option::take) else {
                    continue;
                };
                let mark = if required.contains(key) { "" } else { "?" };
                self.property(key, mark, property, indent)?;
            }
        }
        self.put(&[indent, "}"])
    }

    fn property(&mut self, key: &str, mark: &str, property: &Json<'_>, indent: &str) -> Result<(), PromptError> {
        if let Some(title) = text_of(property, "title") {
            self.put(&[indent, "// ", title, "\n", indent, "//\n"])?;
        }
        let one_of = property.get("oneOf");
        let description = text_of(property, "description");
        if let (None, Some(description)) = (one_of, description) {
            self.put(&[indent, "// ", description, "\n"])?;
        }
        let examples = property.get("examples").and_then(array).unwrap_or_default();
        if !examples.is_empty() {
            self.put(&[indent, "// Examples:\n"])?;
            for example in examples.iter().filter_map(Json::as_str) {
                self.put(&[indent, "// - \"", example, "\"\n"])?;
            }
        }
        if let Some(variants) = variants(property)? {
            return self.one_of_property(key, mark, property, variants, indent);
        }
        self.put(&[indent, key, mark, ": "])?;
        self.nullable(property, &format!("{indent}    "))?;
        self.put(&[","])?;
        if let (None, Some(default)) = (one_of, property.get("default")) {
            self.put(&[" // default: ", &shown_default(property, default)?])?;
        }
        self.put(&["\n"])
    }

    fn one_of_property(
        &mut self,
        key: &str,
        mark: &str,
        property: &Json<'_>,
        variants: &[Json<'_>],
        indent: &str,
    ) -> Result<(), PromptError> {
        let description = text_of(property, "description");
        let of_first = variants.first().and_then(|first| text_of(first, "description"));
        let above = description.filter(|description| of_first != Some(description));
        if let Some(description) = above {
            self.put(&[indent, "// ", description, "\n"])?;
        }
        if let Some(default) = property.get("default") {
            self.put(&[indent, "// default: ", &shown_default(property, default)?, "\n"])?;
        }
        self.put(&[indent, key, mark, ":\n"])?;
        let inner = format!("{indent}   ");
        for (index, variant) in variants.iter().enumerate() {
            self.put(&[indent, " | "])?;
            self.nullable(variant, &inner)?;
            let mut comments = Vec::new();
            if index > 0 || above.is_none() {
                let own = text_of(variant, "description").filter(|own| Some(*own) != description);
                comments.extend(own.map(str::to_owned));
            }
            if let Some(default) = variant.get("default") {
                comments.push(format!("default: {}", shown_default(variant, default)?));
            }
            self.comments(&comments)?;
            self.put(&["\n"])?;
        }
        self.put(&[indent, ",\n"])
    }

    /// The type, and that it may be null if it says so and the text does not show it.
    fn nullable(&mut self, schema: &Json<'_>, indent: &str) -> Result<(), PromptError> {
        let start = self.out.len();
        self.schema(schema, indent)?;
        if !matches!(schema.get("nullable"), Some(Json::Bool(true))) {
            return Ok(());
        }
        // What a schema within says is not looked for again: with many levels that would be the same text many times.
        let is_shown = self.null_until > start || self.out.get(start..).is_some_and(|text| text.contains("null"));
        if !is_shown {
            self.put(&[" | null"])?;
        }
        self.null_until = self.out.len();
        Ok(())
    }

    fn comments(&mut self, comments: &[String]) -> Result<(), PromptError> {
        match comments.is_empty() {
            true => Ok(()),
            false => self.put(&[" // ", &comments.join(" ")]),
        }
    }
}

fn type_name(name: &str) -> &str {
    match name {
        "integer" => "number",
        other => other,
    }
}

fn text_of<'r>(schema: &'r Json<'_>, key: &str) -> Option<&'r str> {
    schema.get(key).and_then(Json::as_str)
}

fn variants<'r, 'a>(schema: &'r Json<'a>) -> Result<Option<&'r [Json<'a>]>, PromptError> {
    match schema.get("oneOf") {
        // No schemas, so not worth a form of their own.
        Some(Json::Tokens(_)) => Err(PromptError::UnsupportedField("oneOf")),
        one_of => Ok(one_of.and_then(array)),
    }
}

/// An array; one of nothing but numbers has no entries that matter here, only a length.
fn array<'r, 'a>(json: &'r Json<'a>) -> Option<&'r [Json<'a>]> {
    match json {
        Json::Array(items) => Some(items),
        Json::Tokens(_) => Some(&[Json::Null]),
        _ => None,
    }
}

fn is_enum(schema: &Json<'_>) -> bool {
    schema
        .get("enum")
        .and_then(array)
        .is_some_and(|values| !values.is_empty())
}

/// A default: in quotes if it is a text that is not one of an enumeration.
fn shown_default(schema: &Json<'_>, default: &Json<'_>) -> Result<String, PromptError> {
    match default.as_str() {
        Some(text) if is_enum(schema) => Ok(text.to_owned()),
        Some(text) => Ok(format!("\"{text}\"")),
        None => dumped(default),
    }
}

/// As Rust's `serde_json` writes it, in which the library is written.
fn dumped(json: &Json<'_>) -> Result<String, PromptError> {
    let value = messages::value(json)?;
    serde_json::to_string(&value).map_err(|error| PromptError::Template(error.to_string()))
}
