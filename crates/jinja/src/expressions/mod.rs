//! Expressions in a template's source: bounded, and brought to what minijinja computes as Jinja2 computes the original.
//!
//! minijinja has no hook for operators. So `a ~ b` becomes `__concat(a, b)`, and `'%s' % b` becomes `__format('%s', b)` (see
//! [`crate::install`]). A `+` before an operand goes, and escapes in texts become
//! those of Python.
//!
//! Nor does it ask for fuel wherever time goes. So what makes lists, dicts and tuples, what adds and repeats lists, what compares
//! and what looks up goes through functions that do (see [`crate::bounds`]): `[a, b]` becomes `__paid([a, b])`, and `a == b`
//! becomes `a == __paid(b)`.

mod frame;

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

use frame::{Comparison, Edits, Frame, Item, Kind, Operand, Sum};

/// How deep an expression may nest, through operators, filters, attributes and so on: minijinja walks the tree of an
/// expression by recursion, and Jinja2 itself gives up at about as many. Also how many `elif` a template may have.
const MAX_DEPTH: usize = 300;

/// Longer names are looked up by reading all of them.
const MAX_NAME: usize = 256;

/// A written text of at most so many bytes is compared in no time, and a text's character with a number of so many digits is
/// found in none.
const SMALL_TEXT: usize = 64;
const SMALL_NUMBER: usize = 2;

/// The source bounded, with `rewrite` also with the operators replaced, unless it has syntax errors; fails if it nests too deeply.
pub fn rewritten(source: &str, syntax: &SyntaxConfig, rewrite: bool) -> Result<String, Error> {
    let mut reader = Reader {
        source,
        edits: Edits::default(),
        tag: Tag::Other,
        frames: Vec::new(),
        elifs: 0,
        last: Last::Other,
        last_end: 0,
        literal: None,
    };
    for token in tokenize(source, false, syntax.clone()) {
        // What is wrong is told when the source is compiled.
        let Ok((token, span)) = token else {
            return Ok(source.to_owned());
        };
        reader.read(&token, span)?;
    }
    Ok(reader.edits.applied(source, rewrite))
}

struct Reader<'s> {
    source: &'s str,
    edits: Edits,
    tag: Tag,
    frames: Vec<Frame>,
    elifs: usize,
    last: Last,
    last_end: usize,
    /// The text or the number that the last token is.
    literal: Option<Literal>,
}

struct Literal {
    start: usize,
    is_text: bool,
}

/// What stood before a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Something that can be the left side of an operator.
    Operand,
    /// The name of a test: operators follow, or what is tested with.
    Test,
    /// `is`, or `is not`: a name of a test comes, even if it is `in`.
    Is,
    /// `.` or `|`: a name comes, whatever it is.
    Dot,
    BlockStart,
    Other,
}

/// Where in a tag the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// In the names of a `for` or a `set`; with a dot, an attribute is set.
    Target {
        is_set: bool,
        has_dot: bool,
    },
    /// In what a `set` gives to a name, or to an attribute, from here on.
    Value {
        start: usize,
        to_attribute: bool,
    },
    Other,
}

impl Reader<'_> {
    fn read(&mut self, token: &Token<'_>, span: Span) -> Result<(), Error> {
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let after = self.last;
        let is_operand = matches!(after, Last::Operand | Last::Test);
        let mut literal = None;
        self.last = match token {
            Token::TemplateData(_) => Last::Other,
            Token::VariableStart | Token::BlockStart => {
                self.frames = vec![Frame::default()];
                self.tag = Tag::Other;
                if matches!(token, Token::BlockStart) {
                    Last::BlockStart
                } else {
                    Last::Other
                }
            }
            Token::VariableEnd | Token::BlockEnd => {
                self.end_sum();
                self.end_value();
                Last::Other
            }
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                self.open(token, start, after)?;
                Last::Other
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                self.close(end);
                Last::Operand
            }
            Token::Comma => {
                self.end_sum();
                if let Some(frame) = self.frames.last_mut() {
                    frame.deepest = frame.depth();
                    frame.has_commas = true;
                    frame.item = Item::default();
                }
                Last::Other
            }
            Token::Ident(name) if name.len() > MAX_NAME => {
                return Err(Error::new(ErrorKind::SyntaxError, "a name has more than 256 letters"));
            }
            Token::Ident(name) => match (after, *name) {
                (Last::BlockStart, "elif") => {
                    self.elifs = self.elifs.saturating_add(1);
                    bounded(self.elifs)?;
                    Last::Other
                }
                // Parameters follow, as if it were called with them.
                (Last::BlockStart, "call") => Last::Operand,
                (Last::BlockStart, name) => {
                    if matches!(name, "for" | "set") {
                        let is_set = name == "set";
                        self.tag = Tag::Target { is_set, has_dot: false };
                    }
                    Last::Other
                }
                (Last::Is, "not") => Last::Is,
                (Last::Is, _) => Last::Test,
                (Last::Dot, _) => Last::Operand,
                (Last::Operand | Last::Test, "is") => {
                    self.link()?;
                    Last::Is
                }
                (_, "and" | "or" | "not" | "in" | "if" | "else" | "recursive") => {
                    self.end_sum();
                    self.link()?;
                    if matches!(self.tag, Tag::Target { .. }) {
                        self.tag = Tag::Other;
                    } else if *name == "in" {
                        self.compares(Comparison::Contains);
                    }
                    Last::Other
                }
                // As which a template could take the bounds away.
                (_, name) if name.starts_with("__") => {
                    return Err(Error::new(ErrorKind::SyntaxError, "names with `__` are Python's own"));
                }
                (_, name) => {
                    let is_constant = matches!(name, "true" | "True" | "false" | "False" | "none" | "None");
                    self.operand(start, is_constant);
                    if let Some(frame) = self.frames.last_mut() {
                        frame.has_names |= !is_constant;
                    }
                    Last::Operand
                }
            },
            Token::Str(_) | Token::String(_) => {
                self.operand(start, end.saturating_sub(start) <= SMALL_TEXT);
                self.escapes(start, end)?;
                literal = Some(Literal { start, is_text: true });
                Last::Operand
            }
            Token::Int(_) | Token::Int128(_) | Token::Float(_) => {
                self.operand(start, end.saturating_sub(start) <= SMALL_NUMBER);
                literal = Some(Literal { start, is_text: false });
                Last::Operand
            }
            Token::Dot | Token::Pipe => {
                self.link()?;
                if let Tag::Target { has_dot, .. } = &mut self.tag {
                    *has_dot = true;
                }
                Last::Dot
            }
            Token::Minus if !is_operand => {
                self.operand(start, false);
                Last::Other
            }
            Token::Plus if !is_operand => {
                self.operand(start, false);
                self.edits.replace(start, end, " ");
                Last::Other
            }
            Token::Plus | Token::Minus => {
                self.link()?;
                self.end_term();
                if let Some(sum) = self.sum() {
                    sum.adds |= matches!(token, Token::Plus);
                }
                Last::Other
            }
            Token::Pow => {
                self.link()?;
                Last::Other
            }
            Token::Mul | Token::Div | Token::FloorDiv => {
                self.link()?;
                self.end_format();
                if let Some(sum) = self.sum() {
                    sum.multiplies |= matches!(token, Token::Mul);
                }
                Last::Other
            }
            Token::Mod => {
                self.link()?;
                self.end_format();
                let text = self.literal.as_ref().filter(|literal| literal.is_text);
                if let Some(at) = text.map(|text| text.start)
                    && let Some(sum) = self.sum()
                    && sum.product == Some(at)
                {
                    sum.in_format = true;
                    self.edits.replace(at, at, "__format(");
                    self.edits.replace(start, end, ",");
                }
                Last::Other
            }
            Token::Tilde => {
                self.link()?;
                self.end_format();
                if let Some(sum) = self.sum()
                    && let Some(at) = sum.concat
                {
                    let begins = !sum.in_concat;
                    sum.in_concat = true;
                    sum.product = None;
                    if begins {
                        self.edits.replace(at, at, "__concat(");
                    }
                    self.edits.replace(start, end, ",");
                }
                Last::Other
            }
            _ => {
                self.end_sum();
                self.link()?;
                match (token, self.tag, self.frames.last_mut()) {
                    (Token::Assign, Tag::Target { is_set: true, has_dot }, Some(frame)) => {
                        // What is given counts, not what to.
                        (frame.has_names, frame.has_commas) = (false, false);
                        let (start, to_attribute) = (end, has_dot);
                        self.tag = Tag::Value { start, to_attribute };
                    }
                    (Token::Colon, _, Some(frame)) => frame.has_colons = true,
                    (Token::Eq | Token::Ne | Token::Gt | Token::Gte | Token::Lt | Token::Lte, _, _) => {
                        self.compares(Comparison::Order);
                    }
                    _ => {}
                }
                Last::Other
            }
        };
        self.last_end = end;
        self.literal = literal;
        Ok(())
    }

    /// A bracket opens.
    fn open(&mut self, token: &Token<'_>, start: usize, after: Last) -> Result<(), Error> {
        let is_round = matches!(token, Token::ParenOpen);
        let value = self.sum().and_then(|sum| sum.primary);
        let kind = match (after, token, value) {
            (Last::Operand, Token::BracketOpen, Some(value)) => Kind::Subscript { value, start },
            (Last::Operand, _, _) | (Last::Test, Token::ParenOpen, _) => Kind::Other,
            _ if matches!(self.tag, Tag::Target { .. }) => Kind::Other,
            _ => Kind::Literal { start, is_round },
        };
        if matches!(after, Last::Operand | Last::Test) {
            self.link()?;
        }
        if after != Last::Operand {
            self.operand(start, false);
        }
        self.frames.push(Frame {
            kind,
            ..Frame::default()
        });
        bounded(self.frames.len())
    }

    /// A bracket closes, and ends there.
    fn close(&mut self, end: usize) {
        let key = self.end_sum();
        let frame = self.frames.pop().unwrap_or_default();
        if let Some(outer) = self.frames.last_mut() {
            outer.item.inside = outer.item.inside.max(frame.depth().saturating_add(1));
            outer.has_names |= frame.has_names;
        }
        // What is between the brackets, if it has no operators.
        let key = key.filter(|_| frame.item.links == 0);
        match frame.kind {
            Kind::Literal { start, is_round } if frame.has_names && (frame.has_commas || !is_round) => {
                self.edits.bound(start, end, ["__paid(", ")"]);
            }
            Kind::Subscript { value, start } if frame.has_colons => {
                self.edits.bound(value, start, ["__sliced(", ")"]);
                self.edits.bound(value, end, ["__whole(", ")"]);
            }
            Kind::Subscript { value, start } if !key.is_some_and(|key| key.is_small) => {
                self.edits.bound(value, start, ["__indexed(", ")"]);
                let first = start.saturating_add(1);
                if frame.has_names || self.last_end.saturating_sub(first) > SMALL_TEXT {
                    self.edits.bound(first, self.last_end, ["__paid(", ")"]);
                }
            }
            _ => {}
        }
    }

    /// One more level of the tree.
    fn link(&mut self) -> Result<(), Error> {
        if let Some(frame) = self.frames.last_mut() {
            frame.item.links = frame.item.links.saturating_add(1);
            frame.item.sum.is_small = false;
        }
        bounded(self.frames.last().map_or(0, Frame::depth))
    }

    fn sum(&mut self) -> Option<&mut Sum> {
        self.frames.last_mut().map(|frame| &mut frame.item.sum)
    }

    /// An operand starts, unless it goes on already.
    fn operand(&mut self, start: usize, is_small: bool) {
        if let Some(sum) = self.sum() {
            sum.is_small = is_small && sum.start.is_none();
            sum.start.get_or_insert(start);
            sum.product.get_or_insert(start);
            sum.concat.get_or_insert(start);
            sum.primary = Some(start);
        }
    }

    fn compares(&mut self, comparison: Comparison) {
        if let Some(frame) = self.frames.last_mut() {
            frame.item.comparison = Some(comparison);
        }
    }

    fn end_format(&mut self) {
        if let Some(sum) = self.sum()
            && sum.in_format
        {
            sum.in_format = false;
            self.edits.replace(self.last_end, self.last_end, ")");
        }
    }

    /// An operand of a `+` or `-` ends, and with it the last of a `~`, if there is one.
    fn end_term(&mut self) {
        self.end_format();
        let (literal, last_end) = (self.literal.as_ref().map(|literal| literal.start), self.last_end);
        if let Some(sum) = self.sum() {
            sum.adds_literal |= literal.is_some() && sum.product == literal;
            let ends = sum.in_concat;
            sum.in_concat = false;
            (sum.product, sum.concat) = (None, None);
            if ends {
                self.edits.replace(last_end, last_end, ")");
            }
        }
    }

    /// What can be an operand of a comparison ends, if there is such.
    fn end_sum(&mut self) -> Option<Operand> {
        self.end_term();
        let end = self.last_end;
        let frame = self.frames.last_mut()?;
        let sum = std::mem::take(&mut frame.item.sum);
        let comparison = frame.item.comparison.take();
        let (start, is_small) = (sum.start?, sum.is_small);
        let right = Operand { start, end, is_small };
        let left = frame.item.left.replace(right);
        if frame.has_names && (sum.multiplies || (sum.adds && !sum.adds_literal)) {
            self.edits.bound(start, end, ["__whole(", ")"]);
        }
        if let (Some(comparison), Some(left)) = (comparison, left)
            && !left.is_small
        {
            match comparison {
                Comparison::Order if !is_small => self.edits.bound(start, end, ["__paid(", ")"]),
                Comparison::Order => {}
                Comparison::Contains => {
                    self.edits.bound(left.start, left.end, ["__paid(", ")"]);
                    self.edits.bound(start, end, ["__searched(", ")"]);
                }
            }
        }
        Some(right)
    }

    /// What a `set` gives ends.
    fn end_value(&mut self) {
        let Tag::Value { start, to_attribute } = self.tag else {
            return;
        };
        let (has_names, is_tuple) = self
            .frames
            .last()
            .map_or((false, false), |frame| (frame.has_names, frame.has_commas));
        let bound = match (is_tuple, to_attribute) {
            _ if !has_names => return,
            (true, _) => [" __paid((", "))"],
            (false, true) => [" __kept((", "))"],
            (false, false) => return,
        };
        self.edits.bound(start, self.last_end, bound);
    }

    /// What a backslash stands for in Python, where it is something else in minijinja.
    fn escapes(&mut self, start: usize, end: usize) -> Result<(), Error> {
        let mut at = start;
        let mut characters = self.source.get(start..end).unwrap_or_default().chars();
        while let Some(character) = characters.next() {
            if character == '\\' {
                let escaped = characters.next();
                let after = at.saturating_add(2);
                match escaped {
                    Some('a') => self.edits.replace(at, after, "\\x07"),
                    Some('v') => self.edits.replace(at, after, "\\x0b"),
                    Some('/') => self.edits.replace(at, after, "\\\\/"),
                    Some('U' | 'N') => return Err(Error::new(ErrorKind::BadEscape, "`\\U` and `\\N` are not known")),
                    _ => {}
                }
                at = at.saturating_add(escaped.map_or(0, char::len_utf8));
            }
            at = at.saturating_add(character.len_utf8());
        }
        Ok(())
    }
}

fn bounded(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::SyntaxError, "the template nests too deeply"));
    }
    Ok(())
}
