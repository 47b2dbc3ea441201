//! A simulated LLM engine that speaks like vLLM: the OpenAI API, a block-level prefix cache with vLLM's eviction
//! order, continuous batching in real time, KV events with replay, metrics.
//!
//! A request goes `http` (read, render, tokenize) -> `rank` (real time) -> `scheduler` (pure) over `block_pool`; the
//! cache's events go `scheduler` -> `events::publish`. It shares no code with the router it is there to test: a wrong
//! token or hash in the router shows up here as a cache miss.

pub mod app;
pub mod block_pool;
pub mod chat;
pub mod cli;
pub mod clock;
pub mod events;
pub mod generate;
pub mod hash;
pub mod http;
pub mod images;
pub mod model;
pub mod openai;
pub mod python_json;
pub mod rank;
pub mod scheduler;
pub mod template;

#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
