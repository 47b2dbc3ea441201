//! Prompts that are tokenized part by part, in pieces that are remembered one by one.

use tokenizer::{Cutter, EncodeError, Tokenizer};
use work::Work;

use crate::Part;

/// Least length of a piece that ends before a special token, in bytes; as of texts.
const LEAST: usize = 1 << 10;

/// Parts in pieces, long texts cut where their ids do not depend on the other side. The first piece starts with the first
/// part; the last one ends where the prompt does.
pub(crate) fn pieces<'a>(parts: &[Part<'a>], cutter: Cutter<'_>) -> Vec<Vec<Part<'a>>> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    let mut length = 0_usize;
    let mut end = |piece: &mut Vec<Part<'a>>| pieces.push(std::mem::take(piece));
    for &part in parts {
        match part {
            Part::Special(token) => {
                if length >= LEAST {
                    end(&mut piece);
                    length = 0;
                }
                piece.push(part);
                length = length.saturating_add(token.len());
            }
            Part::Text(text) => {
                let mut start = 0;
                for cut in cutter.plain_cuts(text) {
                    piece.push(Part::Text(text.get(start..cut).unwrap_or_default()));
                    end(&mut piece);
                    (start, length) = (cut, 0);
                }
                let rest = text.get(start..).unwrap_or_default();
                piece.push(Part::Text(rest));
                length = length.saturating_add(rest.len());
            }
        }
    }
    pieces.push(piece);
    pieces
}

pub(crate) fn bytes(parts: &[Part<'_>]) -> usize {
    parts
        .iter()
        .map(|part| part.as_str().len())
        .fold(0, usize::saturating_add)
}

/// Appends the ids of all parts.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    parts: &[Part<'_>],
    work: &Work,
    ids: &mut Vec<u32>,
) -> Result<(), EncodeError> {
    parts.iter().try_for_each(|part| match part {
        Part::Special(token) => tokenizer.encode_within(token, false, work, ids),
        Part::Text(text) => tokenizer.encode_plain_into(text, work, ids),
    })
}
