//! A trie of byte strings, read where it lies in the artefact.
//!
//! It is a double array in the layout of Darts-clone, which SentencePiece's character maps have and the crate `yada` writes:
//! little-endian units of 4 bytes, of which the node at `n` finds its child by byte `b` at `n ^ offset ^ b`.
//!
//! ```text
//! a node:   label 0..8 | has a value 8 | offset is in 256s 9 | offset 10..31 | 0
//! a value:  value 0..31 | 1, at the place of the child by byte 0
//! ```

/// A trie. Lookups are memory-safe and end for any content.
#[derive(Clone, Copy)]
pub(crate) struct DoubleArray<'a>(&'a [[u8; 4]]);

/// A place in a trie: what a text up to there leads to.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    /// Where its children are, but for their bytes.
    children: u32,
    has_value: bool,
}

const LABEL: u32 = 1 << 31 | 0xff;
const HAS_VALUE: u32 = 1 << 8;
const WIDE: u32 = 1 << 9;
const VALUE: u32 = u32::MAX >> 1;

impl<'a> DoubleArray<'a> {
    /// The trie in these bytes. What is left of a last unit is not looked at.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    /// Where the empty text leads to.
    #[inline(always)]
    pub(crate) fn root(self) -> Node {
        Node::at(0, self.unit(0).unwrap_or_default())
    }

    /// Where one more byte leads to, if anywhere. No text in a trie has a byte of 0.
    #[inline(always)]
    pub(crate) fn child(self, node: Node, byte: u8) -> Option<Node> {
        let at = node.children ^ u32::from(byte);
        let unit = self.unit(at)?;
        (unit & LABEL == u32::from(byte) && byte != 0).then(|| Node::at(at, unit))
    }

    /// The value of the text that leads to `node`, if that is in the trie.
    #[inline(always)]
    pub(crate) fn value(self, node: Node) -> Option<u32> {
        let unit = node.has_value.then(|| self.unit(node.children))?;
        unit.map(|unit| unit & VALUE)
    }

    /// Where a whole text leads to, from `node` on.
    pub(crate) fn walk(self, node: Node, text: &[u8]) -> Option<Node> {
        text.iter().try_fold(node, |node, byte| self.child(node, *byte))
    }

    /// The value of a whole text.
    pub(crate) fn get(self, text: &[u8]) -> Option<u32> {
        self.value(self.walk(self.root(), text)?)
    }

    #[inline(always)]
    fn unit(self, at: u32) -> Option<u32> {
        self.0.get(at as usize).map(|unit| u32::from_le_bytes(*unit))
    }
}

impl Node {
    #[inline(always)]
    fn at(at: u32, unit: u32) -> Self {
        let wide = if unit & WIDE == 0 { 0 } else { 8 };
        Self {
            children: at ^ (unit >> 10) << wide,
            has_value: unit & HAS_VALUE != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use yada::builder::DoubleArrayBuilder;

    proptest! {
        #[test]
        fn what_was_put_in_is_found_and_nothing_else(
            texts in proptest::collection::btree_map("[a-c\u{e9}\u{4e2d}]{1,6}", 0..1_u32 << 31, 1..60),
            others in proptest::collection::vec("[a-d\u{e9}\u{4e2d}\0]{0,7}", 0..60),
        ) {
            let texts: BTreeMap<String, u32> = texts;
            let sorted: Vec<(&str, u32)> = texts.iter().map(|(text, value)| (text.as_str(), *value)).collect();
            let bytes = DoubleArrayBuilder::build(&sorted).unwrap();
            let trie = DoubleArray::new(&bytes);
            for text in texts.keys().chain(&others) {
                prop_assert_eq!(trie.get(text.as_bytes()), texts.get(text).copied(), "{:?}", text);
            }
        }

        #[test]
        fn any_bytes_may_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..600), text in any::<Vec<u8>>()) {
            let _ = DoubleArray::new(&bytes).get(&text);
        }
    }
}
