//! WordPiece models: the longest token that a word starts with, then the longest of those that go on with what is left, and so
//! on (`models/wordpiece` of `tokenizers` 0.23). And WordLevel models, whose tokens are words.

use super::double_array::{DoubleArray, Node};
use super::tables::{BAD, Kind, Meta, NO_SYMBOL};
use crate::limits::MAX_TEXT;
use crate::{EncodeError, LoadError};
use work::Work;

/// What a byte costs that is looked at, in nanoseconds (see [`work`]).
const STEP: u64 = 5;

/// The tables of a WordPiece or WordLevel model.
#[derive(Clone, Copy)]
pub(super) struct WordPiece<'a> {
    pub(super) meta: Meta,
    /// From tokens to their ids.
    pub(super) tokens: DoubleArray<'a>,
    /// What tokens that go on with a word start with (`##`).
    pub(super) continuation: &'a [u8],
}

impl WordPiece<'_> {
    /// That there is a limit to what each word begins with. Ids are looked at when they are found.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        (self.continuation.len() <= MAX_TEXT).then_some(()).ok_or(BAD)
    }

    /// Appends the ids of a word. One that is too long or cannot be split has the unknown one.
    pub(super) fn encode(&self, word: &str, work: &Work, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        let before = ids.len();
        let is_known = match self.meta.kind {
            Kind::WordLevel => self.push_whole(word, ids),
            _ => self.push_pieces(word, work, ids)?,
        };
        if !is_known {
            ids.truncate(before);
            if self.meta.unknown == NO_SYMBOL {
                return Err(EncodeError::Failed("a word is not in the vocabulary".to_owned()));
            }
            ids.push(self.meta.unknown);
        }
        Ok(())
    }

    fn push_whole(&self, word: &str, ids: &mut Vec<u32>) -> bool {
        let node = self.tokens.walk(self.tokens.root(), word.as_bytes());
        let id = node.and_then(|node| self.id(node));
        ids.extend(id);
        id.is_some()
    }

    fn push_pieces(&self, word: &str, work: &Work, ids: &mut Vec<u32>) -> Result<bool, EncodeError> {
        if word.chars().count() > self.meta.longest_word as usize {
            return Ok(false);
        }
        work.take(self.continuation.len(), STEP)?;
        let root = self.tokens.root();
        let continuation = self.tokens.walk(root, self.continuation);
        let (mut start, mut rest) = (Some(root), word.as_bytes());
        while !rest.is_empty() {
            let longest = start.map(|start| self.longest(start, rest, work)).transpose()?;
            let Some((length, id)) = longest.flatten() else {
                return Ok(false);
            };
            ids.push(id);
            (start, rest) = (continuation, rest.get(length..).unwrap_or_default());
        }
        Ok(true)
    }

    /// Length and id of the longest token that goes on from `start` as `text` does.
    fn longest(&self, start: Node, text: &[u8], work: &Work) -> Result<Option<(usize, u32)>, EncodeError> {
        let (mut node, mut longest, mut looked) = (start, None, 0);
        for (length, byte) in (1..).zip(text) {
            looked = length;
            let Some(next) = self.tokens.child(node, *byte) else {
                break;
            };
            node = next;
            longest = self.id(node).map(|id| (length, id)).or(longest);
        }
        work.take(looked, STEP)?;
        Ok(longest)
    }

    fn id(&self, node: Node) -> Option<u32> {
        self.tokens.value(node).filter(|id| *id < self.meta.vocab_size)
    }
}
