//! Reading a flat artefact: everything that encoding relies on is checked here, once.

use std::ops::Range;
use std::sync::Mutex;

use tk_encode::pipeline::{PipelineNormalizer, PipelineTokenizer};

use super::added::{Added, AddedTokens, read_added};
use super::cuts::Rules;
use super::neighbours::Neighbours;
use super::tables::{BAD, Meta};
use super::{Flat, Model};
use crate::artefact::{SECTIONS, Section};
use crate::{LoadError, limits};

/// Longest components text, in bytes: a bound on what is parsed. Real ones take a few hundred.
const MAX_COMPONENTS: usize = 64 << 10;

impl Flat {
    /// A tokenizer over `bytes`, whose header and checksum are known to be right.
    pub(crate) fn load(bytes: Vec<u8>, sections: [Range<usize>; SECTIONS]) -> Result<Self, LoadError> {
        let section = |section: Section| {
            let range = sections.get(section as usize).cloned();
            range.and_then(|range| bytes.get(range)).unwrap_or_default()
        };
        let meta = Meta::read(section(Section::Meta))?;
        let added = read_added(section(Section::Added), meta.vocab_size)?;
        limits::check_added(added.iter().map(|Added { token, .. }| token.content.len()).sum())?;
        let components = read_components(section(Section::Components))?;
        let prefix = read_ids(section(Section::Prefix), meta.vocab_size)?;
        let suffix = read_ids(section(Section::Suffix), meta.vocab_size)?;
        let rules = Rules::of(&added, components.get_normalizers(), components.get_pre_tokenizer());
        let flat = Self {
            added: AddedTokens::new(&added).map_err(LoadError::Unsupported)?,
            rules,
            components,
            prefix,
            suffix,
            meta,
            sections,
            bytes,
            scratch: Mutex::default(),
        };
        flat.check()?;
        Ok(flat)
    }

    fn check(&self) -> Result<(), LoadError> {
        match self.model() {
            Model::Bpe(tables) => tables.check()?,
            Model::Unigram(unigram) => unigram.check()?,
            Model::WordPiece(word_piece) => word_piece.check()?,
        }
        let needs_charsmap = self.components.get_normalizers().iter().any(is_charsmap);
        if needs_charsmap {
            limits::check_charsmap(self.section(Section::Charsmap))?;
        }
        (Neighbours::read(self.section(Section::Neighbours)).is_some()
            && self.normalizers().charsmap.is_some() == needs_charsmap)
            .then_some(())
            .ok_or(BAD)
    }
}

fn read_ids(bytes: &[u8], vocab_size: u32) -> Result<Vec<u32>, LoadError> {
    let (ids, rest) = bytes.as_chunks();
    limits::check_around(ids.len())?;
    let ids: Vec<u32> = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
    (rest.is_empty() && ids.iter().all(|id| *id < vocab_size))
        .then_some(ids)
        .ok_or(LoadError::Damaged("an id of the post-processor is out of range"))
}

/// Normalizers and pre-tokenizer, read by the library from their JSON: a few hundred bytes, and what it then builds is
/// what it would have built from the whole `tokenizer.json`.
pub(crate) fn read_components(json: &[u8]) -> Result<PipelineTokenizer, LoadError> {
    if json.len() > MAX_COMPONENTS {
        return Err(LoadError::Damaged("normalizers and pre-tokenizer take too much room"));
    }
    let components = crate::read_json(json)?;
    let maps = || components.get_normalizers().iter().filter(|one| is_charsmap(one));
    if maps().count() > 1 || maps().any(|map| !is_placeholder(map)) {
        return Err(LoadError::Damaged("a character map among the normalizers"));
    }
    limits::check(&components)?;
    Ok(components)
}

fn is_charsmap(normalizer: &PipelineNormalizer) -> bool {
    matches!(normalizer, PipelineNormalizer::Precompiled(_))
}

fn is_placeholder(normalizer: &PipelineNormalizer) -> bool {
    matches!(normalizer, PipelineNormalizer::Precompiled(map) if map.charsmap() == Some(&[0; 4]))
}

/// An empty character map, in base 64: what stands for [`Section::Charsmap`] in the components.
pub(crate) const CHARSMAP_PLACEHOLDER: &str = "AAAAAA==";
