//! Which workers use which blocks right now, counted.
//!
//! Requests use prefixes, so what is in use is a tree. A node of it is a *run*: blocks that all requests which use its
//! first one use to the last, as far as they are in flight. So a request costs as many steps as there are places at which
//! others part from it, not as it has blocks.

use crate::bookings::Seat;
use crate::hash::SequenceHash;
use crate::view::Depths;
use alloc::vec::Vec;
use core::hash::{BuildHasherDefault, Hasher};
use hashbrown::HashMap;

/// The tree.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    runs: Vec<Run>,
    /// Places in `runs` that no run has.
    vacant: Vec<RunId>,
    /// Every run by its first block, whose hash stands for all that is before it too.
    by_first: HashMap<SequenceHash, RunId, BuildHasherDefault<AlreadyHashed>>,
}

/// A run's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunId(usize);

#[derive(Debug)]
struct Run {
    /// At least one.
    blocks: Vec<SequenceHash>,
    /// What comes before; the users of a run use that as well.
    parent: Option<RunId>,
    /// Requests on each seat, at least one.
    users: Vec<(Seat, u32)>,
}

impl Uses {
    /// One more request on `seat` uses `blocks`. Returns the run that they end with, and how many of them nobody on the
    /// seat used before.
    pub(crate) fn add(&mut self, seat: Seat, blocks: &[SequenceHash]) -> (Option<RunId>, usize) {
        let (mut last, mut added, mut rest) = (None, 0_usize, blocks);
        while let Some((id, common)) = self.next(last, rest) {
            let id = self.split(id, common);
            added = added.saturating_add(self.add_user(id, seat));
            last = Some(id);
            rest = rest.get(common..).unwrap_or_default();
        }
        if !rest.is_empty() {
            added = added.saturating_add(rest.len());
            last = Some(self.insert(Run {
                blocks: rest.to_vec(),
                parent: last,
                users: [(seat, 1)].into(),
            }));
        }
        (last, added)
    }

    /// One more request on `seat` uses what ends with the run `last`. Returns as [`Uses::add`] how many are new.
    pub(crate) fn add_again(&mut self, seat: Seat, last: Option<RunId>) -> usize {
        let (mut added, mut next) = (0_usize, last);
        while let Some(id) = next {
            added = added.saturating_add(self.add_user(id, seat));
            next = self.run(id).and_then(|run| run.parent);
        }
        added
    }

    /// A request on `seat` no longer uses what ends with the run `last`. Returns how many blocks nobody on the seat uses
    /// any more.
    pub(crate) fn remove(&mut self, seat: Seat, last: Option<RunId>) -> usize {
        let (mut dropped, mut next) = (0_usize, last);
        while let Some(id) = next {
            let Some(run) = self.runs.get_mut(id.0) else {
                break;
            };
            next = run.parent;
            if let Some(place) = run.users.iter().position(|(user, _)| *user == seat)
                && let Some((_, requests)) = run.users.get_mut(place)
            {
                *requests = requests.saturating_sub(1);
                if *requests == 0 {
                    run.users.swap_remove(place);
                    dropped = dropped.saturating_add(run.blocks.len());
                }
            }
            if run.users.is_empty() {
                self.forget(id);
            }
        }
        dropped
    }

    /// How many leading blocks of a prompt each seat uses.
    pub(crate) fn depths(&self, prompt: &[SequenceHash]) -> Depths {
        let mut depths = Depths::default();
        let (mut last, mut depth) = (None, 0_usize);
        while let Some((id, common)) = self.next(last, prompt.get(depth..).unwrap_or_default()) {
            let Some(run) = self.run(id) else { break };
            depth = depth.saturating_add(common);
            run.users.iter().for_each(|(seat, _)| depths.set(seat.as_slot(), depth));
            if common < run.blocks.len() {
                break;
            }
            last = Some(id);
        }
        depths
    }

    /// Whether nothing is in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.len() == self.vacant.len()
    }

    /// The run after `parent` that starts as `blocks` do, and how many they have in common, at least one.
    fn next(&self, parent: Option<RunId>, blocks: &[SequenceHash]) -> Option<(RunId, usize)> {
        let id = *self.by_first.get(blocks.first()?)?;
        let run = self.run(id)?;
        // Hashes that collide are not worth more than that nothing goes wrong.
        let common = run
            .blocks
            .iter()
            .zip(blocks)
            .take_while(|(one, other)| one == other)
            .count();
        (run.parent == parent && common > 0).then_some((id, common))
    }

    /// Makes the first `length` blocks of a run one of its own, and returns it. The rest keeps the place, so who ended with
    /// the run still does.
    fn split(&mut self, id: RunId, length: usize) -> RunId {
        let Some(run) = self.runs.get_mut(id.0).filter(|run| length < run.blocks.len()) else {
            return id;
        };
        let rest = run.blocks.split_off(length);
        let upper = Run {
            blocks: core::mem::replace(&mut run.blocks, rest),
            parent: run.parent,
            users: run.users.clone(),
        };
        let first = run.blocks.first().copied();
        let upper = self.insert(upper);
        if let Some(run) = self.runs.get_mut(id.0) {
            run.parent = Some(upper);
        }
        self.by_first.extend(first.map(|first| (first, id)));
        upper
    }

    fn insert(&mut self, run: Run) -> RunId {
        let id = self.vacant.pop().unwrap_or(RunId(self.runs.len()));
        self.by_first.extend(run.blocks.first().map(|first| (*first, id)));
        match self.runs.get_mut(id.0) {
            Some(place) => *place = run,
            None => self.runs.push(run),
        }
        id
    }

    fn forget(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(id.0) else {
            return;
        };
        if let Some(first) = core::mem::take(&mut run.blocks).first()
            && self.by_first.get(first) == Some(&id)
        {
            self.by_first.remove(first);
        }
        self.vacant.push(id);
    }

    /// One more request on `seat` uses a run. Returns how many of its blocks nobody there used before.
    fn add_user(&mut self, id: RunId, seat: Seat) -> usize {
        let Some(run) = self.runs.get_mut(id.0) else {
            return 0;
        };
        match run.users.iter_mut().find(|(user, _)| *user == seat) {
            Some((_, requests)) => {
                *requests = requests.saturating_add(1);
                0
            }
            None => {
                run.users.push((seat, 1));
                run.blocks.len()
            }
        }
    }

    fn run(&self, id: RunId) -> Option<&Run> {
        self.runs.get(id.0)
    }
}

/// Keys are xxh3 values already.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(29) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
