//! What templates write, piece by piece, against Python's Jinja2.

mod support;

use serde_json::{Value, json};
use support::render;

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
    "{{ dict | pprint }} {{ 'a b' | wordwrap(1) }} {{ text | striptags }} {{ text | urlize }} {{ dict | xmlattr }}",
    "{{ 5 | filesizeformat }}",
    "{{ dict | attr('b') }}",
    "{% set f = '%s' %}{{ f % 1 }}",
    "{{ '%5s' % 'é' }}",
    "{{ '{:5}'.format('é') }}",
    "{{ '{!r}'.format('a') }}",
    "{{ '%r' % 'a' }}",
    "{{ 1e300 | int }}",
    "{{ 2 ** 200 }}",
    "{{ '\\U0001f600' }}",
    "{% block b %}x{% endblock %}",
    "{% macro m() %}{{ varargs }}{% endmacro %}{{ m(1) }}",
    "{{ -yes }}",
    "{{ 'é'.encode() }} {{ 'a'.translate({97: 'b'}) }}",
    "{{ 'É'.casefold() }}",
    "{{ '²'.isdigit() }}",
    "{{ 'नमस्ते'.isalpha() }}",
    "{{ 'नमस्ते' | wordcount }}",
];

#[test]
fn unsupported_snippets_are_errors() {
    let variables = variables();
    for source in UNSUPPORTED {
        let ours = render(source, &variables);
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
    let mut differences = Vec::new();
    for (source, theirs) in SNIPPETS.iter().zip(&expected) {
        let ours = render(source, &variables);
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
