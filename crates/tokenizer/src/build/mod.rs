//! Building artefacts, natively, where time and memory are not short.

mod bpe;
mod chars;
mod normalizer;
mod tokens;
mod vocab;

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic;

use serde_json::Value;
use tk_encode::pipeline::{PipelineModel, PipelineNormalizer, PipelineToken, PipelineTokenizer};
use work::{Limits, Work};

use self::bpe::Bpe;
use self::tokens::Words;
use crate::artefact::{self, SECTIONS, Section};
use crate::flat::normalize::Normalizers;
use crate::flat::tables::Meta;
use crate::flat::{Added, AddedTokens, read_components, write_added};
use crate::{EncodeError, LoadError, Tokenizer, library, limits, read_json};

/// Builds the artefact of a `tokenizer.json` of canonical layout (see the crate's description), for [`Tokenizer::load`].
///
/// # Errors
/// When the library cannot load the file or cannot encode with it, and when flat tables cannot hold it or give other ids.
pub fn build(json: &[u8]) -> Result<Vec<u8>, LoadError> {
    // The library panics at some vocabularies: its perfect hash finds no places for them.
    let panicked = |_| Err(LoadError::Unsupported("the tokenizer library panics at it".to_owned()));
    panic::catch_unwind(|| build_unguarded(json)).unwrap_or_else(panicked)
}

fn build_unguarded(json: &[u8]) -> Result<Vec<u8>, LoadError> {
    // What is no JSON the library complains about.
    let mut parsed = serde_json::from_slice(json).unwrap_or_default();
    check_ids(&parsed)?;
    let has_runs = normalizer::replace_runs_of_spaces(&mut parsed);
    let is_mended = vocab::add_unused_bytes(&mut parsed) | vocab::hide_misspelled(&mut parsed);
    let json = match is_mended || has_runs {
        true => Cow::Owned(parsed.to_string().into_bytes()),
        false => Cow::Borrowed(json),
    };
    check_limits(&parsed)?;
    let library = read_json(&json)?;
    limits::check(&library)?;
    try_out(&library)?;
    flat(&parsed, has_runs, &library).map_err(LoadError::Unsupported)
}

/// The library's memory grows with the largest id. It takes several tokens with the same id, and keeps one of them, another
/// one each time.
fn check_ids(json: &Value) -> Result<(), LoadError> {
    let refused = |why: String| Err(LoadError::Unsupported(why));
    let mut tokens: HashMap<u64, &str> = HashMap::new();
    let vocab = json.pointer("/model/vocab").and_then(Value::as_object);
    let vocab = vocab
        .into_iter()
        .flatten()
        .map(|(token, id)| (token.as_str(), id, true));
    let added = json.get("added_tokens").and_then(Value::as_array);
    let added = added.into_iter().flatten();
    let added = added.filter_map(|added| Some((added.get("content")?.as_str()?, added.get("id")?, false)));
    for (token, id, is_once) in vocab.chain(added) {
        // Also one that is written with an exponent.
        let Some(id) = id.as_f64() else { continue };
        if id > MAX_ID {
            return refused(format!("the token {token:?} has the id {id}, more than {MAX_ID}"));
        }
        if let Some(other) = tokens.insert(id.to_bits(), token).filter(|_| is_once) {
            return refused(format!(
                "model.vocab: the tokens {other:?} and {token:?} have the same id, {id}"
            ));
        }
    }
    Ok(())
}

/// What the library would take up memory and time for as it reads the file, and normalizes added tokens.
fn check_limits(json: &Value) -> Result<(), LoadError> {
    let field = |name: &str| json.get(name).cloned().unwrap_or_default();
    let components = read_json(&components(field("normalizer"), field("pre_tokenizer")))?;
    limits::check(&components)?;
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let affix = json.get("model").and_then(|model| model.get(name)?.as_str());
        limits::check_affix(affix.unwrap_or_default().len())?;
    }
    let added = json.get("added_tokens").and_then(Value::as_array);
    let added = added.into_iter().flatten();
    let contents: Vec<&str> = added.filter_map(|added| added.get("content")?.as_str()).collect();
    limits::check_added(contents.iter().map(|content| content.len()).sum())?;
    let mut texts = contents.into_iter().chain([PROBE]);
    texts.try_for_each(|text| check_normalized(&components, text).map_err(LoadError::Unsupported))
}

/// That normalizers, one after the other, do not make very much of a text.
fn check_normalized(library: &PipelineTokenizer, text: &str) -> Result<(), String> {
    const LIMITS: Limits = Limits {
        base: 100_000,
        per_byte: 1_000,
    };
    let normalizers = Normalizers::of(library.get_normalizers());
    let normalized = normalizers.apply(text, 0, &Work::new(LIMITS, text.len()));
    normalized.map(drop).map_err(|error| {
        let start: String = text.chars().take(20).collect();
        format!(
            "normalizer: {start:?}... of {} bytes becomes very long: {error}",
            text.len()
        )
    })
}

/// The largest id of a token; the largest vocabularies have some 300,000 tokens.
const MAX_ID: f64 = 16_777_215.0;

/// A regex that would need a regex engine is found out about when it is used. A model without an unknown token refuses
/// texts of other characters than its own, so one of its tokens will do as a text.
fn try_out(library: &PipelineTokenizer) -> Result<(), LoadError> {
    let result = library_ids(library, PROBE).map(drop);
    let mut tokens = (0..256).filter_map(|id| library.get_model().id_to_token(id));
    let one_of_its_own = |token: String| {
        check_normalized(library, &token).is_ok() && library_ids(library, &token).is_ok_and(|ids| !ids.is_empty())
    };
    result.or_else(|error| tokens.any(one_of_its_own).then_some(()).ok_or(error))
}

const PROBE: &str = "The quick brown fox's 12 jumps,  über\n\t 你好 👍🏽 e\u{301} <|x|>";

/// The flat artefact, or why there is none.
fn flat(json: &Value, has_runs: bool, library: &PipelineTokenizer) -> Result<Vec<u8>, String> {
    let field = |name: &str| json.get(name).cloned().unwrap_or_default();
    let added = added_tokens(library)?;
    let template = &library.get_post_processor().single;
    let ids = |run: &[(PipelineToken, u8)]| run.iter().map(|(token, _)| token.id()).collect::<Vec<_>>();
    let (prefix, suffix) = (ids(&template.prefix), ids(&template.suffix));
    let flags = if has_runs { Meta::RUNS_OF_SPACES } else { 0 };
    let others = added.iter().map(|added| added.id);
    let others = others.chain(prefix.iter().chain(&suffix).copied());
    let mut is_comparable = true;
    let (tables, texts) = match library.get_model() {
        PipelineModel::BPE(_) => {
            let bpe = Bpe::read(&field("model"))?;
            // The library spells single bytes without affixes, and makes runs of unknown characters many.
            is_comparable = !bpe.has_affixes();
            (bpe.tables(flags, others)?, bpe.texts())
        }
        PipelineModel::Unigram(model) => {
            let texts = model.vocab().iter().map(|(token, _)| token.clone());
            (tokens::unigram(model, flags, others)?, texts.collect())
        }
        PipelineModel::WordPiece(_) | PipelineModel::WordLevel(_) => {
            let model = field("model");
            let words = Words::read(&model)?;
            (words.tables(flags, others)?, words.texts())
        }
    };
    let components = components(
        normalizer::without_charsmap(field("normalizer")),
        field("pre_tokenizer"),
    );
    read_components(&components).map_err(|error| error.to_string())?;
    let bytes = |ids: Vec<u32>| ids.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    let rest = [
        (Section::Added, write_added(&added)),
        (Section::Prefix, bytes(prefix)),
        (Section::Suffix, bytes(suffix)),
        (Section::Components, components),
        (Section::Charsmap, charsmap(library)),
    ];
    let mut sections = vec![Vec::new(); SECTIONS];
    for (section, bytes) in tables.into_iter().chain(rest) {
        *sections.get_mut(section as usize).ok_or("no such section")? = bytes;
    }
    let bytes = artefact::write(&sections);
    let flat = Tokenizer::load(bytes.clone()).map_err(|error| error.to_string())?;
    // Behind marked spaces the library misses tokens that match normalized text.
    let marks_spaces = matches!(library.get_normalizers().last(), Some(PipelineNormalizer::Metaspace(_)));
    is_comparable &= !marks_spaces || added.iter().all(|added| !added.token.normalized);
    if is_comparable {
        compare(&flat, library, texts, has_runs)?;
    }
    Ok(bytes)
}

fn components(normalizer: Value, pre_tokenizer: Value) -> Vec<u8> {
    serde_json::json!({
        "version": "2.0",
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"},
    })
    .to_string()
    .into_bytes()
}

/// The character map among the normalizers.
fn charsmap(library: &PipelineTokenizer) -> Vec<u8> {
    let mut normalizers = library.get_normalizers().iter();
    let map = normalizers.find_map(|normalizer| match normalizer {
        PipelineNormalizer::Precompiled(map) => map.charsmap(),
        _ => None,
    });
    map.unwrap_or_default().to_vec()
}

fn added_tokens(library: &PipelineTokenizer) -> Result<Vec<Added>, String> {
    let all = library.get_added_vocabulary();
    let mut added: Vec<Added> = all
        .get_added_tokens_decoder()
        .into_iter()
        .map(|(id, token)| Added { id, token })
        .collect();
    if added.len() != all.len() {
        return Err("two added tokens have the same content".to_owned());
    }
    added.sort_by_key(|added| added.id);
    AddedTokens::new(&added)?;
    Ok(added)
}

fn library_ids(pipeline: &PipelineTokenizer, text: &str) -> Result<Vec<u32>, LoadError> {
    let mut ids = Vec::new();
    library::encode(pipeline, text, true, &mut ids).map_err(|error| match error {
        EncodeError::Failed(why) => LoadError::Unsupported(why),
        other => LoadError::Unsupported(other.to_string()),
    })?;
    Ok(ids)
}

/// That both give the same ids for the probe and for everything that the vocabulary holds, alone and side by side, or both
/// none. With `has_runs` the library is right only where no two spaces stand side by side.
fn compare(flat: &Tokenizer, library: &PipelineTokenizer, texts: Vec<String>, has_runs: bool) -> Result<(), String> {
    let together = texts.chunks(64).flat_map(|texts| [texts.concat(), texts.join(" ")]);
    for text in together.chain([PROBE.to_owned()]) {
        if has_runs && text.contains("  ") {
            continue;
        }
        check_normalized(library, &text)?;
        let mut ids = Vec::new();
        let ours = flat.encode_into(&text, true, &mut ids).ok().map(|()| ids);
        if ours != library_ids(library, &text).ok() {
            return Err(format!("flat tables give other ids than the library for {text:?}"));
        }
    }
    Ok(())
}
