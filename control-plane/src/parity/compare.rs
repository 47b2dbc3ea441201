//! Our ids of a probe against a worker's.

use std::fmt;

use prompt::Body;
use serde::Serialize;

use super::probes::Probe;
use super::vocabulary::Vocabulary;
use crate::model::{Manner, Model};

/// Tokens shown before and after the first that differs.
const AROUND: usize = 8;
/// Characters of one text that are shown: what a worker calls its tokens could be of any length.
const MAX_SHOWN_CHARS: usize = 200;

/// The first token in which two lists of ids differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The probe's name.
    pub probe: &'static str,
    /// Its place, from 0 on.
    pub position: usize,
    /// What we make there.
    pub ours: Side,
    /// What the worker makes there.
    pub worker: Side,
}

/// One side of a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// `None`: the list has ended.
    pub token: Option<u32>,
    /// As the vocabulary writes it.
    pub text: Option<String>,
    /// The prompt around it, as far as its tokens are known.
    pub around: String,
}

/// Ids, and how the vocabulary that they are of writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The ids.
    pub ids: Vec<u32>,
    /// One for each id; empty: by our vocabulary.
    pub texts: Vec<String>,
}

/// The ids that we make of a probe, as a filter makes them of the request that it stands for.
///
/// # Errors
/// With the reason for which such a request is not routed exactly.
pub fn our_ids(model: &Model, probe: &Probe) -> Result<Vec<u32>, String> {
    let bytes = serde_json::to_vec(&probe.body).map_err(|error| error.to_string())?;
    let body = Body::read(probe.shape, &bytes).map_err(|error| error.to_string())?;
    let read = model.read(&body, Manner::default(), &body.work());
    read.map(|prompt| prompt.ids).map_err(|unread| unread.why)
}

/// The first difference; `None` if there is none. `vocabulary` is only asked for if there is one.
pub fn first_difference(
    probe: &'static str,
    ours: &[u32],
    worker: &Tokens,
    vocabulary: impl FnOnce() -> Vocabulary,
) -> Option<Difference> {
    let position = first_unequal(ours, &worker.ids)?;
    let vocabulary = vocabulary();
    let side = |tokens: &[u32], texts: &[String]| {
        let text = |place: usize| {
            let given = texts.get(place).map(String::as_str);
            given.or_else(|| vocabulary.text(*tokens.get(place)?))
        };
        let shown = position.saturating_sub(AROUND)..tokens.len().min(position + AROUND + 1);
        Side {
            token: tokens.get(position).copied(),
            text: text(position).map(clipped),
            around: clipped(&vocabulary.join(shown.filter_map(text))),
        }
    };
    Some(Difference {
        probe,
        position,
        ours: side(ours, &[]),
        worker: side(&worker.ids, &worker.texts),
    })
}

fn clipped(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

fn first_unequal(ours: &[u32], theirs: &[u32]) -> Option<usize> {
    let common = ours
        .iter()
        .zip(theirs)
        .take_while(|(ours, theirs)| ours == theirs)
        .count();
    (common < ours.len() || common < theirs.len()).then_some(common)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            probe,
            position,
            ours,
            worker,
        } = self;
        write!(
            f,
            "probe {probe}, token {position}: ours is {ours}, the worker's is {worker}"
        )
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.token, &self.text) {
            (Some(token), Some(text)) => write!(f, "{token} {text:?}")?,
            (Some(token), None) => write!(f, "{token} (unknown)")?,
            (None, _) => f.write_str("the end")?,
        }
        write!(f, " in {:?}", self.around)
    }
}
