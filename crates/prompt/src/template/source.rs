//! A template's source, brought to what minijinja reads as Jinja2 reads the original.

use std::borrow::Cow;

use crate::rules::Frontend;

/// The `generation` tag goes and, as in Jinja2's lexer, line breaks become LF and stay after `raw`. Dynamo's Jinja is minijinja,
/// and leaves them as they are.
pub(super) fn prepare(source: &str, frontend: Frontend) -> String {
    match frontend {
        Frontend::Vllm => rewritten(&source.replace("\r\n", "\n").replace('\r', "\n"), frontend).into_owned(),
        Frontend::Dynamo => rewritten(source, frontend).into_owned(),
    }
}

/// Turns `{% generation %} … {% endgeneration %}`, with which training marks what the assistant wrote and which in a
/// prompt stands for its body, into a `with` block, which like the original has a scope of its own. Whitespace control
/// stays as it is.
///
/// For vLLM doubles the line break after `{% raw %}`: minijinja takes one away there, as after other tags, Jinja2 does not. And
/// puts the bodies of `filter` and `set` blocks into such blocks, too: in Jinja2 they are scopes.
fn rewritten(source: &str, frontend: Frontend) -> Cow<'_, str> {
    if !["generation", "raw", "endfilter", "endset"]
        .iter()
        .any(|name| source.contains(name))
    {
        return Cow::Borrowed(source);
    }
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    let mut in_raw = false;
    while let Some((before, tag)) = rest.split_once("{%") {
        rewritten.push_str(before);
        rewritten.push_str("{%");
        rest = tag;
        let Some((inside, after)) = tag.split_once("%}") else {
            continue;
        };
        let (open, name) = split_sign_start(inside);
        let (name, close) = split_sign_end(name);
        let keyword = match (name.trim(), in_raw) {
            ("endraw", true) => {
                in_raw = false;
                continue;
            }
            (_, true) => continue,
            ("raw", false) => {
                in_raw = true;
                if frontend == Frontend::Vllm && close.is_empty() && after.starts_with('\n') {
                    rewritten.extend([inside, "%}", "\n"]);
                    rest = after;
                }
                continue;
            }
            ("endfilter" | "endset", false) if frontend == Frontend::Vllm => {
                rewritten.extend([open, " endwith %}{% ", name.trim(), " ", close, "%}"]);
                rest = after;
                continue;
            }
            (name, false) if frontend == Frontend::Vllm && opens_block(name) => {
                rewritten.extend([open, " ", name, " %}{% with ", close, "%}"]);
                rest = after;
                continue;
            }
            ("generation", false) => "with",
            ("endgeneration", false) => "endwith",
            (_, false) => continue,
        };
        rewritten.extend([open, " ", keyword, " ", close, "%}"]);
        rest = after;
    }
    rewritten.push_str(rest);
    Cow::Owned(rewritten)
}

/// Whether a tag is a `filter`, or a `set` without a value.
fn opens_block(tag: &str) -> bool {
    match tag.split_once(char::is_whitespace) {
        Some(("filter", _)) => true,
        Some(("set", rest)) => !rest.split('|').next().is_some_and(|target| target.contains('=')),
        _ => false,
    }
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
    fn only_the_tags_are_rewritten() {
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
            ("{% set a = b | c %}{% set d, e = f %}{# endset #}", None),
            (
                "{%- set a -%}b{%- endset +%}{% set a | c(d=e) %}{% endset %}",
                Some(
                    "{%- set a %}{% with -%}b{%- endwith %}{% endset +%}\
                     {% set a | c(d=e) %}{% with %}{% endwith %}{% endset %}",
                ),
            ),
            (
                "{% filter c -%} b {% endfilter %}",
                Some("{% filter c %}{% with -%} b {% endwith %}{% endfilter %}"),
            ),
            ("{% generation", None),
            ("{%- %}{% generation %}", Some("{%- %}{% with %}")),
            ("{% raw %}\na{% endraw %}\n", Some("{% raw %}\n\na{% endraw %}\n")),
            ("{% raw -%}\na{% endraw %}{% raw %}a{% endraw %}", None),
            (
                "{% raw %}{% raw %}\n{% generation %}{% endraw %}{%-raw%}\n",
                Some("{% raw %}{% raw %}\n{% generation %}{% endraw %}{%-raw%}\n\n"),
            ),
        ] {
            assert_eq!(
                rewritten(source, Frontend::Vllm),
                expected.unwrap_or(source),
                "{source}"
            );
        }
    }
}
