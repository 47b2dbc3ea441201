//! Sends the requests of one case and times them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use testbed::{Client, Envoy, Request};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::case::{Case, Load, Novelty, SATURATION};
use super::prompts::Prompts;
use crate::cpu::cpu_time;
use crate::percentile::{Sorted, rounded};

/// How long each Envoy is kept busy before a size is measured: V8 compiles a module's busy functions anew, for speed, when
/// they have run for a while.
const WARM_UP: Duration = Duration::from_millis(500);

/// One of the Envoys.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    name: &'static str,
    url: String,
    pid: u32,
}

impl Target {
    pub(crate) fn new(name: &'static str, envoy: &Envoy) -> Self {
        Self {
            name,
            url: envoy.url("/v1/chat/completions"),
            pid: envoy.process.pid(),
        }
    }
}

/// What was measured of one Envoy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    latency: Sorted,
    /// Of the Envoy process, all its threads, whatever they did.
    cpu: Duration,
    /// How long requests were being sent to it.
    busy: Duration,
}

/// Brings the Envoys to the state in which they spend their days.
pub(crate) async fn warm_up(prompts: &Arc<Prompts>, targets: &[Target; 3], client: &Client) -> Result<()> {
    for target in targets {
        for novelty in [Novelty::Cold, Novelty::Known] {
            let crowd = Crowd::new(SATURATION, novelty, prompts, client);
            crowd.keeps_sending(target, Instant::now() + WARM_UP).await?;
        }
    }
    Ok(())
}

/// Runs a case against plain route, buffer filter and Warmpath, in this order.
pub(crate) async fn measure(
    case: &Case,
    prompts: &Arc<Prompts>,
    targets: &[Target; 3],
    client: &Client,
) -> Result<[Measured; 3]> {
    match case.load {
        Load::Low { every, requests } => low(case.novelty, every, requests, prompts, targets, client).await,
        Load::Busy {
            connections,
            slice,
            rounds,
        } => {
            let crowd = Crowd::new(connections, case.novelty, prompts, client);
            busy(&crowd, slice, rounds, targets).await
        }
    }
}

async fn low(
    novelty: Novelty,
    every: Duration,
    requests: usize,
    prompts: &Prompts,
    targets: &[Target; 3],
    client: &Client,
) -> Result<[Measured; 3]> {
    let cpu_before = cpu_of(targets)?;
    let mut latencies = [const { Vec::new() }; 3];
    let started = Instant::now();
    let mut turns = interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0..requests {
        turns.tick().await;
        let body = prompts.next(novelty);
        // Each turn begins with another Envoy: the first one pays for waking the machine up.
        for place in 0..targets.len() {
            let index = (turn + place) % targets.len();
            if let (Some(target), Some(latencies)) = (targets.get(index), latencies.get_mut(index)) {
                latencies.push(send(client, target, body.clone()).await?);
            }
        }
    }
    let busy = started.elapsed();
    let cpu_after = cpu_of(targets)?;
    let mut cpu = cpu_before
        .into_iter()
        .zip(cpu_after)
        .map(|(before, after)| after.saturating_sub(before));
    Ok(latencies.map(|latencies| Measured {
        latency: Sorted::new(latencies),
        cpu: cpu.next().unwrap_or_default(),
        busy,
    }))
}

async fn busy(crowd: &Crowd, slice: Duration, rounds: usize, targets: &[Target; 3]) -> Result<[Measured; 3]> {
    let mut latencies = [const { Vec::new() }; 3];
    let mut sums = [(Duration::ZERO, Duration::ZERO); 3];
    for _ in 0..rounds {
        for ((target, latencies), (cpu, busy)) in targets.iter().zip(&mut latencies).zip(&mut sums) {
            let cpu_before = cpu_time(target.pid)?;
            let started = Instant::now();
            latencies.extend(crowd.keeps_sending(target, started + slice).await?);
            *busy += started.elapsed();
            *cpu += cpu_time(target.pid)?.saturating_sub(cpu_before);
        }
    }
    let mut sums = sums.into_iter();
    Ok(latencies.map(|latencies| {
        let (cpu, busy) = sums.next().unwrap_or_default();
        Measured {
            latency: Sorted::new(latencies),
            cpu,
            busy,
        }
    }))
}

/// Clients that send without a pause.
struct Crowd {
    connections: usize,
    novelty: Novelty,
    prompts: Arc<Prompts>,
    client: Client,
}

impl Crowd {
    fn new(connections: usize, novelty: Novelty, prompts: &Arc<Prompts>, client: &Client) -> Self {
        Self {
            connections,
            novelty,
            prompts: Arc::clone(prompts),
            client: client.clone(),
        }
    }

    /// Every connection sends its next request when the last one is answered, until `end`.
    async fn keeps_sending(&self, target: &Target, end: Instant) -> Result<Vec<Duration>> {
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            let (prompts, target, client) = (Arc::clone(&self.prompts), target.clone(), self.client.clone());
            let novelty = self.novelty;
            connections.spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    latencies.push(send(&client, &target, prompts.next(novelty)).await?);
                }
                anyhow::Ok(latencies)
            });
        }
        let mut latencies = Vec::new();
        while let Some(of_connection) = connections.join_next().await {
            latencies.append(&mut of_connection.context("connection")??);
        }
        Ok(latencies)
    }
}

/// From sending to the end of the answer.
async fn send(client: &Client, target: &Target, body: Bytes) -> Result<Duration> {
    let answer = client
        .send(Request::post(&target.url, testbed::Payload::Whole(body)))
        .await?;
    ensure!(
        answer.status.is_success(),
        "{}: {} {}",
        target.name,
        answer.status,
        answer.text()
    );
    Ok(answer.total)
}

fn cpu_of(targets: &[Target; 3]) -> Result<Vec<Duration>> {
    targets.iter().map(|target| cpu_time(target.pid)).collect()
}

/// The result line of a case. `predicted` is the share of the prompts that Warmpath expected its pick to hold,
/// `remembered` the share that its VM did not have to tokenize again.
pub(crate) fn line(case: &Case, prompts: &Prompts, measured: &[Measured; 3], predicted: f64, remembered: f64) -> Value {
    let [plain, buffered, warmpath] = measured;
    let (tokens, bytes) = prompts.mean_size(case.novelty);
    let added = |percent| Some(warmpath.latency.ms(percent)? - plain.latency.ms(percent)?);
    let ms = |value: Option<f64>| value.map(|value| rounded(value, 3));
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
    put("bench", "e2e".into());
    put("case", case.name().into());
    for (name, percent) in [("p50", 50), ("p99", 99)] {
        put(&format!("plain_{name}_ms"), json!(ms(plain.latency.ms(percent))));
        put(&format!("buffered_{name}_ms"), json!(ms(buffered.latency.ms(percent))));
        put(&format!("warmpath_{name}_ms"), json!(ms(warmpath.latency.ms(percent))));
        put(&format!("added_{name}_ms"), json!(ms(added(percent))));
    }
    put("cpu_us_per_request", json!(warmpath.cpu_us_per_request()));
    put("plain_cpu_us_per_request", json!(plain.cpu_us_per_request()));
    put("buffered_cpu_us_per_request", json!(buffered.cpu_us_per_request()));
    if matches!(case.load, Load::Busy { .. }) {
        put("plain_per_second", json!(plain.per_second()));
        put("buffered_per_second", json!(buffered.per_second()));
        put("warmpath_per_second", json!(warmpath.per_second()));
    }
    put("requests", warmpath.latency.len().into());
    put("prompt_tokens", tokens.into());
    put("body_bytes", bytes.into());
    put("predicted_share", rounded(predicted, 3).into());
    put("remembered_share", rounded(remembered, 3).into());
    Value::Object(line)
}

impl Measured {
    fn cpu_us_per_request(&self) -> f64 {
        rounded(self.cpu.as_secs_f64() * 1e6 / self.latency.len() as f64, 0)
    }

    fn per_second(&self) -> f64 {
        rounded(self.latency.len() as f64 / self.busy.as_secs_f64(), 1)
    }
}
