//! What one VM knows; root and request contexts share it.

use crate::artefacts::{Artefacts, Kind};
use crate::config::Config;
use crate::gauges::{SharedLoad, VmMemory, VmStatus};
use crate::host::{self, Process};
use crate::metrics::Metrics;
use crate::random::Random;
use crate::roster::VmId;
use crate::sync::Link;
use memory::Memory;
use router_core::Millis;
use router_core::fleet::{ArtefactId, Pool};
use router_core::ladder::Rung;
use router_core::replica::Replica;
use router_core::router::Router;
use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

/// [`State`] as contexts hold it. A VM has one thread, and the host enters it for one callback at a time, so borrows
/// never meet; if they did, `try_borrow_mut` would let a request pass instead of trapping the VM.
pub type SharedState = Rc<RefCell<State>>;

/// Until the control plane tells its own limit, in milliseconds.
const MAX_STALENESS: u64 = 60_000;

/// Everything that one VM knows.
pub struct State {
    /// As configured.
    pub config: Config,
    /// Fleet, views and bookings.
    pub router: Router,
    /// Tokenizers and templates.
    pub artefacts: Artefacts,
    /// Prompts that were read before.
    pub memory: Memory,
    /// Artefacts that the last fleet names.
    pub fleet_artefacts: Vec<(ArtefactId, Kind)>,
    /// Load, with all other VMs.
    pub load: SharedLoad<Process>,
    /// Counters.
    pub metrics: Metrics,
    /// Seeds and jitter.
    pub random: Random,
    /// The stream to the control plane.
    pub link: Link,
    vm: VmId,
    last_now: u64,
}

impl State {
    /// The state of a VM that has just been configured.
    pub fn new(config: Config) -> Self {
        let ns = host::now_ns();
        // VMs of one process start within microseconds, so time alone could name two of them the same. Each has its
        // own random state from the host, through `HashMap`.
        let entropy = RandomState::new();
        let unique = entropy.hash_one(ns);
        // SipHash under a key that only the host's entropy decides, so nobody can know these.
        let secret = ["memory", "of prompts"].map(|part| entropy.hash_one(part));
        let memory = Memory::new(config.prompt_memory_bytes, secret);
        let mut random = Random::new(unique);
        let vm = VmId(random.draw());
        let now = Millis(ns / 1_000_000);
        let mut router = Router::new(MAX_STALENESS);
        router.set_view_limit(config.max_view_bytes);
        Self {
            config,
            router,
            artefacts: Artefacts::default(),
            memory,
            fleet_artefacts: Vec::new(),
            load: SharedLoad::new(Process, vm),
            metrics: Metrics::default(),
            link: Link::new(now, &mut random),
            random,
            vm,
            last_now: now.0,
        }
    }

    /// The time, never earlier than it was.
    pub fn now(&mut self) -> Millis {
        self.last_now = self.last_now.max(host::now_ns() / 1_000_000);
        Millis(self.last_now)
    }

    /// The VM's name in logs.
    pub fn name(&self) -> String {
        match self.load.number() {
            Some(number) => format!("{number}-{:08x}", self.vm.0 >> 32),
            None => format!("{:08x}", self.vm.0 >> 32),
        }
    }

    /// How this VM does.
    pub fn status(&self, now: Millis) -> VmStatus {
        let connected = self.link.is_up();
        let mut pools = self.router.pools().peekable();
        let ready =
            pools.peek().is_some() && pools.all(|pool| self.router.exactness(&pool.name, now) == Ok(Rung::Exact));
        VmStatus {
            alive: true,
            connected,
            ready: connected && ready && !self.artefacts.is_waiting(),
        }
    }

    /// What this VM's memory is taken by.
    pub fn memory_taken(&self) -> VmMemory {
        let replicas = self.router.pools().filter_map(|pool| self.router.replica(&pool.name));
        VmMemory {
            vm: host::memory_bytes(),
            views: replicas.map(Replica::bytes).sum(),
            prompts: self.memory.bytes(),
        }
    }

    /// Follows a change of fleet or of an epoch: gauges for all candidates, and no artefacts that nobody uses.
    pub fn fleet_changed(&mut self) {
        self.load.bind(self.router.pools());
        let in_use = self.router.pools().flat_map(artefacts_of);
        let wanted = in_use.chain(self.fleet_artefacts.iter().copied()).collect();
        self.artefacts.want(wanted);
    }
}

/// The artefacts that a pool's requests are read with.
pub fn artefacts_of(pool: &Pool) -> impl Iterator<Item = (ArtefactId, Kind)> {
    let tokenizer = pool.tokenizer.map(|id| (id, Kind::Tokenizer));
    let template = pool.template.map(|id| (id, Kind::Template));
    [tokenizer, template].into_iter().flatten()
}
