//! What remembered things are found by.

use std::hash::{Hash, Hasher};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::Text;

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

/// What a key is of. Every message starts with it, and of one kind all but the last part have a fixed length.
#[repr(u64)]
enum Kind {
    Piece,
    FirstPiece,
    Root,
    Place,
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

    /// Of the state before the first piece.
    pub(crate) fn of_root(&self, text: &Text<'_>) -> Key {
        let blocks = [
            u64::from(text.layout.block_size.get()),
            u64::from(text.layout.eagle),
            text.seed.value(),
            u64::from(text.add_special_tokens),
        ];
        let [block_size, eagle, seed, special] = blocks.map(u64::to_le_bytes);
        self.of(Kind::Root, &[&text.tokenizer_id, &block_size, &eagle, &seed, &special])
    }

    /// Of the state after a piece, from the state before it.
    pub(crate) fn of_place(&self, before: Key, piece: Key) -> Key {
        let [[a, b], [c, d]] = [before, piece].map(|key| key.0.map(u64::to_le_bytes));
        self.of(Kind::Place, &[&a, &b, &c, &d])
    }

    fn of(&self, kind: Kind, parts: &[&[u8]]) -> Key {
        let mut hasher = self.0;
        hasher.write(&(kind as u64).to_le_bytes());
        parts.iter().for_each(|part| hasher.write(part));
        let hash = hasher.finish128();
        Key([hash.h1, hash.h2])
    }
}
