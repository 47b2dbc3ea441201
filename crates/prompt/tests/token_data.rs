//! Token ids in a body: nothing else of it changes.

use prompt::token_data::Splice;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn spliced(body: &str, ids: &[u32]) -> Option<String> {
    let body = Splice::token_data(body.as_bytes(), ids)?.apply(body.as_bytes())?;
    Some(String::from_utf8(body).expect("UTF-8"))
}

fn removed(body: &str) -> Option<String> {
    let body = Splice::no_token_data(body.as_bytes())?.apply(body.as_bytes())?;
    Some(String::from_utf8(body).expect("UTF-8"))
}

#[test]
fn examples() {
    for (body, expected) in [
        (r#"{}"#, Some(r#"{"nvext":{"token_data":[7,8]}}"#)),
        (" {\n } \n", Some(" {\n \"nvext\":{\"token_data\":[7,8]}} \n")),
        (
            r#"{"a": -0.0E+2 ,"a":"\u0041" }"#,
            Some(r#"{"a": -0.0E+2 ,"a":"\u0041" ,"nvext":{"token_data":[7,8]}}"#),
        ),
        (r#"{"nvext":{},"a":1}"#, Some(r#"{"nvext":{"token_data":[7,8]},"a":1}"#)),
        (
            r#"{"nvext" : { "cache_salt":"}" } ,"a":1}"#,
            Some(r#"{"nvext" : { "cache_salt":"}" ,"token_data":[7,8]} ,"a":1}"#),
        ),
        (
            r#"{"nvext":{"token_data":[1, 2, 3],"x":0}}"#,
            Some(r#"{"nvext":{"token_data":[7,8],"x":0}}"#),
        ),
        (
            r#"{"nvext":{"token_data":null}}"#,
            Some(r#"{"nvext":{"token_data":[7,8]}}"#),
        ),
        // Of duplicates, the one that readers take.
        (
            r#"{"nvext":{"a":1},"nvext":{"token_data":1,"token_data":2}}"#,
            Some(r#"{"nvext":{"a":1},"nvext":{"token_data":1,"token_data":[7,8]}}"#),
        ),
        // However the keys are spelled.
        (
            r#"{"nve\u0078t":{"token\u005fdata":[]}}"#,
            Some(r#"{"nve\u0078t":{"token\u005fdata":[7,8]}}"#),
        ),
        (
            r#"{"x":{"nvext":{}}}"#,
            Some(r#"{"x":{"nvext":{}},"nvext":{"token_data":[7,8]}}"#),
        ),
        (r#"{"nvext":null}"#, None),
        (r#"{"nvext":[]}"#, None),
        (r#"{"nvext":"{}"}"#, None),
        (r#"{"nvext":{"token_data":1},"nvext":3}"#, None),
        ("[]", None),
        ("{} x", None),
        (r#"{"a":}"#, None),
        ("", None),
    ] {
        assert_eq!(spliced(body, &[7, 8]).as_deref(), expected, "{body}");
    }
    assert_eq!(spliced("{}", &[]).as_deref(), Some(r#"{"nvext":{"token_data":[]}}"#));
}

#[test]
fn what_the_client_put_there_is_removed() {
    for (body, expected) in [
        (
            r#"{"nvext":{"token_data": [1] ,"x":0},"a":1}"#,
            Some(r#"{"nvext":{"token_data": null ,"x":0},"a":1}"#),
        ),
        (r#"{"nvext":{"x":0}}"#, None),
        (r#"{"token_data":[1]}"#, None),
        (r#"{"nvext":7}"#, None),
        ("[]", None),
    ] {
        assert_eq!(removed(body).as_deref(), expected, "{body}");
    }
}

/// JSON with the spelling that the numbers ask for.
fn spelled(value: &Value, spelling: &mut impl Iterator<Item = u8>) -> String {
    let space = |spelling: &mut dyn Iterator<Item = u8>| {
        ["", "", " ", "\n\t", "\r "][usize::from(spelling.next().unwrap_or(0)) % 5].to_owned()
    };
    let text = match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| spelled(item, spelling)).collect();
            format!("[{}{}]", space(spelling), items.join(","))
        }
        Value::Object(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, item)| {
                    let key = spelled(&json!(key), spelling);
                    format!("{key}:{}", spelled(item, spelling))
                })
                .collect();
            format!("{{{}{}}}", space(spelling), entries.join(","))
        }
        Value::String(text) => {
            let mut spell = |c: char| match spelling.next() {
                Some(0..40) if c.is_ascii() => format!("\\u{:04x}", u32::from(c)),
                _ => serde_json::to_string(&c).unwrap().trim_matches('"').to_owned(),
            };
            let text: String = text
                .chars()
                .map(|c| if c == '"' { "\\\"".to_owned() } else { spell(c) })
                .collect();
            format!("\"{text}\"")
        }
        other => other.to_string(),
    };
    format!("{}{text}{}", space(spelling), space(spelling))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        r#"[a"\\{}\[\]:,é\u{1F600}\n]{0,6}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            object(inner).prop_map(Value::from),
        ]
    })
}

fn object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let keys = prop_oneof![
        Just("nvext".to_owned()),
        Just("token_data".to_owned()),
        r#"[a-c"}{]{0,2}"#.prop_map(|key| key),
    ];
    prop::collection::vec((keys, values), 0..5).prop_map(Map::from_iter)
}

proptest! {
    #[test]
    fn the_body_and_the_ids_and_nothing_else(
        mut body in object(value()),
        nvext in prop::option::of(object(value())),
        ids in prop::collection::vec(any::<u32>(), 0..6),
        spelling in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Some(nvext) = nvext {
            body.insert("nvext".to_owned(), nvext.into());
        }
        let text = spelled(&Value::from(body.clone()), &mut spelling.into_iter());
        prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &Value::from(body.clone()));
        let splice = Splice::token_data(text.as_bytes(), &ids);
        let Some(splice) = splice else {
            prop_assert!(body.get("nvext").is_some_and(|nvext| !nvext.is_object()));
            return Ok(());
        };
        // What is replaced is the client's own token_data, or nothing.
        let replaced = &text[splice.range.clone()];
        let old = body.get("nvext").and_then(|nvext| nvext.get("token_data"));
        let seen = (!replaced.is_empty()).then(|| serde_json::from_str::<Value>(replaced).unwrap());
        prop_assert_eq!(seen.as_ref(), old);
        let whole = splice.apply(text.as_bytes()).unwrap();
        let nvext = body.entry("nvext").or_insert_with(|| json!({}));
        nvext["token_data"] = json!(ids);
        prop_assert_eq!(serde_json::from_slice::<Value>(&whole).unwrap(), Value::from(body));
    }

    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'{'), Just(b'"'), Just(b'}'), Just(b':')], 0..40)) {
        let _ = Splice::token_data(&body, &[1]).map(|splice| splice.apply(&body).unwrap());
        let _ = Splice::no_token_data(&body).map(|splice| splice.apply(&body).unwrap());
    }
}
