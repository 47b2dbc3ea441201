//! The cursor against a simulated publisher: whatever is lost, restarted or late, what is applied is never more than
//! what the publisher did, and in the end all of it.

use control_plane::events::cursor::{Cursor, Effect, Message};
use proptest::prelude::*;

/// What a message says: (incarnation, number).
type Content = (u32, u64);

fn message(incarnation: u32, sequence: u64) -> Message<Content> {
    let fingerprint = u64::from(incarnation) << 32 | sequence;
    Message {
        sequence,
        fingerprint,
        bytes: 1,
        content: (incarnation, sequence),
    }
}

fn after(
    cursor: &mut Cursor<Content>,
    act: impl FnOnce(&mut Cursor<Content>, &mut Vec<Effect<Content>>),
) -> Vec<Effect<Content>> {
    let mut effects = Vec::new();
    act(cursor, &mut effects);
    effects.retain(|effect| !matches!(effect, Effect::Count(_)));
    effects
}

fn live(cursor: &mut Cursor<Content>, incarnation: u32, sequence: u64) -> Vec<Effect<Content>> {
    after(cursor, |cursor, effects| {
        cursor.live(message(incarnation, sequence), effects)
    })
}

fn replayed(cursor: &mut Cursor<Content>, incarnation: u32, sequence: u64) -> Vec<Effect<Content>> {
    after(cursor, |cursor, effects| {
        cursor.replayed(message(incarnation, sequence), effects)
    })
}

fn ended(cursor: &mut Cursor<Content>, complete: bool) -> Vec<Effect<Content>> {
    after(cursor, |cursor, effects| cursor.replay_ended(complete, effects))
}

fn connected(cursor: &mut Cursor<Content>) -> Vec<Effect<Content>> {
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

fn following(can_replay: bool, messages: u64) -> Cursor<Content> {
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
fn when_the_grace_is_over_nothing_is_left() {
    let mut cursor = following(true, 3);
    assert_eq!(after(&mut cursor, Cursor::grace_over), [], "not while connected");
    after(&mut cursor, Cursor::disconnected);
    assert_eq!(after(&mut cursor, Cursor::grace_over), [Effect::Clear]);
    assert_eq!(connected(&mut cursor), [Effect::Replay { from: 0 }]);
}

/// A publisher, its subscription and its replay socket, and what the index would make of the effects.
struct World {
    cursor: Cursor<Content>,
    can_replay: bool,
    incarnation: u32,
    published: u64,
    /// The replay buffer reaches back to this number.
    kept_from: u64,
    on_the_way: Vec<Message<Content>>,
    /// Replies under way, the end last.
    replay: Option<std::collections::VecDeque<Option<Message<Content>>>>,
    is_connected: bool,
    /// What the index has: all of these messages and nothing else.
    applied: Vec<Content>,
    is_whole: bool,
}

#[derive(Clone, Debug)]
enum Act {
    Publish,
    PublishUnheard,
    Deliver,
    DeliverTwice,
    Reply(u8),
    BreakReplay,
    ForgetOld,
    Idle,
    Reconnect,
    Restart(u8),
    GraceOver,
}

fn an_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => Just(Act::Publish),
        3 => Just(Act::PublishUnheard),
        12 => Just(Act::Deliver),
        2 => Just(Act::DeliverTwice),
        12 => (1_u8..6).prop_map(Act::Reply),
        1 => Just(Act::BreakReplay),
        1 => Just(Act::ForgetOld),
        2 => Just(Act::Idle),
        1 => Just(Act::Reconnect),
        1 => (0_u8..9).prop_map(Act::Restart),
        1 => Just(Act::GraceOver),
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
            applied: Vec::new(),
            is_whole: false,
        };
        world.tell(Cursor::connected);
        world
    }

    fn tell(&mut self, act: impl FnOnce(&mut Cursor<Content>, &mut Vec<Effect<Content>>)) {
        for effect in after(&mut self.cursor, act) {
            match effect {
                Effect::Apply(content) => {
                    if let Some(&(incarnation, sequence)) = self.applied.last() {
                        assert_eq!(
                            content,
                            (incarnation, sequence + 1),
                            "out of sequence, with what was known kept"
                        );
                    }
                    self.applied.push(content);
                }
                Effect::Clear => self.applied.clear(),
                Effect::Replay { from } => {
                    assert!(self.can_replay);
                    let kept = from.max(self.kept_from)..self.published;
                    let replies = kept.map(|sequence| Some(message(self.incarnation, sequence)));
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
            Act::Publish | Act::PublishUnheard => {
                if matches!(act, Act::Publish) && self.is_connected {
                    self.on_the_way.push(message(self.incarnation, self.published));
                }
                self.published += 1;
            }
            Act::Deliver | Act::DeliverTwice => {
                if self.on_the_way.is_empty() {
                    return;
                }
                let message = self.on_the_way.remove(0);
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
                self.published = u64::from(*published);
                self.reconnect();
            }
            Act::GraceOver => {
                self.disconnect();
                self.tell(Cursor::grace_over);
                self.reconnect();
            }
        }
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
    fn what_is_applied_is_an_unbroken_run_of_one_incarnation(can_replay: bool, acts in prop::collection::vec(an_act(), 1..80)) {
        let mut world = World::new(can_replay);
        for act in &acts {
            world.act(act);
        }
        world.settle();
        // Nothing of an earlier incarnation is left: the last connection came after it.
        prop_assert!(world.applied.iter().all(|(incarnation, _)| *incarnation == world.incarnation), "{:?}", world.applied);
        if can_replay {
            prop_assert_eq!(world.applied.last().map(|(_, sequence)| sequence + 1).unwrap_or(0), world.published);
        }
        if world.is_whole {
            let all = world.applied.first().is_none_or(|(_, sequence)| *sequence == 0);
            prop_assert!(all, "whole, but starts at {:?}", world.applied.first());
        }
    }
}
