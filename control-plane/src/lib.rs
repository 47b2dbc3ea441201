//! The control plane: it learns what every worker caches and tells every filter.
//!
//! Data flows one way: socket ([`events::zmq`]) -> [`events::cursor`] (gap, replay, restart, duplicates; pure) ->
//! [`events::decode`] (bytes to events; pure, and only for what is applied) -> [`index`] (one writer per pool; exact)
//! -> changes of the prefix view -> [`sync::publisher`] (batched deltas) -> every filter. Dynamo's workers have ways of their own for
//! the first half of it: [`dynamo`]. Beside it, [`parity`] asks
//! workers whether they make our tokens, and [`fleet`] publishes the fleet accordingly. [`app`] wires it all up, in boot
//! order.

pub mod admin;
pub mod app;
pub mod check;
pub mod config;
pub mod discovery;
pub mod dynamo;
pub mod events;
pub mod fleet;
pub mod index;
pub mod inspect;
pub mod model;
pub mod parity;
pub mod state;
pub mod sync;
