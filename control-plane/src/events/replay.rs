//! Asking a publisher for what it sent before: vLLM's replay ROUTER (`vllm/distributed/kv_events.py`).

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::zmtp::{Connection, Part, Role};

/// How long the connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long each answer may take: a busy engine answers between two steps, an idle one after about 100 ms.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all of it may take.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(120);
/// Answers that wait to be taken.
const QUEUE: usize = 64;
/// Number of the end mark: -1.
const END_MARK: u64 = u64::MAX;

/// One answer.
#[derive(Debug)]
pub enum Answer {
    /// A message that was published before.
    Message {
        /// Its number.
        sequence: u64,
        /// Its bytes.
        payload: Part,
    },
    /// All was sent.
    End,
    /// It broke off.
    Failed(String),
}

/// A replay that runs; dropping it ends it.
#[derive(Debug)]
pub struct Replay {
    answers: mpsc::Receiver<Answer>,
    task: JoinHandle<()>,
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replay {
    /// Asks `endpoint` for everything from number `from` on.
    pub fn start(endpoint: String, from: u64) -> Self {
        let (sender, answers) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            let last = match run(&endpoint, from, &sender).await {
                Ok(()) => Answer::End,
                Err(why) => Answer::Failed(why),
            };
            // Nobody waits for it any more if this fails.
            let _ = sender.send(last).await;
        });
        Self { answers, task }
    }

    /// The next answer; nothing comes after [`Answer::End`] and [`Answer::Failed`].
    pub async fn next(&mut self) -> Answer {
        self.answers
            .recv()
            .await
            .unwrap_or_else(|| Answer::Failed("the replay was dropped".to_owned()))
    }
}

async fn run(endpoint: &str, from: u64, sender: &mpsc::Sender<Answer>) -> Result<(), String> {
    let deadline = Instant::now() + TOTAL_TIMEOUT;
    let connecting = timeout(CONNECT_TIMEOUT, Connection::connect(endpoint, Role::Dealer)).await;
    let mut connection = connecting
        .map_err(|_| format!("cannot connect to {endpoint}"))?
        .map_err(|error| error.to_string())?;
    let request = [Bytes::new(), Bytes::copy_from_slice(&from.to_be_bytes())];
    connection.send(&request).await.map_err(|error| error.to_string())?;
    loop {
        let until = deadline.min(Instant::now() + ANSWER_TIMEOUT);
        let answer = timeout_at(until, connection.recv())
            .await
            .map_err(|_| "no answer in time".to_owned())?;
        let parts = answer.map_err(|error| error.to_string())?;
        let count = parts.len();
        let Some((sequence, payload)) = parse(parts) else {
            return Err(format!(
                "an answer with {count} frames that is neither [empty, sequence, payload] nor has a topic before the sequence"
            ));
        };
        if sequence == END_MARK || payload == Part::Bytes(Bytes::new()) {
            return Ok(());
        }
        if sender.send(Answer::Message { sequence, payload }).await.is_err() {
            return Ok(());
        }
    }
}

/// `[empty, topic, sequence, payload]` of vLLM, or `[empty, sequence, payload]` of SGLang and older vLLM.
fn parse(parts: Vec<Part>) -> Option<(u64, Part)> {
    let mut parts = parts;
    let payload = parts.pop()?;
    let ([Part::Bytes(empty), Part::Bytes(_), Part::Bytes(sequence)] | [Part::Bytes(empty), Part::Bytes(sequence)]) =
        parts.as_slice()
    else {
        return None;
    };
    let sequence = u64::from_be_bytes(sequence.as_ref().try_into().ok()?);
    empty.is_empty().then_some((sequence, payload))
}
