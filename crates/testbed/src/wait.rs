//! Waiting for conditions.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};

/// How long anything is waited for before it counts as failed: generous, as machines may be slow and busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

/// Asks again and again until the answer is `Some`, for up to [`DEADLINE`]. A failing question is asked again too: what
/// is awaited may be starting or restarting.
///
/// # Errors
/// When the time is over; names `what` was awaited and how the last question failed.
pub async fn eventually<T, F, Asked>(what: &str, mut question: F) -> Result<T>
where
    F: FnMut() -> Asked,
    Asked: Future<Output = Result<Option<T>>>,
{
    let end = Instant::now() + DEADLINE;
    loop {
        let failure = match question().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => anyhow!("not so"),
            Err(error) => error,
        };
        if Instant::now() >= end {
            return Err(failure.context(format!("waited {DEADLINE:?} for: {what}")));
        }
        sleep(POLL).await;
    }
}
