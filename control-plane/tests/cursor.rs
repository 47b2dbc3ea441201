//! The cursor against a simulated publisher: whatever is lost, restarted or late, what is applied is never more than
//! what the publisher did, and in the end all of it.

use std::collections::BTreeSet;

use control_plane::events::cursor::{Cursor, Effect, Effects, Message, Payload, Standing};
use proptest::prelude::*;

/// What a message says: (incarnation, number).
type Content = (u32, u64);

/// As it comes; `None` cannot be read.
#[derive(Clone, Debug, PartialEq)]
struct Carried(Option<Content>);

impl Payload for Carried {
    type Content = Content;
    type Error = ();

    fn read(&self) -> Result<Content, ()> {
        self.0.ok_or(())
    }
}

fn message(incarnation: u32, sequence: u64) -> Message<Carried> {
    let fingerprint = u64::from(incarnation) << 32 | sequence;
    Message {
        sequence,
        fingerprint,
        bytes: 1,
        payload: Carried(Some((incarnation, sequence))),
    }
}

/// One that the publisher itself made so.
fn poison(incarnation: u32, sequence: u64) -> Message<Carried> {
    Message {
        payload: Carried(None),
        ..message(incarnation, sequence)
    }
}

/// One that was spoilt on the way.
fn spoilt(incarnation: u32, sequence: u64) -> Message<Carried> {
    Message {
        fingerprint: u64::MAX - sequence,
        ..poison(incarnation, sequence)
    }
}

fn after(
    cursor: &mut Cursor<Carried>,
    act: impl FnOnce(&mut Cursor<Carried>, &mut Effects<Carried>),
) -> Effects<Carried> {
    let mut effects = Vec::new();
    act(cursor, &mut effects);
    effects.retain(|effect| !matches!(effect, Effect::Count(_)));
    effects
}

fn live(cursor: &mut Cursor<Carried>, incarnation: u32, sequence: u64) -> Effects<Carried> {
    after(cursor, |cursor, effects| {
        cursor.live(message(incarnation, sequence), effects)
    })
}

fn replayed(cursor: &mut Cursor<Carried>, incarnation: u32, sequence: u64) -> Effects<Carried> {
    after(cursor, |cursor, effects| {
        cursor.replayed(message(incarnation, sequence), effects)
    })
}

fn ended(cursor: &mut Cursor<Carried>, complete: bool) -> Effects<Carried> {
    after(cursor, |cursor, effects| cursor.replay_ended(complete, effects))
}

fn connected(cursor: &mut Cursor<Carried>) -> Effects<Carried> {
    after(cursor, Cursor::connected)
}

#[test]
fn joining_late_asks_for_everything_and_keeps_live_messages_for_after() {
    let mut cursor = Cursor::new(true);
    assert_eq!(connected(&mut cursor), [Effect::Replay { from: 0 }]);
    assert_eq!(live(&mut cursor, 1, 2), []);
    assert_eq!(live(&mut cursor, 1, 3), []);
    assert_eq!(replayed(&mut cursor, 1, 0), [Effect::Whole, Effect::Apply((1, 0))]);
    assert_eq!(replayed(&mut cursor, 1, 1), [Effect::Apply((1, 1))]);
    assert_eq!(replayed(&mut cursor, 1, 2), [Effect::Apply((1, 2))]);
    assert_eq!(ended(&mut cursor, true), [Effect::Whole, Effect::Apply((1, 3))]);
    assert_eq!(live(&mut cursor, 1, 3), []);
    assert_eq!(live(&mut cursor, 1, 4), [Effect::Apply((1, 4))]);
}

fn following(can_replay: bool, messages: u64) -> Cursor<Carried> {
    let mut cursor = Cursor::new(can_replay);
    connected(&mut cursor);
    if can_replay {
        ended(&mut cursor, true);
    }
    for sequence in 0..messages {
        live(&mut cursor, 1, sequence);
    }
    assert_eq!(cursor.last_sequence(), messages.checked_sub(1));
    cursor
}

#[test]
fn a_gap_without_replay_clears() {
    let mut cursor = following(false, 3);
    assert_eq!(
        live(&mut cursor, 1, 4),
        [Effect::Clear, Effect::Degraded("no_replay"), Effect::Apply((1, 4))]
    );
}

#[test]
fn a_sequence_back_at_0_is_a_restart() {
    for can_replay in [false, true] {
        let mut cursor = following(can_replay, 3);
        assert_eq!(live(&mut cursor, 1, 0), [], "the same message once more");
        assert_eq!(
            live(&mut cursor, 2, 0),
            [Effect::Clear, Effect::Whole, Effect::Apply((2, 0))]
        );
    }
}

#[test]
fn without_replay_a_new_connection_starts_from_nothing() {
    let mut cursor = following(false, 3);
    after(&mut cursor, Cursor::disconnected);
    assert_eq!(connected(&mut cursor), [Effect::Clear, Effect::Degraded("no_replay")]);
    assert_eq!(
        live(&mut cursor, 1, 3),
        [Effect::Degraded("no_replay"), Effect::Apply((1, 3))]
    );
}

#[test]
fn the_same_incarnation_goes_on_after_a_new_connection() {
    let mut cursor = following(true, 3);
    assert_eq!(
        after(&mut cursor, Cursor::disconnected),
        [Effect::Degraded("disconnected")]
    );
    assert_eq!(connected(&mut cursor), [Effect::Replay { from: 2 }]);
    assert_eq!(replayed(&mut cursor, 1, 2), []);
    assert_eq!(replayed(&mut cursor, 1, 3), [Effect::Apply((1, 3))]);
    assert_eq!(ended(&mut cursor, true), [Effect::Whole]);
}

#[test]
fn an_idle_restarted_engine_is_recognized() {
    let mut cursor = following(true, 3);
    after(&mut cursor, Cursor::disconnected);
    connected(&mut cursor);
    assert_eq!(ended(&mut cursor, true), [Effect::Clear, Effect::Replay { from: 0 }]);
    assert_eq!(ended(&mut cursor, true), [Effect::Whole]);
}

#[test]
fn a_failed_replay_after_a_new_connection_leaves_nothing() {
    let mut cursor = following(true, 3);
    after(&mut cursor, Cursor::disconnected);
    connected(&mut cursor);
    assert_eq!(
        ended(&mut cursor, false),
        [Effect::Clear, Effect::Degraded("replay_failed")]
    );
}

#[test]
fn a_failed_probe_asks_for_a_new_connection_once() {
    let mut cursor = following(true, 3);
    assert_eq!(after(&mut cursor, Cursor::idle), [Effect::Replay { from: 2 }]);
    assert_eq!(ended(&mut cursor, false), [Effect::Reconnect]);
    after(&mut cursor, Cursor::idle);
    assert_eq!(ended(&mut cursor, false), []);
}

#[test]
fn what_was_saved_counts_once_the_publisher_has_shown_that_it_is_the_same() {
    let standing = following(true, 3).standing().unwrap();
    let resumed = || {
        let mut cursor = Cursor::resume(true, standing);
        assert_eq!(connected(&mut cursor), [Effect::Replay { from: 2 }]);
        assert_eq!(cursor.standing(), None);
        cursor
    };
    let mut same = resumed();
    assert_eq!(replayed(&mut same, 1, 2), [Effect::Reveal]);
    assert_eq!(replayed(&mut same, 1, 3), [Effect::Apply((1, 3))]);
    assert_eq!(ended(&mut same, true), [Effect::Whole]);
    let mut other = resumed();
    assert_eq!(replayed(&mut other, 2, 2), [Effect::Clear, Effect::Replay { from: 0 }]);
    let mut shorter = resumed();
    assert_eq!(ended(&mut shorter, true), [Effect::Clear, Effect::Replay { from: 0 }]);
    let mut silent = resumed();
    assert_eq!(ended(&mut silent, false)[0], Effect::Clear);
    let mut gone = Cursor::<Carried>::resume(true, standing);
    assert_eq!(after(&mut gone, Cursor::grace_over), [Effect::Clear]);
}

#[test]
fn what_a_failed_replay_did_not_bring_is_learnt_later() {
    let mut cursor = following(true, 3);
    assert_eq!(live(&mut cursor, 1, 4), [Effect::Replay { from: 2 }]);
    let lost = [
        Effect::Degraded("replay_failed"),
        Effect::Clear,
        Effect::Degraded("gap"),
        Effect::Apply((1, 4)),
    ];
    assert_eq!(ended(&mut cursor, false), lost);
    // Nothing is given up before the first message is there.
    assert_eq!(after(&mut cursor, Cursor::idle), [Effect::Replay { from: 0 }]);
    assert_eq!(ended(&mut cursor, false), [Effect::Degraded("replay_failed")]);
    assert_eq!(after(&mut cursor, Cursor::idle), [Effect::Replay { from: 0 }]);
    assert_eq!(
        replayed(&mut cursor, 1, 0),
        [Effect::Clear, Effect::Whole, Effect::Apply((1, 0))]
    );
    for sequence in 1..5 {
        assert_eq!(replayed(&mut cursor, 1, sequence), [Effect::Apply((1, sequence))]);
    }
    assert_eq!(ended(&mut cursor, true), [Effect::Whole]);
    assert_eq!(after(&mut cursor, Cursor::idle), [Effect::Replay { from: 4 }]);
}

#[test]
fn a_buffer_that_starts_too_late_is_not_asked_again_and_again() {
    let mut cursor = following(true, 3);
    live(&mut cursor, 1, 4);
    ended(&mut cursor, false);
    after(&mut cursor, Cursor::idle);
    assert_eq!(replayed(&mut cursor, 1, 3), [Effect::Degraded("replay_too_short")]);
    assert_eq!(replayed(&mut cursor, 1, 4), []);
    assert_eq!(ended(&mut cursor, true), [Effect::Degraded("replay_too_short")]);
    assert_eq!(after(&mut cursor, Cursor::idle), [Effect::Replay { from: 4 }]);
}

fn live_message(cursor: &mut Cursor<Carried>, message: Message<Carried>) -> Effects<Carried> {
    after(cursor, |cursor, effects| cursor.live(message, effects))
}

fn replayed_message(cursor: &mut Cursor<Carried>, message: Message<Carried>) -> Effects<Carried> {
    after(cursor, |cursor, effects| cursor.replayed(message, effects))
}

#[test]
fn a_message_spoilt_on_the_way_is_asked_for_again() {
    let mut cursor = following(true, 3);
    assert_eq!(live_message(&mut cursor, spoilt(1, 3)), [Effect::Replay { from: 2 }]);
    assert_eq!(live(&mut cursor, 1, 4), []);
    assert_eq!(replayed(&mut cursor, 1, 2), []);
    assert_eq!(replayed(&mut cursor, 1, 3), [Effect::Apply((1, 3))]);
    assert_eq!(ended(&mut cursor, true), [Effect::Whole, Effect::Apply((1, 4))]);
}

#[test]
fn a_message_that_stays_unreadable_costs_what_was_known_once() {
    let mut cursor = following(true, 3);
    assert_eq!(live_message(&mut cursor, poison(1, 3)), [Effect::Replay { from: 2 }]);
    assert_eq!(replayed(&mut cursor, 1, 2), []);
    let passed_over = [Effect::Unreadable(()), Effect::Clear, Effect::Degraded("undecodable")];
    assert_eq!(replayed_message(&mut cursor, poison(1, 3)), passed_over);
    assert_eq!(ended(&mut cursor, true), [Effect::Degraded("undecodable")]);
    assert_eq!(live(&mut cursor, 1, 4), [Effect::Apply((1, 4))]);
    // The next one is asked for as well; further ones in a row are not, and there is nothing left to drop.
    let mut replays = 0;
    let mut clears = 0;
    for sequence in 5..1000 {
        let mut effects = live_message(&mut cursor, poison(1, sequence));
        if let Some(Effect::Replay { .. }) = effects.last() {
            replays += 1;
            replayed(&mut cursor, 1, sequence - 1);
            effects = replayed_message(&mut cursor, poison(1, sequence));
            effects.extend(ended(&mut cursor, true));
        }
        clears += effects.iter().filter(|effect| **effect == Effect::Clear).count();
    }
    assert_eq!((replays, clears), (3, 1));
    assert_eq!(cursor.last_sequence(), Some(999));
}

#[test]
fn without_replay_an_unreadable_message_clears() {
    let mut cursor = following(false, 3);
    let passed_over = [Effect::Unreadable(()), Effect::Clear, Effect::Degraded("undecodable")];
    assert_eq!(live_message(&mut cursor, poison(1, 3)), passed_over);
    assert_eq!(live(&mut cursor, 1, 4), [Effect::Apply((1, 4))]);
    assert_eq!(
        live(&mut cursor, 2, 0),
        [Effect::Clear, Effect::Whole, Effect::Apply((2, 0))]
    );
}

#[test]
fn when_the_grace_is_over_nothing_is_left() {
    let mut cursor = following(true, 3);
    assert_eq!(after(&mut cursor, Cursor::grace_over), [], "not while connected");
    after(&mut cursor, Cursor::disconnected);
    assert_eq!(after(&mut cursor, Cursor::grace_over), [Effect::Clear]);
    assert_eq!(connected(&mut cursor), [Effect::Replay { from: 0 }]);
}

/// A publisher, its subscription and its replay socket, and what the index would make of the effects.
struct World {
    cursor: Cursor<Carried>,
    can_replay: bool,
    incarnation: u32,
    published: u64,
    /// The replay buffer reaches back to this number.
    kept_from: u64,
    on_the_way: Vec<Message<Carried>>,
    /// Replies under way, the end last.
    replay: Option<std::collections::VecDeque<Option<Message<Carried>>>>,
    is_connected: bool,
    /// Whether a message was spoilt on the way.
    has_spoilt: bool,
    /// Messages that nobody can read.
    poisons: BTreeSet<Content>,
    /// What the engine's cache holds.
    cache: BTreeSet<u64>,
    /// What the index has: all of these messages and nothing else.
    applied: Vec<Content>,
    /// And what it holds for it.
    view: BTreeSet<u64>,
    is_whole: bool,
    /// What was saved last: where the cursor stood, what was applied, what the index held.
    saved: Option<Saved>,
    /// What a new process found saved, until it may be believed.
    hidden: Option<Saved>,
}

type Saved = (Standing, Vec<Content>, BTreeSet<u64>);

/// What the engine did when it published this: pseudo-random, of a few blocks.
fn change(cache: &mut BTreeSet<u64>, (incarnation, sequence): Content) {
    let random = xxhash_rust::xxh3::xxh3_64(format!("{incarnation} {sequence}").as_bytes());
    let block = random % 8;
    match random >> 32 & 0xf {
        0 => cache.clear(),
        1..=6 => _ = cache.remove(&block),
        _ => _ = cache.insert(block),
    }
}

#[derive(Clone, Debug)]
enum Act {
    Publish,
    PublishUnheard,
    Deliver,
    DeliverTwice,
    /// The message after the next one, before it.
    DeliverEarly,
    DeliverSpoilt,
    PublishPoison,
    Reply(u8),
    BreakReplay,
    ForgetOld,
    Idle,
    Reconnect,
    Restart(u8),
    GraceOver,
    Save,
    /// The control plane is another process, which has what was saved.
    NewProcess,
}

fn an_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => Just(Act::Publish),
        3 => Just(Act::PublishUnheard),
        12 => Just(Act::Deliver),
        2 => Just(Act::DeliverTwice),
        1 => Just(Act::DeliverEarly),
        1 => Just(Act::DeliverSpoilt),
        1 => Just(Act::PublishPoison),
        12 => (1_u8..6).prop_map(Act::Reply),
        1 => Just(Act::BreakReplay),
        1 => Just(Act::ForgetOld),
        2 => Just(Act::Idle),
        1 => Just(Act::Reconnect),
        1 => (0_u8..9).prop_map(Act::Restart),
        1 => Just(Act::GraceOver),
        3 => Just(Act::Save),
        1 => Just(Act::NewProcess),
    ]
}

impl World {
    fn new(can_replay: bool) -> Self {
        let mut world = Self {
            cursor: Cursor::new(can_replay),
            can_replay,
            incarnation: 1,
            published: 0,
            kept_from: 0,
            on_the_way: Vec::new(),
            replay: None,
            is_connected: true,
            has_spoilt: false,
            poisons: BTreeSet::new(),
            cache: BTreeSet::new(),
            applied: Vec::new(),
            view: BTreeSet::new(),
            is_whole: false,
            saved: None,
            hidden: None,
        };
        world.tell(Cursor::connected);
        world
    }

    fn tell(&mut self, act: impl FnOnce(&mut Cursor<Carried>, &mut Effects<Carried>)) {
        for effect in after(&mut self.cursor, act) {
            match effect {
                Effect::Apply(content) => {
                    assert_eq!(self.hidden, None, "applied to what is not proven");
                    if let Some(&(incarnation, sequence)) = self.applied.last() {
                        assert_eq!(
                            content,
                            (incarnation, sequence + 1),
                            "out of sequence, with what was known kept"
                        );
                    }
                    self.applied.push(content);
                    change(&mut self.view, content);
                }
                Effect::Reveal => (_, self.applied, self.view) = self.hidden.take().unwrap(),
                Effect::Clear => {
                    self.hidden = None;
                    self.applied.clear();
                    self.view.clear();
                }
                Effect::Unreadable(()) => {}
                Effect::Replay { from } => {
                    assert!(self.can_replay);
                    let kept = from.max(self.kept_from)..self.published;
                    let replies = kept.map(|sequence| Some(self.published_as(sequence)));
                    self.replay = Some(replies.chain([None]).collect());
                }
                Effect::Whole => self.is_whole = true,
                Effect::Degraded(_) => self.is_whole = false,
                Effect::Reconnect => {}
                Effect::Count(_) => unreachable!(),
            }
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Publish | Act::PublishUnheard | Act::PublishPoison => {
                if matches!(act, Act::PublishPoison) {
                    self.poisons.insert((self.incarnation, self.published));
                }
                if !matches!(act, Act::PublishUnheard) && self.is_connected {
                    self.on_the_way.push(self.published_as(self.published));
                }
                self.publish();
            }
            Act::Deliver | Act::DeliverTwice | Act::DeliverEarly | Act::DeliverSpoilt => {
                if self.on_the_way.is_empty() {
                    return;
                }
                if matches!(act, Act::DeliverEarly) && self.on_the_way.len() > 1 {
                    self.on_the_way.swap(0, 1);
                }
                let mut message = self.on_the_way.remove(0);
                if matches!(act, Act::DeliverSpoilt) {
                    message = spoilt(self.incarnation, message.sequence);
                    self.has_spoilt = true;
                }
                if matches!(act, Act::DeliverTwice) {
                    self.tell(|cursor, effects| cursor.live(message.clone(), effects));
                }
                self.tell(|cursor, effects| cursor.live(message, effects));
            }
            Act::Reply(count) => {
                for _ in 0..*count {
                    match self.replay.as_mut().and_then(std::collections::VecDeque::pop_front) {
                        Some(Some(message)) => self.tell(|cursor, effects| cursor.replayed(message, effects)),
                        Some(None) => {
                            self.replay = None;
                            self.tell(|cursor, effects| cursor.replay_ended(true, effects));
                        }
                        None => return,
                    }
                }
            }
            Act::BreakReplay => {
                if self.replay.take().is_some() {
                    self.tell(|cursor, effects| cursor.replay_ended(false, effects));
                }
            }
            Act::ForgetOld => self.kept_from = self.published.saturating_sub(2),
            Act::Idle => self.tell(Cursor::idle),
            Act::Reconnect => self.reconnect(),
            Act::Restart(published) => {
                self.incarnation += 1;
                self.kept_from = 0;
                self.published = 0;
                self.cache.clear();
                for _ in 0..*published {
                    self.publish();
                }
                self.reconnect();
            }
            Act::Save => {
                if let Some(standing) = self.cursor.standing() {
                    assert_eq!(self.hidden, None, "certain of what is not proven");
                    self.saved = Some((standing, self.applied.clone(), self.view.clone()));
                }
            }
            Act::NewProcess => self.new_process(),
            Act::GraceOver => {
                self.disconnect();
                self.tell(Cursor::grace_over);
                self.reconnect();
            }
        }
    }

    fn new_process(&mut self) {
        self.disconnect();
        self.applied.clear();
        self.view.clear();
        self.is_whole = false;
        self.hidden = self.saved.clone().filter(|_| self.can_replay);
        self.cursor = match &self.hidden {
            Some((standing, ..)) => Cursor::resume(self.can_replay, *standing),
            None => Cursor::new(self.can_replay),
        };
        self.tell(Cursor::connected);
    }

    fn publish(&mut self) {
        change(&mut self.cache, (self.incarnation, self.published));
        self.published += 1;
    }

    fn published_as(&self, sequence: u64) -> Message<Carried> {
        let is_poison = self.poisons.contains(&(self.incarnation, sequence));
        let make = if is_poison { poison } else { message };
        make(self.incarnation, sequence)
    }

    fn disconnect(&mut self) {
        self.replay = None;
        self.on_the_way.clear();
        self.tell(Cursor::disconnected);
    }

    fn reconnect(&mut self) {
        self.disconnect();
        self.tell(Cursor::connected);
    }

    /// Delivers all that is under way, and looks once more.
    fn settle(&mut self) {
        for _ in 0..2 {
            while !self.on_the_way.is_empty() || self.replay.is_some() {
                self.act(&Act::Deliver);
                self.act(&Act::Reply(1));
            }
            self.act(&Act::Idle);
        }
        self.act(&Act::Reply(200));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_view_is_part_of_the_cache_and_whole_if_it_says_so(can_replay: bool, acts in prop::collection::vec(an_act(), 1..80)) {
        let mut world = World::new(can_replay);
        for act in &acts {
            world.act(act);
        }
        world.settle();
        // Nothing of an earlier incarnation is left: the last connection came after it.
        prop_assert!(world.applied.iter().all(|(incarnation, _)| *incarnation == world.incarnation), "{:?}", world.applied);
        if can_replay {
            let unreadable = |sequence: u64| world.poisons.contains(&(world.incarnation, sequence));
            let readable = world.published.checked_sub(1).filter(|last| !unreadable(*last));
            prop_assert_eq!(world.applied.last().map(|(_, sequence)| *sequence), readable);
            prop_assert!(world.view.is_subset(&world.cache), "ghosts: {:?} of {:?}", world.view, world.cache);
        }
        let can_be_whole = can_replay && world.kept_from == 0 && world.poisons.is_empty() && !world.has_spoilt;
        prop_assert!(world.is_whole || !can_be_whole, "{:?} of {:?}", world.view, world.cache);
        if world.is_whole {
            let all = world.applied.first().is_none_or(|(_, sequence)| *sequence == 0);
            prop_assert!(all, "whole, but starts at {:?}", world.applied.first());
            prop_assert!(!can_replay || world.view == world.cache, "whole, but {:?} of {:?}", world.view, world.cache);
        }
    }
}
