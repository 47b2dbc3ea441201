//! From a rank's progress to a response: whole, or as a stream of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;

use super::Engine;
use super::reply::Reply;
use super::respond::{ApiError, json_response};
use crate::generate::FinishReason;
use crate::rank::InFlight;

/// A request under way. However it ends, it is counted once.
pub(super) struct Call {
    engine: Arc<Engine>,
    rank: usize,
    reply: Reply,
    in_flight: InFlight,
}

impl Call {
    /// Counts it as received.
    pub(super) fn new(engine: Arc<Engine>, rank: usize, reply: Reply, in_flight: InFlight) -> Self {
        if let Some(counters) = engine.counters.get(rank) {
            counters.received.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            engine,
            rank,
            reply,
            in_flight,
        }
    }

    /// Waits for the whole answer.
    pub(super) async fn collect(mut self) -> Result<Response, ApiError> {
        let mut cached_tokens = 0;
        while let Some(progress) = self.in_flight.next().await {
            cached_tokens = progress.cached_tokens;
        }
        if !self.in_flight.is_finished() {
            return Err(ApiError::internal("the rank has stopped"));
        }
        Ok(json_response(StatusCode::OK, &self.reply.full(cached_tokens)))
    }

    /// Answers with each token as it comes.
    pub(super) fn stream(self, include_usage: bool) -> Response {
        let start = Streaming {
            call: self,
            include_usage,
            ready: VecDeque::new(),
        };
        let events = stream::unfold(start, |mut streaming| async move {
            let event = streaming.next().await?;
            Some((Ok::<_, Infallible>(event), streaming))
        });
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        (headers, Body::from_stream(events)).into_response()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(counters) = self.engine.counters.get(self.rank) else {
            return;
        };
        let outcome = match self.reply.answer.finish_reason {
            _ if !self.in_flight.is_finished() => &counters.aborted,
            FinishReason::Stop => &counters.stopped,
            FinishReason::Length => &counters.length,
        };
        outcome.fetch_add(1, Ordering::Relaxed);
    }
}

struct Streaming {
    call: Call,
    include_usage: bool,
    ready: VecDeque<Bytes>,
}

impl Streaming {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let progress = self.call.in_flight.next().await?;
            self.ready.extend(self.call.reply.events(progress, self.include_usage));
        }
    }
}
