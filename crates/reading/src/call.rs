//! Prompts of every form.

use memory::{Content, Memory, Part, Text};
use prompt::{Image, Media, Piece, Truncation};
use router_core::hash::{HashSeed, MediaRun, local_hashes, media_hash, sequence_hashes};
use tokenizer::EncodeError;
use work::{HASHED_TOKEN, Work};

use crate::{BYTES_PER_TOKEN, Blocks, Extent, ReadError, Reader, Reading, Recall};

/// Tokens of an image or the like, to guess at prompts with such: models make some hundred to some thousand of one.
const TOKENS_PER_MEDIUM: u64 = 1_000;

/// What it takes to read one prompt, of any form.
pub(crate) struct Call<'r> {
    pub(crate) memory: &'r mut Memory,
    pub(crate) reader: Reader<'r>,
    pub(crate) seed: HashSeed,
    /// Of a prompt that is read to its end.
    pub(crate) extent: Extent,
    pub(crate) work: &'r Work,
}

impl Call<'_> {
    pub(crate) fn text(
        mut self,
        text: &str,
        add_special_tokens: bool,
        takes_tokens: bool,
    ) -> Result<Reading, ReadError> {
        let want_tokens = takes_tokens || self.reader.keep_tokens;
        let content = Content::Text(Text {
            text,
            add_special_tokens,
            is_whole: true,
            images: &[],
        });
        let read = self.read(content, want_tokens)?;
        let recall = recall(text.len(), &read);
        Ok(self.whole(read, recall, want_tokens))
    }

    /// Of a text with images or the like in it, all up to the first that is not known; of the rest, a guess at its length.
    pub(crate) fn text_with(
        mut self,
        media: &Media,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Reading, ReadError> {
        let is_whole = media.are_known();
        let known = match is_whole {
            true => text.len(),
            false => self.reader.tokenizer.cutter().settled(text, media.before),
        };
        let images: Vec<_> = media.images.iter().map(image).collect();
        let content = Content::Text(Text {
            text: text.get(..known).unwrap_or_default(),
            add_special_tokens,
            is_whole,
            images: images
                .get(..images.partition_point(|image| image.at < known))
                .unwrap_or_default(),
        });
        let want_tokens = self.reader.keep_tokens;
        let read = self.read(content, want_tokens)?;
        let rest = guessed_tokens(text.len().saturating_sub(known), media);
        let blocks = Blocks {
            recall: recall(known, &read),
            hashes: read.blocks,
            extent: match is_whole {
                true => Extent::PromptWithMedia,
                false => Extent::TextBeforeMedia,
            },
            tokens: want_tokens.then_some(read.tokens),
        };
        Ok(Reading {
            input_tokens: (read.input_tokens as u64).saturating_add(rest),
            inject_tokens: self.reader.inject_tokens,
            known: match !is_whole && blocks.hashes.is_empty() {
                true => Err("multimodal"),
                false => Ok(blocks),
            },
        })
    }

    pub(crate) fn truncated(
        mut self,
        text: &str,
        add_special_tokens: bool,
        truncation: Truncation,
    ) -> Result<Reading, ReadError> {
        let content = Content::Text(Text {
            text,
            add_special_tokens,
            is_whole: true,
            images: &[],
        });
        let read = self.read(content, true)?;
        let around = match add_special_tokens {
            true => self.reader.tokenizer.around(),
            false => [0; 2],
        };
        // What is left has other blocks than the whole.
        let again = self.work.take(read.tokens.len(), HASHED_TOKEN);
        again.map_err(EncodeError::from)?;
        let kept = truncation.apply(&read.tokens, around)?;
        Ok(self.ids(&kept, recall(text.len(), &read)))
    }

    pub(crate) fn pieces(mut self, pieces: &[Piece]) -> Result<Reading, ReadError> {
        let parts: Vec<_> = pieces.iter().map(part).collect();
        let want_tokens = self.reader.inject_tokens || self.reader.keep_tokens;
        let read = self.read(Content::Parts(&parts), want_tokens)?;
        let recall = recall(parts.iter().map(|part| part.as_str().len()).sum(), &read);
        Ok(self.whole(read, recall, want_tokens))
    }

    fn read(&mut self, content: Content<'_>, want_tokens: bool) -> Result<memory::Reading, EncodeError> {
        let prompt = memory::Prompt {
            content,
            tokenizer: self.reader.tokenizer,
            tokenizer_id: self.reader.tokenizer_id.0,
            layout: self.reader.layout,
            seed: self.seed,
            want_tokens,
        };
        self.memory.read(prompt, self.work)
    }

    /// A prompt of which all was read.
    fn whole(&self, read: memory::Reading, recall: Recall, want_tokens: bool) -> Reading {
        Reading {
            input_tokens: read.input_tokens as u64,
            inject_tokens: self.reader.inject_tokens,
            known: Ok(Blocks {
                hashes: read.blocks,
                extent: self.extent,
                recall,
                tokens: want_tokens.then_some(read.tokens),
            }),
        }
    }

    /// A prompt of these token ids, which the worker has from the client or makes of its text.
    pub(crate) fn ids(&self, ids: &[u32], recall: Recall) -> Reading {
        Reading {
            input_tokens: ids.len() as u64,
            inject_tokens: self.reader.inject_tokens,
            known: Ok(Blocks {
                hashes: sequence_hashes(local_hashes(ids, self.reader.layout, self.seed)),
                extent: self.extent,
                recall,
                tokens: self.reader.keep_tokens.then(|| ids.to_vec()),
            }),
        }
    }
}

fn image(image: &Image) -> memory::Image {
    memory::Image {
        at: image.at,
        run: MediaRun {
            identity: media_hash(&image.identifier),
            token: image.token,
            count: image.tokens,
        },
    }
}

/// A guess at what so many bytes of text come to, with the media in it that are not known.
fn guessed_tokens(bytes: usize, media: &Media) -> u64 {
    let unknown = media.count.saturating_sub(media.images.len());
    let of_media = (unknown as u64).saturating_mul(TOKENS_PER_MEDIUM);
    (bytes as u64 / BYTES_PER_TOKEN).saturating_add(of_media)
}

fn recall(bytes: usize, read: &memory::Reading) -> Recall {
    Recall {
        bytes: bytes as u64,
        remembered: read.remembered_bytes as u64,
    }
}

fn part(piece: &Piece) -> Part<'_> {
    match piece {
        Piece::Special(token) => Part::Special(token),
        Piece::Text(text) => Part::Text(text),
    }
}
