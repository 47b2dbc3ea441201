//! Where we stand in one publisher's events: a pure state machine, one for each (worker, rank).
//!
//! Dynamo numbers the events of a publisher without gaps, and a publisher that starts anew has a new id: so a number that
//! is not the next one says that events are missing, and never that the worker has restarted. What is missing is asked of
//! the worker itself, whose own index answers with the last events, or with all that is in it. Whatever cannot be
//! repaired is dropped: a missing block costs a hit, one that is no longer there sends requests to the wrong worker.

use std::collections::BTreeMap;

/// Bounds on live events held back while a recovery runs. What is dropped beyond them is asked for again.
const MAX_HELD: usize = 20_000;
/// Recoveries in a row that do not close a gap before everything is asked for.
const MAX_FRUITLESS: u32 = 3;

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<M> {
    /// Take this event into the index.
    Apply(M),
    /// Drop all that is known of the rank.
    Clear,
    /// Ask the worker for its events from this number on, or for all that it holds; gives up a recovery that still runs.
    Recover(Option<u64>),
    /// What is known of the rank is incomplete from now on.
    Degraded(&'static str),
    /// What is known of the rank is complete from now on.
    Whole,
    /// Something worth counting happened.
    Count(&'static str),
}

/// What a worker answers to [`Effect::Recover`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered<M> {
    /// Its last events, with their own numbers.
    Events(Vec<(u64, M)>),
    /// Everything that it holds, as stores in an order in which parents come first.
    Everything {
        /// Those.
        events: Vec<M>,
        /// The last event that is in them; 0 also if there was none yet.
        last: u64,
    },
    /// It has no such events.
    Nothing,
    /// It cannot be asked, or not now.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Disconnected,
    Following,
    Recovering,
}

/// See the module.
#[derive(Debug)]
pub struct Cursor<M> {
    can_recover: bool,
    phase: Phase,
    /// Number of the last event applied.
    last: Option<u64>,
    /// Whether anything was applied since the last [`Effect::Clear`].
    holds_any: bool,
    /// Everything before `last` is known, too.
    whole: bool,
    held: BTreeMap<u64, M>,
    overflowed: bool,
    fruitless: u32,
}

impl<M> Cursor<M> {
    /// Nothing is known yet. `can_recover`: whether the worker answers recovery queries.
    pub fn new(can_recover: bool) -> Self {
        Self {
            can_recover,
            phase: Phase::Disconnected,
            last: None,
            holds_any: false,
            whole: false,
            held: BTreeMap::new(),
            overflowed: false,
            fruitless: 0,
        }
    }

    /// Whether a subscription stands and no recovery runs.
    pub fn is_following(&self) -> bool {
        self.phase == Phase::Following
    }

    /// Number of the last event applied.
    pub fn last_event(&self) -> Option<u64> {
        self.last
    }

    /// The subscription stands. What was published in between is unknown.
    pub fn connected(&mut self, effects: &mut Vec<Effect<M>>) {
        self.fruitless = 0;
        if self.can_recover {
            return self.ask(effects);
        }
        self.phase = Phase::Following;
        self.forget(effects);
        self.degrade("no_repair", effects);
    }

    /// The connection is gone. What is known stays until [`Cursor::grace_over`].
    pub fn disconnected(&mut self, effects: &mut Vec<Effect<M>>) {
        self.phase = Phase::Disconnected;
        self.held.clear();
        self.overflowed = false;
        effects.push(Effect::Degraded("disconnected"));
    }

    /// The connection did not come back in time: the worker counts as gone.
    pub fn grace_over(&mut self, effects: &mut Vec<Effect<M>>) {
        if self.phase == Phase::Disconnected && self.holds_any {
            effects.push(Effect::Count("grace_over"));
            self.forget(effects);
        }
    }

    /// Nothing came for a while, or the last recovery failed: ask whether something was missed.
    pub fn idle(&mut self, effects: &mut Vec<Effect<M>>) {
        if self.phase == Phase::Following && self.can_recover {
            self.ask(effects);
        }
    }

    /// An event came from the subscription.
    pub fn live(&mut self, number: u64, event: M, effects: &mut Vec<Effect<M>>) {
        match self.phase {
            Phase::Disconnected => effects.push(Effect::Count("not_connected")),
            Phase::Recovering => self.hold(number, event, effects),
            Phase::Following if self.is_next(number) => self.apply(number, event, effects),
            Phase::Following if self.is_stale(number) => effects.push(Effect::Count("duplicate")),
            Phase::Following => {
                effects.push(Effect::Count("gap"));
                if self.can_recover {
                    self.hold(number, event, effects);
                    self.ask(effects);
                } else {
                    self.jump(number, event, effects);
                }
            }
        }
    }

    /// The worker has answered.
    pub fn recovered(&mut self, answer: Recovered<M>, effects: &mut Vec<Effect<M>>) {
        if self.phase != Phase::Recovering {
            return;
        }
        let failed = matches!(answer, Recovered::Failed);
        match answer {
            Recovered::Events(events) => {
                for (number, event) in events {
                    if self.is_next(number) {
                        effects.push(Effect::Count("recovered"));
                        self.apply(number, event, effects);
                    } else if !self.is_stale(number) {
                        // They do not reach back to where we are.
                        return self.start_over(effects);
                    }
                }
                self.make_whole(effects);
            }
            Recovered::Everything { events, last } => {
                self.forget(effects);
                self.last = (!events.is_empty() || last > 0).then_some(last);
                self.holds_any = !events.is_empty();
                effects.push(Effect::Count("dump"));
                effects.extend(events.into_iter().map(Effect::Apply));
                self.whole = true;
                self.make_whole(effects);
            }
            Recovered::Nothing => return self.start_over(effects),
            Recovered::Failed => {
                effects.push(Effect::Count("recovery_failed"));
                effects.push(Effect::Degraded("recovery_failed"));
            }
        }
        self.phase = Phase::Following;
        self.take_held(failed, effects);
    }

    /// Takes the live events that were held back, in order.
    fn take_held(&mut self, failed: bool, effects: &mut Vec<Effect<M>>) {
        while let Some((number, event)) = self.held.pop_first() {
            if self.is_next(number) {
                self.apply(number, event, effects);
            } else if self.is_stale(number) {
                effects.push(Effect::Count("duplicate"));
            } else if failed {
                self.jump(number, event, effects);
            } else {
                self.held.insert(number, event);
                return self.ask(effects);
            }
        }
        if failed {
            return;
        }
        self.fruitless = 0;
        if std::mem::take(&mut self.overflowed) {
            self.ask(effects);
        }
    }

    /// Asks from the last event on, itself included: an answer without it would not show that nothing is missing.
    fn ask(&mut self, effects: &mut Vec<Effect<M>>) {
        self.fruitless = self.fruitless.saturating_add(1);
        if self.fruitless > MAX_FRUITLESS {
            return self.start_over(effects);
        }
        self.phase = Phase::Recovering;
        effects.push(Effect::Recover(self.last.filter(|_| self.whole)));
    }

    /// Asks for everything. What is known stays until it comes.
    fn start_over(&mut self, effects: &mut Vec<Effect<M>>) {
        self.whole = false;
        self.fruitless = 0;
        self.phase = Phase::Recovering;
        effects.push(Effect::Recover(None));
    }

    /// Events before this one are lost for good. Removals may be among them, so what was known goes too.
    fn jump(&mut self, number: u64, event: M, effects: &mut Vec<Effect<M>>) {
        self.forget(effects);
        self.degrade("events_lost", effects);
        self.apply(number, event, effects);
    }

    fn degrade(&mut self, why: &'static str, effects: &mut Vec<Effect<M>>) {
        self.whole = false;
        effects.push(Effect::Degraded(why));
    }

    fn make_whole(&mut self, effects: &mut Vec<Effect<M>>) {
        if self.whole {
            effects.push(Effect::Whole);
        }
    }

    fn forget(&mut self, effects: &mut Vec<Effect<M>>) {
        self.last = None;
        if std::mem::take(&mut self.holds_any) {
            effects.push(Effect::Clear);
        }
    }

    fn apply(&mut self, number: u64, event: M, effects: &mut Vec<Effect<M>>) {
        self.fruitless = 0;
        self.last = Some(number);
        self.holds_any = true;
        effects.push(Effect::Apply(event));
    }

    fn hold(&mut self, number: u64, event: M, effects: &mut Vec<Effect<M>>) {
        if self.held.len() >= MAX_HELD {
            self.overflowed = true;
            return effects.push(Effect::Count("held_overflow"));
        }
        self.held.insert(number, event);
    }

    /// Publishers number from 0, or from 1: so a 1 may be the first event or the second, and is asked about.
    fn is_next(&self, number: u64) -> bool {
        match self.last {
            Some(last) => last.checked_add(1) == Some(number),
            None => number == 0 && (self.whole || !self.can_recover),
        }
    }

    fn is_stale(&self, number: u64) -> bool {
        self.last.is_some_and(|last| number <= last)
    }
}
