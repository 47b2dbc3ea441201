//! One rank at work: the task that turns the scheduler's steps into real time, and the handle to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::block_pool::CachedBlock;
use crate::events::KvEvent;
use crate::hash::CacheKeys;
use crate::scheduler::{NewRequest, Progress, RequestId, Scheduler, SchedulerConfig, Stats, Step};

/// How far a rank that was held up (by a busy machine) runs ahead of real time to make up for it.
const MAX_CATCH_UP: Duration = Duration::from_millis(20);

/// Sends work to a rank. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RankHandle {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Requests sent that the scheduler has not seen yet.
    pending: AtomicUsize,
    stats: Mutex<Stats>,
}

#[derive(Debug)]
enum Command {
    Submit(NewRequest, mpsc::UnboundedSender<Progress>),
    Abort(RequestId),
    Contents(oneshot::Sender<Vec<CachedBlock>>),
    Reset(oneshot::Sender<bool>),
}

/// A request on its way through a rank; dropping it aborts the request.
#[derive(Debug)]
pub struct InFlight {
    id: RequestId,
    progress: mpsc::UnboundedReceiver<Progress>,
    commands: mpsc::UnboundedSender<Command>,
    finished: bool,
}

impl RankHandle {
    /// Starts the rank's task. The events of every step go to `events`.
    pub fn spawn(config: SchedulerConfig, events: Option<mpsc::UnboundedSender<Vec<KvEvent>>>) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let rank = Rank {
            scheduler: Scheduler::new(config),
            commands: receiver,
            clients: HashMap::new(),
            events,
            shared: shared.clone(),
        };
        tokio::spawn(rank.run());
        Self { commands, shared }
    }

    /// Submits a request; `id` must be new to this rank. `None` if the rank is shutting down.
    pub fn submit(&self, id: RequestId, prompt: Vec<u32>, output: Vec<u32>, keys: CacheKeys) -> Option<InFlight> {
        let (sender, progress) = mpsc::unbounded_channel();
        self.shared.pending.fetch_add(1, Ordering::Relaxed);
        self.commands
            .send(Command::Submit(
                NewRequest {
                    id,
                    prompt,
                    output,
                    keys,
                },
                sender,
            ))
            .ok()?;
        Some(InFlight {
            id,
            progress,
            commands: self.commands.clone(),
            finished: false,
        })
    }

    /// What the prefix cache holds, as of the last published step.
    pub async fn cache_contents(&self) -> Option<Vec<CachedBlock>> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(Command::Contents(sender)).ok()?;
        receiver.await.ok()
    }

    /// Empties the prefix cache; false if requests are using it.
    pub async fn reset_prefix_cache(&self) -> Option<bool> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(Command::Reset(sender)).ok()?;
        receiver.await.ok()
    }

    /// Gauges and counters; requests not yet seen by the scheduler count as waiting.
    pub fn stats(&self) -> Stats {
        let stats = *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        Stats {
            waiting: stats.waiting + self.shared.pending.load(Ordering::Relaxed),
            ..stats
        }
    }
}

impl InFlight {
    /// The next token; `None` after the last one, or when the rank is shutting down.
    pub async fn next(&mut self) -> Option<Progress> {
        if self.finished {
            return None;
        }
        let progress = self.progress.recv().await?;
        self.finished = progress.finished;
        Some(progress)
    }

    /// Whether the last token has been seen.
    pub fn is_finished(&self) -> bool {
        self.finished
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.finished {
            // Fails only when the rank is gone, and the request with it.
            let _ = self.commands.send(Command::Abort(self.id));
        }
    }
}

struct Rank {
    scheduler: Scheduler,
    commands: mpsc::UnboundedReceiver<Command>,
    clients: HashMap<RequestId, mpsc::UnboundedSender<Progress>>,
    events: Option<mpsc::UnboundedSender<Vec<KvEvent>>>,
    shared: Arc<Shared>,
}

impl Rank {
    async fn run(mut self) {
        let mut clock = Instant::now();
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.apply(command);
            }
            let step = self.scheduler.schedule();
            self.share_stats();
            let Some(step) = step else {
                let Some(command) = self.commands.recv().await else {
                    return;
                };
                self.apply(command);
                clock = Instant::now();
                continue;
            };
            clock += step.duration;
            tokio::time::sleep_until(clock).await;
            tokio::task::yield_now().await;
            if let Some(earliest) = Instant::now().checked_sub(MAX_CATCH_UP) {
                clock = clock.max(earliest);
            }
            self.finish(&step);
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Submit(request, client) => {
                self.clients.insert(request.id, client);
                self.scheduler.add(request);
                self.shared.pending.fetch_sub(1, Ordering::Relaxed);
            }
            Command::Abort(id) => {
                self.clients.remove(&id);
                self.scheduler.abort(id);
            }
            // Whoever asked may have gone away; then nobody wants the answer.
            Command::Contents(reply) => _ = reply.send(self.scheduler.cache_contents()),
            Command::Reset(reply) => {
                let done = self.scheduler.reset_prefix_cache();
                self.publish_events();
                _ = reply.send(done);
            }
        }
    }

    /// Events go out before the tokens: when a client has its answer, the blocks are announced.
    fn finish(&mut self, step: &Step) {
        let progress = self.scheduler.finish_step(step);
        self.publish_events();
        self.share_stats();
        for one in progress {
            let client = if one.finished {
                self.clients.remove(&one.id)
            } else {
                self.clients.get(&one.id).cloned()
            };
            if let Some(client) = client {
                // A client that went away sends an abort.
                let _ = client.send(one);
            }
        }
    }

    fn publish_events(&mut self) {
        let batch = self.scheduler.take_events();
        if let (Some(events), false) = (&self.events, batch.is_empty()) {
            // Fails only at shutdown.
            let _ = events.send(batch);
        }
    }

    fn share_stats(&self) {
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = self.scheduler.stats();
    }
}
