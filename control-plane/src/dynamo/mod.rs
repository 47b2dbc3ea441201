//! Workers of NVIDIA Dynamo 1.6: which there are, what they cache, and how what was missed is made good.
//!
//! [`records`] are what workers tell of themselves in Dynamo's discovery service, [`picture`] makes of them the ranks of a
//! pool, and [`pool`] keeps these in the fleet. Each rank has a publisher of KV events: [`direct`] brings them, [`wire`]
//! reads them, [`follower`] takes them through the [`cursor`] to the index, and [`query`] asks the worker for what was
//! missed: at the start, for all that it holds.

pub mod cursor;
pub mod direct;
pub mod follower;
pub mod picture;
pub mod pool;
pub mod query;
pub mod records;
pub mod wire;

#[cfg(test)]
mod tests;
