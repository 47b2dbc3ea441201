//! Workers of NVIDIA Dynamo 1.6: which there are, what they cache, and how what was missed is made good.
//!
//! [`records`] are what workers tell of themselves in Dynamo's discovery service, [`picture`] makes of them the ranks of a
//! pool, and [`pool`] keeps these in the fleet. Each rank has a publisher of KV events, and [`plane`] knows the ways by which
//! they come: over its own ZMQ socket ([`direct`]), or over connections that many publishers share ([`dispatch`]), to
//! [`nats`] or to a ZMQ [`broker`]. [`wire`] reads them, [`follower`] takes them through the [`cursor`] to the index, and
//! [`query`] asks the worker for what was missed: at the start, for all that it holds. What workers and Dynamo's routers say
//! of [`load`] comes by the same ways.

pub mod broker;
pub mod connect;
pub mod cursor;
pub mod direct;
pub mod dispatch;
pub mod follower;
pub mod load;
pub mod nats;
pub mod picture;
pub mod plane;
pub mod pool;
pub mod query;
pub mod records;
pub mod wire;

#[cfg(test)]
mod tests;
