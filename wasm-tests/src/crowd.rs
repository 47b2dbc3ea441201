//! Many clients at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{Client, Request};
use tokio::task::JoinSet;
use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

use crate::prompts::{endless, question, streaming, words};

const CLIENTS: u64 = 8;
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// One of many requests, of which some share a beginning.
pub fn request(number: u64) -> Value {
    let random = xxh3_64(&number.to_le_bytes());
    let mut request = question(
        &words(random % 10, 200),
        &words(random % 97, 20 + usize::try_from(random % 800).unwrap_or(0)),
    );
    request["max_tokens"] = json!(1 + random % 60);
    if random.is_multiple_of(3) {
        streaming(request)
    } else {
        request
    }
}

/// Clients that keep sending; some of them hang up in the middle.
#[derive(Debug)]
pub struct Crowd {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<String>>,
}

impl Crowd {
    /// Starts them.
    pub fn start(url: String) -> Self {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (url, sent, stop) = (url.clone(), sent.clone(), stop.clone());
            clients.spawn(async move {
                let client = Client::new();
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let outcome = send(&client, &url, number).await;
                    if let Err(error) = outcome {
                        failures.push(format!("{number}: {error:#}"));
                        // Where nobody is there, the next one fails at once.
                        sleep(AFTER_FAILURE).await;
                    }
                }
                failures
            });
        }
        Self { sent, stop, clients }
    }

    /// Waits until so many requests were sent.
    pub async fn has_sent(&self, count: u64) {
        while self.sent.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
    }

    /// Says which requests failed, and how.
    ///
    /// # Errors
    /// When a client panicked.
    pub async fn stop(mut self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            failures.extend(client?);
        }
        Ok(failures)
    }
}

async fn send(client: &Client, url: &str, number: u64) -> Result<()> {
    if !number.is_multiple_of(7) {
        let answer = client.post_json(url, &request(number)).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        answer.usage()?;
        return Ok(());
    }
    let mut long = endless(request(number));
    // The most that fits into a cache beside the others.
    long["max_tokens"] = 3_000.into();
    let mut stream = client.open(Request::json(url, &long)).await?;
    ensure!(stream.status == 200, "{}", stream.status);
    for _ in 0..number % 5 {
        stream.chunk().await?.context("the stream ended")?;
    }
    Ok(())
}
