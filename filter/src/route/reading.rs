//! From a request's body to the blocks of its prompt.

use crate::artefacts::Artefacts;
use crate::state::artefacts_of;
use memory::{Content, Memory, Part, Text};
use prompt::{Body, Frontend, Image, Media, Piece, Prompt, Shape, Truncation};
use router_core::Millis;
use router_core::fleet::{ArtefactId, Pool};
use router_core::hash::{HashSeed, MediaRun, SequenceHash, local_hashes, media_hash, sequence_hashes};
use tokenizer::Tokenizer;
use work::Work;

/// Bytes of a body per token of its prompt, to guess at prompts that are not read.
pub(super) const BYTES_PER_TOKEN: u64 = 4;
/// Tokens of an image or the like, to guess at prompts with such: models make some hundred to some thousand of one.
const TOKENS_PER_MEDIUM: u64 = 1_000;

/// A prompt's text, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recall {
    /// In all.
    pub bytes: u64,
    /// Of that, what was remembered and not tokenized again.
    pub remembered: u64,
}

/// A prompt as far as it was understood.
pub(super) struct Reading {
    /// Known or guessed.
    pub(super) input_tokens: u64,
    /// Whether the pool's workers take token ids.
    pub(super) inject_tokens: bool,
    /// Its full blocks, or why they are not known.
    pub(super) known: Result<Blocks, &'static str>,
}

/// What the known blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Those of the prompt.
    Prompt,
    /// Those of the first of several prompts.
    FirstPrompt,
    /// Those of a prompt with images in it, of which all is known.
    PromptWithMedia,
    /// The first ones of the prompt, up to the first image or the like that is not known.
    TextBeforeMedia,
}

/// Of a prompt, and what else was found out on the way.
pub(super) struct Blocks {
    pub(super) hashes: Vec<SequenceHash>,
    pub(super) extent: Extent,
    pub(super) recall: Recall,
    /// Of a prompt that came as text, for workers that want them.
    pub(super) tokens: Option<Vec<u32>>,
}

/// What sets a prompt's blocks apart from others with the same tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whose<'a> {
    /// The adapter it is for.
    pub(super) lora: Option<&'a str>,
    /// See [`Body::cache_namespace`].
    pub(super) tenant: Option<&'a str>,
}

/// Body to prompt to tokens to blocks. The error says which step failed.
pub(super) fn understand(
    artefacts: &Artefacts,
    memory: &mut Memory,
    pool: &Pool,
    whose: Whose<'_>,
    body: &Body<'_>,
    work: &Work,
    now: Millis,
) -> Result<Reading, &'static str> {
    let tokenizer_id = pool.tokenizer.ok_or("no_tokenizer")?;
    // Texts need the template, too: it says by whose rules they are read.
    if artefacts_of(pool).any(|(id, _)| !artefacts.is_loaded(id)) {
        return Err("not_loaded");
    }
    let tokenizer = artefacts.tokenizer(tokenizer_id).ok_or("tokenizer_unusable")?;
    let template = pool.template.and_then(|id| artefacts.template(id));
    if let Some(template) = template {
        template.set_now(i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX));
    }
    let frontend = template.map_or(Frontend::Vllm, |template| template.rules().frontend);
    let namespace = body.cache_namespace(frontend, whose.tenant);
    let prompt = body.prompt_within(template, work).map_err(|error| error.reason())?;
    let reader = Reader {
        memory,
        pool,
        tokenizer,
        tokenizer_id,
        seed: HashSeed::new(whose.lora, namespace),
        extent: match body.is_batch() {
            true => Extent::FirstPrompt,
            false => Extent::Prompt,
        },
        work,
    };
    match prompt {
        Prompt::Tokens(tokens) => Ok(reader.ids(&tokens, Recall::default())),
        Prompt::Text {
            text,
            add_special_tokens,
            media: None,
        } => {
            // That embeddings take token ids is not known.
            let takes_tokens = pool.inject_tokens && body.shape() != Shape::Embeddings;
            reader.text(&text, add_special_tokens, takes_tokens)
        }
        Prompt::Text {
            text,
            add_special_tokens,
            media: Some(media),
        } => reader.text_with(&media, &text, add_special_tokens),
        // A worker that takes token ids truncates prompts in its own way.
        Prompt::Truncated { .. } if pool.inject_tokens => Err("unsupported_field"),
        Prompt::Truncated {
            text,
            add_special_tokens,
            truncation,
        } => reader.truncated(&text, add_special_tokens, truncation),
        Prompt::Pieces(pieces) => reader.pieces(&pieces),
    }
}

/// What it takes to read a prompt of any form.
struct Reader<'r> {
    memory: &'r mut Memory,
    pool: &'r Pool,
    tokenizer: &'r Tokenizer,
    tokenizer_id: ArtefactId,
    seed: HashSeed,
    /// Of a prompt that is read to its end.
    extent: Extent,
    work: &'r Work,
}

impl Reader<'_> {
    fn text(mut self, text: &str, add_special_tokens: bool, takes_tokens: bool) -> Result<Reading, &'static str> {
        let want_tokens = takes_tokens && self.extent == Extent::Prompt;
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
    fn text_with(mut self, media: &Media, text: &str, add_special_tokens: bool) -> Result<Reading, &'static str> {
        let is_whole = media.are_known();
        let known = match is_whole {
            true => text.len(),
            // A tokenizer that texts cannot be cut for does not say which ids are settled.
            false => self.tokenizer.cutter().ok_or("multimodal")?.settled(text, media.before),
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
        let read = self.read(content, false)?;
        let rest = guessed_tokens(text.len().saturating_sub(known), media);
        let blocks = Blocks {
            recall: recall(known, &read),
            hashes: read.blocks,
            extent: match is_whole {
                true => Extent::PromptWithMedia,
                false => Extent::TextBeforeMedia,
            },
            tokens: None,
        };
        Ok(Reading {
            input_tokens: (read.input_tokens as u64).saturating_add(rest),
            inject_tokens: self.pool.inject_tokens,
            known: match !is_whole && blocks.hashes.is_empty() {
                true => Err("multimodal"),
                false => Ok(blocks),
            },
        })
    }

    fn truncated(
        mut self,
        text: &str,
        add_special_tokens: bool,
        truncation: Truncation,
    ) -> Result<Reading, &'static str> {
        let content = Content::Text(Text {
            text,
            add_special_tokens,
            is_whole: true,
            images: &[],
        });
        let read = self.read(content, true)?;
        let around = match add_special_tokens {
            true => self.tokenizer.around(),
            false => [0; 2],
        };
        let kept = truncation.apply(&read.tokens, around).map_err(|error| error.reason())?;
        Ok(self.ids(&kept, recall(text.len(), &read)))
    }

    fn pieces(mut self, pieces: &[Piece]) -> Result<Reading, &'static str> {
        let parts: Vec<_> = pieces.iter().map(part).collect();
        let want_tokens = self.pool.inject_tokens;
        let read = self.read(Content::Parts(&parts), want_tokens)?;
        let recall = recall(parts.iter().map(|part| part.as_str().len()).sum(), &read);
        Ok(self.whole(read, recall, want_tokens))
    }

    fn read(&mut self, content: Content<'_>, want_tokens: bool) -> Result<memory::Reading, &'static str> {
        let prompt = memory::Prompt {
            content,
            tokenizer: self.tokenizer,
            tokenizer_id: self.tokenizer_id.0,
            layout: self.pool.layout,
            seed: self.seed,
            want_tokens,
        };
        self.memory.read(prompt, self.work).map_err(|error| error.reason())
    }

    /// A prompt of which all was read.
    fn whole(&self, read: memory::Reading, recall: Recall, want_tokens: bool) -> Reading {
        Reading {
            input_tokens: read.input_tokens as u64,
            inject_tokens: self.pool.inject_tokens,
            known: Ok(Blocks {
                hashes: read.blocks,
                extent: self.extent,
                recall,
                tokens: want_tokens.then_some(read.tokens),
            }),
        }
    }

    /// A prompt of these token ids, which the worker has from the client or makes of its text.
    fn ids(&self, ids: &[u32], recall: Recall) -> Reading {
        Reading {
            input_tokens: ids.len() as u64,
            inject_tokens: self.pool.inject_tokens,
            known: Ok(Blocks {
                hashes: sequence_hashes(local_hashes(ids, self.pool.layout, self.seed)),
                extent: self.extent,
                recall,
                tokens: None,
            }),
        }
    }
}

/// A prompt that is not read, of a body of so many bytes.
pub(super) fn guess(pool: &Pool, reason: &'static str, bytes: u64) -> Reading {
    Reading {
        input_tokens: bytes / BYTES_PER_TOKEN,
        inject_tokens: pool.inject_tokens,
        known: Err(reason),
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
