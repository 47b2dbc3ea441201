//! The stream to the control plane: when to open it, when to give it up, and what to say on it. What comes in is
//! [`crate::dispatch`]'s.

use crate::host::StreamId;
use crate::random::Random;
use prost::Message;
use proto::v1::{self, from_filter};
use proto::view::{acknowledgement, position_to_wire};
use router_core::Millis;
use router_core::fleet::ArtefactId;
use router_core::replica::{Position, Replica};
use std::collections::{BTreeMap, BTreeSet};

/// Wait after the first failure, in milliseconds; it doubles with each further one.
const FIRST_WAIT: u64 = 200;
/// Longest wait, in milliseconds.
const LONGEST_WAIT: u64 = 5_000;
/// How long a stream may be silent before the control plane told its own limit, in milliseconds.
const SILENCE: u64 = 10_000;
/// After so many failures in a row, about 5 seconds, the log is told.
const FAILURES_TO_TELL: u32 = 5;
/// Complaints about messages that one stream may put into the log.
const MAX_COMPLAINTS: u32 = 8;

/// One VM's stream, or the wait for it.
#[derive(Debug)]
pub struct Link {
    phase: Phase,
    failures: u32,
    silence_ms: u64,
    complaints: u32,
    /// Pools for which a snapshot was asked and has not begun.
    awaited: BTreeSet<String>,
    acked: BTreeMap<String, Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting {
        until: Millis,
    },
    Open {
        stream: StreamId,
        heard: Millis,
        spoke: bool,
    },
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Open a stream.
    Open,
    /// Reset the stream, which is silent for too long.
    GiveUp(StreamId),
}

impl Link {
    /// Opens the first stream at a random moment after `now`: all VMs start at once.
    pub fn new(now: Millis, random: &mut Random) -> Self {
        let until = Millis(now.0.saturating_add(jitter(FIRST_WAIT, random)));
        Self {
            phase: Phase::Waiting { until },
            failures: 0,
            silence_ms: SILENCE,
            complaints: 0,
            awaited: BTreeSet::new(),
            acked: BTreeMap::new(),
        }
    }

    /// What is due at `now`.
    pub fn due(&self, now: Millis) -> Option<Step> {
        match self.phase {
            Phase::Waiting { until } => (now >= until).then_some(Step::Open),
            Phase::Open { stream, heard, .. } => (now.since(heard) > self.silence_ms).then_some(Step::GiveUp(stream)),
        }
    }

    /// The stream is open.
    pub fn opened(&mut self, stream: StreamId, now: Millis) {
        self.phase = Phase::Open {
            stream,
            heard: now,
            spoke: false,
        };
        self.silence_ms = SILENCE;
        self.complaints = 0;
        self.awaited.clear();
        self.acked.clear();
    }

    /// The stream is lost or could not be opened; the next attempt comes after a while.
    pub fn lost(&mut self, now: Millis, random: &mut Random) {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.failures.min(10));
        let wait = jitter(doubled.min(LONGEST_WAIT), random);
        self.failures = self.failures.saturating_add(1);
        let until = Millis(now.0.saturating_add(wait));
        self.phase = Phase::Waiting { until };
    }

    /// Something came in. True if it is the stream's first sign: the control plane is there.
    pub fn heard(&mut self, now: Millis) -> bool {
        let Phase::Open { heard, spoke, .. } = &mut self.phase else {
            return false;
        };
        *heard = now;
        self.failures = 0;
        !std::mem::replace(spoke, true)
    }

    /// The open stream.
    pub fn stream(&self) -> Option<StreamId> {
        match self.phase {
            Phase::Open { stream, .. } => Some(stream),
            Phase::Waiting { .. } => None,
        }
    }

    /// Whether the control plane has spoken on the open stream.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Open { spoke: true, .. })
    }

    /// Whether this failure is the one to tell of: single ones mend themselves, and more are no news.
    pub fn is_hopeless(&self) -> bool {
        self.failures == FAILURES_TO_TELL
    }

    /// The control plane's own limit of silence.
    pub fn set_silence(&mut self, silence_ms: u64) {
        self.silence_ms = silence_ms.max(1);
    }

    /// Whether one more complaint may be logged.
    pub fn may_complain(&mut self) -> bool {
        self.complaints = self.complaints.saturating_add(1);
        self.complaints <= MAX_COMPLAINTS
    }

    /// Asks for a pool's snapshot; `None` if it was asked for already.
    pub fn resync(&mut self, pool: &str, reason: &str) -> Option<Vec<u8>> {
        self.awaited.insert(pool.to_owned()).then(|| {
            encode(from_filter::Message::Resync(v1::Resync {
                pool: pool.to_owned(),
                reason: reason.to_owned(),
            }))
        })
    }

    /// A pool's snapshot begins.
    pub fn snapshot_begins(&mut self, pool: &str) {
        self.awaited.remove(pool);
    }

    /// Acknowledges where a pool's view stands; `None` if that was done.
    pub fn ack(&mut self, pool: &str, replica: &Replica) -> Option<Vec<u8>> {
        let position = replica.position()?;
        if self.acked.get(pool) == Some(&position) {
            return None;
        }
        self.acked.insert(pool.to_owned(), position);
        acknowledgement(pool, replica).map(|ack| encode(from_filter::Message::Ack(ack)))
    }
}

/// The first message of a stream.
pub fn hello(
    vm: String,
    artefacts: impl IntoIterator<Item = ArtefactId>,
    positions: Vec<(String, Position)>,
) -> Vec<u8> {
    let positions = positions
        .into_iter()
        .map(|(pool, position)| position_to_wire(pool, position));
    encode(from_filter::Message::Hello(v1::Hello {
        filter_version: env!("CARGO_PKG_VERSION").to_owned(),
        vm,
        artefacts: artefacts.into_iter().map(|id| id.0.to_vec().into()).collect(),
        positions: positions.collect(),
    }))
}

fn encode(message: from_filter::Message) -> Vec<u8> {
    let message = v1::FromFilter { message: Some(message) };
    message.encode_to_vec()
}

/// Between half of `wait` and all of it.
fn jitter(wait: u64, random: &mut Random) -> u64 {
    let half = wait / 2;
    half.saturating_add((half as f64 * random.unit()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use router_core::replica::Update;

    fn wait_of(link: &Link) -> Millis {
        match link.phase {
            Phase::Waiting { until } => until,
            Phase::Open { .. } => panic!("open"),
        }
    }

    #[test]
    fn waits_double_up_to_a_limit_and_start_over_once_heard() {
        let mut random = Random::new(7);
        let mut link = Link::new(Millis(0), &mut random);
        for longest in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            link.lost(Millis(0), &mut random);
            let wait = wait_of(&link).0;
            assert!((longest / 2..=longest).contains(&wait), "{wait} of {longest}");
        }
        link.opened(1, Millis(9));
        assert!(link.heard(Millis(10)) && !link.heard(Millis(11)));
        link.lost(Millis(0), &mut random);
        assert!(wait_of(&link).0 <= 200);
    }

    #[test]
    fn a_silent_stream_is_given_up() {
        let mut link = Link::new(Millis(0), &mut Random::new(7));
        assert_eq!([link.due(Millis(0)), link.due(Millis(200))], [None, Some(Step::Open)]);
        link.opened(4, Millis(0));
        link.heard(Millis(50));
        link.set_silence(100);
        assert_eq!(
            [link.due(Millis(150)), link.due(Millis(151))],
            [None, Some(Step::GiveUp(4))]
        );
    }

    #[test]
    fn a_snapshot_is_asked_for_once() {
        let mut link = Link::new(Millis(0), &mut Random::new(7));
        let asked = link.resync("p", "gap").expect("first");
        let message = from_filter::Message::Resync(v1::Resync {
            pool: "p".to_owned(),
            reason: "gap".to_owned(),
        });
        let expected = v1::FromFilter { message: Some(message) };
        assert_eq!(v1::FromFilter::decode(&asked[..]), Ok(expected));
        assert_eq!(link.resync("p", "gap"), None);
        link.snapshot_begins("p");
        assert!(link.resync("p", "checksum").is_some());
    }

    #[test]
    fn a_position_is_acknowledged_once() {
        let mut link = Link::new(Millis(0), &mut Random::new(7));
        let mut replica = Replica::default();
        assert_eq!(link.ack("p", &replica), None);
        for version in [2, 3] {
            replica
                .apply(Update::Begin {
                    position: Position { epoch: 1, version },
                    blocks: 0,
                })
                .expect("begins");
            replica.apply(Update::End { checksum: 0 }).expect("ends");
            assert!(link.ack("p", &replica).is_some());
            assert_eq!(link.ack("p", &replica), None);
        }
    }
}
