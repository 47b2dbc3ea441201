//! A schedule of faults under load before Dynamo's workers, found in etcd and heard over NATS: workers, etcd, NATS and the
//! control plane are killed and come back. Whenever it is quiet, the index is, block by block, what a control plane that
//! starts just then learns from the workers' own indexes, and every VM's view is that index: no ghost, none lost.
//!
//! `WARMPATH_FAULTS` and `WARMPATH_FAULTS_SEED` as in `faults.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{
    ControlPlaneOptions, Engine, EngineOptions, EnvoyOptions, Etcd, MODEL, Mode, Process, Testbed, eventually,
    workspace_root,
};
use wasm_tests::dynamo::Dynamo;
use wasm_tests::event_plane::Carrier;
use wasm_tests::known::{known, sizes};
use wasm_tests::state::{Decisions, Status};
use wasm_tests::{gateway, run_with_casualties, synced};
use xxhash_rust::xxh3::xxh3_64;

/// So few blocks that prompts drive one another out.
const WORKER: [&str; 2] = ["--num-gpu-blocks-override", "96"];
/// Different prompts, which come up again and again.
const PROMPTS: u64 = 40;
/// Faults between two quiet points.
const BETWEEN: u64 = 3;
/// Faults in CI; a nightly run has more.
const FAULTS: u64 = 20;
/// For how many seconds Dynamo's processes stay in etcd without a sign of life. When they cannot give one for so long they end
/// themselves, and with the default of 20 they do after a while of outages, as their connections come back one by one.
const LEASE: &str = "600";

/// What can go wrong. Each kind strikes, lasts for some requests, and is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// A worker is killed, and another one takes its place. It stays in etcd until its lease ends.
    WorkerKilled,
    /// A worker ends in an orderly way, and another one takes its place.
    WorkerStopped,
    /// etcd is killed, and comes back with what it had.
    Etcd,
    /// The NATS server is killed; what is published meanwhile is lost.
    Nats,
    /// The control plane is killed, and comes back knowing nothing.
    ControlPlane,
}

const KINDS: [Fault; 5] = [
    Fault::Nats,
    Fault::Etcd,
    Fault::WorkerStopped,
    Fault::ControlPlane,
    Fault::WorkerKilled,
];

struct Fleet {
    dynamo: Dynamo,
    etcd: Etcd,
    nats: Carrier,
    workers: Vec<(Process, u64)>,
    started: usize,
    /// Workers that etcd still has though they were killed.
    killed: Vec<u64>,
}

impl Fleet {
    async fn start(dir: &Path) -> Result<Self> {
        let etcd = Etcd::start(&dir.join("etcd")).await?;
        let nats = Carrier::nats(&dir.join("nats")).await?;
        let dynamo = Dynamo::new(&dir.join("dynamo"))?
            .with_etcd(etcd.api.clone())
            .with_env("ETCD_LEASE_TTL", LEASE)
            .with_env("DYN_EVENT_PLANE", "nats")
            .with_env("NATS_SERVER", &server(&nats));
        let mut fleet = Self {
            dynamo,
            etcd,
            nats,
            workers: Vec::new(),
            started: 0,
            killed: Vec::new(),
        };
        for _ in 0..3 {
            let worker = fleet.new_worker().await?;
            fleet.workers.push(worker);
        }
        Ok(fleet)
    }

    async fn new_worker(&mut self) -> Result<(Process, u64)> {
        self.started += 1;
        self.dynamo
            .new_worker(&format!("worker-{}", self.started), &WORKER)
            .await
    }

    fn ids(&self) -> Vec<u64> {
        self.workers.iter().map(|(_, id)| *id).collect()
    }

    async fn strike(&mut self, fault: Fault, bed: &mut Testbed, victim: usize) -> Result<()> {
        match fault {
            Fault::WorkerKilled => {
                let (process, id) = &mut self.workers[victim];
                process.kill();
                self.killed.push(*id);
            }
            Fault::WorkerStopped => drop(self.workers[victim].0.terminate().await?),
            Fault::Etcd => self.etcd.process.kill(),
            Fault::Nats => self.nats.kill(),
            Fault::ControlPlane => bed.control_plane.as_mut().context("control plane")?.process.kill(),
        }
        Ok(())
    }

    /// Ends the leases of the workers that were killed, as their time would.
    async fn end_leases(&mut self) {
        for id in self.killed.drain(..) {
            // A worker's id is that of its lease. One that has ended by itself is refused.
            let lease = json!({"ID": id.to_string()});
            let _ = self.etcd.api.call("/v3/lease/revoke", &lease).await;
        }
    }

    async fn mend(&mut self, fault: Fault, bed: &mut Testbed, victim: usize) -> Result<()> {
        match fault {
            Fault::WorkerKilled | Fault::WorkerStopped => self.workers[victim] = self.new_worker().await?,
            Fault::Etcd => self.etcd.restart().await?,
            Fault::Nats => self.nats.restart().await?,
            Fault::ControlPlane => bed.control_plane.as_mut().context("control plane")?.restart().await?,
        }
        Ok(())
    }
}

fn server(nats: &Carrier) -> String {
    format!("nats://127.0.0.1:{}", nats.ports()[0])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Dynamo, etcd and a NATS server: scripts/setup interop"]
async fn no_ghost_and_none_lost_whatever_fails_before_dynamos_workers() -> Result<()> {
    let faults = setting("WARMPATH_FAULTS", FAULTS)?;
    let seed = setting("WARMPATH_FAULTS_SEED", 1)?;
    let random = |number: u64, what: u64| xxh3_64(&[seed, number, what].map(u64::to_le_bytes).concat());
    let dir = workspace_root().join(format!("target/testbed/interop-faults-{}", std::process::id()));
    let mut fleet = Fleet::start(&dir).await?;
    let frontend = fleet.dynamo.frontend("direct", "direct")?;
    frontend.serves().await?;

    let mut discovery = fleet.dynamo.pool_discovery(&frontend.address);
    discovery["nats"] = json!({"servers": server(&fleet.nats)});
    let options = ControlPlaneOptions::default()
        .set("/pools/0/workers", Value::Null)
        .set("/pools/0/block_size", 16)
        .set("/events", json!({"disconnect_grace": "1s", "probe_interval": "2s"}))
        .set("/pools/0/discovery", json!({"dynamo": discovery}));
    let address = frontend.address.clone();
    let engine = Engine::foreign(
        frontend.process,
        EngineOptions::default(),
        address,
        Vec::new(),
        Vec::new(),
    );
    let bed = Testbed::builder("interop-faults")
        .engine(engine)
        .control_plane(options.clone())
        .envoy(EnvoyOptions::new(Mode::Warmpath).concurrency(2))
        .start()
        .await?;
    let began = Instant::now();
    let mut struck = BTreeMap::new();
    let (mut quiet_points, mut sent, mut slowest) = (0, 0, Duration::ZERO);
    run_with_casualties(bed, async |bed| {
        synced(bed).await?;
        quiet(bed, &options, &fleet.ids()).await?;
        for number in 0..faults {
            let fault = KINDS[(number as usize + seed as usize - 1) % KINDS.len()];
            let victim = random(number, 1) as usize % fleet.workers.len();
            send(bed, &mut sent, 20, random).await?;
            fleet
                .strike(fault, bed, victim)
                .await
                .with_context(|| format!("{fault:?}"))?;
            send(bed, &mut sent, 10 + random(number, 2) % 20, random).await?;
            fleet
                .mend(fault, bed, victim)
                .await
                .with_context(|| format!("after {fault:?}"))?;
            send(bed, &mut sent, random(number, 3) % 20, random).await?;
            *struck.entry(fault).or_insert(0) += 1;
            if (number + 1) % BETWEEN == 0 || number + 1 == faults {
                let since = Instant::now();
                fleet.end_leases().await;
                quiet(bed, &options, &fleet.ids())
                    .await
                    .with_context(|| format!("after {} faults, {struck:?}, seed {seed}", number + 1))?;
                slowest = slowest.max(since.elapsed());
                quiet_points += 1;
            }
        }
        let decisions = Decisions::read(gateway(bed)?).await?;
        ensure!(decisions.count("exact.ok") > 0, "{decisions:?}");
        Ok(())
    })
    .await;
    println!(
        "{faults} faults, seed {seed}: {quiet_points} quiet points, 0 ghosts, 0 lost; all true again within {slowest:.1?}; took {:.0?}; {struck:?}",
        began.elapsed()
    );
    Ok(())
}

/// Sends requests one after the other. While something is broken, some of them fail.
async fn send(bed: &Testbed, sent: &mut u64, count: u64, random: impl Fn(u64, u64) -> u64) -> Result<()> {
    let url = gateway(bed)?.url("/v1/completions");
    for _ in 0..count {
        bed.client.post_json(&url, &prompt(random(*sent, 4) % PROMPTS)).await?;
        *sent += 1;
    }
    Ok(())
}

fn prompt(number: u64) -> Value {
    let prompt: String = (0..60).map(|n| format!("{number} lanterns {n} ")).collect();
    json!({"model": MODEL, "max_tokens": 2, "prompt": prompt})
}

/// Waits until what is known is what the workers' own indexes say, and every VM has it. Then requests are answered.
async fn quiet(bed: &Testbed, options: &ControlPlaneOptions, workers: &[u64]) -> Result<()> {
    let fresh = Testbed::builder("interop-faults-fresh")
        .control_plane(options.clone())
        .start()
        .await?;
    eventually("an index without ghosts and without losses", || async {
        let [ours, theirs] = [known(bed, workers).await?, known(&fresh, workers).await?];
        ensure!(ours == theirs, "{} and {}", sizes(&ours), sizes(&theirs));
        Status::read(bed).await?.ensure_acked(bed)?;
        Ok(Some(()))
    })
    .await?;
    let url = gateway(bed)?.url("/v1/completions");
    // Dynamo's frontend may hear later of a new worker than we do.
    eventually("an answer, as nothing is broken", || async {
        let answer = bed.client.post_json(&url, &prompt(0)).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(Some(()))
    })
    .await
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}: must be a number")),
        Err(_) => Ok(default),
    }
}
