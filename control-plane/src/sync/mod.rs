//! The sync protocol's server: settings, artefacts, fleet, snapshots and deltas to every filter.

pub mod codec;
pub mod filters;
pub mod pool;
pub mod publisher;
mod stream;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::v1;
use proto::v1::to_filter::Message;
use router_core::fleet::Fleet;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::admin::metrics::Metrics;
use crate::model::Artefact;
use codec::Encoded;
use filters::Filters;
use pool::PoolHandle;

/// The generated server: routing of the method to [`SyncService`].
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/warmpath.sync.v1.Sync.rs"));
}
pub use generated::sync_server::SyncServer;

/// Messages that wait for one subscriber; a slow one holds up nobody else.
const OUTBOX: usize = 8;

/// Everything that every stream starts with.
#[derive(Clone)]
pub struct Welcome {
    /// First message.
    pub settings: v1::Settings,
    /// In the order in which they are sent.
    pub artefacts: Vec<Artefact>,
    /// Whole fleet.
    pub fleet: Fleet,
}

/// Serves the filters' streams.
#[derive(Clone)]
pub struct SyncService {
    welcome: Arc<Welcome>,
    pools: Arc<[PoolHandle]>,
    filters: Filters,
    metrics: Metrics,
    shutdown: watch::Receiver<bool>,
}

impl SyncService {
    /// Serves until `shutdown` says true.
    pub fn new(
        welcome: Welcome,
        pools: Vec<PoolHandle>,
        filters: Filters,
        metrics: Metrics,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self {
            welcome: Arc::new(welcome),
            pools: pools.into(),
            filters,
            metrics,
            shutdown,
        }
    }
}

#[tonic::async_trait]
impl generated::sync_server::Sync for SyncService {
    type ConnectStream = ReceiverStream<Result<Encoded, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::FromFilter>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let stream = stream::FilterStream::new(self.clone(), request.into_inner(), outbox);
        tokio::spawn(stream.run());
        Ok(Response::new(ReceiverStream::new(inbox)))
    }
}

impl Welcome {
    /// Settings, the artefacts that are not in `known`, fleet.
    fn messages(&self, known: &[bytes::Bytes]) -> impl Iterator<Item = Encoded> {
        let known: HashSet<&[u8]> = known.iter().map(AsRef::as_ref).collect();
        let artefacts = self
            .artefacts
            .iter()
            .filter(move |artefact| !known.contains(artefact.id.0.as_slice()));
        let chunks = artefacts.flat_map(|artefact| pool::artefact_messages(&artefact.id.0, &artefact.content));
        let settings = std::iter::once(Encoded::new(Message::Settings(self.settings)));
        let fleet = std::iter::once_with(|| Encoded::new(Message::Fleet((&self.fleet).into())));
        settings.chain(chunks).chain(fleet)
    }

    fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis((self.settings.silence_ms / 3).max(1))
    }
}
