//! Messages of the control plane, applied to the state.
//!
//! They are untrusted: one that cannot be used is counted and logged and changes nothing, and when it was about a view,
//! a snapshot is asked for.

use crate::artefacts::Loaded;
use crate::state::{State, artefacts_of};
use prost::Message;
use proto::v1::{self, to_filter};
use proto::view::PoolUpdate;
use proto::{BadMessage, MAX_MESSAGE_BYTES, fleet};
use router_core::fleet::Fleet;
use router_core::replica::Update;

/// Applies one message. Returns what there is to answer.
pub fn receive(state: &mut State, message: &[u8]) -> Option<Vec<u8>> {
    let now = state.now();
    if state.link.heard(now) {
        state.router.link_up();
        state.metrics.add("sync.connects", 1);
        log::info!("vm {}: the control plane is there", state.name());
    }
    state.metrics.add("sync.messages", 1);
    match apply(state, message) {
        Ok(answer) => answer,
        Err(problem) => {
            state.metrics.add("sync.bad_messages", 1);
            if state.link.may_complain() {
                log::warn!("vm {}: message from the control plane refused: {problem}", state.name());
            }
            None
        }
    }
}

/// The stream is gone, or never came to be.
pub fn stream_lost(state: &mut State, why: &str) {
    let now = state.now();
    if state.link.is_up() {
        log::warn!(
            "vm {}: lost the control plane ({why}); requests are routed by the last view for a while",
            state.name()
        );
        state.metrics.add("sync.losses", 1);
    }
    if state.link.is_hopeless() {
        log::warn!(
            "vm {}: cluster {} of the control plane cannot be reached ({why}); still trying",
            state.name(),
            state.config.control_plane_cluster
        );
    }
    state.router.link_down(now);
    state.artefacts.stream_lost();
    state.link.lost(now, &mut state.random);
}

fn apply(state: &mut State, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(format!(
            "{} bytes long, more than the limit of {MAX_MESSAGE_BYTES}",
            message.len()
        ));
    }
    let message = v1::ToFilter::decode(message).map_err(|error| error.to_string())?;
    let message = message.message.ok_or("of a kind that this version does not know")?;
    let told = |bad: BadMessage| bad.to_string();
    match message {
        to_filter::Message::Settings(settings) => {
            state.router.set_max_staleness(settings.max_staleness_ms);
            state.link.set_silence(settings.silence_ms);
        }
        to_filter::Message::Fleet(fleet) => set_fleet(state, fleet.try_into().map_err(told)?),
        to_filter::Message::Artefact(chunk) => take_artefact(state, &chunk)?,
        to_filter::Message::SnapshotBegin(begin) => {
            let pool = begin.position.as_ref().map(|position| position.pool.clone());
            return Ok(update(state, pool, begin.try_into()));
        }
        to_filter::Message::SnapshotPart(part) => {
            return Ok(update(state, Some(part.pool.clone()), part.try_into()));
        }
        to_filter::Message::SnapshotEnd(end) => return Ok(update(state, Some(end.pool.clone()), Ok(end.into()))),
        to_filter::Message::Delta(delta) => {
            let pool = delta.from.as_ref().map(|position| position.pool.clone());
            return Ok(update(state, pool, delta.try_into()));
        }
        to_filter::Message::Heartbeat(_) => {}
    }
    Ok(None)
}

/// The fleet takes effect at once. A pool whose artefacts wait to be loaded is routed by load until then.
fn set_fleet(state: &mut State, fleet: Fleet) {
    state.fleet_artefacts = fleet.pools.iter().flat_map(artefacts_of).collect();
    let workers: usize = fleet.pools.iter().map(|pool| pool.candidates.len()).sum();
    log::info!(
        "vm {}: fleet of {} pools with {workers} workers or ranks",
        state.name(),
        fleet.pools.len()
    );
    state.router.set_fleet(fleet);
    state.fleet_changed();
}

/// Loads one of the artefacts that wait for it.
pub fn load_artefact(state: &mut State) {
    // The tokenizer library tells of its tables at level info, in every VM.
    let level = log::max_level();
    log::set_max_level(level.min(log::LevelFilter::Warn));
    let loaded = state.artefacts.load_next();
    log::set_max_level(level);
    let Some(Loaded { id, kind, outcome }) = loaded else {
        return;
    };
    let Err(error) = outcome else {
        return state.metrics.add("artefacts.loaded", 1);
    };
    state.metrics.add("artefacts.unusable", 1);
    let pools = state.router.pools();
    let of_these: Vec<_> = pools
        .filter(|pool| artefacts_of(pool).any(|(named, _)| named == id))
        .map(|pool| &pool.name)
        .collect();
    log::error!(
        "vm {}: pools {of_these:?}: {kind} cannot be used, so requests are routed by load: {error}",
        state.name()
    );
}

fn take_artefact(state: &mut State, chunk: &v1::ArtefactChunk) -> Result<(), String> {
    let id = fleet::artefact_id("artefact.id", &chunk.id).map_err(|bad| bad.to_string())?;
    let taken = state.artefacts.take(id, chunk.total_bytes, chunk.offset, &chunk.data);
    taken.map_err(|bad| bad.to_string())
}

/// Applies an update of a view. Returns the request for a snapshot if it does not fit.
fn update(state: &mut State, pool: Option<String>, update: Result<PoolUpdate, BadMessage>) -> Option<Vec<u8>> {
    let reason = match update {
        Ok(PoolUpdate { pool, update }) => {
            let completes = matches!(update, Update::End { .. });
            if matches!(update, Update::Begin { .. }) {
                state.link.snapshot_begins(&pool);
            }
            let before = room_of(state, &pool);
            let applied = state.router.apply(&pool, update);
            let after = room_of(state, &pool);
            state.metrics.add("view.refused", after.0.saturating_sub(before.0));
            if before.1 && !after.1 {
                state.metrics.add("view.given_up", 1);
            }
            match applied {
                Ok(()) if completes => {
                    // The pool may have gone over to its next epoch.
                    state.fleet_changed();
                    return None;
                }
                Ok(()) => return None,
                Err(out_of_step) => out_of_step.reason(),
            }
        }
        Err(bad) => {
            state.metrics.add("sync.bad_messages", 1);
            if state.link.may_complain() {
                log::warn!("vm {}: update of a view refused: {bad}", state.name());
            }
            "bad_message"
        }
    };
    let request = state.link.resync(&pool?, reason)?;
    state.metrics.count_by("sync.resyncs", reason);
    Some(request)
}

/// Holdings of a pool's view that found no room, and whether there is a view.
fn room_of(state: &State, pool: &str) -> (u64, bool) {
    let replica = state.router.replica(pool);
    replica.map_or((0, false), |replica| (replica.refused(), replica.position().is_some()))
}
