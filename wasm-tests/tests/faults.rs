//! A schedule of faults under load: processes are killed, connections of KV events cut, stalled and spoilt, replays
//! refused. Whenever it is quiet, the index and every VM's view are what the engines' caches hold: no ghost, none lost.
//!
//! `WARMPATH_FAULTS` is the number of faults, `WARMPATH_FAULTS_SEED` another schedule: see CONTRIBUTING.md.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{ControlPlaneOptions, DEADLINE, EngineOptions, EnvoyOptions, Mode, Relay, Testbed, Wire};
use wasm_tests::crowd::Crowd;
use wasm_tests::state::blocks_true;
use wasm_tests::{gateway, run_with_casualties, settled, synced};
use xxhash_rust::xxh3::xxh3_64;

const ENGINES: usize = 3;
/// Faults between two quiet points.
const BETWEEN: u64 = 5;
/// Faults in CI; a nightly run has more.
const FAULTS: u64 = 20;

/// What can go wrong. Each kind strikes, lasts for some requests, and is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// An engine is killed and comes back empty.
    Engine,
    /// The control plane is killed and comes back knowing nothing.
    ControlPlane,
    /// Envoy is killed, and all its VMs.
    Envoy,
    /// KV events no longer come.
    EventsCut,
    /// KV events no longer come, though the connection stands.
    EventsStalled,
    /// Pieces of the KV events are overwritten.
    EventsSpoilt,
    /// KV events break off, and what was missed is not replayed.
    ReplayCut,
    /// An engine drops its cache.
    CacheReset,
}

const KINDS: [Fault; 8] = [
    Fault::Engine,
    Fault::ControlPlane,
    Fault::Envoy,
    Fault::EventsCut,
    Fault::EventsStalled,
    Fault::EventsSpoilt,
    Fault::ReplayCut,
    Fault::CacheReset,
];

/// The network between one engine and the control plane.
struct Wires {
    events: Relay,
    replay: Relay,
}

impl Wires {
    async fn of(engine: &testbed::Engine) -> Result<Self> {
        Ok(Self {
            events: Relay::start(&engine.kv_events()[0]).await?,
            replay: Relay::start(&engine.replay()[0]).await?,
        })
    }
}

impl Fault {
    async fn strike(self, bed: &mut Testbed, victim: usize, wires: &Wires) -> Result<()> {
        match self {
            Self::Engine => bed.engines[victim].process.kill(),
            Self::ControlPlane => bed.control_plane.as_mut().context("control plane")?.process.kill(),
            Self::Envoy => bed.envoys[0].process.kill(),
            Self::EventsCut => wires.events.set(Wire::Cut),
            Self::EventsStalled => wires.events.set(Wire::Stalled),
            Self::EventsSpoilt => wires.events.spoil(2),
            Self::ReplayCut => {
                wires.replay.set(Wire::Cut);
                wires.events.set(Wire::Cut);
                wires.events.set(Wire::Whole);
            }
            Self::CacheReset => {
                // Refused while requests are using it, which is as well.
                let url = bed.engines[victim].url("/reset_prefix_cache");
                bed.client.post_json(&url, &Value::Null).await?;
            }
        }
        Ok(())
    }

    async fn mend(self, bed: &mut Testbed, victim: usize, wires: &Wires) -> Result<()> {
        match self {
            Self::Engine => bed.engines[victim].restart().await,
            Self::ControlPlane => bed.control_plane.as_mut().context("control plane")?.restart().await,
            Self::Envoy => bed.envoys[0].restart().await,
            Self::EventsSpoilt => {
                wires.events.spoil(0);
                Ok(())
            }
            Self::EventsCut | Self::EventsStalled | Self::ReplayCut | Self::CacheReset => {
                wires.events.set(Wire::Whole);
                wires.replay.set(Wire::Whole);
                Ok(())
            }
        }
    }
}

async fn start() -> Result<(Testbed, Vec<Wires>)> {
    let mut builder = Testbed::builder("faults");
    for place in 0..ENGINES {
        let engine = EngineOptions {
            kv_blocks: 500,
            // A control plane that comes back learns everything.
            replay_buffer: 1_000_000,
            event_format: ["array", "map", "mixed"][place % 3],
            ..EngineOptions::default()
        };
        builder = builder.engines(1, engine);
    }
    let mut bed = builder.start().await?;
    let mut wires = Vec::new();
    for engine in &bed.engines {
        wires.push(Wires::of(engine).await?);
    }
    let workers: Vec<_> = bed
        .engines
        .iter()
        .zip(&wires)
        .map(|(engine, wires)| {
            let (events, replay) = (wires.events.endpoint(), wires.replay.endpoint());
            json!({"endpoint": engine.endpoint(), "kv_events": events, "replay": replay})
        })
        .collect();
    let options = ControlPlaneOptions::default()
        .set("/events", json!({"disconnect_grace": "1s", "probe_interval": "500ms"}))
        .set("/pools/0/workers", workers);
    bed.start_control_plane(options).await?;
    bed.start_envoy(EnvoyOptions::new(Mode::Warmpath).concurrency(2))
        .await?;
    Ok((bed, wires))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ghost_and_none_lost_whatever_fails() -> Result<()> {
    let faults = setting("WARMPATH_FAULTS", FAULTS)?;
    let seed = setting("WARMPATH_FAULTS_SEED", 1)?;
    let random = |number: u64, what: u64| xxh3_64(&[seed, number, what].map(u64::to_le_bytes).concat());
    let (bed, wires) = start().await?;
    let began = Instant::now();
    let mut struck = BTreeMap::new();
    let mut quiet_points = 0;
    let mut slowest = Duration::ZERO;
    run_with_casualties(bed, async |bed| {
        synced(bed).await?;
        let mut number = 0;
        while number < faults {
            let crowd = Crowd::start(gateway(bed)?.url("/v1/chat/completions"));
            let mut sent = 40;
            sends(&crowd, sent).await?;
            for _ in 0..BETWEEN.min(faults - number) {
                // Each kind comes up once in a round, in another order every time.
                let round = number / KINDS.len() as u64;
                let mut order = KINDS;
                order.sort_by_key(|kind| random(round, 100 + *kind as u64));
                let fault = order[number as usize % KINDS.len()];
                let victim = random(number, 1) as usize % ENGINES;
                fault
                    .strike(bed, victim, &wires[victim])
                    .await
                    .with_context(|| format!("{fault:?}"))?;
                sent += random(number, 2) % 40;
                sends(&crowd, sent).await?;
                fault
                    .mend(bed, victim, &wires[victim])
                    .await
                    .with_context(|| format!("after {fault:?}"))?;
                sent += random(number, 3) % 20;
                sends(&crowd, sent).await?;
                *struck.entry(fault).or_insert(0) += 1;
                number += 1;
            }
            crowd.stop().await?;
            let quiet = Instant::now();
            synced(bed).await?;
            settled(bed).await?;
            blocks_true(bed)
                .await
                .with_context(|| format!("after {number} faults, {struck:?}, seed {seed}"))?;
            slowest = slowest.max(quiet.elapsed());
            quiet_points += 1;
        }
        ensure!(number == faults, "{number} faults");
        Ok(())
    })
    .await;
    let took = began.elapsed();
    println!(
        "{faults} faults, seed {seed}: {quiet_points} quiet points, 0 ghosts, 0 lost; all true again within {slowest:.1?}; took {took:.0?}; {struck:?}"
    );
    Ok(())
}

async fn sends(crowd: &Crowd, count: u64) -> Result<()> {
    tokio::time::timeout(DEADLINE, crowd.has_sent(count))
        .await
        .context("clients are stuck")
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}: must be a number")),
        Err(_) => Ok(default),
    }
}
