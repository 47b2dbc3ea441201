//! Flat tables of models that find tokens in a trie.

use std::collections::BTreeMap;

use tk_encode::models::unigram::Unigram;
use yada::builder::DoubleArrayBuilder;

use crate::artefact::Section;
use crate::flat::tables::{ID_LIMIT, Kind, Meta, NO_SYMBOL};
use crate::flat::unigram::UNKNOWN_PENALTY;

/// Longest token, in bytes.
const LONGEST: usize = 4 << 10;

/// The sections of a Unigram model. `others` are ids in use beside those of the model.
///
/// Scores are taken from the library, as it reads them as `tokenizers` 0.23 does: in haste, a last bit off the number that
/// is written down. Which of two ways to split a word has the higher score may depend on that.
pub(super) fn unigram(
    model: &Unigram,
    flags: u32,
    others: impl Iterator<Item = u32>,
) -> Result<Vec<(Section, Vec<u8>)>, String> {
    let vocab = || (0..).zip(model.vocab());
    // Of tokens that are there more than once the last one counts.
    let ids: BTreeMap<&str, u32> = vocab().map(|(id, (token, _))| (token.as_str(), id)).collect();
    let scores = vocab().map(|(_, (_, score))| *score);
    let meta = Meta {
        kind: Kind::Unigram,
        vocab_size: vocab_size(vocab().map(|(id, _)| id).chain(others))?,
        flags,
        unknown: id_of_unknown(model)?,
        unknown_score: scores.clone().fold(f64::INFINITY, f64::min) - UNKNOWN_PENALTY,
    };
    let id_of_byte = |byte: u8| ids.get(format!("<0x{byte:02X}>").as_str()).copied();
    let bytes = match model.byte_fallback() {
        true => (0..=u8::MAX)
            .map(|byte| id_of_byte(byte).unwrap_or(NO_SYMBOL))
            .collect(),
        false => Vec::new(),
    };
    Ok(vec![
        (Section::Meta, meta.write()),
        (Section::Tokens, trie(&ids)?),
        (Section::Scores, scores.flat_map(f64::to_le_bytes).collect()),
        (Section::Bytes, bytes.into_iter().flat_map(u32::to_le_bytes).collect()),
    ])
}

fn id_of_unknown(model: &Unigram) -> Result<u32, String> {
    let id = model.unk_id().map(u32::try_from).transpose();
    Ok(id.map_err(|error| error.to_string())?.unwrap_or(NO_SYMBOL))
}

/// One more than the highest of `ids`.
pub(super) fn vocab_size(ids: impl Iterator<Item = u32>) -> Result<u32, String> {
    let size = ids.max().map_or(0, |id| id.saturating_add(1));
    match size <= ID_LIMIT {
        true => Ok(size),
        false => Err(format!("id {} is too large", size.saturating_sub(1))),
    }
}

/// The section of these tokens. The empty one is left out, as it stands nowhere.
fn trie(ids: &BTreeMap<&str, u32>) -> Result<Vec<u8>, String> {
    let tokens = ids.iter().filter(|(token, _)| !token.is_empty());
    let tokens: Vec<(&str, u32)> = tokens.map(|(token, id)| (*token, *id)).collect();
    if let Some((token, id)) = tokens.iter().find(|(token, _)| token.contains('\0')) {
        return Err(format!("token {id} ({token:?}) has a zero byte"));
    }
    if let Some((token, id)) = tokens.iter().find(|(token, _)| token.len() > LONGEST) {
        return Err(format!("token {id} has {} bytes", token.len()));
    }
    DoubleArrayBuilder::build(&tokens).map_err(|error| error.to_string())
}
