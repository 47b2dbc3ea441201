//! Connections to publishers and brokers, of which each may be gone for a while.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::events::zmtp::{Connection, Role};

/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a failed attempt or a lost connection, and to what it doubles with every failure.
pub const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection to `endpoint`, `tcp://host:port`, however long that takes.
pub async fn connect(endpoint: &str, role: Role<'_>) -> Connection {
    let mut pause = PAUSE;
    loop {
        match timeout(TIMEOUT, Connection::connect(endpoint, role)).await {
            Ok(Ok(connection)) => return connection,
            Ok(Err(error)) => tracing::debug!(endpoint, %error, "cannot connect"),
            Err(_) => tracing::debug!(endpoint, "connecting takes too long"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
