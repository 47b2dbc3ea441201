//! `GET /metrics`: Prometheus text under vLLM's names (`vllm/v1/metrics/loggers.py`).

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Engine;
use super::respond::ApiError;
use crate::scheduler::Stats;

type Read = fn(&Stats) -> f64;

/// Name, type, help and value of everything counted per rank.
const PER_RANK: [(&str, &str, &str, Read); 8] = [
    (
        "vllm:num_requests_running",
        "gauge",
        "Number of requests in model execution batches.",
        |s| s.running as f64,
    ),
    (
        "vllm:num_requests_waiting",
        "gauge",
        "Number of requests waiting to be processed.",
        |s| s.waiting as f64,
    ),
    (
        "vllm:kv_cache_usage_perc",
        "gauge",
        "KV-cache usage. 1 means 100 percent usage.",
        |s| s.kv_cache_usage,
    ),
    (
        "vllm:prefix_cache_queries_total",
        "counter",
        "Prefix cache queries, in tokens.",
        |s| s.prefix_queries as f64,
    ),
    (
        "vllm:prefix_cache_hits_total",
        "counter",
        "Prefix cache hits, in tokens.",
        |s| s.prefix_hits as f64,
    ),
    (
        "vllm:num_preemptions_total",
        "counter",
        "Cumulative number of preemptions.",
        |s| s.preemptions as f64,
    ),
    (
        "vllm:prompt_tokens_total",
        "counter",
        "Number of prefill tokens processed.",
        |s| s.prompt_tokens as f64,
    ),
    (
        "vllm:generation_tokens_total",
        "counter",
        "Number of generation tokens processed.",
        |s| s.generation_tokens as f64,
    ),
];

pub(super) async fn metrics(State(engine): State<Arc<Engine>>) -> Response {
    match render(&engine) {
        Ok(text) => (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, ApiError::internal(error.to_string())).into_response(),
    }
}

fn render(engine: &Engine) -> Result<String, fmt::Error> {
    let model = escape(engine.names.first().map_or("", String::as_str));
    let stats: Vec<_> = engine.ranks.iter().map(|rank| rank.stats()).collect();
    let mut text = String::new();
    for (name, kind, help, read) in PER_RANK {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for (rank, stats) in stats.iter().enumerate() {
            writeln!(
                text,
                "{name}{{engine=\"{rank}\",model_name=\"{model}\"}} {}",
                read(stats)
            )?;
        }
    }
    writeln!(
        text,
        "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig"
    )?;
    writeln!(text, "# TYPE vllm:cache_config_info gauge")?;
    for rank in 0..stats.len() {
        writeln!(
            text,
            "vllm:cache_config_info{{block_size=\"{}\",enable_prefix_caching=\"True\",engine=\"{rank}\",\
             model_name=\"{model}\",num_gpu_blocks=\"{}\"}} 1",
            engine.block_size, engine.num_gpu_blocks
        )?;
    }
    writeln!(
        text,
        "# HELP vllm:request_success_total Count of successfully processed requests."
    )?;
    writeln!(text, "# TYPE vllm:request_success_total counter")?;
    for (rank, counters) in engine.counters.iter().enumerate() {
        for (reason, count) in [
            ("stop", &counters.stopped),
            ("length", &counters.length),
            ("abort", &counters.aborted),
        ] {
            let count = count.load(Ordering::Relaxed);
            writeln!(
                text,
                "vllm:request_success_total{{engine=\"{rank}\",finished_reason=\"{reason}\",model_name=\"{model}\"}} \
                 {count}"
            )?;
        }
    }
    Ok(text)
}

/// Label values escape backslash, quote and newline.
fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
