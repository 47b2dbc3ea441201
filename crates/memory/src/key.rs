//! What remembered things are found by.

use std::hash::{Hash, Hasher};

use router_core::hash::MediaRun;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{Part, Prompt};

/// Names what is remembered. Its 128 bits are as good as random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u64; 2]);

/// Half of a key is hash enough. (The derived one would hand on bytes, as arrays do.)
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self([half, _]) = *self;
        state.write_u64(half);
    }
}

/// Makes keys.
pub(crate) struct Keys(SipHasher13);

/// What a key is of. Every message starts with it, and of one kind each field has a fixed length, says its own, or is the
/// last: so no two things have one message.
#[repr(u64)]
enum Kind {
    Piece,
    FirstPiece,
    Parts,
    Root,
    Place,
    Image,
}

impl Keys {
    pub(crate) fn new([key0, key1]: [u64; 2]) -> Self {
        Self(SipHasher13::new_with_keys(key0, key1))
    }

    /// Of a piece by itself: its tokens depend on the tokenizer, its bytes, and whether a text starts with it.
    pub(crate) fn of_piece(&self, tokenizer: [u8; 16], is_first: bool, piece: &str) -> Key {
        let kind = if is_first { Kind::FirstPiece } else { Kind::Piece };
        self.of(kind, &[&tokenizer, piece.as_bytes()])
    }

    /// Of a piece of parts by itself: its tokens depend on the tokenizer, on the parts and on where each ends.
    pub(crate) fn of_parts(&self, tokenizer: [u8; 16], parts: &[Part<'_>]) -> Key {
        let mut hasher = self.hasher(Kind::Parts);
        hasher.write(&tokenizer);
        for part in parts {
            let (kind, text) = match part {
                Part::Special(token) => (0_u8, token),
                Part::Text(text) => (1, text),
            };
            hasher.write(&[kind]);
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
        key(&hasher)
    }

    /// Of the state before the first piece.
    pub(crate) fn of_root(&self, prompt: &Prompt<'_>, add_special_tokens: bool) -> Key {
        let blocks = [
            u64::from(prompt.layout.block_size.get()),
            u64::from(prompt.layout.eagle),
            prompt.seed.value(),
            u64::from(add_special_tokens),
        ];
        let [block_size, eagle, seed, special] = blocks.map(u64::to_le_bytes);
        self.of(
            Kind::Root,
            &[&prompt.tokenizer_id, &block_size, &eagle, &seed, &special],
        )
    }

    /// Of the state after a piece, from the state before it.
    pub(crate) fn of_place(&self, before: Key, piece: Key) -> Key {
        let [[a, b], [c, d]] = [before, piece].map(|key| key.0.map(u64::to_le_bytes));
        self.of(Kind::Place, &[&a, &b, &c, &d])
    }

    /// Of the state after a piece that has this image in it, from the state without.
    pub(crate) fn of_image(&self, Key(without): Key, run: MediaRun) -> Key {
        let [a, b] = without.map(u64::to_le_bytes);
        let MediaRun { identity, token, count } = run;
        let [identity, token, count] = [identity, u64::from(token), count as u64].map(u64::to_le_bytes);
        self.of(Kind::Image, &[&a, &b, &identity, &token, &count])
    }

    fn of(&self, kind: Kind, fields: &[&[u8]]) -> Key {
        let mut hasher = self.hasher(kind);
        fields.iter().for_each(|field| hasher.write(field));
        key(&hasher)
    }

    fn hasher(&self, kind: Kind) -> SipHasher13 {
        let mut hasher = self.0;
        hasher.write(&(kind as u64).to_le_bytes());
        hasher
    }
}

fn key(hasher: &SipHasher13) -> Key {
    let hash = hasher.finish128();
    Key([hash.h1, hash.h2])
}
