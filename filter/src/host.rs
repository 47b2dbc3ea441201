//! Every call to the host. Status codes end here: what the callers see are options and booleans that say what
//! happened in their own terms.
//!
//! The SDK's functions *panic* on statuses that they do not expect, so each function notes why its call cannot get
//! one, or when it may be called.

use crate::gauges::Shared;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType};
use std::time::{Duration, UNIX_EPOCH};

/// Identifies a gRPC stream.
pub type StreamId = u32;
/// Identifies a metric.
pub type MetricId = u32;

/// Nanoseconds since 1970, by the system's clock; it may jump.
pub fn now_ns() -> u64 {
    let now = hostcalls::get_current_time().unwrap_or(UNIX_EPOCH);
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// Size of the VM's linear memory, which never shrinks; 0 outside of a VM.
pub fn memory_bytes() -> usize {
    #[cfg(target_arch = "wasm32")]
    return core::arch::wasm32::memory_size::<0>().saturating_mul(64 << 10);
    #[cfg(not(target_arch = "wasm32"))]
    0
}

/// Sets the time between two ticks of the root context.
pub fn set_tick(period: Duration) {
    let _ = hostcalls::set_tick_period(period);
}

/// The plugin's configuration, in `on_configure`.
pub fn plugin_configuration(size: usize) -> Vec<u8> {
    buffer(BufferType::PluginConfiguration, size)
}

/// The request body as far as it is held. Only in request body and trailers callbacks, and only if `size` bytes of
/// it have been announced: without a body the host knows no such buffer.
pub fn request_body(size: usize) -> Vec<u8> {
    buffer(BufferType::HttpRequestBody, size)
}

/// Replaces the request body that is held, `size` bytes of it. Where and when [`request_body`] may be called.
pub fn set_request_body(size: usize, body: &[u8]) {
    let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, size, body);
}

/// The chunk of the response that a response body callback announced.
pub fn response_chunk(size: usize) -> Vec<u8> {
    buffer(BufferType::HttpResponseBody, size)
}

/// The message that a gRPC stream callback announced.
pub fn stream_message(size: usize) -> Vec<u8> {
    buffer(BufferType::GrpcReceiveBuffer, size)
}

fn buffer(kind: BufferType, size: usize) -> Vec<u8> {
    if size == 0 {
        return Vec::new();
    }
    hostcalls::get_buffer(kind, 0, size).ok().flatten().unwrap_or_default()
}

/// All request headers, in one call: a look at a single one costs as much. Only until the headers were let go. (The SDK
/// panics on a name that is not UTF-8; Envoy's parsers let only tokens pass.)
pub fn request_headers() -> Vec<(String, Vec<u8>)> {
    hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default()
}

/// A request header's value, or its first one. Only until the headers were let go. Values need not be UTF-8.
pub fn request_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name)
        .ok()
        .flatten()
}

/// Sets a request header in place of all of that name. Only until the headers were let go. The host clears the
/// route cache by itself (for modules of ABI 0.2.1, and this SDK makes them), so nothing else has to.
pub fn set_request_header(name: &str, value: &str) {
    let _ = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value.as_bytes()));
}

/// Removes all request headers of that name. Only until the headers were let go.
pub fn remove_request_header(name: &str) {
    let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
}

/// A response header's value, in the response headers callback.
pub fn response_header(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name)
        .ok()
        .flatten()
}

/// `ip:port` of the worker that the response comes from.
pub fn upstream_address() -> Option<String> {
    let address = hostcalls::get_property(vec!["upstream", "address"]).ok().flatten()?;
    String::from_utf8(address).ok()
}

/// Answers the request from here, with a JSON body.
pub fn reply(status: u32, body: &str) {
    let headers = vec![("content-type", "application/json")];
    let _ = hostcalls::send_http_response(status, headers, Some(body.as_bytes()));
}

/// Opens a gRPC stream to a cluster. `None` if the cluster is unknown or has no host to talk to.
pub fn open_stream(cluster: &str, service: &str, method: &str) -> Option<StreamId> {
    hostcalls::open_grpc_stream(cluster, service, method, Vec::new()).ok()
}

/// Sends a message. False if the stream is gone.
pub fn send_message(stream: StreamId, message: &[u8]) -> bool {
    hostcalls::send_grpc_stream_message(stream, Some(message), false).is_ok()
}

/// Resets a stream; the host says nothing about it any more.
pub fn cancel_stream(stream: StreamId) {
    let _ = hostcalls::cancel_grpc_stream(stream);
}

/// Defines a counter, or finds it.
pub fn counter(name: &str) -> Option<MetricId> {
    hostcalls::define_metric(MetricType::Counter, name).ok()
}

/// Adds to a counter.
pub fn count(counter: MetricId, amount: u64) {
    // The host takes a counter's increment of 0 for an error.
    if let Ok(amount @ 1..) = i64::try_from(amount) {
        let _ = hostcalls::increment_metric(counter, amount);
    }
}

/// Envoy's gauges, one process-wide number per name, and its shared data, one map per `vm_id`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Shared for Process {
    fn read(&self, key: &str) -> (Option<Vec<u8>>, Option<u32>) {
        hostcalls::get_shared_data(key).unwrap_or_default()
    }

    fn write(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        hostcalls::set_shared_data(key, Some(value), version).is_ok()
    }

    fn gauge(&self, name: &str) -> Option<MetricId> {
        hostcalls::define_metric(MetricType::Gauge, name).ok()
    }

    fn value(&self, gauge: MetricId) -> u64 {
        hostcalls::get_metric(gauge).unwrap_or(0)
    }

    fn add(&self, gauge: MetricId, amount: i64) {
        if amount != 0 {
            let _ = hostcalls::increment_metric(gauge, amount);
        }
    }
}
