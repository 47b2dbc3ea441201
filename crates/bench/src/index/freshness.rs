//! From publishing an event to a decision that knows of it, under a steady stream of 50,000 block changes a second.
//!
//! One prompt after the other is published as stored, and asked for until the filter expects it to be cached. A question
//! takes some milliseconds, which counts. Requests reach the VM of the one worker thread; the main thread's serves none.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use testbed::{EnvoyOptions, Mode};
use tokio::time::{MissedTickBehavior, interval};

use super::live::{Asker, Live, PROMPT_BLOCKS, Prompt, Publisher, WORKERS};
use crate::percentile::{Sorted, rounded};
use crate::ready::warmpath_ready;

/// Block changes per second, of all workers.
const RATE: usize = 50_000;
/// Each worker's caches have so many prompts of the stream.
const HELD: u32 = 400;
/// Prompts that are asked for are numbered from here.
const ASKED: u32 = 1 << 24;

pub(crate) async fn run(quick: bool) -> Result<Value> {
    let samples = if quick { 20 } else { 400 };
    let mut live = Live::start("freshness").await?;
    live.bed.start_envoy(EnvoyOptions::new(Mode::Warmpath)).await?;
    let envoy = live.envoy()?;
    warmpath_ready(envoy).await?;
    let asker = Asker::of(envoy, &live.bed.client);
    let measured = async {
        let mut times = Vec::new();
        for number in 0..samples {
            let prompt = Prompt(ASKED + number);
            let publisher = &live.publishers[number as usize % WORKERS];
            let published = Instant::now();
            publisher.publish(vec![prompt.stored()])?;
            times.push(asker.await_visible(prompt).await? - published);
        }
        Ok::<_, anyhow::Error>(times)
    };
    let times = tokio::select! {
        times = measured => times?,
        ended = stream(&live.publishers) => return ended.map(|()| Value::Null),
    };
    let times = Sorted::new(times);
    let ms = |percent| times.ms(percent).map(|ms| rounded(ms, 1));
    Ok(json!({"bench": "index", "case": "freshness", "p50_ms": ms(50), "p99_ms": ms(99)}))
}

/// Every worker stores prompts and drops its oldest ones, without an end.
async fn stream(publishers: &[Publisher]) -> Result<()> {
    // A prompt in and a prompt out, of one worker at a time.
    let period = Duration::from_secs(1) * (2 * PROMPT_BLOCKS as u32) / RATE as u32;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        ticks.tick().await;
        let mut events = vec![Prompt(number).stored()];
        if let Some(oldest) = number.checked_sub(HELD * WORKERS as u32) {
            events.push(Prompt(oldest).removed());
        }
        publishers[number as usize % WORKERS].publish(events)?;
    }
    Ok(())
}
