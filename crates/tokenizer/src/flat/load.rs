//! Reading a flat artefact: everything that encoding relies on is checked here, once.

use std::ops::Range;
use std::sync::Mutex;

use tk_encode::pipeline::{NormalizerChain, PipelineNormalizer, PipelinePreTokenizer, PipelineTokenizer};
use tk_encode::vocab::bucket_added_vocabulary::{AddedToken, AddedVocabulary};

use super::Flat;
use super::cuts::Rules;
use super::tables::Meta;
use crate::LoadError;
use crate::artefact::{SECTIONS, Section};

/// Longest components text, in bytes: a bound on what is parsed. Real ones take a few hundred.
const MAX_COMPONENTS: usize = 64 << 10;

impl Flat {
    /// A tokenizer over `bytes`, whose header and checksum are known to be right.
    pub(crate) fn load(bytes: Vec<u8>, sections: Vec<Range<usize>>) -> Result<Self, LoadError> {
        let sections: [Range<usize>; SECTIONS] = sections
            .try_into()
            .map_err(|_| LoadError::Damaged("unknown number of sections"))?;
        let section = |section: Section| {
            let range = sections.get(section as usize).cloned();
            range.and_then(|range| bytes.get(range)).unwrap_or_default()
        };
        let meta = Meta::read(section(Section::Meta))?;
        let added = read_added(section(Section::Added), meta.vocab_size)?;
        let components = read_components(section(Section::Components))?;
        let prefix = read_ids(section(Section::Prefix), meta.vocab_size)?;
        let suffix = read_ids(section(Section::Suffix), meta.vocab_size)?;
        let rules = Rules::of(&added, components.get_normalizers(), components.get_pre_tokenizer());
        let flat = Self {
            added: vocabulary(&added).map_err(LoadError::Unsupported)?,
            rules,
            components,
            prefix,
            suffix,
            meta,
            sections,
            bytes,
            scratch: Mutex::default(),
        };
        flat.tables().check()?;
        Ok(flat)
    }
}

/// An added token as the artefact has it: its content is normalized already if it matches normalized text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) id: u32,
    pub(crate) token: AddedToken,
}

const SINGLE_WORD: u32 = 1;
const LEFT_STRIP: u32 = 2;
const RIGHT_STRIP: u32 = 4;
const NORMALIZED: u32 = 8;

/// Writes the section of added tokens.
pub(crate) fn write_added(added: &[Added]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Added { id, token } in added {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let flags = flag(token.single_word, SINGLE_WORD)
            | flag(token.lstrip, LEFT_STRIP)
            | flag(token.rstrip, RIGHT_STRIP)
            | flag(token.normalized, NORMALIZED);
        for number in [*id, flags, u32::try_from(token.content.len()).unwrap_or(u32::MAX)] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(token.content.as_bytes());
    }
    bytes
}

fn read_added(mut bytes: &[u8], vocab_size: u32) -> Result<Vec<Added>, LoadError> {
    const BAD: LoadError = LoadError::Damaged("an added token cannot be read");
    let mut added = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<12>() {
        let [id, flags, length] = *head.as_chunks().0 else {
            return Err(BAD);
        };
        let [id, flags, length] = [id, flags, length].map(u32::from_le_bytes);
        let (content, rest) = rest.split_at_checked(length as usize).ok_or(BAD)?;
        let content = std::str::from_utf8(content).map_err(|_| BAD)?;
        if id >= vocab_size {
            return Err(BAD);
        }
        let token = AddedToken::from(content, false)
            .single_word(flags & SINGLE_WORD != 0)
            .lstrip(flags & LEFT_STRIP != 0)
            .rstrip(flags & RIGHT_STRIP != 0)
            .normalized(flags & NORMALIZED != 0);
        added.push(Added { id, token });
        bytes = rest;
    }
    if !bytes.is_empty() {
        return Err(BAD);
    }
    Ok(added)
}

/// The matcher of these tokens.
///
/// # Errors
/// When two of them have the same content or id, one has none, or one would make the library cut a character in two.
pub(crate) fn vocabulary(added: &[Added]) -> Result<AddedVocabulary, String> {
    let mut ids = std::collections::BTreeMap::new();
    for Added { id, token } in added {
        let content = token.content.as_str();
        // The library goes on one byte after the start of a match that is no word of its own.
        if content.is_empty() || (token.single_word && !content.starts_with(|first: char| first.is_ascii())) {
            return Err(format!("added token {id} ({content:?}) cannot be matched"));
        }
        if ids.insert(content, *id).is_some() {
            return Err(format!("two added tokens are {content:?}"));
        }
    }
    let distinct: std::collections::BTreeSet<_> = ids.values().collect();
    if distinct.len() != ids.len() {
        return Err("two added tokens have the same id".to_owned());
    }
    let mut vocabulary = AddedVocabulary::new();
    let tokens = added.iter().map(|added| added.token.clone());
    vocabulary
        .add_tokens(
            tokens,
            0,
            |content| ids.get(content).copied(),
            None::<&NormalizerChain<'_>>,
        )
        .map_err(|error| error.to_string())?;
    Ok(vocabulary)
}

fn read_ids(bytes: &[u8], vocab_size: u32) -> Result<Vec<u32>, LoadError> {
    let (ids, rest) = bytes.as_chunks();
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
    for normalizer in components.get_normalizers() {
        if let PipelineNormalizer::Precompiled(_) = normalizer {
            return Err(LoadError::Unsupported(
                "a precompiled character map in flat form".to_owned(),
            ));
        }
    }
    if let PipelinePreTokenizer::Sequence(sequence) = components.get_pre_tokenizer()
        && sequence.pre_tokenizers().len() > 16
    {
        return Err(LoadError::Unsupported(
            "more than 16 pre-tokenizers in a row".to_owned(),
        ));
    }
    Ok(components)
}
