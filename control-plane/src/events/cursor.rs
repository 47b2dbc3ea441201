//! Where we stand in one publisher's sequence: a pure state machine, one for each (worker, rank).
//!
//! An engine numbers its messages from 0 and starts again at 0, with an empty cache, when it restarts. What we know of
//! its cache is exact only while no message is missing, so every doubt is settled by asking the replay socket for
//! everything *from the last message that we applied on*: if that message comes back with the same bytes, it is the
//! same incarnation and what follows is what we missed; if anything else comes back, the engine has restarted, and
//! what we knew is dropped. What cannot be repaired is cleared: a block missing from the view costs a cache hit, a
//! block that the engine no longer has (a ghost) sends requests to the wrong worker for as long as it stays.
//!
//! A message that cannot be read is a gap of one: it may remove blocks. It is asked for once more, as it may have been
//! spoilt on the way; if that does not help, what is known is dropped, once: further such messages find nothing to drop
//! until something was learnt in between, so that a publisher of nothing else costs next to nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bounds on live messages held back while a replay runs. Beyond them a message is dropped, which the next replay
/// repairs.
const MAX_HELD_MESSAGES: usize = 20_000;
const MAX_HELD_BYTES: usize = 64 << 20;
/// Replays in a row that bring nothing before a gap is given up.
const MAX_FRUITLESS_REPLAYS: u32 = 3;
/// What is lacked and may still be had: the replay broke off, or did not bring it.
const REPLAY_FAILED: &str = "replay_failed";
const GAP: &str = "gap";
/// What an earlier process lacked, for a reason that is not known any more.
const RESTORED_INCOMPLETE: &str = "restored_incomplete";

/// What a message carries; read only if the message counts.
pub trait Payload {
    /// What it says.
    type Content;
    /// Why that cannot be told.
    type Error;

    /// Reads it.
    ///
    /// # Errors
    /// When it makes no sense.
    fn read(&self) -> Result<Self::Content, Self::Error>;
}

/// A message as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<P> {
    /// The publisher's number for it.
    pub sequence: u64,
    /// Hash of its bytes: tells two messages of the same number apart (each carries its time).
    pub fingerprint: u64,
    /// Its size.
    pub bytes: usize,
    /// What it carries.
    pub payload: P,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<C, E> {
    /// Take this into the index.
    Apply(C),
    /// A message says nothing, for this reason.
    Unreadable(E),
    /// What was saved of the rank is true.
    Reveal,
    /// Drop all that is known of the rank.
    Clear,
    /// Ask for a replay from this number on; drops a replay that still runs.
    Replay {
        /// First number wanted.
        from: u64,
    },
    /// The connection may be dead though it looks alive: make a new one.
    Reconnect,
    /// What is known of the rank is incomplete from now on.
    Degraded(&'static str),
    /// What is known of the rank is complete from now on.
    Whole,
    /// Something worth counting happened.
    Count(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Applied {
    sequence: u64,
    fingerprint: u64,
}

/// Where a cursor stood, for the next process: it goes on from there if the publisher still has that message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Of the last message applied.
    pub sequence: u64,
    /// Of the same.
    pub fingerprint: u64,
    /// Fingerprint of the incarnation's message 0, if it was seen.
    pub first: Option<u64>,
    /// Whether all messages up to there were applied.
    pub whole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Disconnected,
    Following,
    /// `verified`: what the publisher replays continues what we applied.
    Replaying {
        verified: bool,
        why: Why,
    },
}

/// Why a replay was asked for; says what its failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Connected,
    Doubt,
    Probe,
    /// What is known lacks messages that a replay did not bring: all of them, from the first.
    Relearn,
}

/// What is to be done for messages with the payload `P`.
pub type Effects<P> = Vec<Effect<<P as Payload>::Content, <P as Payload>::Error>>;

/// See the module.
#[derive(Debug)]
pub struct Cursor<P> {
    can_replay: bool,
    replay_works: bool,
    phase: Phase,
    last: Option<Applied>,
    /// Fingerprint of this incarnation's message 0, if we saw it.
    first: Option<u64>,
    held: BTreeMap<u64, Message<P>>,
    held_bytes: usize,
    overflowed: bool,
    fruitless: u32,
    /// Fingerprint of the unreadable message that was asked for once more.
    suspect: Option<u64>,
    /// Whether anything was applied that was not dropped since.
    holds: bool,
    /// Why not all of the incarnation's messages were applied; `None`: they were.
    lacks: Option<&'static str>,
    /// What is known was saved by another process and has not been found to be true yet.
    unproven: bool,
}

impl<P: Payload> Cursor<P> {
    /// Nothing is known yet. `can_replay`: whether the publisher has a replay socket.
    pub fn new(can_replay: bool) -> Self {
        Self {
            can_replay,
            replay_works: false,
            phase: Phase::Disconnected,
            last: None,
            first: None,
            held: BTreeMap::new(),
            held_bytes: 0,
            overflowed: false,
            fruitless: 0,
            suspect: None,
            holds: false,
            lacks: Some("unheard"),
            unproven: false,
        }
    }

    /// A cursor that goes on from where another stood. [`Effect::Reveal`] says that the publisher is the one of then; until
    /// that or [`Effect::Clear`], nothing of what was saved may be believed.
    pub fn resume(can_replay: bool, standing: Standing) -> Self {
        let Standing {
            sequence,
            fingerprint,
            first,
            whole,
        } = standing;
        Self {
            last: Some(Applied { sequence, fingerprint }),
            first,
            holds: true,
            lacks: (!whole).then_some(RESTORED_INCOMPLETE),
            unproven: true,
            ..Self::new(can_replay)
        }
    }

    /// Where it stands, while that is certain.
    pub fn standing(&self) -> Option<Standing> {
        let last = self.last.filter(|_| self.is_following())?;
        Some(Standing {
            sequence: last.sequence,
            fingerprint: last.fingerprint,
            first: self.first,
            whole: self.lacks.is_none(),
        })
    }

    /// Whether a subscription stands and no replay runs.
    pub fn is_following(&self) -> bool {
        self.phase == Phase::Following
    }

    /// Number of the last message applied.
    pub fn last_sequence(&self) -> Option<u64> {
        self.last.map(|last| last.sequence)
    }

    /// The subscription stands. What was published in between is unknown, restarts included.
    pub fn connected(&mut self, effects: &mut Effects<P>) {
        self.fruitless = 0;
        if self.can_replay {
            self.ask(Why::Connected, effects);
            return;
        }
        self.phase = Phase::Following;
        if self.last.is_some() {
            self.forget(effects);
            self.degrade("no_replay", effects);
        }
    }

    /// The connection is gone. What is known stays until [`Cursor::grace_over`].
    pub fn disconnected(&mut self, effects: &mut Effects<P>) {
        self.phase = Phase::Disconnected;
        self.drop_held();
        effects.push(Effect::Degraded("disconnected"));
    }

    /// The connection did not come back in time: the engine counts as gone.
    pub fn grace_over(&mut self, effects: &mut Effects<P>) {
        if self.phase == Phase::Disconnected && self.last.is_some() {
            effects.push(Effect::Count("grace_over"));
            self.forget(effects);
        }
    }

    /// Nothing came for a while: ask whether something was missed. What was lost because replays failed is asked for again.
    pub fn idle(&mut self, effects: &mut Effects<P>) {
        if self.phase == Phase::Following && self.can_replay {
            let lost = matches!(self.lacks, Some(REPLAY_FAILED | GAP | RESTORED_INCOMPLETE));
            self.ask(if lost { Why::Relearn } else { Why::Probe }, effects);
        }
    }

    /// A message came from the subscription.
    pub fn live(&mut self, message: Message<P>, effects: &mut Effects<P>) {
        match self.phase {
            Phase::Disconnected => effects.push(Effect::Count("not_connected")),
            Phase::Replaying { .. } => self.hold(message, effects),
            Phase::Following => self.follow(message, effects),
        }
    }

    fn follow(&mut self, message: Message<P>, effects: &mut Effects<P>) {
        let next = self.next();
        if message.sequence == next {
            return self.apply(message, effects);
        }
        if message.sequence > next {
            effects.push(Effect::Count("gap"));
            if self.can_replay {
                self.hold(message, effects);
                return self.ask(Why::Doubt, effects);
            }
            return self.jump("no_replay", message, effects);
        }
        if self.is_known(&message) {
            return effects.push(Effect::Count("duplicate"));
        }
        if message.sequence == 0 {
            self.restart(effects);
            return self.apply(message, effects);
        }
        if self.can_replay {
            self.hold(message, effects);
            return self.ask(Why::Doubt, effects);
        }
        // A restart breaks the connection, and without replay a new one starts from nothing: so this is an old message.
        effects.push(Effect::Count("duplicate"));
    }

    /// A message came from the replay.
    pub fn replayed(&mut self, message: Message<P>, effects: &mut Effects<P>) {
        let Phase::Replaying { verified, why } = self.phase else {
            return;
        };
        if verified {
            return self.take_replayed(message, effects);
        }
        if why == Why::Relearn {
            // Only now that it comes, what is known gives way; a buffer that starts later has no more than we have.
            if message.sequence == 0 {
                self.phase = Phase::Replaying {
                    verified: true,
                    why: Why::Connected,
                };
                self.forget(effects);
                return self.take_replayed(message, effects);
            }
            self.phase = Phase::Replaying {
                verified: false,
                why: Why::Probe,
            };
            self.degrade("replay_too_short", effects);
        }
        match self.last {
            Some(last) if message.sequence < last.sequence => {}
            Some(last) if message.sequence == last.sequence && message.fingerprint == last.fingerprint => {
                self.phase = Phase::Replaying { verified: true, why };
                if std::mem::take(&mut self.unproven) {
                    effects.push(Effect::Reveal);
                }
            }
            // Another message under the number, or a buffer that no longer reaches back to it: what we have cannot be
            // continued.
            _ => self.start_over(effects),
        }
    }

    fn take_replayed(&mut self, message: Message<P>, effects: &mut Effects<P>) {
        let next = self.next();
        if message.sequence > next {
            return self.jump("replay_too_short", message, effects);
        }
        if message.sequence == next {
            effects.push(Effect::Count("replayed"));
            self.apply(message, effects);
        }
    }

    /// The replay is over; `complete`: its end mark was seen.
    pub fn replay_ended(&mut self, complete: bool, effects: &mut Effects<P>) {
        let Phase::Replaying { verified, why } = self.phase else {
            return;
        };
        if complete {
            self.replay_works = true;
            if !verified {
                // The publisher is not as far as we are: it is not the one we followed.
                return self.start_over(effects);
            }
            if self.last.is_none() {
                // Nothing published yet is known completely, too.
                self.lacks = None;
            }
            effects.push(self.lacks.map_or(Effect::Whole, Effect::Degraded));
        } else {
            effects.push(Effect::Count("replay_failed"));
            if why == Why::Connected && !verified {
                self.forget(effects);
            }
            if why != Why::Probe {
                self.degrade(REPLAY_FAILED, effects);
            } else if std::mem::take(&mut self.replay_works) {
                effects.push(Effect::Reconnect);
            }
        }
        self.phase = Phase::Following;
        self.take_held(complete, effects);
    }

    /// Takes the live messages that were held back, in order.
    fn take_held(&mut self, may_ask: bool, effects: &mut Effects<P>) {
        while self.phase == Phase::Following
            && let Some((sequence, message)) = self.held.pop_first()
        {
            let next = self.next();
            if sequence > next && may_ask && self.fruitless < MAX_FRUITLESS_REPLAYS {
                self.held.insert(sequence, message);
                return self.ask(Why::Doubt, effects);
            }
            self.held_bytes = self.held_bytes.saturating_sub(message.bytes);
            if sequence > next {
                self.jump(GAP, message, effects);
            } else if sequence == next {
                self.apply(message, effects);
            } else {
                effects.push(Effect::Count("duplicate"));
            }
        }
        if self.phase == Phase::Following && std::mem::take(&mut self.overflowed) && may_ask {
            self.ask(Why::Doubt, effects);
        }
    }

    fn ask(&mut self, why: Why, effects: &mut Effects<P>) {
        self.fruitless = self.fruitless.saturating_add(1);
        self.phase = Phase::Replaying {
            verified: self.last.is_none(),
            why,
        };
        effects.push(Effect::Replay {
            from: self
                .last
                .filter(|_| why != Why::Relearn)
                .map_or(0, |last| last.sequence),
        });
    }

    /// Another incarnation: drop what we know and ask for all it has.
    fn start_over(&mut self, effects: &mut Effects<P>) {
        self.restart(effects);
        self.ask(Why::Connected, effects);
    }

    fn restart(&mut self, effects: &mut Effects<P>) {
        effects.push(Effect::Count("restart"));
        self.forget(effects);
    }

    /// Messages before this one are lost for good. Removals may be among them, so what was known goes too.
    fn jump(&mut self, why: &'static str, message: Message<P>, effects: &mut Effects<P>) {
        if self.last.is_some() {
            self.forget(effects);
        }
        self.degrade(why, effects);
        self.apply(message, effects);
    }

    fn degrade(&mut self, why: &'static str, effects: &mut Effects<P>) {
        self.lacks = Some(why);
        effects.push(Effect::Degraded(why));
    }

    fn forget(&mut self, effects: &mut Effects<P>) {
        self.last = None;
        self.first = None;
        self.unproven = false;
        self.drop_known(effects);
    }

    fn drop_known(&mut self, effects: &mut Effects<P>) {
        if std::mem::take(&mut self.holds) {
            effects.push(Effect::Clear);
        }
    }

    fn apply(&mut self, message: Message<P>, effects: &mut Effects<P>) {
        let content = match message.payload.read() {
            Ok(content) => content,
            Err(why) => return self.pass_over(message, why, effects),
        };
        self.fruitless = 0;
        self.advance(&message);
        if message.sequence == 0 {
            self.lacks = None;
            effects.push(Effect::Whole);
        }
        self.holds = true;
        effects.push(Effect::Apply(content));
    }

    /// A message that cannot be read: another look at it, then on without it.
    fn pass_over(&mut self, message: Message<P>, why: P::Error, effects: &mut Effects<P>) {
        let may_ask = self.phase == Phase::Following && self.can_replay && self.fruitless < MAX_FRUITLESS_REPLAYS;
        if may_ask && self.suspect != Some(message.fingerprint) {
            self.suspect = Some(message.fingerprint);
            effects.push(Effect::Count("asked_again"));
            self.hold(message, effects);
            return self.ask(Why::Doubt, effects);
        }
        effects.push(Effect::Unreadable(why));
        self.drop_known(effects);
        self.degrade("undecodable", effects);
        self.advance(&message);
    }

    fn advance(&mut self, message: &Message<P>) {
        self.last = Some(Applied {
            sequence: message.sequence,
            fingerprint: message.fingerprint,
        });
        if message.sequence == 0 {
            self.first = Some(message.fingerprint);
        }
    }

    fn hold(&mut self, message: Message<P>, effects: &mut Effects<P>) {
        let bytes = self.held_bytes.saturating_add(message.bytes);
        if self.held.len() >= MAX_HELD_MESSAGES || bytes > MAX_HELD_BYTES {
            self.overflowed = true;
            return effects.push(Effect::Count("held_overflow"));
        }
        self.held_bytes = bytes;
        if let Some(replaced) = self.held.insert(message.sequence, message) {
            self.held_bytes = self.held_bytes.saturating_sub(replaced.bytes);
        }
    }

    fn drop_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        self.overflowed = false;
    }

    fn is_known(&self, message: &Message<P>) -> bool {
        let at = |sequence, fingerprint| message.sequence == sequence && message.fingerprint == fingerprint;
        self.last.is_some_and(|last| at(last.sequence, last.fingerprint))
            || self.first.is_some_and(|fingerprint| at(0, fingerprint))
    }

    /// The number that follows what we have.
    fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.sequence.saturating_add(1))
    }
}
