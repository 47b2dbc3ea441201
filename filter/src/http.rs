//! One request: callbacks to inputs, decisions to host calls.
//!
//! Bodies are held whole and decided on in the callback that ends them. Resuming later, from a callout, can lose a
//! piece of the body (Envoy issue 46841). For body callbacks to come while headers are held, the plugin needs
//! `allow_on_headers_stop_iteration`.

use crate::config::NoWorkers;
use crate::flight::Flight;
use crate::headers::{DATA_PARALLEL_RANK, DESTINATION, DYNAMO_RANK, DYNAMO_WORKER, RequestHeaders, destinations};
use crate::host;
use crate::random;
use crate::route::{NewBody, Routed, Seen, route};
use crate::state::{SharedState, State};
use prompt::{Shape, UsageReader};
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use router_core::ladder::Rung;

const NO_WORKERS_BODY: &str = r#"{"error":{"message":"no worker is known for this request: the gateway has not heard of any from its control plane","type":"service_unavailable","code":503}}"#;

/// The context of one request.
pub struct Request {
    state: SharedState,
    phase: Phase,
    /// What reads the response's usage, if anything does.
    usage: Option<UsageReader>,
}

enum Phase {
    /// Nothing to do with us, or over.
    Idle,
    /// The headers are held until the body is there.
    Holding {
        shape: Shape,
        /// Bytes of it that are there.
        held: usize,
        /// See [`RequestHeaders::tenant`].
        tenant: Option<String>,
    },
    /// Decided, and booked.
    InFlight(Flight),
}

impl Request {
    /// A request that has just begun.
    pub fn new(state: SharedState) -> Self {
        Self {
            state,
            phase: Phase::Idle,
            usage: None,
        }
    }

    /// Decides, now that all of a held body is there.
    fn decide_on_body(&mut self) -> Action {
        let Phase::Holding { shape, held, tenant } = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return Action::Continue;
        };
        let body = host::request_body(held);
        self.decide(shape, seen(&body, tenant.as_deref()))
    }

    /// Decides on what is there of the request, and lets it go.
    fn decide(&mut self, shape: Shape, seen: Seen<'_>) -> Action {
        self.phase = Phase::Idle;
        let Ok(mut state) = self.state.try_borrow_mut() else {
            return Action::Continue;
        };
        let state = &mut *state;
        let now = state.now();
        sign(state, now);
        let mut routed = route(state, shape, seen);
        let footing = routed.decision.footing;
        state.metrics.decided(footing);
        state.metrics.add("batches", u64::from(routed.is_batch));
        state.metrics.add("prompts.bytes", routed.recall.bytes);
        state.metrics.add("prompts.remembered_bytes", routed.recall.remembered);
        let nobody = footing.rung == Rung::Pass && matches!(footing.reason, "no_fleet" | "no_workers");
        if nobody && state.config.no_workers == NoWorkers::Refuse {
            host::reply(503, NO_WORKERS_BODY);
            return Action::Pause;
        }
        name_worker(state, &routed);
        if let (Seen::Body { bytes, .. }, Some(body)) = (seen, routed.body.take()) {
            send_instead(state, bytes.len(), &body);
        }
        if let Some(flight) = Flight::start(state, routed) {
            self.phase = Phase::InFlight(flight);
        }
        Action::Continue
    }

    /// Ends what was booked. Whoever comes first does it: end of the response, its log entry, the end of the context.
    fn finish(&mut self) {
        let Phase::InFlight(flight) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return;
        };
        let usage = self.usage.take().and_then(|mut reader| reader.finish());
        if let Ok(mut state) = self.state.try_borrow_mut() {
            let state = &mut *state;
            let now = state.now();
            sign(state, now);
            if let Some(usage) = usage {
                flight.told(state, usage);
            }
            flight.finish(state);
        }
    }

    fn with_flight(&mut self, act: impl FnOnce(&mut Flight, &mut State)) {
        if let (Phase::InFlight(flight), Ok(mut state)) = (&mut self.phase, self.state.try_borrow_mut()) {
            act(flight, &mut state);
        }
    }
}

impl Context for Request {
    fn on_done(&mut self) -> bool {
        self.finish();
        true
    }
}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        let headers = RequestHeaders(host::request_headers());
        headers.forged().for_each(host::remove_request_header);
        let Some(shape) = routed_shape(&headers) else {
            return Action::Continue;
        };
        if end_of_stream {
            let reason = "empty_body";
            return self.decide(shape, Seen::Nothing { reason, bytes: 0 });
        }
        let limit = self.max_body_bytes();
        if let Some(bytes) = content_length(&headers).filter(|&bytes| bytes > limit) {
            let reason = "body_too_large";
            return self.decide(shape, Seen::Nothing { reason, bytes });
        }
        let tenant = headers.tenant().map(str::to_owned);
        self.phase = Phase::Holding { shape, held: 0, tenant };
        Action::Pause
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        let Phase::Holding { shape, held, .. } = &mut self.phase else {
            return Action::Continue;
        };
        // While a body is held, each callback is told the size of all that is held.
        *held = body_size;
        let shape = *shape;
        if body_size as u64 > self.max_body_bytes() {
            let (reason, bytes) = ("body_too_large", body_size as u64);
            return self.decide(shape, Seen::Nothing { reason, bytes });
        }
        if !end_of_stream {
            return Action::Pause;
        }
        self.decide_on_body()
    }

    /// Trailers end a body too.
    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.decide_on_body()
    }

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        let mut usage = None;
        self.with_flight(|flight, state| {
            if let Some(address) = host::upstream_address() {
                flight.served_by(state, &address);
            }
            if flight.wants_usage() {
                usage = usage_reader(flight.seed, state.config.usage_sample);
            }
        });
        self.usage = usage;
        if end_of_stream {
            self.finish();
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if body_size > 0 {
            self.with_flight(|flight, state| flight.prefill_done(state));
            if let Some(reader) = &mut self.usage {
                reader.feed(&host::response_chunk(body_size));
            }
        }
        if end_of_stream {
            self.finish();
        }
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.finish();
        Action::Continue
    }

    fn on_log(&mut self) {
        self.finish();
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Request {
    fn max_body_bytes(&self) -> u64 {
        let state = self.state.try_borrow();
        state.map_or(0, |state| state.config.max_body_bytes as u64)
    }
}

/// Requests keep the VM's seat too: a plugin that was replaced gets no ticks, while its last requests go on.
fn sign(state: &mut State, now: router_core::Millis) {
    let signs = state.load.sign(now);
    state.metrics.add("vms.cleared", signs.cleared);
}

fn seen<'a>(bytes: &'a [u8], tenant: Option<&'a str>) -> Seen<'a> {
    if bytes.is_empty() {
        let reason = "empty_body";
        return Seen::Nothing { reason, bytes: 0 };
    }
    Seen::Body { bytes, tenant }
}

/// The shape of a request that is to be routed.
fn routed_shape(headers: &RequestHeaders) -> Option<Shape> {
    let is_post = headers.get(":method") == Some("POST");
    headers.get(":path").filter(|_| is_post).and_then(Shape::of_path)
}

fn content_length(headers: &RequestHeaders) -> Option<u64> {
    headers.get("content-length")?.parse().ok()
}

/// Tells Envoy, and the worker, whom we picked.
fn name_worker(state: &State, routed: &Routed) {
    let Some(pool) = state.router.pool(&routed.pool) else {
        return;
    };
    let mut candidates = routed
        .decision
        .ranked()
        .filter_map(|scored| pool.candidates.get(scored.candidate))
        .peekable();
    let best = candidates.peek().copied();
    let destinations = destinations(candidates, state.config.destinations);
    if !destinations.is_empty() {
        host::set_request_header(DESTINATION, &destinations);
    }
    let Some(best) = best else { return };
    if let Some(rank) = best.dp_rank {
        host::set_request_header(DATA_PARALLEL_RANK, &rank.to_string());
    }
    if let Some(instance) = best.instance_id {
        let rank = best.dp_rank.unwrap_or(0);
        for name in DYNAMO_WORKER {
            host::set_request_header(name, &instance.to_string());
        }
        for name in DYNAMO_RANK {
            host::set_request_header(name, &rank.to_string());
        }
    }
}

/// Replaces the body that is held, of `held` bytes.
fn send_instead(state: &mut State, held: usize, body: &NewBody) {
    let (counter, body) = match body {
        NewBody::WithTokens(body) => ("tokens.injected", body),
        NewBody::WithoutTokens(body) => ("tokens.removed", body),
    };
    state.metrics.add(counter, 1);
    host::set_request_body(held, body);
    if host::request_header("content-length").is_some() {
        host::set_request_header("content-length", &body.len().to_string());
    }
}

/// A reader for a response whose usage is worth a look: any JSON, and of streams a sample.
fn usage_reader(seed: u64, sample: f64) -> Option<UsageReader> {
    let ok = host::response_header(":status")? == b"200";
    let plain = host::response_header("content-encoding").is_none_or(|encoding| encoding == b"identity");
    let content_type = String::from_utf8(host::response_header("content-type")?).ok()?;
    // Mixed, because the seed's plain bits have broken ties already.
    let drawn = random::unit(random::mix(seed)) < sample;
    let is_stream = content_type.starts_with("text/event-stream");
    (ok && plain && (drawn || !is_stream)).then(|| UsageReader::new(&content_type))
}
