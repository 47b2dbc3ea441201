//! Tokenizers and templates: assembled from chunks, checked against their ids, loaded once however many pools share
//! them, and dropped when nothing refers to them.
//!
//! Loading is done when the fleet names an artefact, on the worker thread. A tokenizer of flat tables takes some milliseconds at
//! most (docs/benchmarks.md); one that travels as JSON takes a second, the one long stall of the filter.

use prompt::{ChatTemplate, ModelText};
use router_core::fleet::ArtefactId;
use std::collections::{BTreeMap, BTreeSet};
use tokenizer::Tokenizer;

/// What artefacts may take together before they are loaded, in bytes; a VM gets 1 GiB for everything.
pub const MAX_TOTAL_BYTES: u64 = 256 << 20;

/// All artefacts of one VM.
#[derive(Default)]
pub struct Artefacts {
    /// The one that is arriving.
    arriving: Option<Arriving>,
    /// Complete and not yet named by a fleet.
    whole: BTreeMap<ArtefactId, Vec<u8>>,
    tokenizers: BTreeMap<ArtefactId, Result<Tokenizer, String>>,
    templates: BTreeMap<ArtefactId, Result<ChatTemplate, String>>,
}

struct Arriving {
    id: ArtefactId,
    total: u64,
    bytes: Vec<u8>,
}

/// A chunk that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadChunk {
    /// More than [`MAX_TOTAL_BYTES`] together with the others.
    TooLarge {
        /// Announced size in bytes.
        total: u64,
    },
    /// Not the chunk that was due.
    OutOfOrder {
        /// Its offset in bytes.
        offset: u64,
        /// The offset that was due.
        due: u64,
    },
    /// The whole does not have the content that its id says.
    WrongContent,
}

impl std::fmt::Display for BadChunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge { total } => {
                write!(
                    f,
                    "artefact of {total} bytes: more than {MAX_TOTAL_BYTES} bytes together with the others"
                )
            }
            Self::OutOfOrder { offset, due } => {
                write!(f, "artefact chunk at offset {offset}, expected the one at {due}")
            }
            Self::WrongContent => f.write_str("the artefact's content differs from its id: damaged or mislabelled"),
        }
    }
}

impl Artefacts {
    /// Takes the next chunk. After an error the artefact has to come again from its start.
    ///
    /// # Errors
    /// When the chunk does not fit.
    pub fn take(&mut self, id: ArtefactId, total: u64, offset: u64, data: &[u8]) -> Result<(), BadChunk> {
        let mut arriving = match self.arriving.take().filter(|arriving| arriving.id == id && offset > 0) {
            Some(arriving) => arriving,
            None => self.begin(id, total)?,
        };
        let due = arriving.bytes.len() as u64;
        let end = offset.saturating_add(data.len() as u64);
        if offset != due || total != arriving.total || end > total {
            return Err(BadChunk::OutOfOrder { offset, due });
        }
        arriving.bytes.extend_from_slice(data);
        if end < total {
            self.arriving = Some(arriving);
        } else if ArtefactId::of(&arriving.bytes) == id {
            self.whole.insert(id, arriving.bytes);
        } else {
            return Err(BadChunk::WrongContent);
        }
        Ok(())
    }

    /// What need not be sent (again), also because it proved to be unusable.
    pub fn held(&self) -> BTreeSet<ArtefactId> {
        let whole = self.whole.keys();
        let loaded = self.tokenizers.keys().chain(self.templates.keys());
        whole.chain(loaded).copied().collect()
    }

    /// Forgets what arrived in part: the stream that it came over is gone.
    pub fn stream_lost(&mut self) {
        self.arriving = None;
    }

    /// Loads the tokenizer if it is there and not loaded. `Some` if it was loaded right now, with the error if that
    /// failed.
    pub fn load_tokenizer(&mut self, id: ArtefactId) -> Option<Result<(), String>> {
        let whole = &mut self.whole;
        load(&mut self.tokenizers, id, whole, |bytes| {
            Tokenizer::load(bytes).map_err(|error| error.to_string())
        })
    }

    /// Loads the template; as [`Artefacts::load_tokenizer`].
    pub fn load_template(&mut self, id: ArtefactId) -> Option<Result<(), String>> {
        let whole = &mut self.whole;
        load(&mut self.templates, id, whole, |bytes| {
            let text: ModelText = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            ChatTemplate::compile(&text).map_err(|error| error.to_string())
        })
    }

    /// Drops everything but `wanted`.
    pub fn keep(&mut self, wanted: &BTreeSet<ArtefactId>) {
        self.whole.retain(|id, _| wanted.contains(id));
        self.tokenizers.retain(|id, _| wanted.contains(id));
        self.templates.retain(|id, _| wanted.contains(id));
    }

    /// A loaded tokenizer.
    pub fn tokenizer(&self, id: ArtefactId) -> Option<&Tokenizer> {
        self.tokenizers.get(&id)?.as_ref().ok()
    }

    /// A loaded template.
    pub fn template(&self, id: ArtefactId) -> Option<&ChatTemplate> {
        self.templates.get(&id)?.as_ref().ok()
    }

    fn begin(&self, id: ArtefactId, total: u64) -> Result<Arriving, BadChunk> {
        let held: usize = self.whole.values().map(Vec::len).sum();
        if total > MAX_TOTAL_BYTES.saturating_sub(held as u64) {
            return Err(BadChunk::TooLarge { total });
        }
        // Whole at once: growing step by step would need half as much again while it moves.
        let bytes = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
        Ok(Arriving { id, total, bytes })
    }
}

fn load<T>(
    loaded: &mut BTreeMap<ArtefactId, Result<T, String>>,
    id: ArtefactId,
    whole: &mut BTreeMap<ArtefactId, Vec<u8>>,
    read: impl FnOnce(Vec<u8>) -> Result<T, String>,
) -> Option<Result<(), String>> {
    if loaded.contains_key(&id) {
        // It was sent again: the fleet before this one did not name it.
        whole.remove(&id);
        return None;
    }
    let result = read(whole.remove(&id)?);
    let told = result.as_ref().map(|_| ()).map_err(Clone::clone);
    loaded.insert(id, result);
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Vec<u8> {
        br#"{"chat_template":"{{ messages[0].content }}","special_tokens":{}}"#.to_vec()
    }

    #[test]
    fn an_artefact_arrives_in_pieces_and_is_loaded_once() {
        let (bytes, mut artefacts) = (template(), Artefacts::default());
        let (id, total) = (ArtefactId::of(&bytes), bytes.len() as u64);
        assert_eq!(artefacts.take(id, total, 0, &bytes[..10]), Ok(()));
        assert_eq!((artefacts.held(), artefacts.load_template(id)), (BTreeSet::new(), None));
        assert_eq!(artefacts.take(id, total, 10, &bytes[10..]), Ok(()));
        assert_eq!(artefacts.held(), BTreeSet::from([id]));
        assert_eq!(
            [artefacts.load_template(id), artefacts.load_template(id)],
            [Some(Ok(())), None]
        );
        assert!(artefacts.template(id).is_some() && artefacts.held().contains(&id));
        assert_eq!(artefacts.take(id, total, 0, &bytes), Ok(()));
        assert_eq!((artefacts.load_template(id), artefacts.whole.len()), (None, 0));
        artefacts.keep(&BTreeSet::new());
        assert!(artefacts.template(id).is_none() && artefacts.held().is_empty());
    }

    #[test]
    fn models_come_and_go_and_others_stay_loaded() {
        let (bytes, mut artefacts) = (template(), Artefacts::default());
        let other = br#"{"chat_template":"other","special_tokens":{}}"#.to_vec();
        let [id, other_id] = [&bytes, &other].map(|bytes| ArtefactId::of(bytes));
        assert_eq!(artefacts.take(id, bytes.len() as u64, 0, &bytes), Ok(()));
        assert_eq!(artefacts.load_template(id), Some(Ok(())));
        for _ in ["comes", "comes again"] {
            assert_eq!(artefacts.take(other_id, other.len() as u64, 0, &other), Ok(()));
            let loaded = [id, other_id].map(|id| artefacts.load_template(id));
            assert_eq!(loaded, [None, Some(Ok(()))]);
            artefacts.keep(&BTreeSet::from([id]));
            assert!(artefacts.template(other_id).is_none());
            assert!(artefacts.template(id).is_some());
        }
    }

    #[test]
    fn an_artefact_that_cannot_be_loaded_is_not_asked_for_again() {
        let mut artefacts = Artefacts::default();
        let id = ArtefactId::of(b"{}");
        assert_eq!(artefacts.take(id, 2, 0, b"{}"), Ok(()));
        assert!(matches!(artefacts.load_tokenizer(id), Some(Err(_))));
        assert!(artefacts.tokenizer(id).is_none() && artefacts.held().contains(&id));
    }

    #[test]
    fn chunks_that_do_not_fit_are_refused() {
        let (bytes, mut artefacts) = (template(), Artefacts::default());
        let (id, total) = (ArtefactId::of(&bytes), bytes.len() as u64);
        let too_large = MAX_TOTAL_BYTES + 1;
        assert_eq!(
            artefacts.take(id, too_large, 0, b"x"),
            Err(BadChunk::TooLarge { total: too_large })
        );
        assert_eq!(
            artefacts.take(id, total, 4, b"x"),
            Err(BadChunk::OutOfOrder { offset: 4, due: 0 })
        );
        assert_eq!(artefacts.take(id, total, 0, &bytes[..4]), Ok(()));
        assert_eq!(
            artefacts.take(id, total, 5, b"x"),
            Err(BadChunk::OutOfOrder { offset: 5, due: 4 })
        );
        assert_eq!(
            artefacts.take(id, 1, 0, b"xy"),
            Err(BadChunk::OutOfOrder { offset: 0, due: 0 })
        );
        assert_eq!(
            artefacts.take(ArtefactId::of(b"y"), 1, 0, b"x"),
            Err(BadChunk::WrongContent)
        );
        assert_eq!(artefacts.held(), BTreeSet::new());
        // A lost stream cuts one short; it comes again from its start.
        assert_eq!(artefacts.take(id, total, 0, &bytes[..4]), Ok(()));
        artefacts.stream_lost();
        assert_eq!(artefacts.take(id, total, 0, &bytes), Ok(()));
        assert_eq!(artefacts.held(), BTreeSet::from([id]));
    }
}
