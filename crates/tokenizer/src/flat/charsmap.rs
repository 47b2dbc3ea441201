//! SentencePiece's precompiled character map, used where it lies in the artefact.
//!
//! It is the length of a trie in bytes (4 bytes, little-endian), the trie, and texts that end with a zero byte, of which
//! the values of the trie are the places (`normalizer.cc` of SentencePiece). It is applied as `tokenizers` 0.23 does: to
//! grapheme clusters of up to 5 bytes, else to characters, and of all beginnings of one that are in the map to the shortest.

use std::borrow::Cow;

use unicode_segmentation::UnicodeSegmentation;

use super::double_array::DoubleArray;

/// Longest cluster that is looked up as a whole, in bytes.
const LONGEST: usize = 5;

/// A character map.
#[derive(Clone, Copy)]
pub(crate) struct Charsmap<'a> {
    trie: DoubleArray<'a>,
    texts: &'a [u8],
}

impl<'a> Charsmap<'a> {
    /// The map in these bytes, if they are one.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (trie, texts) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let trie = DoubleArray::new(trie);
        Some(Self { trie, texts })
    }

    /// Length of the longest text that may take the place of another one.
    pub(crate) fn longest_text(self) -> usize {
        let texts = self.texts.split(|byte| *byte == 0);
        texts.map(<[u8]>::len).max().unwrap_or_default()
    }

    /// `text` with all that is in the map replaced; `None` once that has more than `longest` bytes.
    pub(super) fn apply<'t>(self, text: &'t str, longest: usize) -> Option<Cow<'t, str>> {
        let mut changed: Option<String> = None;
        let mut rest = text;
        while !rest.is_empty() {
            if changed.as_ref().is_some_and(|changed| changed.len() > longest) {
                return None;
            }
            let (cluster, after) = rest.split_at(first_cluster(rest));
            let done = text.len().wrapping_sub(rest.len());
            let start = || text.get(..done).unwrap_or_default().to_owned();
            rest = after;
            if let Some(replacement) = self.of_cluster(cluster) {
                changed.get_or_insert_with(start).push_str(replacement);
            } else if cluster.len() > 1 && cluster.chars().any(|character| self.of_char(character).is_some()) {
                let changed = changed.get_or_insert_with(start);
                for character in cluster.chars() {
                    match self.of_char(character) {
                        Some(replacement) => changed.push_str(replacement),
                        None => changed.push(character),
                    }
                }
            } else if let Some(changed) = &mut changed {
                changed.push_str(cluster);
            }
        }
        Some(changed.map_or(Cow::Borrowed(text), Cow::Owned))
    }

    #[inline]
    fn of_cluster(self, cluster: &str) -> Option<&'a str> {
        (cluster.len() <= LONGEST).then(|| self.replacement(cluster))?
    }

    fn of_char(self, character: char) -> Option<&'a str> {
        self.replacement(character.encode_utf8(&mut [0; 4]))
    }

    /// What takes the place of `text`: that of its shortest beginning in the map.
    #[inline]
    fn replacement(self, text: &str) -> Option<&'a str> {
        let mut node = self.trie.root();
        for byte in text.bytes() {
            node = self.trie.child(node, byte)?;
            if let Some(place) = self.trie.value(node) {
                let text = self.texts.get(place as usize..)?.split(|byte| *byte == 0).next()?;
                return std::str::from_utf8(text).ok();
            }
        }
        None
    }
}

/// Length of the first grapheme cluster. There is a boundary between any two ASCII characters but CR and LF, and behind those
/// (GB3, GB4 and GB999 of Unicode's Annex 29).
#[inline]
fn first_cluster(text: &str) -> usize {
    match text.as_bytes() {
        [b'\r', b'\n', ..] => 2,
        [first, second, ..] if first.is_ascii() && second.is_ascii() => 1,
        _ => text.graphemes(true).next().map_or(text.len(), str::len),
    }
}
