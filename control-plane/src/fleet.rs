//! The fleet as filters are told of it: a whole, immutable value, which one task publishes anew when anything in it has
//! changed.

use std::sync::Arc;
use std::time::Duration;

use router_core::fleet::{Fleet, Pool};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::admin::metrics::Metrics;
use crate::admin::readiness::HoldBack;
use crate::admin::status::DiscoveryStatus;
use crate::discovery::members::Members;
use crate::model::Artefact;
use crate::parity::PoolParity;

/// How long the first fleet may wait for the workers' first answers. A filter that has the fleet of an earlier control
/// plane goes on by it meanwhile; told to route by load now and exactly a moment later, it would load its tokenizer twice.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);

/// For how long changes are gathered: workers come and go in numbers, and every filter gets the whole fleet each time.
const GATHER: Duration = Duration::from_millis(10);

/// What is published.
#[derive(Debug)]
pub struct Published {
    /// The whole fleet.
    pub fleet: Fleet,
    /// What it names, each once, in the order in which filters get them.
    pub artefacts: Vec<Artefact>,
}

/// The last one; `None` before the first.
pub type Watch = watch::Receiver<Option<Arc<Published>>>;

/// One pool, and what decides how it is published.
pub struct Member {
    /// As it is when it is routed exactly, but for its ranks.
    pub pool: Pool,
    /// Its ranks.
    pub ranks: Arc<Members>,
    /// What tells of them, unless they are listed.
    pub discovery: Option<Arc<DiscoveryStatus>>,
    /// Those that `pool` names.
    pub artefacts: Vec<Artefact>,
    /// Why it cannot be routed exactly whatever the workers say.
    pub inexact_because: Option<String>,
    /// Whether workers agree with us.
    pub parity: Arc<PoolParity>,
}

impl Member {
    /// Why it is not routed exactly, if it is not.
    fn inexact_because(&self) -> Option<String> {
        self.parity.inexact_because_or(self.inexact_because.as_deref())
    }

    fn published(&self) -> Pool {
        let may_be_exact = self.parity.inexact_because().is_none();
        Pool {
            kv_events: self.ranks.list().iter().any(|member| member.status.publishes()),
            candidates: self.ranks.candidates(),
            tokenizer: self.pool.tokenizer.filter(|_| may_be_exact),
            template: self.pool.template.filter(|_| may_be_exact),
            ..self.pool.clone()
        }
    }
}

/// The task that owns the fleet.
pub struct FleetTask {
    /// In the order of the configuration.
    pub members: Vec<Member>,
    /// Notified when a member may have changed.
    pub changed: Arc<Notify>,
    /// Where the fleet goes.
    pub published: watch::Sender<Option<Arc<Published>>>,
    /// Where the pools' state goes.
    pub metrics: Metrics,
}

impl FleetTask {
    /// Runs for ever. `ready` is dropped with the first fleet.
    pub async fn run(self, ready: HoldBack) {
        self.discovered().await;
        // When the time is over, the fleet is published with what is known.
        let _ = timeout(FIRST_ANSWERS, self.first_answers()).await;
        self.publish();
        drop(ready);
        loop {
            self.changed.notified().await;
            sleep(GATHER).await;
            self.publish();
        }
    }

    /// Waits for every discovery service, however long that takes: a fleet without the workers of one that cannot be read would
    /// take them from filters that have them from an earlier control plane.
    async fn discovered(&self) {
        let is_awaited = |member: &Member| {
            member
                .discovery
                .as_ref()
                .is_some_and(|discovery| discovery.is_awaited())
        };
        while self.members.iter().any(is_awaited) {
            self.changed.notified().await;
        }
    }

    async fn first_answers(&self) {
        while self.members.iter().any(|member| member.parity.is_awaited()) {
            self.changed.notified().await;
        }
    }

    fn publish(&self) {
        let pools: Vec<_> = self.members.iter().map(Member::published).collect();
        let fleet = Fleet { pools };
        let old = self.published.borrow().clone();
        let old = old.as_ref().map(|old| &old.fleet);
        if old == Some(&fleet) {
            return;
        }
        let mut artefacts: Vec<Artefact> = Vec::new();
        for (member, pool) in self.members.iter().zip(&fleet.pools) {
            let known = old.and_then(|old| old.pools.iter().find(|known| known.name == pool.name));
            if known.is_none_or(|known| (known.tokenizer, known.template) != (pool.tokenizer, pool.template)) {
                self.tell(pool, member.inexact_because());
            }
            let named = |artefact: &&Artefact| [pool.tokenizer, pool.template].contains(&Some(artefact.id));
            for artefact in member.artefacts.iter().filter(named) {
                if !artefacts.iter().any(|known| known.id == artefact.id) {
                    artefacts.push(artefact.clone());
                }
            }
        }
        self.published
            .send_replace(Some(Arc::new(Published { fleet, artefacts })));
    }

    fn tell(&self, pool: &Pool, inexact_because: Option<String>) {
        self.metrics.set_pool_exact(&pool.name, inexact_because.is_none());
        match inexact_because {
            None => tracing::info!(pool = pool.name, "published: routed exactly"),
            Some(because) => tracing::warn!(pool = pool.name, because, "published: routed by load only"),
        }
    }
}
