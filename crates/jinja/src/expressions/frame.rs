//! What is known of an expression while it is read, and what is to be written into it.

use std::cmp::Reverse;

/// What is between brackets, or in a tag.
#[derive(Default)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) has_names: bool,
    pub(super) has_commas: bool,
    pub(super) has_colons: bool,
    /// The deepest of what was before the last comma.
    pub(super) deepest: usize,
    /// What comes after it.
    pub(super) item: Item,
}

/// What the brackets around it make it. The numbers are positions in the source.
#[derive(Default, Clone, Copy)]
pub(super) enum Kind {
    /// A list, a dict, a tuple, or something in parentheses, which starts there.
    Literal { start: usize, is_round: bool },
    /// What is looked up in a value that starts at `value`.
    Subscript { value: usize, start: usize },
    /// A tag, or what a function is called with.
    #[default]
    Other,
}

/// An expression without commas.
#[derive(Default)]
pub(super) struct Item {
    /// How many operators and the like there are, and how deep what is in brackets between them nests.
    pub(super) links: usize,
    pub(super) inside: usize,
    /// What the last comparison has at its left, and what the next has.
    pub(super) left: Option<Operand>,
    pub(super) comparison: Option<Comparison>,
    pub(super) sum: Sum,
}

/// What stands at one side of a comparison.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) is_small: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    /// `==`, `<` and so on.
    Order,
    /// `in`, `not in`.
    Contains,
}

/// What can be an operand of a comparison.
#[derive(Default)]
pub(super) struct Sum {
    /// Where it starts, and where the operands start to which a `~` and a `%` would belong, and an index.
    pub(super) start: Option<usize>,
    pub(super) concat: Option<usize>,
    pub(super) product: Option<usize>,
    pub(super) primary: Option<usize>,
    pub(super) in_concat: bool,
    pub(super) in_format: bool,
    /// Nothing but a short text, a number, or a constant.
    pub(super) is_small: bool,
    /// It has a `+`, between others than a written number or text, or a `*`: it may be a list.
    pub(super) adds: bool,
    pub(super) adds_literal: bool,
    pub(super) multiplies: bool,
}

impl Frame {
    pub(super) fn depth(&self) -> usize {
        self.deepest.max(self.item.links.saturating_add(self.item.inside))
    }
}

/// What is to be written into a source.
#[derive(Default)]
pub(super) struct Edits(Vec<Edit>);

struct Edit {
    start: usize,
    end: usize,
    text: &'static str,
    /// As against an operator that Jinja2 computes in its own way.
    is_bound: bool,
}

impl Edits {
    /// An operator, or a part of a text.
    pub(super) fn replace(&mut self, start: usize, end: usize, text: &'static str) {
        let is_bound = false;
        self.0.push(Edit {
            start,
            end,
            text,
            is_bound,
        });
    }

    /// Around what was read from `start` to `end`, and around all that is around it already.
    pub(super) fn bound(&mut self, start: usize, end: usize, [opens, closes]: [&'static str; 2]) {
        for (at, text) in [(start, opens), (end, closes)] {
            let is_bound = true;
            self.0.push(Edit {
                start: at,
                end: at,
                text,
                is_bound,
            });
        }
    }

    /// The source with them; only with bounds unless `rewrite`.
    pub(super) fn applied(self, source: &str, rewrite: bool) -> String {
        let mut edits: Vec<_> = self
            .0
            .into_iter()
            .filter(|edit| rewrite || edit.is_bound)
            .enumerate()
            .collect();
        // Of those at one place, what was added last is around the others.
        edits.sort_by_key(|(index, edit)| (edit.start, edit.end, Reverse(*index)));
        let mut rewritten = String::with_capacity(source.len());
        let mut done = 0;
        for (_, edit) in edits {
            rewritten.push_str(source.get(done..edit.start).unwrap_or_default());
            rewritten.push_str(edit.text);
            done = edit.end;
        }
        rewritten.push_str(source.get(done..).unwrap_or_default());
        rewritten
    }
}
