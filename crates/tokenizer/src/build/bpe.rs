//! Flat tables of a BPE model.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tk_encode::utils::byte_level::char_to_byte;
use work::Work;

use super::chars::{CharTable, byte_level_chars};
use super::tokens::vocab_size;
use crate::artefact::Section;
use crate::flat::cache;
use crate::flat::merge::Merger;
use crate::flat::neighbours::Neighbours;
use crate::flat::tables::{
    ID_LIMIT, Kind, MAX_WHOLE_WORD, Meta, NO_SYMBOL, PairSlot, Place, Tables, WordSlot, pair_hash, pair_tag,
};
use crate::perfect_hash::{Assignment, assign};

/// Rank and product of each pair.
pub(super) type Merges = HashMap<(u32, u32), (u32, u32)>;

/// A BPE model, as its section of `tokenizer.json` has it.
pub(super) struct Bpe {
    /// By id; the spelling of the file.
    tokens: Vec<(String, u32)>,
    by_text: HashMap<String, u32>,
    merges: Merges,
    byte_level: bool,
    byte_fallback: bool,
    fuse_unknown: bool,
    unknown: Option<String>,
    ignore_merges: bool,
    /// What the spelling of a byte or character starts with that goes on with a word, and ends with that ends one.
    affixes: [String; 2],
}

impl Bpe {
    /// Reads the `model` of a canonical `tokenizer.json`, or says why flat tables cannot hold it.
    pub(super) fn read(model: &Value) -> Result<Self, String> {
        let flag = |name: &str| model.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| model.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let affixes = ["continuing_subword_prefix", "end_of_word_suffix"].map(|name| text(name).unwrap_or_default());
        // Such words would be looked up, and such bytes spelled, with the affixes or without: no known model has both.
        for name in ["byte_fallback", "ignore_merges"] {
            if flag(name) && affixes.concat() != "" {
                return Err(format!("the model has affixes ({affixes:?}) and {name}"));
            }
        }
        let vocab = model
            .get("vocab")
            .and_then(Value::as_object)
            .ok_or("the model has no vocab")?;
        let mut tokens = Vec::with_capacity(vocab.len());
        for (token, id) in vocab {
            let small = id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| *id < ID_LIMIT);
            tokens.push((
                token.clone(),
                small.ok_or_else(|| format!("id {id} of token {token:?} is too large"))?,
            ));
        }
        tokens.sort_by_key(|(_, id)| *id);
        if tokens
            .windows(2)
            .any(|pair| matches!(pair, [(_, one), (_, other)] if one == other))
        {
            return Err("two tokens of the model have the same id".to_owned());
        }
        let by_text: HashMap<String, u32> = tokens.iter().cloned().collect();
        let merges = read_merges(model, &by_text, affixes[0])?;
        Ok(Self {
            tokens,
            by_text,
            merges,
            byte_level: flag("byte_level"),
            byte_fallback: flag("byte_fallback"),
            fuse_unknown: flag("fuse_unk"),
            unknown: text("unk_token").map(str::to_owned),
            ignore_merges: flag("ignore_merges"),
            affixes: affixes.map(str::to_owned),
        })
    }

    /// Whether bytes and characters are spelled otherwise at the end or inside of a word.
    pub(super) fn has_affixes(&self) -> bool {
        self.affixes.iter().any(|affix| !affix.is_empty())
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        Place::all().take(if self.has_affixes() { Place::COUNT } else { 1 })
    }

    /// What a token stands for at a place in a word; `None` if it does not stand there.
    fn at_place<'t>(&self, token: &'t str, place: Place) -> Option<&'t str> {
        let [prefix, suffix] = &self.affixes;
        let token = token.strip_prefix(if place.goes_on() { prefix } else { "" })?;
        token.strip_suffix(if place.is_followed() { "" } else { suffix })
    }

    /// The sections from [`Section::Meta`] to [`Section::Neighbours`]. `others` are ids in use beside those of the model.
    pub(super) fn tables(
        &self,
        mut flags: u32,
        others: impl Iterator<Item = u32>,
    ) -> Result<Vec<(Section, Vec<u8>)>, String> {
        let vocab_size = vocab_size(self.tokens.iter().map(|(_, id)| *id).chain(others))?;
        let bytes = self.byte_symbols()?;
        flags |= if bytes.is_some() { Meta::BYTES } else { 0 };
        flags |= if self.fuse_unknown { Meta::FUSE_UNKNOWN } else { 0 };
        flags |= if self.has_affixes() { Meta::AFFIXES } else { 0 };
        let unknown = self.unknown.as_ref().filter(|_| bytes.is_none());
        let unknown = unknown.map(|token| self.by_text.get(token).ok_or_else(|| format!("no token {token:?}")));
        let meta = Meta {
            kind: Kind::Bpe,
            vocab_size,
            flags,
            unknown: unknown.transpose()?.copied().unwrap_or(NO_SYMBOL),
            longest_word: 0,
            unknown_score: 0.0,
        };
        let none = vec![NO_SYMBOL; self.places().count().saturating_mul(256)];
        let symbols = bytes.as_deref().unwrap_or(&none);
        let [pair_pilots, pair_tags, pairs] = self.pairs()?;
        let (char_pages, chars) = self.chars(symbols).write();
        let symbols = symbols.iter().copied().flat_map(u32::to_le_bytes).collect();
        let mut sections = vec![meta.write(), pair_pilots, pair_tags, pairs, symbols, char_pages, chars];
        let (merged, others) = self.words(meta, &sections);
        let neighbours = self.neighbours(bytes.as_deref(), !self.ignore_merges || others.is_empty());
        let others = others.into_iter().filter(|_| self.ignore_merges);
        sections.extend(whole_words(&merged.into_iter().chain(others).collect::<Vec<_>>())?);
        sections.push(neighbours);
        Ok(Section::OF_BPE.into_iter().zip(sections).collect())
    }

    /// Where words may be cut: nowhere if a piece may become other tokens than it does as a part of the word. That may be with
    /// unknown characters, which become one with others beside them, with words that are tokens but not by merging, with
    /// affixes, and with bytes that merge, whose tokens do not say what text they stand for.
    fn neighbours(&self, bytes: Option<&[u32]>, words_are_merged: bool) -> Vec<u8> {
        let Some(bytes) = bytes.filter(|_| words_are_merged && !self.has_affixes()) else {
            return Vec::new();
        };
        let of_bytes = |(left, right): &(u32, u32)| bytes.contains(left) || bytes.contains(right);
        if !self.byte_level && self.merges.keys().any(of_bytes) {
            return Vec::new();
        }
        let tokens = self.token_bytes();
        Neighbours::of(tokens.iter().map(|(bytes, _)| bytes.as_slice()))
    }

    /// Symbols of the bytes of characters that have none themselves, for each place.
    fn byte_symbols(&self) -> Result<Option<Vec<u32>>, String> {
        if self.byte_level {
            return Ok(Some(
                self.places().flat_map(|place| self.spelled_bytes(place)).collect(),
            ));
        }
        if !self.byte_fallback {
            return Ok(None);
        }
        let symbol = |byte: u8| {
            let token = format!("<0x{byte:02X}>");
            let id = self.by_text.get(&token).copied();
            id.ok_or_else(|| format!("no token {token:?}"))
        };
        (0..=u8::MAX).map(symbol).collect::<Result<_, _>>().map(Some)
    }

    fn pairs(&self) -> Result<[Vec<u8>; 3], String> {
        let mut pairs: Vec<_> = self.merges.iter().collect();
        pairs.sort_by_key(|(_, (rank, _))| *rank);
        let hashes: Vec<u64> = pairs
            .iter()
            .map(|((left, right), _)| pair_hash(*left, *right))
            .collect();
        let Assignment { pilots, keys } = assign(&hashes).ok_or("no perfect hash for the merges")?;
        let tag = |key: &Option<u32>| {
            key.and_then(|key| hashes.get(key as usize))
                .map_or(0, |hash| pair_tag(*hash))
        };
        let tags = keys.iter().map(tag).collect();
        let slots = keys.into_iter().flat_map(|key| {
            key.and_then(|key| pairs.get(key as usize))
                .map_or(PairSlot::EMPTY, |((left, right), (rank, product))| {
                    PairSlot::write(*left, *right, *rank, *product)
                })
        });
        Ok([pilot_bytes(pilots), tags, slots.collect()])
    }

    /// Symbols of bytes as a byte-level model spells them.
    fn spelled_bytes(&self, place: Place) -> [u32; 256] {
        let mut symbols = [NO_SYMBOL; 256];
        for (token, id) in &self.tokens {
            if let Some([byte]) = self.at_place(token, place).and_then(byte_level_bytes).as_deref()
                && let Some(symbol) = symbols.get_mut(usize::from(*byte))
            {
                *symbol = *id;
            }
        }
        symbols
    }

    fn chars(&self, bytes: &[u32]) -> CharTable {
        if self.byte_level && !self.has_affixes() {
            return byte_level_chars(&self.token_bytes(), bytes, &self.merges);
        }
        let mut table = CharTable::new(self.places().count());
        if self.byte_level {
            return table;
        }
        for place in self.places() {
            for (token, id) in &self.tokens {
                let mut characters = self.at_place(token, place).into_iter().flat_map(str::chars);
                if let (Some(character), None) = (characters.next(), characters.next()) {
                    table.set(character, place, *id);
                }
            }
        }
        table
    }

    /// The bytes that tokens stand for in a text as whole words, by id; tokens that cannot come out of one are left out.
    fn token_bytes(&self) -> Vec<(Vec<u8>, u32)> {
        let tokens = self.tokens.iter().filter_map(|(token, id)| {
            let token = self.at_place(token, Place::ONLY)?;
            let bytes = if self.byte_level {
                byte_level_bytes(token)
            } else {
                Some(token.as_bytes().to_vec())
            };
            Some((bytes?, *id))
        });
        tokens.collect()
    }

    /// The texts that tokens stand for.
    pub(super) fn texts(&self) -> Vec<String> {
        let texts = self.token_bytes().into_iter();
        texts.filter_map(|(bytes, _)| String::from_utf8(bytes).ok()).collect()
    }

    /// Tokens that merging makes of their own text, and those that it does not.
    fn words(&self, meta: Meta, sections: &[Vec<u8>]) -> (Vec<Word>, Vec<Word>) {
        let section = |index: usize| sections.get(index).map_or(&[][..], Vec::as_slice);
        let none = &[][..];
        let tables = Tables::new(
            meta,
            [
                section(1),
                section(2),
                section(3),
                section(4),
                section(5),
                section(6),
                none,
                none,
                none,
            ],
        );
        let (mut merger, mut ids) = (Merger::default(), Vec::new());
        let mut is_merged = |text: &str, id: u32| {
            ids.clear();
            let merged = merger.encode(&tables, text, &Work::unbounded(), &mut ids);
            merged.is_ok() && ids == [id]
        };
        let texts = self.token_bytes().into_iter().filter(|(bytes, _)| !bytes.is_empty());
        texts
            .filter_map(|(bytes, id)| Some((String::from_utf8(bytes).ok()?, id)))
            .partition(|(text, id)| is_merged(text, *id))
    }
}

/// The text of a token, and its id.
type Word = (String, u32);

fn read_merges(model: &Value, by_text: &HashMap<String, u32>, prefix: &str) -> Result<Merges, String> {
    let list = model
        .get("merges")
        .and_then(Value::as_array)
        .ok_or("the model has no merges")?;
    let mut merges = HashMap::with_capacity(list.len());
    for (rank, merge) in (0..).zip(list) {
        let id = |token: &str| {
            by_text
                .get(token)
                .copied()
                .ok_or_else(|| format!("merge of unknown token {token:?}"))
        };
        let (Some(left), Some(right)) = (
            merge.get(0).and_then(Value::as_str),
            merge.get(1).and_then(Value::as_str),
        ) else {
            return Err(format!("merge {rank} is not a pair of tokens"));
        };
        if rank >= ID_LIMIT {
            return Err(format!("more than {ID_LIMIT} merges"));
        }
        let end = right.strip_prefix(prefix);
        let end = end.ok_or_else(|| format!("merge {rank}: {right:?} does not start with {prefix:?}"))?;
        merges.insert((id(left)?, id(right)?), (rank, id(&[left, end].concat())?));
    }
    Ok(merges)
}

/// Sections of the whole words.
fn whole_words(words: &[Word]) -> Result<[Vec<u8>; 3], String> {
    let distinct: HashSet<_> = words.iter().map(|(word, _)| word).collect();
    if distinct.len() != words.len() {
        return Err("two tokens stand for the same bytes".to_owned());
    }
    let hashes: Vec<u64> = words.iter().map(|(word, _)| cache::hash(word.as_bytes())).collect();
    let Assignment { pilots, keys } = assign(&hashes).ok_or("no perfect hash for the words")?;
    let (mut slots, mut bytes) = (Vec::new(), Vec::new());
    for key in keys {
        let Some((word, id)) = key.and_then(|key| words.get(key as usize)) else {
            slots.extend_from_slice(&WordSlot::EMPTY);
            continue;
        };
        if word.len() > MAX_WHOLE_WORD {
            return Err(format!("token {id} has {} bytes", word.len()));
        }
        let start = u32::try_from(bytes.len()).map_err(|error| error.to_string())?;
        slots.extend_from_slice(&WordSlot::write(start, word.len() as u32, *id));
        bytes.extend_from_slice(word.as_bytes());
    }
    Ok([pilot_bytes(pilots), slots, bytes])
}

fn pilot_bytes(pilots: Vec<u16>) -> Vec<u8> {
    pilots.into_iter().flat_map(u16::to_le_bytes).collect()
}

/// The bytes of a token spelled in the byte-level alphabet; `None` if it is not.
fn byte_level_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(char_to_byte).collect()
}
