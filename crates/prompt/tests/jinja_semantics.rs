//! What templates write, piece by piece, against Python's Jinja2.

mod support;

use prompt::{Body, ChatTemplate, ModelText, Prompt, Shape};
use serde_json::{Value, json};

fn variables() -> Value {
    json!({
        "text": "Hello, Wörld! it's \"quoted\" <b>&</b>\n",
        "spaces": " \t\u{1c} x y \u{a0}\n",
        "empty": "",
        "none": null,
        "yes": true,
        "no": false,
        "int": 42,
        "big": 9007199254740993u64,
        "float": 1.5,
        "tiny": 2.5e-7,
        "large": 1e16,
        "list": [3, 1, 2],
        "words": ["b", "A", "c"],
        "dict": {"b": 1, "a": [true, null, "ü"], "c": {"d": 0.1}},
        "odd": [1e16, {"k": "\u{200f} 👩\u{200d}👧 \u{2028}", "f": 2.5e-7}, "it's"],
        "objects": [{"name": "x", "n": 1}, {"name": "y", "n": 2}, {"n": 3}],
    })
}

/// Rendered by both and compared: equal text, or an error on both sides.
const SNIPPETS: &[&str] = include!("snippets.in");

/// Python renders these; here they are errors, hence no prompt, rather than some other text.
const UNSUPPORTED: &[&str] = &[
    "{{ '3' | int }} {{ 'x' | int }} {{ '2.5' | float }} {{ 3.7 | int }} {{ '' | int(7) }}",
    "{{ '%s and %s' % ('a', 'b') }}",
    "{{ text | wordcount }}",
    "{{ 'a b' | urlencode }}",
    "{{ text | center(40) }}",
    "{{ text | truncate(9) }}",
    "{{ dict | pprint }}",
    "{{ text | striptags }}",
    "{{ raise_exception is callable }} {{ int is callable }}",
    "{{ '7'.zfill(3) }} {{ 'a'.ljust(3) }}|{{ 'a'.rjust(3) }}|{{ 'a'.center(3) }}|",
    "{% block b %}x{% endblock %}",
    "{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b",
    "{{ -int }} {{ +int }} {{ not yes }}",
    "{{ 'é'.encode() }}",
    "{{ '%d%%' % 5 }}",
];

#[test]
fn unsupported_snippets_are_errors() {
    let body = json!({"messages": [{"role": "user", "content": ""}], "chat_template_kwargs": variables()}).to_string();
    for source in UNSUPPORTED {
        let ours = render(source, &body);
        assert!(ours.is_err(), "{source}: {ours:?}");
    }
}

#[test]
fn snippets_equal_pythons() {
    let variables = variables();
    let cases: Vec<Value> = SNIPPETS
        .iter()
        .map(|source| json!({"source": source, "variables": variables}))
        .collect();
    let expected = support::python(&json!({"now": support::NOW, "cases": cases}));
    let body = json!({"messages": [{"role": "user", "content": ""}], "chat_template_kwargs": variables}).to_string();
    let mut differences = Vec::new();
    for (source, theirs) in SNIPPETS.iter().zip(&expected) {
        let ours = render(source, &body);
        if ours.as_ref().ok().map(String::as_str) != theirs["text"].as_str() {
            differences.push(format!("{source}\n  ours:   {ours:?}\n  theirs: {theirs}"));
        }
    }
    assert_eq!(expected.len(), SNIPPETS.len());
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}

fn render(source: &str, body: &str) -> Result<String, String> {
    let text = ModelText {
        chat_template: Some((*source).to_owned()),
        ..ModelText::default()
    };
    let template = ChatTemplate::compile(&text).map_err(|error| error.to_string())?;
    template.set_now(support::NOW);
    let body = Body::read(Shape::Chat, body.as_bytes()).map_err(|error| error.to_string())?;
    match body.prompt(Some(&template)).map_err(|error| error.to_string())? {
        Prompt::Text { text, .. } => Ok(text.into_owned()),
        other => panic!("{other:?}"),
    }
}
