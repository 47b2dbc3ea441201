//! A simulated LLM engine that speaks like vLLM

fn main() {}
