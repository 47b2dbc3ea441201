//! Tokenizers and templates: assembled from chunks, checked against their ids, loaded once however many pools share
//! them, and dropped when nothing refers to them.
//!
//! Loading runs on the worker thread and takes up to some milliseconds (docs/benchmarks.md). So a fleet only says what is wanted, and
//! [`Artefacts::load_next`] loads one artefact each time that it is called: requests come in between.

use prompt::{ChatTemplate, ModelText};
use router_core::fleet::ArtefactId;
use std::collections::BTreeMap;
use tokenizer::Tokenizer;

/// What artefacts may take together before they are loaded, in bytes; a VM gets 1 GiB for everything.
pub const MAX_TOTAL_BYTES: u64 = 256 << 20;

/// What an artefact holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A [`Tokenizer`].
    Tokenizer,
    /// A [`ChatTemplate`], with all else that decides a prompt.
    Template,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tokenizer => "tokenizer",
            Self::Template => "chat template",
        })
    }
}

/// An artefact that was loaded, or turned out to be unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Which one.
    pub id: ArtefactId,
    /// What it holds.
    pub kind: Kind,
    /// Why it cannot be used.
    pub outcome: Result<(), String>,
}

/// All artefacts of one VM.
#[derive(Default)]
pub struct Artefacts {
    /// The one that is arriving.
    arriving: Option<Arriving>,
    /// Those that are there.
    complete: BTreeMap<ArtefactId, Artefact>,
    /// What fleets name, there or not.
    wanted: Vec<(ArtefactId, Kind)>,
}

enum Artefact {
    /// Not loaded yet.
    Bytes(Vec<u8>),
    Tokenizer(Box<Tokenizer>),
    Template(Box<ChatTemplate>),
    /// Could not be loaded.
    Unusable,
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
            return Ok(());
        }
        if ArtefactId::of(&arriving.bytes) != id {
            return Err(BadChunk::WrongContent);
        }
        self.complete.entry(id).or_insert(Artefact::Bytes(arriving.bytes));
        Ok(())
    }

    /// What need not be sent (again), also because it proved to be unusable.
    pub fn held(&self) -> impl Iterator<Item = ArtefactId> {
        self.complete.keys().copied()
    }

    /// Forgets what arrived in part: the stream that it came over is gone.
    pub fn stream_lost(&mut self) {
        self.arriving = None;
    }

    /// From now on these are wanted; drops all others.
    pub fn want(&mut self, wanted: Vec<(ArtefactId, Kind)>) {
        self.complete
            .retain(|id, _| wanted.iter().any(|(wanted, _)| wanted == id));
        self.wanted = wanted;
    }

    /// Whether there is one to load.
    pub fn is_waiting(&self) -> bool {
        self.waiting().is_some()
    }

    /// Loads one that is wanted and there, if there is any.
    pub fn load_next(&mut self) -> Option<Loaded> {
        let (id, kind) = self.waiting()?;
        let Some(Artefact::Bytes(bytes)) = self.complete.remove(&id) else {
            return None;
        };
        let (artefact, outcome) = match load(kind, bytes) {
            Ok(artefact) => (artefact, Ok(())),
            Err(error) => (Artefact::Unusable, Err(error)),
        };
        self.complete.insert(id, artefact);
        Some(Loaded { id, kind, outcome })
    }

    /// Whether it was loaded, if only to find that it cannot be used.
    pub fn is_loaded(&self, id: ArtefactId) -> bool {
        self.complete
            .get(&id)
            .is_some_and(|artefact| !matches!(artefact, Artefact::Bytes(_)))
    }

    /// A loaded tokenizer.
    pub fn tokenizer(&self, id: ArtefactId) -> Option<&Tokenizer> {
        match self.complete.get(&id)? {
            Artefact::Tokenizer(tokenizer) => Some(tokenizer),
            _ => None,
        }
    }

    /// A loaded template.
    pub fn template(&self, id: ArtefactId) -> Option<&ChatTemplate> {
        match self.complete.get(&id)? {
            Artefact::Template(template) => Some(template),
            _ => None,
        }
    }

    fn waiting(&self) -> Option<(ArtefactId, Kind)> {
        let mut wanted = self.wanted.iter().copied();
        wanted.find(|(id, _)| matches!(self.complete.get(id), Some(Artefact::Bytes(_))))
    }

    fn begin(&self, id: ArtefactId, total: u64) -> Result<Arriving, BadChunk> {
        let held: usize = self.complete.values().map(Artefact::bytes_to_load).sum();
        if total > MAX_TOTAL_BYTES.saturating_sub(held as u64) {
            return Err(BadChunk::TooLarge { total });
        }
        // Whole at once: growing step by step would need half as much again while it moves.
        let bytes = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
        Ok(Arriving { id, total, bytes })
    }
}

impl Artefact {
    fn bytes_to_load(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

fn load(kind: Kind, bytes: Vec<u8>) -> Result<Artefact, String> {
    match kind {
        Kind::Tokenizer => {
            let tokenizer = Tokenizer::load(bytes).map_err(|error| error.to_string())?;
            Ok(Artefact::Tokenizer(Box::new(tokenizer)))
        }
        Kind::Template => {
            let text: ModelText = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            let template = ChatTemplate::compile(&text).map_err(|error| error.to_string())?;
            Ok(Artefact::Template(Box::new(template)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Vec<u8> {
        br#"{"chat_template":"{{ messages[0].content }}","special_tokens":{}}"#.to_vec()
    }

    fn held(artefacts: &Artefacts) -> Vec<ArtefactId> {
        artefacts.held().collect()
    }

    fn templates<const N: usize>(ids: [ArtefactId; N]) -> Vec<(ArtefactId, Kind)> {
        ids.map(|id| (id, Kind::Template)).into()
    }

    fn loaded(id: ArtefactId) -> Option<Loaded> {
        Some(Loaded {
            id,
            kind: Kind::Template,
            outcome: Ok(()),
        })
    }

    #[test]
    fn an_artefact_arrives_in_pieces_and_is_loaded_once() {
        let (bytes, mut artefacts) = (template(), Artefacts::default());
        let (id, total) = (ArtefactId::of(&bytes), bytes.len() as u64);
        artefacts.want(templates([id]));
        assert_eq!(artefacts.take(id, total, 0, &bytes[..10]), Ok(()));
        assert_eq!((held(&artefacts), artefacts.load_next()), (vec![], None));
        assert_eq!(artefacts.take(id, total, 10, &bytes[10..]), Ok(()));
        assert_eq!(held(&artefacts), vec![id]);
        assert_eq!([artefacts.load_next(), artefacts.load_next()], [loaded(id), None]);
        assert!(artefacts.template(id).is_some() && held(&artefacts) == [id]);
        assert_eq!(artefacts.take(id, total, 0, &bytes), Ok(()));
        assert_eq!((artefacts.load_next(), artefacts.is_waiting()), (None, false));
        assert!(artefacts.template(id).is_some());
        artefacts.want(vec![]);
        assert!(artefacts.template(id).is_none() && held(&artefacts).is_empty());
    }

    #[test]
    fn models_come_and_go_and_others_stay_loaded() {
        let (bytes, mut artefacts) = (template(), Artefacts::default());
        let other = br#"{"chat_template":"other","special_tokens":{}}"#.to_vec();
        let [id, other_id] = [&bytes, &other].map(|bytes| ArtefactId::of(bytes));
        assert_eq!(artefacts.take(id, bytes.len() as u64, 0, &bytes), Ok(()));
        artefacts.want(templates([id]));
        assert_eq!(artefacts.load_next(), loaded(id));
        for _ in ["comes", "comes again"] {
            assert_eq!(artefacts.take(other_id, other.len() as u64, 0, &other), Ok(()));
            // It may be for the fleet that is on its way, and is loaded for none but that.
            assert_eq!((artefacts.is_waiting(), artefacts.load_next()), (false, None));
            artefacts.want(templates([id, other_id]));
            assert!(artefacts.is_waiting() && artefacts.template(id).is_some());
            assert_eq!([artefacts.load_next(), artefacts.load_next()], [loaded(other_id), None]);
            assert!([id, other_id].iter().all(|id| artefacts.template(*id).is_some()));
            artefacts.want(templates([id]));
            assert!(artefacts.template(other_id).is_none() && artefacts.template(id).is_some());
        }
    }

    #[test]
    fn what_is_no_longer_wanted_is_not_loaded() {
        let (bytes, mut artefacts) = (template(), Artefacts::default());
        let id = ArtefactId::of(&bytes);
        assert_eq!(artefacts.take(id, bytes.len() as u64, 0, &bytes), Ok(()));
        artefacts.want(templates([id]));
        assert!(artefacts.is_waiting() && !artefacts.is_loaded(id));
        artefacts.want(vec![]);
        assert_eq!((artefacts.load_next(), held(&artefacts)), (None, vec![]));
    }

    #[test]
    fn an_artefact_that_cannot_be_loaded_is_not_asked_for_again() {
        let mut artefacts = Artefacts::default();
        let id = ArtefactId::of(b"{}");
        assert_eq!(artefacts.take(id, 2, 0, b"{}"), Ok(()));
        artefacts.want([(id, Kind::Tokenizer)].into());
        let Some(Loaded { kind, outcome, .. }) = artefacts.load_next() else {
            panic!("nothing to load")
        };
        assert_eq!(
            (kind, outcome.is_err(), artefacts.is_waiting()),
            (Kind::Tokenizer, true, false)
        );
        assert!(artefacts.tokenizer(id).is_none() && held(&artefacts) == [id]);
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
        assert_eq!(held(&artefacts), vec![]);
        // A lost stream cuts one short; it comes again from its start.
        assert_eq!(artefacts.take(id, total, 0, &bytes[..4]), Ok(()));
        artefacts.stream_lost();
        assert_eq!(artefacts.take(id, total, 0, &bytes), Ok(()));
        assert_eq!(held(&artefacts), vec![id]);
    }
}
