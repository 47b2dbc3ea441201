//! Expressions in a template's source: bounded, and brought to what minijinja computes as Jinja2 computes the original.
//!
//! minijinja has no hook for operators. So `a ~ b` becomes `__concat(a, b)`, and `'%s' % b` becomes `__format('%s', b)` (see
//! [`crate::install`]). A `+` before an operand goes, and escapes in texts become
//! those of Python.

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

/// How deep an expression may nest, through operators, filters, attributes and so on: minijinja walks the tree of an
/// expression by recursion, and Jinja2 itself gives up at about as many. Also how many `elif` a template may have.
const MAX_DEPTH: usize = 300;

/// The source with the operators replaced, unless it has syntax errors; fails if it nests too deeply.
pub fn rewritten(source: &str, syntax: &SyntaxConfig, rewrite: bool) -> Result<String, Error> {
    let mut reader = Reader {
        source,
        edits: Vec::new(),
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
    Ok(if rewrite { reader.applied() } else { source.to_owned() })
}

struct Reader<'s> {
    source: &'s str,
    /// Start and end of what is replaced, and by what. Those at one place take effect in their order.
    edits: Vec<(usize, usize, &'static str)>,
    frames: Vec<Frame>,
    elifs: usize,
    last: Last,
    last_end: usize,
    /// Where the text begins that the last token is.
    literal: Option<usize>,
}

/// What stood before a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Something that can be the left side of an operator.
    Operand,
    /// `is`, or `is not`: a name of a test comes, even if it is `in`.
    Is,
    /// `.` or `|`: a name comes, whatever it is.
    Dot,
    BlockStart,
    Other,
}

/// What is between brackets, or in a tag.
#[derive(Default)]
struct Frame {
    /// Where the operands begin to which `%` and `~` would belong.
    product: Option<usize>,
    concat: Option<usize>,
    in_format: bool,
    in_concat: bool,
    /// How many operators and the like there are since the last comma, and how deep what is in brackets between them nests.
    links: usize,
    inside: usize,
    /// The deepest of what was before that comma.
    deepest: usize,
}

impl Frame {
    fn depth(&self) -> usize {
        self.deepest.max(self.links.saturating_add(self.inside))
    }
}

impl Reader<'_> {
    fn read(&mut self, token: &Token<'_>, span: Span) -> Result<(), Error> {
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let after = self.last;
        self.last = match token {
            Token::TemplateData(_) => Last::Other,
            Token::VariableStart | Token::BlockStart => {
                self.frames = vec![Frame::default()];
                if matches!(token, Token::BlockStart) {
                    Last::BlockStart
                } else {
                    Last::Other
                }
            }
            Token::VariableEnd | Token::BlockEnd => {
                self.end_sum();
                Last::Other
            }
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                if after == Last::Operand {
                    self.link()?;
                } else {
                    self.operand(start);
                }
                self.frames.push(Frame::default());
                bounded(self.frames.len())?;
                Last::Other
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                self.end_sum();
                let depth = self.frames.pop().map_or(0, |frame| frame.depth());
                if let Some(outer) = self.frames.last_mut() {
                    outer.inside = outer.inside.max(depth.saturating_add(1));
                }
                Last::Operand
            }
            Token::Comma => {
                self.end_sum();
                if let Some(frame) = self.frames.last_mut() {
                    *frame = Frame {
                        deepest: frame.depth(),
                        ..Frame::default()
                    };
                }
                Last::Other
            }
            Token::Ident(name) => match (after, *name) {
                (Last::BlockStart, "elif") => {
                    self.elifs = self.elifs.saturating_add(1);
                    bounded(self.elifs)?;
                    Last::Other
                }
                (Last::BlockStart, _) => Last::Other,
                (Last::Is, "not") => Last::Is,
                (Last::Is | Last::Dot, _) => Last::Operand,
                (Last::Operand, "is") => {
                    self.link()?;
                    Last::Is
                }
                (_, "and" | "or" | "not" | "in" | "if" | "else" | "recursive") => {
                    self.link()?;
                    self.end_sum();
                    Last::Other
                }
                _ => {
                    self.operand(start);
                    Last::Operand
                }
            },
            Token::Str(_) | Token::String(_) => {
                self.operand(start);
                self.escapes(start, end)?;
                Last::Operand
            }
            Token::Int(_) | Token::Int128(_) | Token::Float(_) => {
                self.operand(start);
                Last::Operand
            }
            Token::Dot | Token::Pipe => {
                self.link()?;
                Last::Dot
            }
            Token::Minus if after != Last::Operand => {
                self.operand(start);
                Last::Other
            }
            Token::Plus if after != Last::Operand => {
                self.operand(start);
                self.edits.push((start, end, " "));
                Last::Other
            }
            Token::Pow => {
                self.link()?;
                Last::Other
            }
            Token::Mul | Token::Div | Token::FloorDiv => {
                self.link()?;
                self.end_format();
                Last::Other
            }
            Token::Mod => {
                self.link()?;
                self.end_format();
                if let Some(frame) = self.frames.last_mut()
                    && let Some(at) = frame.product
                    && self.literal == Some(at)
                {
                    frame.in_format = true;
                    self.edits.push((at, at, "__format("));
                    self.edits.push((start, end, ","));
                }
                Last::Other
            }
            Token::Tilde => {
                self.link()?;
                self.end_format();
                if let Some(frame) = self.frames.last_mut()
                    && let Some(at) = frame.concat
                {
                    if !frame.in_concat {
                        frame.in_concat = true;
                        self.edits.push((at, at, "__concat("));
                    }
                    frame.product = None;
                    self.edits.push((start, end, ","));
                }
                Last::Other
            }
            _ => {
                self.link()?;
                self.end_sum();
                Last::Other
            }
        };
        self.last_end = end;
        self.literal = matches!(token, Token::Str(_) | Token::String(_)).then_some(start);
        Ok(())
    }

    /// One more level of the tree.
    fn link(&mut self) -> Result<(), Error> {
        if let Some(frame) = self.frames.last_mut() {
            frame.links = frame.links.saturating_add(1);
        }
        bounded(self.frames.last().map_or(0, Frame::depth))
    }

    /// An operand starts, unless it goes on already.
    fn operand(&mut self, start: usize) {
        if let Some(frame) = self.frames.last_mut() {
            frame.product.get_or_insert(start);
            frame.concat.get_or_insert(start);
        }
    }

    fn end_format(&mut self) {
        if let Some(frame) = self.frames.last_mut()
            && frame.in_format
        {
            frame.in_format = false;
            self.edits.push((self.last_end, self.last_end, ")"));
        }
    }

    /// The last operand of a `~` ends, if there is one.
    fn end_sum(&mut self) {
        self.end_format();
        if let Some(frame) = self.frames.last_mut() {
            if frame.in_concat {
                self.edits.push((self.last_end, self.last_end, ")"));
            }
            frame.in_concat = false;
            (frame.product, frame.concat) = (None, None);
        }
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
                    Some('a') => self.edits.push((at, after, "\\x07")),
                    Some('v') => self.edits.push((at, after, "\\x0b")),
                    Some('/') => self.edits.push((at, after, "\\\\/")),
                    Some('U' | 'N') => return Err(Error::new(ErrorKind::BadEscape, "`\\U` and `\\N` are not known")),
                    _ => {}
                }
                at = at.saturating_add(escaped.map_or(0, char::len_utf8));
            }
            at = at.saturating_add(character.len_utf8());
        }
        Ok(())
    }

    fn applied(mut self) -> String {
        // What opens at one place: `__concat(` around `__format(`.
        self.edits
            .sort_by_key(|(start, end, text)| (*start, *end, *text != "__concat("));
        let mut rewritten = String::with_capacity(self.source.len());
        let mut done = 0;
        for (start, end, text) in self.edits {
            rewritten.push_str(self.source.get(done..start).unwrap_or_default());
            rewritten.push_str(text);
            done = end;
        }
        rewritten.push_str(self.source.get(done..).unwrap_or_default());
        rewritten
    }
}

fn bounded(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::SyntaxError, "the template nests too deeply"));
    }
    Ok(())
}
