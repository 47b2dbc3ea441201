//! A snapshot of a large view to a VM that serves requests meanwhile.
//!
//! Envoy's way to the control plane leads over a relay. While that is cut, the control plane is restarted, learns of all
//! blocks anew, and of a prompt that the filter does not know. When the relay is mended, the VM gets the whole view, stages
//! it beside the one that it serves from, and swaps it in: from then on it knows the prompt. So the VM's code is warm, and
//! what differs is the snapshot alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{EnvoyOptions, Mode, eventually};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::live::{Asker, Live, PROMPT_BLOCKS, Prompt, WORKERS};
use crate::percentile::{Sorted, rounded};
use crate::ready::warmpath_ready;

/// Between two requests of one connection.
const PAUSE: Duration = Duration::from_millis(1);
/// Asked for all the time, and held by nobody.
const UNKNOWN: Prompt = Prompt(1 << 25);
/// Prompts that tell snapshots apart are numbered from here.
const MARKS: u32 = 1 << 24;

pub(crate) async fn run(quick: bool) -> Result<Value> {
    let (entries, rounds) = if quick { (100_000, 1) } else { (1_000_000, 3) };
    let mut live = Live::start("snapshot").await?;
    let relay = Relay::start(live.bed.control_plane()?.sync_address().to_owned()).await?;
    live.bed
        .start_envoy(EnvoyOptions::new(Mode::Warmpath).sync(&relay.address))
        .await?;
    let asker = Asker::of(live.envoy()?, &live.bed.client);
    warmpath_ready(live.envoy()?).await?;
    requests(&asker, sleep(Duration::from_secs(1))).await?;
    let without = requests(&asker, sleep(Duration::from_secs(if quick { 1 } else { 5 })))
        .await?
        .1;

    let prompts = u32::try_from(entries / PROMPT_BLOCKS)?;
    let mut stored = 0;
    let (mut with, mut seconds) = (Vec::new(), Vec::new());
    for mark in (MARKS..).take(rounds).map(Prompt) {
        relay.cut();
        let new = (0..prompts).map(Prompt).take(if stored == 0 { usize::MAX } else { 0 });
        for (number, prompt) in new.chain([mark]).enumerate() {
            live.publishers[number % WORKERS].publish(vec![prompt.stored()])?;
            stored += PROMPT_BLOCKS;
        }
        held(&live, stored).await?;
        live.bed
            .control_plane
            .as_mut()
            .context("no control plane")?
            .restart()
            .await?;
        held(&live, stored).await?;
        let connected = relay.mend();
        let (took, times) = requests(&asker, async {
            let start = connected.await?;
            Ok::<_, anyhow::Error>(asker.await_visible(mark).await? - start)
        })
        .await?;
        seconds.push(took?);
        with.extend(times);
    }
    seconds.sort();
    let ms = |times| Sorted::new(times).ms(99).map(|ms| rounded(ms, 2));
    let failures = live.envoy()?.wasm_failures().await?;
    ensure!(failures.is_empty(), "the filter failed: {}", failures.join("; "));
    Ok(json!({
        "bench": "index",
        "case": "snapshot",
        "seconds": seconds.get(seconds.len() / 2).map(|time| rounded(time.as_secs_f64(), 2)),
        "p99_ms_without": ms(without),
        "p99_ms_with": ms(with),
    }))
}

/// Sends requests until something else is over; returns its result and how long each took.
async fn requests<T>(asker: &Asker, other: impl Future<Output = T>) -> Result<(T, Vec<Duration>)> {
    let mut times = Vec::new();
    tokio::pin!(other);
    loop {
        tokio::select! {
            result = &mut other => return Ok((result, times)),
            time = asker.send(UNKNOWN) => times.push(time?),
        }
        sleep(PAUSE).await;
    }
}

/// Waits until the control plane's view has so many blocks.
async fn held(live: &Live, blocks: usize) -> Result<()> {
    let control_plane = live.bed.control_plane()?;
    eventually("the control plane has all blocks", || async {
        let metrics = control_plane.metrics(&live.bed.client).await?;
        let ranks = metrics.lines().filter(|line| line.contains("rank_blocks{"));
        let held: usize = ranks
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok())
            .sum();
        ensure!(held >= blocks, "{held} of {blocks} blocks");
        Ok(Some(()))
    })
    .await
}

/// Passes connections on to the control plane while it is whole.
struct Relay {
    address: String,
    whole: watch::Sender<bool>,
    /// When the first connection since it was mended was made.
    connected: watch::Receiver<Option<Instant>>,
}

impl Relay {
    async fn start(to: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (whole, state) = watch::channel(true);
        let (connects, connected) = watch::channel(None);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                // One that comes while it is cut is closed at once.
                if *state.borrow() {
                    connects.send_if_modified(|first| first.replace(first.unwrap_or_else(Instant::now)).is_none());
                    tokio::spawn(pass(from, to.clone(), state.clone()));
                } else {
                    connects.send_replace(None);
                }
            }
        });
        Ok(Self {
            address,
            whole,
            connected,
        })
    }

    fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Returns when the first connection is made.
    fn mend(&self) -> impl Future<Output = Result<Instant>> + use<> {
        self.whole.send_replace(true);
        let mut connected = self.connected.clone();
        async move {
            let first = *connected.wait_for(Option::is_some).await?;
            first.context("just seen")
        }
    }
}

async fn pass(mut from: TcpStream, to: String, mut whole: watch::Receiver<bool>) -> Result<()> {
    let mut to = TcpStream::connect(to).await?;
    // Or its small frames wait for the other side's acknowledgements, which neither end's own connections do.
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
        _ = whole.wait_for(|whole| !*whole) => {}
    }
    Ok(())
}
