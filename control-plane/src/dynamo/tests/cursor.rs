//! The cursor against a model of a worker: a cache, a log of what it did, and the answers of its own index.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::dynamo::cursor::{Cursor, Effect, Recovered};

/// How many events a worker's index keeps.
const KEPT: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Did {
    Store(u8),
    Remove(u8),
    Clear,
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The worker does something; its event arrives or is lost.
    Publish(Did, bool),
    /// An event so far before the last one arrives once more, or at last.
    Late(u8),
    /// The worker is asked to answer, as of now. The answer is under way.
    Answer,
    /// What is under way arrives.
    Deliver,
    /// The question or its answer is lost.
    Fail,
    Disconnect,
    Connect,
    GraceOver,
    Idle,
}

fn step() -> impl Strategy<Value = Step> {
    let did = prop_oneof![
        6 => (0..8_u8).prop_map(Did::Store),
        4 => (0..8_u8).prop_map(Did::Remove),
        1 => Just(Did::Clear),
    ];
    prop_oneof![
        8 => (did, prop::bool::weighted(0.8)).prop_map(|(did, arrives)| Step::Publish(did, arrives)),
        2 => (0..4_u8).prop_map(Step::Late),
        4 => Just(Step::Answer),
        4 => Just(Step::Deliver),
        1 => Just(Step::Fail),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => Just(Step::GraceOver),
        1 => Just(Step::Idle),
    ]
}

struct World {
    log: Vec<Did>,
    /// Number of the first event.
    first: u64,
    cursor: Cursor<Did>,
    /// What we believe.
    believed: BTreeSet<u8>,
    asked: Option<Option<u64>>,
    under_way: Option<Recovered<Did>>,
    connected: bool,
    whole: bool,
}

fn take(cache: &mut BTreeSet<u8>, did: Did) {
    match did {
        Did::Store(block) => drop(cache.insert(block)),
        Did::Remove(block) => drop(cache.remove(&block)),
        Did::Clear => cache.clear(),
    }
}

impl World {
    fn new(first: u64, can_recover: bool) -> Self {
        Self {
            log: Vec::new(),
            first,
            cursor: Cursor::new(can_recover),
            believed: BTreeSet::new(),
            asked: None,
            under_way: None,
            connected: false,
            whole: false,
        }
    }

    fn last(&self) -> Option<u64> {
        (self.first + self.log.len() as u64)
            .checked_sub(1)
            .filter(|_| !self.log.is_empty())
    }

    /// The cache after the event of that number.
    fn truth_at(&self, number: u64) -> BTreeSet<u8> {
        let mut cache = BTreeSet::new();
        let count = usize::try_from(number + 1 - self.first).unwrap();
        self.log[..count].iter().for_each(|&did| take(&mut cache, did));
        cache
    }

    /// As `dynamo-kv-router` 1.6.1 answers, `indexer/local.rs`.
    fn answer(&self, from: Option<u64>) -> Recovered<Did> {
        let oldest = self.first + self.log.len().saturating_sub(KEPT) as u64;
        match (from, self.last()) {
            (Some(from), Some(last)) if from > last => Recovered::Nothing,
            (Some(from), Some(last)) if from >= oldest => {
                let did = |number: u64| self.log[usize::try_from(number - self.first).unwrap()];
                let cleared = (from..=last).rev().find(|&number| matches!(did(number), Did::Clear));
                Recovered::Events(
                    (cleared.unwrap_or(from)..=last)
                        .map(|number| (number, did(number)))
                        .collect(),
                )
            }
            (_, last) => Recovered::Everything {
                events: last
                    .map_or_else(BTreeSet::new, |last| self.truth_at(last))
                    .into_iter()
                    .map(Did::Store)
                    .collect(),
                last: last.unwrap_or(0),
            },
        }
    }

    fn tell(&mut self, what: impl FnOnce(&mut Cursor<Did>, &mut Vec<Effect<Did>>)) {
        let mut effects = Vec::new();
        what(&mut self.cursor, &mut effects);
        for effect in effects {
            match effect {
                Effect::Apply(did) => take(&mut self.believed, did),
                Effect::Clear => self.believed.clear(),
                Effect::Recover(from) => {
                    self.asked = Some(from);
                    self.under_way = None;
                }
                Effect::Whole => self.whole = true,
                Effect::Degraded(_) => self.whole = false,
                Effect::Count(_) => {}
            }
        }
    }

    fn take_step(&mut self, step: &Step) {
        match step {
            Step::Publish(did, arrives) => {
                self.log.push(*did);
                if *arrives {
                    self.arrive(0);
                }
            }
            Step::Late(before) => self.arrive(usize::from(*before)),
            Step::Answer => self.under_way = self.asked.map(|from| self.answer(from)),
            Step::Deliver => {
                if let Some(answer) = self.under_way.take() {
                    self.asked = None;
                    self.tell(|cursor, effects| cursor.recovered(answer, effects));
                }
            }
            Step::Fail => {
                if self.asked.take().is_some() {
                    self.under_way = None;
                    self.tell(|cursor, effects| cursor.recovered(Recovered::Failed, effects));
                }
            }
            Step::Disconnect => {
                self.connected = false;
                self.asked = None;
                self.under_way = None;
                self.tell(Cursor::disconnected);
            }
            Step::Connect => {
                if !self.connected {
                    self.connected = true;
                    self.tell(Cursor::connected);
                }
            }
            Step::GraceOver => self.tell(Cursor::grace_over),
            Step::Idle => self.tell(Cursor::idle),
        }
    }

    /// The event so far before the last one.
    fn arrive(&mut self, before: usize) {
        let index = self.log.len().checked_sub(before + 1);
        if let (true, Some(index)) = (self.connected, index) {
            let (number, did) = (self.first + index as u64, self.log[index]);
            self.tell(|cursor, effects| cursor.live(number, did, effects));
        }
    }

    /// Never a ghost; and no block missing of a cache that is said to be whole.
    fn check(&self) -> Result<(), TestCaseError> {
        let truth = self
            .cursor
            .last_event()
            .map_or_else(BTreeSet::new, |last| self.truth_at(last));
        prop_assert!(self.believed.is_subset(&truth), "{:?} {truth:?}", self.believed);
        if self.whole {
            prop_assert_eq!(&self.believed, &truth);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_is_known_was_true_and_becomes_true_again(
        first in 0..2_u64,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = World::new(first, true);
        for step in &steps {
            world.take_step(step);
            world.check()?;
        }
        // Quiet at last.
        world.take_step(&Step::Connect);
        for _ in 0..3 {
            world.take_step(&Step::Idle);
            for _ in 0..4 {
                world.take_step(&Step::Answer);
                world.take_step(&Step::Deliver);
                world.check()?;
            }
        }
        prop_assert!(world.whole && world.cursor.is_following());
        let truth = world.last().map_or_else(BTreeSet::new, |last| world.truth_at(last));
        prop_assert_eq!(&world.believed, &truth);
    }

    #[test]
    fn without_repair_nothing_is_believed_that_is_not_so(
        first in 0..2_u64,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = World::new(first, false);
        for step in &steps {
            world.take_step(step);
            world.check()?;
            prop_assert_eq!(world.asked, None);
            prop_assert!(!world.whole);
        }
    }
}
