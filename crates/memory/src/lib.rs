//! Remembered prompts: what was tokenized and hashed once is neither again, as long as it is remembered.
//!
//! A text is cut into *pieces* of a few KiB that are tokenized independently ([`tokenizer::Cutter`]); of a prompt that comes
//! in parts, some of them make a piece, or some of a long one ([`parts`]). Two things are remembered, in one LRU order and under one budget:
//!
//! - of a piece, by its content: its token ids. So a conversation that was edited in the middle is tokenized anew in one
//!   piece only.
//! - of a piece in its place, by its content and everything before it (blocks and their seed included): the hashes of the
//!   blocks that it completes and the tokens left over. About a fifth of the size, and all that a known prefix needs:
//!   the ids of its pieces are not used, age, and make room, unless they are asked for.
//!
//! A known conversation costs one hash over its bytes, a look-up for each piece, and work for what is new.
//!
//! **A wrong hit would give a prompt another one's ids**, across tenants even. Keys are SipHash-1-3 of 128 bits under a
//! key that only this memory knows: a pseudorandom function, for which nobody without the key can make two texts collide
//! any better than by chance, and by chance it takes some 2^64 texts. It takes about as long as comparing the texts,
//! which would have to be kept for that.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod key;
mod parts;
mod store;

use router_core::hash::{BlockChain, BlockLayout, HashSeed, MediaRun, SequenceHash};
use tokenizer::{EncodeError, MAX_TEXT_BYTES, Tokenizer};
use work::{HASHED_TOKEN, Work};

use crate::key::{Key, Keys};
use crate::store::{Entry, InPlace, Store};

/// What cutting a text and looking its pieces up costs for each of its bytes, in nanoseconds (see [`work`]).
const RECALLED_BYTE: u64 = 2;

/// What was read, of all tokenizers and pools.
pub struct Memory {
    keys: Keys,
    store: Store,
}

/// A prompt to be read, and how.
#[derive(Clone, Copy)]
pub struct Prompt<'a> {
    /// What it says.
    pub content: Content<'a>,
    /// What it is tokenized with.
    pub tokenizer: &'a Tokenizer,
    /// Names the tokenizer: its content's hash.
    pub tokenizer_id: [u8; 16],
    /// How its tokens are cut into blocks.
    pub layout: BlockLayout,
    /// What the blocks' hashes start from.
    pub seed: HashSeed,
    /// Whether the tokens themselves are wanted.
    pub want_tokens: bool,
}

/// What a prompt says.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// Tokenized as a whole.
    Text(Text<'a>),
    /// Tokenized part by part.
    Parts(&'a [Part<'a>]),
}

/// A prompt that is one text.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// The text, in which special tokens are read.
    pub text: &'a str,
    /// Whether the post-processor's tokens (BOS, EOS) come around it.
    pub add_special_tokens: bool,
    /// Whether a prompt ends where the text does. Else none of the post-processor's tokens come after it; such a text is
    /// what [`tokenizer::Cutter::settled`] says of a longer one.
    pub is_whole: bool,
    /// Its images, in their order.
    pub images: &'a [Image],
}

/// An image in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where its placeholder starts in the text, in bytes: an added token, which is also that of the run.
    pub at: usize,
    /// What stands in the place of that token.
    pub run: MediaRun,
}

/// A part of a prompt that is tokenized by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A special token.
    Special(&'a str),
    /// Text, also where it reads like a special token.
    Text(&'a str),
}

/// A prompt that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Of the full blocks, from the first on.
    pub blocks: Vec<SequenceHash>,
    /// Number of tokens.
    pub input_tokens: usize,
    /// The tokens, if they were wanted.
    pub tokens: Vec<u32>,
    /// Bytes that were not tokenized, as they were remembered.
    pub remembered_bytes: usize,
}

impl Part<'_> {
    /// As text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Special(text) | Self::Text(text) => text,
        }
    }
}

impl Memory {
    /// An empty memory of at most `budget` bytes; 0: nothing is remembered. `key` must be random and stay secret.
    pub fn new(budget: usize, key: [u64; 2]) -> Self {
        Self {
            keys: Keys::new(key),
            store: Store::new(budget),
        }
    }

    /// Bytes that are taken, tables included.
    pub fn bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Reads a prompt with the work of its request. What comes out is the same whatever is remembered.
    ///
    /// # Errors
    /// When the prompt cannot be tokenized, or takes more work than it may.
    pub fn read(&mut self, prompt: Prompt<'_>, work: &Work) -> Result<Reading, EncodeError> {
        let mut reader = Reader {
            chain: BlockChain::new(prompt.layout, prompt.seed),
            reading: Reading::default(),
            want_tokens: prompt.want_tokens,
        };
        match prompt.content {
            Content::Text(text) => self.read_text(&prompt, text, work, &mut reader)?,
            Content::Parts(parts) => self.read_parts(&prompt, parts, work, &mut reader)?,
        }
        Ok(reader.reading)
    }

    fn read_text(
        &mut self,
        prompt: &Prompt<'_>,
        text: Text<'_>,
        work: &Work,
        reader: &mut Reader,
    ) -> Result<(), EncodeError> {
        let Text {
            text,
            add_special_tokens,
            is_whole,
            mut images,
        } = text;
        let mut ids = Vec::new();
        let in_pieces = (self.store.is_on() || !is_whole) && text.len() <= MAX_TEXT_BYTES;
        if !in_pieces {
            prompt
                .tokenizer
                .encode_within(text, add_special_tokens, work, &mut ids)?;
            work.take(ids.len(), HASHED_TOKEN)?;
            reader.take(&ids, images);
            return Ok(());
        }
        let cutter = prompt.tokenizer.cutter();
        let [prefix, suffix] = match add_special_tokens {
            true => [cutter.prefix(), cutter.suffix()],
            false => [&[][..]; 2],
        };
        reader.take(prefix, &[]);
        let mut place = self.keys.of_root(prompt, add_special_tokens);
        work.take(text.len(), RECALLED_BYTE)?;
        let mut start = 0;
        for end in cutter.cuts(text) {
            let piece = text.get(start..end).unwrap_or_default();
            let of_piece;
            (of_piece, images) = images.split_at(images.partition_point(|image| image.at < end));
            let content = self.keys.of_piece(prompt.tokenizer_id, start == 0, piece);
            place = self.keys.of_place(place, content);
            for image in of_piece {
                place = self.keys.of_image(place, image.run);
            }
            self.read_piece([content, place], piece.len(), of_piece, reader, |ids| {
                cutter.encode_into(piece, start, work, ids)?;
                Ok(work.take(ids.len(), HASHED_TOKEN)?)
            })?;
            start = end;
        }
        // What stands after the last cut ends where the text does, and is no piece of a longer one.
        let rest = text.get(start..).unwrap_or_default();
        cutter.encode_into(rest, start, work, &mut ids)?;
        work.take(ids.len(), HASHED_TOKEN)?;
        reader.take(&ids, images);
        if is_whole {
            reader.take(suffix, &[]);
        }
        Ok(())
    }

    fn read_parts(
        &mut self,
        prompt: &Prompt<'_>,
        parts: &[Part<'_>],
        work: &Work,
        reader: &mut Reader,
    ) -> Result<(), EncodeError> {
        let Prompt {
            tokenizer,
            tokenizer_id,
            ..
        } = *prompt;
        work.take(parts::bytes(parts), RECALLED_BYTE)?;
        let mut pieces = match self.store.is_on() {
            true => parts::pieces(parts, tokenizer.cutter()),
            false => vec![parts.to_vec()],
        };
        // As with a text, the last piece may go on in a longer prompt.
        let rest = pieces.pop().unwrap_or_default();
        let mut place = self.keys.of_root(prompt, false);
        for piece in pieces {
            let content = self.keys.of_parts(tokenizer_id, &piece);
            place = self.keys.of_place(place, content);
            self.read_piece([content, place], parts::bytes(&piece), &[], reader, |ids| {
                parts::encode(tokenizer, &piece, work, ids)?;
                Ok(work.take(ids.len(), HASHED_TOKEN)?)
            })?;
        }
        let mut ids = Vec::new();
        parts::encode(tokenizer, &rest, work, &mut ids)?;
        work.take(ids.len(), HASHED_TOKEN)?;
        reader.take(&ids, &[]);
        Ok(())
    }

    /// Goes over a piece by what is remembered, else by what `encode` makes of it.
    fn read_piece(
        &mut self,
        [content, place]: [Key; 2],
        bytes: usize,
        images: &[Image],
        reader: &mut Reader,
        encode: impl FnOnce(&mut Vec<u32>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        if self.recall(content, place, images, reader) {
            reader.reading.remembered_bytes = reader.reading.remembered_bytes.saturating_add(bytes);
            return Ok(());
        }
        let mut ids = Vec::new();
        encode(&mut ids)?;
        self.store.put(place, Entry::InPlace(reader.take(&ids, images)));
        self.store.put(content, Entry::Tokens(ids.into_boxed_slice()));
        Ok(())
    }

    /// Goes over a piece by what is remembered of it. False if that is not enough, and nothing was done.
    fn recall(&mut self, content: Key, place: Key, images: &[Image], reader: &mut Reader) -> bool {
        if reader.want_tokens {
            let Some(Entry::Tokens(tokens)) = self.store.get(content) else {
                return false;
            };
            reader.keep(tokens, images);
        }
        if let Some(Entry::InPlace(known)) = self.store.get(place) {
            reader.go_on(known);
            return true;
        }
        let Some(Entry::Tokens(tokens)) = self.store.get(content) else {
            return false;
        };
        let in_place = reader.hash(tokens, images);
        self.store.put(place, Entry::InPlace(in_place));
        true
    }
}

/// A prompt as far as it was read.
struct Reader {
    chain: BlockChain,
    reading: Reading,
    want_tokens: bool,
}

impl Reader {
    /// Goes on by these tokens, with images in the place of some.
    fn take(&mut self, tokens: &[u32], images: &[Image]) -> InPlace {
        self.keep(tokens, images);
        self.hash(tokens, images)
    }

    /// Keeps tokens that are wanted.
    fn keep(&mut self, tokens: &[u32], images: &[Image]) {
        if !self.want_tokens {
            return;
        }
        for (plain, run) in runs(tokens, images) {
            self.reading.tokens.extend_from_slice(plain);
            let of_image = run
                .into_iter()
                .flat_map(|run| std::iter::repeat_n(run.token, run.count));
            self.reading.tokens.extend(of_image);
        }
    }

    /// Hashes tokens; returns what that adds.
    fn hash(&mut self, tokens: &[u32], images: &[Image]) -> InPlace {
        let Self { chain, reading, .. } = self;
        let before = reading.blocks.len();
        let mut count = 0_usize;
        for (plain, run) in runs(tokens, images) {
            chain.extend(plain, &mut reading.blocks);
            count = count.saturating_add(plain.len());
            if let Some(run) = run {
                chain.extend_by_medium(run, &mut reading.blocks);
                count = count.saturating_add(run.count);
            }
        }
        reading.input_tokens = reading.input_tokens.saturating_add(count);
        InPlace {
            blocks: reading.blocks.get(before..).unwrap_or_default().into(),
            tail: chain.tail().into(),
            media: chain.media().into(),
            tokens: count,
        }
    }

    /// Goes on by what is known.
    fn go_on(&mut self, known: &InPlace) {
        self.chain.go_on(&known.blocks, &known.tail, &known.media);
        self.reading.blocks.extend_from_slice(&known.blocks);
        self.reading.input_tokens = self.reading.input_tokens.saturating_add(known.tokens);
    }
}

/// Tokens up to each that stands for an image, and what comes in its place; last, those behind all images.
fn runs<'a>(tokens: &'a [u32], images: &'a [Image]) -> impl Iterator<Item = (&'a [u32], Option<MediaRun>)> {
    let mut rest = Some(tokens);
    let mut images = images.iter();
    std::iter::from_fn(move || {
        let tokens = rest.take()?;
        let Some(Image { run, .. }) = images.next() else {
            return Some((tokens, None));
        };
        let mut split = tokens.splitn(2, |token| *token == run.token);
        let before = split.next().unwrap_or_default();
        rest = split.next();
        Some((before, rest.map(|_| *run)))
    })
}
