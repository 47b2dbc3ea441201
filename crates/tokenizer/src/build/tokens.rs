//! Flat tables of models that find tokens in a trie.

use std::collections::BTreeMap;

use serde_json::Value;
use tk_encode::models::unigram::Unigram;
use yada::builder::DoubleArrayBuilder;

use crate::artefact::Section;
use crate::flat::tables::{ID_LIMIT, Kind, Meta, NO_SYMBOL};
use crate::flat::unigram::UNKNOWN_PENALTY;

/// Longest token, in bytes: the trie is built by a function that calls itself for each.
const LONGEST: usize = 1 << 10;

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
        longest_word: 0,
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

/// A WordPiece or WordLevel model, as its section of `tokenizer.json` has it.
pub(super) struct Words<'m> {
    kind: Kind,
    ids: BTreeMap<&'m str, u32>,
    unknown: Option<u32>,
    continuation: &'m str,
    longest_word: u32,
}

impl<'m> Words<'m> {
    /// Reads the `model` of a canonical `tokenizer.json`, or says why flat tables cannot hold it.
    pub(super) fn read(model: &'m Value) -> Result<Self, String> {
        let text = |name: &str| model.get(name).and_then(Value::as_str).unwrap_or_default();
        let kind = match text("type") {
            "WordPiece" => Kind::WordPiece,
            _ => Kind::WordLevel,
        };
        let vocab = model.get("vocab").and_then(Value::as_object);
        let ids = vocab.ok_or("the model has no vocab")?.iter().map(|(token, id)| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            Ok((token.as_str(), id.ok_or_else(|| format!("token {token:?} has no id"))?))
        });
        let ids = ids.collect::<Result<BTreeMap<_, _>, String>>()?;
        let longest = model.get("max_input_chars_per_word").and_then(Value::as_u64);
        Ok(Self {
            kind,
            unknown: ids.get(text("unk_token")).copied(),
            ids,
            continuation: text("continuing_subword_prefix"),
            longest_word: longest.map_or(0, |longest| u32::try_from(longest).unwrap_or(u32::MAX)),
        })
    }

    /// Its sections. `others` are ids in use beside those of the model.
    pub(super) fn tables(
        &self,
        flags: u32,
        others: impl Iterator<Item = u32>,
    ) -> Result<Vec<(Section, Vec<u8>)>, String> {
        let meta = Meta {
            kind: self.kind,
            vocab_size: vocab_size(self.ids.values().copied().chain(others))?,
            flags,
            unknown: self.unknown.unwrap_or(NO_SYMBOL),
            longest_word: self.longest_word,
            unknown_score: 0.0,
        };
        Ok(vec![
            (Section::Meta, meta.write()),
            (Section::Tokens, trie(&self.ids)?),
            (Section::Continuation, self.continuation.as_bytes().to_vec()),
        ])
    }

    /// The texts that tokens stand for.
    pub(super) fn texts(&self) -> Vec<String> {
        let whole = |token: &&str| token.strip_prefix(self.continuation).unwrap_or(token).to_owned();
        self.ids.keys().map(whole).collect()
    }
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
