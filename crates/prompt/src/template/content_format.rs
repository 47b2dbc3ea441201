//! How a template wants message contents, found as vLLM finds it.
//!
//! Source: `_detect_content_format` in `vllm/renderers/hf.py`. A template that loops over the content of a message in a
//! loop over the messages takes parts; any other takes text. Its shortcuts are copied: names are followed through `set`
//! regardless of scope, and a construct it does not expect makes it fall back to text.

use std::collections::BTreeSet;

use minijinja::Error;
use minijinja::machinery::ast::{Expr, ForLoop, Set, Spanned, Stmt};
use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;

use crate::messages::ContentFormat;

pub(super) fn detect(source: &str, syntax: SyntaxConfig) -> Result<ContentFormat, Error> {
    let root = parse(source, "chat", syntax)?;
    let mut statements = Statements::default();
    statements.collect(&root);
    Ok(match loops_over_content(&statements) {
        Some(true) => ContentFormat::Parts,
        Some(false) | None => ContentFormat::Text,
    })
}

/// `None`: met an assignment or a loop that vLLM's search gives up on.
fn loops_over_content(statements: &Statements<'_, '_>) -> Option<bool> {
    let mut messages = vec!["messages"];
    let mut seen = BTreeSet::from(["messages"]);
    let mut next = 0;
    while let Some(name) = messages.get(next).copied() {
        for set in &statements.sets {
            if is_variable_or_elements(&set.expr, name, None) {
                let target = variable(&set.target)?;
                if seen.insert(target) {
                    messages.push(target);
                }
            }
        }
        next = next.saturating_add(1);
    }
    let mut items = Vec::new();
    for each in &statements.loops {
        if messages
            .iter()
            .any(|name| is_variable_or_elements(&each.iter, name, None))
        {
            items.push(variable(&each.target)?);
        }
    }
    for each in &statements.loops {
        if items
            .iter()
            .any(|name| is_variable_or_elements(&each.iter, name, Some("content")))
        {
            variable(&each.target)?;
            return Some(true);
        }
    }
    Some(false)
}

/// Whether `expr` is the variable `name` (or its attribute `key`), filtered, tested or sliced in any way.
fn is_variable_or_elements(expr: &Expr<'_>, name: &str, key: Option<&str>) -> bool {
    match (expr, key) {
        (Expr::Filter(filter), _) => filter
            .expr
            .as_ref()
            .is_some_and(|inner| is_variable_or_elements(inner, name, key)),
        (Expr::Test(test), _) => is_variable_or_elements(&test.expr, name, key),
        (Expr::Slice(slice), _) => is_variable_or_elements(&slice.expr, name, key),
        (Expr::GetAttr(get), Some(key)) => get.name == key && variable(&get.expr) == Some(name),
        (Expr::GetItem(get), Some(key)) => {
            let subscript = match &get.subscript_expr {
                Expr::Const(constant) => constant.value.as_str(),
                _ => None,
            };
            subscript == Some(key) && variable(&get.expr) == Some(name)
        }
        (_, Some(_)) => false,
        (_, None) => variable(expr) == Some(name),
    }
}

fn variable<'a>(expr: &Expr<'a>) -> Option<&'a str> {
    match expr {
        Expr::Var(variable) => Some(variable.id),
        _ => None,
    }
}

/// All assignments and loops of a template, at any depth.
#[derive(Default)]
struct Statements<'t, 's> {
    sets: Vec<&'t Spanned<Set<'s>>>,
    loops: Vec<&'t Spanned<ForLoop<'s>>>,
}

impl<'t, 's> Statements<'t, 's> {
    /// The parser bounds the depth.
    fn collect(&mut self, statement: &'t Stmt<'s>) {
        match statement {
            Stmt::Set(set) => self.sets.push(set),
            Stmt::ForLoop(each) => {
                self.loops.push(each);
                self.collect_all(&each.body);
                self.collect_all(&each.else_body);
            }
            Stmt::IfCond(condition) => {
                self.collect_all(&condition.true_body);
                self.collect_all(&condition.false_body);
            }
            Stmt::Template(block) => self.collect_all(&block.children),
            Stmt::WithBlock(block) => self.collect_all(&block.body),
            Stmt::SetBlock(block) => self.collect_all(&block.body),
            Stmt::AutoEscape(block) => self.collect_all(&block.body),
            Stmt::FilterBlock(block) => self.collect_all(&block.body),
            Stmt::Macro(definition) => self.collect_all(&definition.body),
            Stmt::CallBlock(block) => self.collect_all(&block.macro_decl.body),
            _ => {}
        }
    }

    fn collect_all(&mut self, statements: &'t [Stmt<'s>]) {
        for statement in statements {
            self.collect(statement);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        use ContentFormat::{Parts, Text};
        for (source, expected) in [
            ("{% for m in messages %}{{ m.content }}{% endfor %}", Text),
            (
                "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
                Parts,
            ),
            (
                "{% for m in messages %}{% for c in m['content'] | list %}{% endfor %}{% endfor %}",
                Parts,
            ),
            (
                "{% set loop_messages = messages[1:] %}{% for m in loop_messages %}{% if m.content is not string %}\
                 {% for c in m.content %}{% endfor %}{% endif %}{% endfor %}",
                Parts,
            ),
            (
                "{% set a = messages %}{% set b = a %}{% set a = b %}{% for m in b %}{% endfor %}",
                Text,
            ),
            (
                "{% macro show(m) %}{% for c in m.content %}{% endfor %}{% endmacro %}",
                Text,
            ),
            (
                "{% for m, n in messages %}{% for c in m.content %}{% endfor %}{% endfor %}",
                Text,
            ),
            (
                "{% for m in messages %}{% for c in m.tool_calls %}{% endfor %}{% endfor %}",
                Text,
            ),
        ] {
            assert_eq!(detect(source, SyntaxConfig::default()).unwrap(), expected, "{source}");
        }
    }
}
