//! A template's source, brought to what minijinja reads as Jinja2 reads the original.

use std::borrow::Cow;

use crate::rules::Frontend;

/// The `generation` tag goes and, as in Jinja2's lexer, line breaks become LF. Dynamo's Jinja leaves them as they are.
pub(super) fn prepare(source: &str, frontend: Frontend) -> String {
    match frontend {
        Frontend::Vllm => without_generation_tag(&source.replace("\r\n", "\n").replace('\r', "\n")).into_owned(),
        Frontend::Dynamo => without_generation_tag(source).into_owned(),
    }
}

/// Turns `{% generation %} … {% endgeneration %}`, with which training marks what the assistant wrote and which in a
/// prompt stands for its body, into a `with` block, which like the original has a scope of its own. Whitespace control
/// stays as it is.
fn without_generation_tag(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        rewritten.push_str(before);
        rewritten.push_str("{%");
        rest = tag;
        let Some((inside, after)) = tag.split_once("%}") else {
            continue;
        };
        let (open, inside) = split_sign_start(inside);
        let (inside, close) = split_sign_end(inside);
        let keyword = match inside.trim() {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        for part in [open, " ", keyword, " ", close, "%}"] {
            rewritten.push_str(part);
        }
        rest = after;
    }
    rewritten.push_str(rest);
    Cow::Owned(rewritten)
}

fn split_sign_start(inside: &str) -> (&str, &str) {
    let rest = inside.strip_prefix(['-', '+']).unwrap_or(inside);
    inside
        .split_at_checked(inside.len().saturating_sub(rest.len()))
        .unwrap_or(("", inside))
}

fn split_sign_end(inside: &str) -> (&str, &str) {
    let rest = inside.strip_suffix(['-', '+']).unwrap_or(inside);
    inside.split_at_checked(rest.len()).unwrap_or((inside, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks() {
        let source = "a\r\nb\rc\nd\n\r";
        assert_eq!(prepare(source, Frontend::Vllm), "a\nb\nc\nd\n\n");
        assert_eq!(prepare(source, Frontend::Dynamo), source);
    }

    #[test]
    fn only_the_tag_is_rewritten() {
        for (source, expected) in [
            ("{% for a in b %}{{ add_generation_prompt }}{% endfor %}", None),
            (
                "a{% generation %}b{% endgeneration %}c",
                Some("a{% with %}b{% endwith %}c"),
            ),
            (
                "a{%- generation -%}b{%+endgeneration-%}c",
                Some("a{%- with -%}b{%+ endwith -%}c"),
            ),
            ("{% if add_generation_prompt %}x{% endif %}", None),
            ("{% generation", None),
            ("{%- %}{% generation %}", Some("{%- %}{% with %}")),
        ] {
            assert_eq!(without_generation_tag(source), expected.unwrap_or(source), "{source}");
        }
    }
}
