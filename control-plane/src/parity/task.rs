//! One worker's task: asks, and asks again whenever the worker may be another than before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prompt::Shape;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::compare::{first_difference, our_ids};
use super::probes::Probe;
use super::vocabulary::Vocabulary;
use super::worker::{Answer, Worker};
use super::{LeftOut, PoolParity, Verdict};
use crate::model::Model;

/// Pause after an attempt that came to nothing: doubles from the first to the last. Short, as until then the pool is
/// routed by load.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Everything that all workers of a pool are asked, and what it is compared with.
pub struct Questions {
    /// In this order.
    pub probes: Vec<Probe>,
    /// What our ids are made with.
    pub model: Model,
    /// Where it comes from, to show tokens as text.
    pub model_dir: PathBuf,
}

/// One worker to ask.
pub struct ParityTask {
    /// Its pool.
    pub parity: Arc<PoolParity>,
    /// What to ask.
    pub questions: Arc<Questions>,
    /// Its HTTP endpoint.
    pub endpoint: SocketAddr,
    /// Notified when it was connected to anew: it may have been restarted with another model.
    pub connected: Arc<Notify>,
    /// After this time it is asked again in any case.
    pub interval: Duration,
}

impl ParityTask {
    /// Runs for ever.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = match self.check().await {
                Ok(verdict) => {
                    self.parity.judge(self.endpoint, verdict);
                    pause = FIRST_PAUSE;
                    self.interval
                }
                Err(trouble) => {
                    self.parity.note_trouble(self.endpoint, trouble);
                    let longer = (pause * 2).min(LONGEST_PAUSE);
                    std::mem::replace(&mut pause, longer)
                }
            };
            if timeout(wait, self.connected.notified()).await.is_ok() {
                // Its HTTP server may come up long after its event socket.
                pause = FIRST_PAUSE;
            }
        }
    }

    /// Asks everything once.
    async fn check(&self) -> Result<Verdict, String> {
        let mut check = Check {
            worker: Worker::new(self.endpoint),
            renders_not: BTreeMap::new(),
        };
        let (mut compared, mut rendered, mut left_out) = (0, 0, Vec::new());
        for probe in &self.questions.probes {
            match self.compare(&mut check, probe).await? {
                Compared::Equal(way) => {
                    compared += 1;
                    rendered += usize::from(way == Way::Render);
                }
                Compared::Not(because) => left_out.push(LeftOut {
                    probe: probe.name,
                    because,
                }),
                Compared::Over(verdict) => return Ok(verdict),
            }
        }
        Ok(match left_out.first() {
            Some(first) if compared == 0 => Verdict::Unverified {
                because: format!(
                    "no probe could be compared; the first, {}: {}",
                    first.probe, first.because
                ),
            },
            _ => Verdict::Equal {
                compared,
                rendered,
                left_out,
            },
        })
    }

    /// Asks one thing. A difference counts if it is there twice: in between, the day may have changed that a template
    /// writes down.
    async fn compare(&self, check: &mut Check, probe: &Probe) -> Result<Compared, String> {
        match self.compare_once(check, probe).await? {
            Compared::Over(Verdict::Unequal { .. }) => self.compare_once(check, probe).await,
            other => Ok(other),
        }
    }

    async fn compare_once(&self, check: &mut Check, probe: &Probe) -> Result<Compared, String> {
        let ours = self.our_ids(probe);
        let (way, theirs) = match check.ask(probe).await? {
            (way, Answer::Tokens(tokens)) => (way, tokens),
            (Way::Tokenize, Answer::CannotBeAsked(because)) => {
                return Ok(Compared::Over(Verdict::Unverified { because }));
            }
            (_, Answer::Refused(because) | Answer::CannotBeAsked(because)) => return Ok(Compared::Not(because)),
        };
        let ours = match ours {
            Ok(ids) => ids,
            // Such requests are routed by load anyhow.
            Err(reason) => return Ok(Compared::Not(format!("not routed exactly: {reason}"))),
        };
        let vocabulary = || Vocabulary::load(&self.questions.model_dir);
        Ok(match first_difference(probe.name, &ours, &theirs, vocabulary) {
            None => Compared::Equal(way),
            Some(difference) => Compared::Over(Verdict::Unequal {
                difference: Box::new(difference),
            }),
        })
    }

    fn our_ids(&self, probe: &Probe) -> Result<Vec<u32>, String> {
        let Questions { model, .. } = &*self.questions;
        model.template.set_now(SystemTime::now());
        our_ids(model, probe)
    }
}

/// How a worker was asked for a probe's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// For those of the request itself.
    Render,
    /// For those of a chat or a text with the same prompt.
    Tokenize,
}

/// One worker that is being asked.
struct Check {
    worker: Worker,
    /// Shapes that it does not render for others, and what it says of that.
    renders_not: BTreeMap<Shape, String>,
}

impl Check {
    /// Asks for the request itself where the worker renders it, which shows all that there is to see.
    async fn ask(&mut self, probe: &Probe) -> Result<(Way, Answer), String> {
        if probe.shape != Shape::Embeddings && !self.renders_not.contains_key(&probe.shape) {
            match self.worker.render(probe.shape, &probe.body).await? {
                Answer::CannotBeAsked(because) => self.renders_not.insert(probe.shape, because),
                answer => return Ok((Way::Render, answer)),
            };
        }
        match &probe.tokenize {
            Some(body) => Ok((Way::Tokenize, self.worker.tokenize(body).await?)),
            None => {
                let because = self.renders_not.get(&probe.shape).cloned().unwrap_or_default();
                Ok((Way::Render, Answer::CannotBeAsked(because)))
            }
        }
    }
}

/// What became of one probe.
enum Compared {
    Equal(Way),
    /// One side cannot do it.
    Not(String),
    /// No further one is needed.
    Over(Verdict),
}

/// Asks a pool's workers, as these come and go.
#[derive(Clone)]
pub struct Asker {
    /// The pool.
    pub parity: Arc<PoolParity>,
    /// What to ask.
    pub questions: Arc<Questions>,
    /// How often.
    pub interval: Duration,
}

impl Asker {
    /// Asks the worker at `endpoint` until the task is aborted and [`PoolParity::dismiss`] called. `connected`: see
    /// [`ParityTask`].
    pub fn ask(&self, endpoint: SocketAddr, connected: Arc<Notify>) -> impl Future<Output = ()> + use<> {
        self.parity.admit(endpoint);
        let task = ParityTask {
            parity: self.parity.clone(),
            questions: self.questions.clone(),
            endpoint,
            connected,
            interval: self.interval,
        };
        task.run()
    }
}

/// Ends a pool's grace when it is over.
pub async fn end_grace(parity: Arc<PoolParity>, grace: Duration) {
    sleep(grace).await;
    parity.end_grace();
}
