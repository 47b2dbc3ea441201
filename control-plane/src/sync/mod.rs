//! The sync protocol's server: settings, artefacts, fleet, snapshots and deltas to every filter.

pub mod bound;
pub mod codec;
pub mod filters;
pub mod log;
pub mod pool;
pub mod publisher;
pub mod snapshot;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use proto::v1;
use proto::v1::to_filter::Message;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Error, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::admin::metrics::Metrics;
use crate::fleet;
use codec::Encoded;
use filters::Filters;
use generated::sync_server::SyncServer;
use pool::PoolHandle;

/// The generated server: routing of the method to [`SyncService`].
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/warmpath.sync.v1.Sync.rs"));
}

/// Messages that wait for one subscriber; a slow one holds up nobody else.
const OUTBOX: usize = 8;
/// A connection that does not answer pings is closed, so that dead filters do not pile up.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Serves filters that connect to `listener`, until `stop`.
///
/// # Errors
/// When it cannot go on.
pub async fn serve(listener: TcpListener, service: SyncService, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let service = SyncServer::new(service).max_decoding_message_size(proto::MAX_MESSAGE_BYTES);
    Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_INTERVAL))
        .add_service(service)
        .serve_with_incoming_shutdown(connections(listener), stop)
        .await
}

/// Without delay, or what is small would wait for the filter's acknowledgement of what came before, up to 40 ms.
fn connections(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

/// Serves the filters' streams.
#[derive(Clone)]
pub struct SyncService {
    settings: v1::Settings,
    fleet: fleet::Watch,
    pools: Arc<[PoolHandle]>,
    filters: Filters,
    metrics: Metrics,
    shutdown: watch::Receiver<bool>,
}

impl SyncService {
    /// Serves until `shutdown` says true. `settings` are every stream's first message.
    pub fn new(
        settings: v1::Settings,
        fleet: fleet::Watch,
        pools: Vec<PoolHandle>,
        filters: Filters,
        metrics: Metrics,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self {
            settings,
            fleet,
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

impl SyncService {
    fn settings(&self) -> Encoded {
        Encoded::new(Message::Settings(self.settings))
    }

    fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis((self.settings.silence_ms / 3).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn small_messages_are_not_delayed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _filter = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let connection = connections(listener).next().await.unwrap().unwrap();
        assert!(connection.nodelay().unwrap());
    }
}
