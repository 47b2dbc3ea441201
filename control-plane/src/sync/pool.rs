//! The one task that owns a pool's index and the versions of its view. Ranks send it what happened, subscribers ask it
//! for a point to start from.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use proto::view::PoolUpdate;
use router_core::Slot;
use router_core::hash::{BlockLayout, SequenceHash};
use router_core::levels::Level;
use router_core::replica::{Position, Update};
use router_core::view::{Depths, PrefixView};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::bound::{Bound, ViewStatus};
use super::codec::Encoded;
use super::log::{DeltaLog, Deltas};
use super::publisher::Publisher;
use super::snapshot::Snapshot;
use crate::admin::metrics::{Metrics, PoolMetrics};
use crate::admin::status::RankStatus;
use crate::events::{Batch, Event};
use crate::index::{Block, Change, Index, NotBlocks, SavedBlocks, Shape, Tally};

/// Changes that go out at once, without waiting for the interval to end.
const MAX_PENDING_CHANGES: usize = 20_000;
/// Messages of a rank that wait until it is taken out of the view. Beyond them that is done at once.
const MAX_WAITING: usize = 4096;
/// A snapshot is shared as long as no more deltas than that, or than an eighth of it, came since.
const SHARED_BYTES: usize = 2 << 20;
/// Messages that wait for the pool's task.
const QUEUE: usize = 1024;

/// What a pool's task is told.
#[derive(Debug)]
pub enum Input {
    /// A rank is there; whatever else is said of a slot counts only between this and [`Input::Leave`].
    Join(Slot, Arc<RankStatus>),
    /// A rank is gone, and its blocks with it.
    Leave(Slot),
    /// A rank published this.
    Apply(Slot, Batch),
    /// Nothing is known of a rank any more.
    Clear(Slot),
    /// What ranks hold, in their order; `None` while that is not certain.
    Save(Vec<Slot>, oneshot::Sender<Option<Vec<SavedBlocks>>>),
    /// Ranks hold this, but it is not shown until [`Input::Reveal`]. All of them or none.
    Restore(Vec<(Slot, SavedBlocks)>, oneshot::Sender<Result<(), NotBlocks>>),
    /// What a rank was restored to is true.
    Reveal(Slot),
    /// A subscriber wants to follow, from here if that is possible.
    Subscribe(Option<Position>, oneshot::Sender<Start>),
    /// Leading blocks that each rank holds.
    Depths(Vec<SequenceHash>, oneshot::Sender<Depths>),
    /// A page of what a rank holds; see [`Index::blocks`].
    Blocks {
        /// Whose.
        slot: Slot,
        /// Where to go on.
        from: u32,
        /// How many nodes to look at.
        count: u32,
        /// Where the page goes.
        reply: oneshot::Sender<BlocksPage>,
    },
    /// The version that holds everything told so far.
    Position(oneshot::Sender<Position>),
}

/// Some of a rank's blocks, and where to go on.
pub type BlocksPage = (Vec<Block>, Option<u32>);

/// Where a subscriber starts, and everything after.
pub struct Start {
    /// What brings it up to the version from which the deltas go on; `None`: it is there.
    pub snapshot: Option<Arc<Snapshot>>,
    /// All deltas after that.
    pub deltas: Deltas,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

/// Talks to a pool's task.
#[derive(Clone, Debug)]
pub struct PoolHandle {
    /// The pool's name.
    pub name: Arc<str>,
    /// How its workers cut prompts into blocks.
    pub layout: BlockLayout,
    inputs: mpsc::Sender<Input>,
    /// The view as it is.
    pub view: watch::Receiver<ViewStatus>,
}

impl PoolHandle {
    /// Tells the task something; waits while its queue is full. False if it has ended.
    pub async fn send(&self, input: Input) -> bool {
        self.inputs.send(input).await.is_ok()
    }

    /// Starts following the pool. `None` if its task has ended.
    pub async fn subscribe(&self, from: Option<Position>) -> Option<Start> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Subscribe(from, reply)).await;
        answer.await.ok()
    }

    /// Leading blocks of `prompt` that each rank holds. `None` if the task has ended.
    pub async fn depths(&self, prompt: Vec<SequenceHash>) -> Option<Depths> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Depths(prompt, reply)).await;
        answer.await.ok()
    }

    /// Some of what a rank holds. `None` if the task has ended.
    pub async fn blocks(&self, slot: Slot, from: u32, count: u32) -> Option<BlocksPage> {
        let (reply, answer) = oneshot::channel();
        let question = Input::Blocks {
            slot,
            from,
            count,
            reply,
        };
        self.send(question).await;
        answer.await.ok()
    }

    /// The view's version with everything that the task was told before. `None` if the task has ended.
    pub async fn position(&self) -> Option<Position> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Position(reply)).await;
        answer.await.ok()
    }
}

/// A pool's task before it runs.
pub struct PoolTask {
    name: Arc<str>,
    inputs: mpsc::Receiver<Input>,
    index: Index,
    stride: NonZeroU32,
    publisher: Publisher,
    interval: Duration,
    pending: Vec<Change>,
    /// Ranks that are being taken out of the view, and what they have published since.
    draining: HashMap<Slot, VecDeque<Vec<Event>>>,
    /// What the filters have, to answer questions about it.
    view: PrefixView,
    holdings: usize,
    bound: Bound,
    shown: watch::Sender<ViewStatus>,
    log: DeltaLog,
    /// The last one, while anyone still reads it.
    snapshot: Weak<Snapshot>,
    ranks: HashMap<Slot, Arc<RankStatus>>,
    metrics: PoolMetrics,
}

impl PoolTask {
    /// A task without ranks, and its handle.
    pub fn new(
        name: &str,
        epoch: u64,
        shape: Shape,
        bound: Bound,
        interval: Duration,
        metrics: &Metrics,
    ) -> (Self, PoolHandle) {
        let (shown, view) = watch::channel(ViewStatus::default());
        let name: Arc<str> = name.into();
        let (sender, inputs) = mpsc::channel(QUEUE);
        let task = Self {
            name: name.clone(),
            inputs,
            stride: NonZeroU32::new(shape.grid.stride).unwrap_or(NonZeroU32::MIN),
            index: Index::new(shape),
            publisher: Publisher::new(epoch),
            interval,
            pending: Vec::new(),
            draining: HashMap::new(),
            view: PrefixView::new(),
            holdings: 0,
            bound,
            shown,
            log: DeltaLog::new(),
            snapshot: Weak::new(),
            ranks: HashMap::new(),
            metrics: metrics.pool(&name),
        };
        let handle = PoolHandle {
            name,
            layout: shape.layout,
            inputs: sender,
            view,
        };
        (task, handle)
    }

    /// Runs until every handle is gone.
    pub async fn run(mut self) {
        let mut due: Option<Instant> = None;
        loop {
            let wanted = if self.draining.is_empty() && self.index.is_regridded() {
                due
            } else {
                Some(Instant::now())
            };
            let input = match wanted {
                None => self.inputs.recv().await,
                Some(wanted) => timeout_at(wanted, self.inputs.recv()).await.unwrap_or_default(),
            };
            match input {
                Some(input) => self.take(input),
                None if self.inputs.is_closed() && self.inputs.is_empty() => return self.flush(),
                None => {}
            }
            // Piece by piece, so that other inputs come in between.
            if let Some(&slot) = self.draining.keys().next() {
                self.drain(slot, MAX_PENDING_CHANGES);
            }
            self.index.regrid(&mut self.pending);
            // A steady stream of inputs must not put the delta off.
            if self.pending.len() >= MAX_PENDING_CHANGES || due.is_some_and(|due| due <= Instant::now()) {
                self.flush();
            }
            due = match self.pending.is_empty() {
                true => None,
                false => due.or_else(|| Some(Instant::now() + self.interval)),
            };
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Join(slot, status) => {
                self.ranks.insert(slot, status);
            }
            Input::Leave(slot) => {
                self.apply(slot, vec![Event::Cleared]);
                self.ranks.remove(&slot);
            }
            Input::Apply(slot, batch) => self.apply(slot, batch.events),
            Input::Clear(slot) => self.apply(slot, vec![Event::Cleared]),
            Input::Save(slots, reply) => {
                let _ = reply.send(slots.iter().map(|&slot| self.index.save(slot)).collect());
            }
            Input::Restore(saved, reply) => {
                let _ = reply.send(self.restore(&saved));
            }
            Input::Reveal(slot) => {
                self.index.reveal(slot, &mut self.pending);
                self.show_blocks(slot);
            }
            Input::Subscribe(from, reply) => {
                self.flush();
                // Whoever asked may have gone away.
                let _ = reply.send(self.start(from));
            }
            Input::Depths(prompt, reply) => {
                self.flush();
                let _ = reply.send(self.view.depths_by(&prompt, self.stride));
            }
            Input::Blocks {
                slot,
                from,
                count,
                reply,
            } => {
                self.flush();
                let _ = reply.send(self.index.blocks(slot, from, count));
            }
            Input::Position(reply) => {
                self.flush();
                let _ = reply.send(self.publisher.position());
            }
        }
    }

    fn apply(&mut self, slot: Slot, events: Vec<Event>) {
        let Some(rank) = self.ranks.get(&slot).cloned() else {
            return;
        };
        if let Some(waiting) = self.draining.get_mut(&slot) {
            waiting.push_back(events);
            if waiting.len() >= MAX_WAITING {
                self.drain(slot, usize::MAX);
            }
            return;
        }
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            let tally = self.index.apply(slot, &event, &mut self.pending);
            self.metrics.count_blocks(&tally);
            note_trouble(&rank, &tally);
            // A rank of usual size is gone at once.
            if event == Event::Cleared && !self.index.drain(slot, MAX_PENDING_CHANGES, &mut self.pending) {
                self.draining.insert(slot, VecDeque::from([events.collect()]));
                break;
            }
        }
        self.show_blocks(slot);
    }

    /// Takes `count` more blocks of a rank that is being cleared out of the view.
    fn drain(&mut self, slot: Slot, count: usize) {
        if self.index.drain(slot, count, &mut self.pending) {
            let waiting = self.draining.remove(&slot);
            waiting
                .into_iter()
                .flatten()
                .for_each(|events| self.apply(slot, events));
        }
        self.show_blocks(slot);
    }

    fn restore(&mut self, saved: &[(Slot, SavedBlocks)]) -> Result<(), NotBlocks> {
        let restored = saved
            .iter()
            .try_for_each(|(slot, saved)| self.index.restore(*slot, saved));
        if restored.is_err() {
            saved
                .iter()
                .for_each(|(slot, _)| self.apply(*slot, vec![Event::Cleared]));
        }
        restored
    }

    fn show_blocks(&self, slot: Slot) {
        let blocks = self.index.reachable(slot, Level::Device);
        if let Some(rank) = self.ranks.get(&slot) {
            rank.set_blocks(blocks);
        }
    }

    /// Sends what has changed to every subscriber.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.publish();
        self.keep_bound();
        let (entries, bytes, checksum) = (self.view.len(), self.view.bytes(), self.publisher.checksum());
        self.shown
            .send_modify(|status| (status.entries, status.bytes, status.checksum) = (entries, bytes, checksum));
        self.metrics.show_view(entries, bytes);
    }

    fn publish(&mut self) {
        for delta in self.publisher.publish(&self.pending) {
            for run in &delta.removed {
                for &hash in &run.hashes {
                    self.holdings -= usize::from(self.view.remove(run.slot, hash));
                }
            }
            for run in &delta.stored {
                for &hash in &run.hashes {
                    self.holdings += usize::from(self.view.insert(run.slot, hash));
                }
            }
            let update = PoolUpdate {
                pool: self.name.to_string(),
                update: Update::Delta(delta),
            };
            self.metrics.deltas.inc();
            self.log.push(Encoded::new(update.to_message()), self.holdings * 8);
        }
        self.pending.clear();
        self.pending.shrink_to(MAX_PENDING_CHANGES);
    }

    /// Nothing is pending when this is called, so base and deltas meet without a gap.
    fn start(&mut self, from: Option<Position>) -> Start {
        let epoch = self.publisher.position().epoch;
        let from = from.filter(|from| from.epoch == epoch && self.log.bytes_after(from.version).is_some());
        if let Some(from) = from {
            return Start {
                snapshot: None,
                deltas: self.log.follow(from.version),
            };
        }
        self.metrics.snapshots.inc();
        let snapshot = self.snapshot();
        Start {
            deltas: self.log.follow(snapshot.position.version),
            snapshot: Some(snapshot),
        }
    }

    /// One that others are reading will do, as long as it and what came after it are not much more than a new one: filters
    /// that come together share one.
    fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some(last) = self.snapshot.upgrade() {
            let since = self.log.bytes_after(last.position.version);
            if since.is_some_and(|since| since <= (last.bytes / 8).max(SHARED_BYTES)) {
                return last;
            }
        }
        let (position, checksum) = (self.publisher.position(), self.publisher.checksum());
        let (blocks, holdings) = (self.view.len(), self.index.holdings());
        let snapshot = Arc::new(Snapshot::new(&self.name, position, blocks, checksum, holdings));
        self.snapshot = Arc::downgrade(&snapshot);
        snapshot
    }

    /// Decides what the view shows, so that it stays within its bound.
    fn keep_bound(&mut self) {
        let (bytes, now) = (self.view.bytes_at_most(), Instant::now());
        let since = self.index.since();
        if !self.index.is_regridded() || !self.bound.is_due(bytes, since == 0, now) {
            return;
        }
        let by_generation = self.index.reachable_by_generation();
        let Some(since) = self.bound.adjust(bytes, since, &by_generation, now) else {
            return;
        };
        let hidden = by_generation.iter().take(since.into()).sum();
        self.shown.send_modify(|status| status.hidden = hidden);
        self.metrics.show_hidden(hidden);
        match hidden {
            0 => tracing::info!(pool = &*self.name, "the view has room for all blocks again"),
            _ => tracing::warn!(
                pool = &*self.name,
                bytes,
                hidden,
                "the view is larger than view.max_mib: the oldest blocks are not shown; a view.stride costs less"
            ),
        }
        self.index.show_since(since);
    }
}

fn note_trouble(rank: &RankStatus, tally: &Tally) {
    if tally.wrong_block_size > 0 {
        rank.report_trouble("wrong_block_size: the engine's block size or layout is not the pool's");
    }
    if tally.unshown_tier > 0 {
        rank.note_unshown_tier();
    }
    if tally.over_limit > 0 {
        rank.report_trouble(
            "over_limit: more blocks than index.max_rank_blocks or max_pool_blocks; the newest are not routed by",
        );
    }
    if tally.missing_tokens > 0 {
        rank.report_trouble("missing_tokens: the engine's store events have too few tokens");
    }
}

/// Artefact messages, cut to chunks.
pub fn artefact_messages(id: &[u8], content: &Bytes) -> impl Iterator<Item = Encoded> {
    const CHUNK: usize = 128 * 1024;
    let id = Bytes::copy_from_slice(id);
    (0..content.len()).step_by(CHUNK).map(move |offset| {
        let end = content.len().min(offset + CHUNK);
        Encoded::new(proto::v1::to_filter::Message::Artefact(proto::v1::ArtefactChunk {
            id: id.clone(),
            total_bytes: content.len() as u64,
            offset: offset as u64,
            data: content.slice(offset..end),
        }))
    })
}
