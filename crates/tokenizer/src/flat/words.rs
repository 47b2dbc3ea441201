//! Words of a text that no pre-tokenizer has cut.
//!
//! SentencePiece models mark spaces (`▁`) and merge whole texts, in which nothing is remembered and every merge is queued.
//! But what is never in one token is never merged: where no token has a mark after a letter, a digit, a comma or a full
//! stop, merging what stands before such a mark and what starts with it gives what merging both gives. The same goes for
//! line feeds, where no token has them beside anything else.

use tk_encode::pipeline::Span;

/// In UTF-8.
const MARK: &str = "▁";

/// Cuts `words` of `text` further. `spare` is room to do so in.
pub(super) fn cut(text: &str, words: &mut Vec<Span>, spare: &mut Vec<Span>) {
    spare.clear();
    for &Span { mut start, end } in words.iter() {
        let offset = start;
        for at in starts(text.get(start as usize..end as usize).unwrap_or_default()) {
            let here = offset.wrapping_add(at as u32);
            spare.push(Span { start, end: here });
            start = here;
        }
        spare.push(Span { start, end });
    }
    std::mem::swap(words, spare);
}

/// Whether words of a model with these tokens may be cut.
pub(crate) fn can_be_cut<'t>(mut tokens: impl Iterator<Item = &'t str>) -> bool {
    !tokens.any(|token| starts(token).next().is_some())
}

/// Where words start inside a text.
fn starts(text: &str) -> impl Iterator<Item = usize> {
    let pairs = text.as_bytes().windows(2);
    pairs.enumerate().filter_map(move |(at, pair)| {
        let [before, first] = pair else { return None };
        let at = at.wrapping_add(1);
        let line_feed = (*before == b'\n') != (*first == b'\n');
        let is_start = line_feed
            || (*first == 0xe2
                && (before.is_ascii_alphanumeric() || matches!(before, b',' | b'.'))
                && text.get(at..).is_some_and(|rest| rest.starts_with(MARK)));
        is_start.then_some(at)
    })
}
