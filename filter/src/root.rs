//! The plugin of one VM: configuration, tick, and the stream to the control plane.

use crate::config::Config;
use crate::dispatch;
use crate::gauges::{VmMemory, VmStatus};
use crate::host;
use crate::http::Request;
use crate::state::{SharedState, State};
use crate::sync::{Step, hello};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const TICK_WHILE_WAITING: Duration = Duration::from_millis(100);
const TICK_WHILE_CONNECTED: Duration = Duration::from_millis(250);
/// While artefacts wait, of which each tick loads one. Long enough for requests to come in between.
const TICK_WHILE_LOADING: Duration = Duration::from_millis(10);

/// The root context. Has a state once it has a valid configuration.
#[derive(Default)]
pub struct Root {
    state: Option<SharedState>,
    tick: Duration,
}

impl Root {
    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.state.as_ref()?.try_borrow_mut().ok()?;
        Some(act(&mut state))
    }

    fn adjust_tick(&mut self) {
        let tick = self.with_state(|state| {
            if state.artefacts.is_waiting() {
                TICK_WHILE_LOADING
            } else if state.link.is_up() {
                TICK_WHILE_CONNECTED
            } else {
                TICK_WHILE_WAITING
            }
        });
        if let Some(tick) = tick.filter(|tick| *tick != self.tick) {
            self.tick = tick;
            host::set_tick(tick);
        }
    }
}

impl Context for Root {
    fn on_grpc_stream_message(&mut self, stream: u32, size: usize) {
        self.with_state(|state| {
            // A stream that was given up can still have messages under way.
            if state.link.stream() != Some(stream) {
                return;
            }
            let message = host::stream_message(size);
            if let Some(answer) = dispatch::receive(state, &message) {
                host::send_message(stream, &answer);
            }
        });
        self.adjust_tick();
    }

    fn on_grpc_stream_close(&mut self, stream: u32, status: u32) {
        self.with_state(|state| {
            if state.link.stream() == Some(stream) {
                dispatch::stream_lost(state, &format!("stream closed with gRPC status {status}"));
            }
        });
        self.adjust_tick();
    }

    /// The plugin is being replaced or removed. Requests in flight go on and keep the state alive.
    fn on_done(&mut self) -> bool {
        self.with_state(|state| {
            if let Some(stream) = state.link.stream() {
                host::cancel_stream(stream);
            }
            state.load.report_vm(VmStatus::default());
            state.load.report_memory(VmMemory::default());
        });
        true
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let config = match Config::parse(&host::plugin_configuration(size)) {
            Ok(config) => config,
            Err(mistakes) => {
                for mistake in mistakes {
                    log::error!("plugin configuration: {mistake}");
                }
                return false;
            }
        };
        log::info!("configured: {config:?}");
        self.state = Some(Rc::new(RefCell::new(State::new(config))));
        self.adjust_tick();
        true
    }

    fn on_tick(&mut self) {
        self.with_state(tick);
        self.adjust_tick();
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        match &self.state {
            Some(state) => Some(Box::new(Request::new(Rc::clone(state)))),
            None => Some(Box::new(Unconfigured)),
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// Stands in for a request context where there is no configuration; the SDK traps if it gets none.
struct Unconfigured;

impl Context for Unconfigured {}
impl HttpContext for Unconfigured {}

fn tick(state: &mut State) {
    let now = state.now();
    let signs = state.load.sign(now);
    state.metrics.add("vms.cleared", signs.cleared);
    state.router.free_some();
    dispatch::load_artefact(state);
    // Until the seat is sure, nothing is booked and nothing reported.
    if state.load.number().is_none() {
        return;
    }
    match state.link.due(now) {
        Some(Step::Open) => open(state),
        Some(Step::GiveUp(stream)) => {
            host::cancel_stream(stream);
            dispatch::stream_lost(state, "silent for too long");
        }
        None => acknowledge(state),
    }
    let (status, memory) = (state.status(now), state.memory_taken());
    state.load.report_vm(status);
    state.load.report_memory(memory);
}

fn open(state: &mut State) {
    let now = state.now();
    let cluster = &state.config.control_plane_cluster;
    let Some(stream) = host::open_stream(cluster, proto::SERVICE, proto::METHOD) else {
        dispatch::stream_lost(state, "could not be opened");
        return;
    };
    state.link.opened(stream, now);
    let in_step = state.router.pools().filter_map(|pool| {
        let replica = state.router.replica(&pool.name).filter(|replica| replica.in_step())?;
        Some((pool.name.clone(), replica.position()?))
    });
    let hello = hello(state.name(), state.artefacts.held(), in_step.collect());
    if !host::send_message(stream, &hello) {
        dispatch::stream_lost(state, "closed at once");
    }
}

/// Tells the control plane where the views stand, once per tick at most.
fn acknowledge(state: &mut State) {
    let Some(stream) = state.link.stream() else {
        return;
    };
    for pool in state.router.pools() {
        let replica = state.router.replica(&pool.name);
        if let Some(ack) = replica.and_then(|replica| state.link.ack(&pool.name, replica)) {
            host::send_message(stream, &ack);
        }
    }
}
