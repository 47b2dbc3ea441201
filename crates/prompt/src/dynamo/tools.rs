//! Tools, as templates see them.

use minijinja::Value;

use crate::conversation::{bad, required};
use crate::error::PromptError;
use crate::json::Json;
use crate::messages;

/// A tool out of the object that has its `name`, `description` and `strict`; what its parameters are called depends on the
/// shape.
///
/// Without a description it gets an empty one, and its parameters get what every object's schema has. Both come last.
pub(super) fn tool(function: &Json<'_>, parameters: Option<&Json<'_>>) -> Result<Value, PromptError> {
    let mut entries = vec![("name", Value::from(required(function, "name", "tools")?))];
    let description = match function.get_set("description") {
        None => None,
        Some(Json::String(description)) => Some(("description", Value::from(&**description))),
        Some(_) => return Err(bad("tools", "has a `description` that is no text")),
    };
    entries.extend(description.clone());
    if let Some(parameters) = parameters.filter(|parameters| !matches!(parameters, Json::Null)) {
        entries.push(("parameters", schema(parameters)?));
    }
    if let Some(strict) = function.get_set("strict") {
        entries.push(("strict", messages::value(strict)?));
    }
    if description.is_none() {
        entries.push(("description", Value::from("")));
    }
    Ok(Value::from_pairs([
        ("type", Value::from("function")),
        ("function", Value::from_pairs(entries)),
    ]))
}

fn schema(parameters: &Json<'_>) -> Result<Value, PromptError> {
    let Json::Object(entries) = parameters else {
        return messages::value(parameters);
    };
    let entries = entries.iter().map(|(key, value)| Ok((&**key, messages::value(value)?)));
    let mut entries = entries.collect::<Result<Vec<_>, PromptError>>()?;
    if parameters.get("type").is_none() {
        entries.push(("type", Value::from("object")));
    }
    if parameters.get("properties").is_none() {
        entries.push(("properties", Value::from_pairs::<_, &str, Value>([])));
    }
    Ok(Value::from_pairs(entries))
}
