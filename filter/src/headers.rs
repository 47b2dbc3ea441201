//! Names of headers: which are ours to set, and which no client may.

use router_core::fleet::Candidate;

/// Where Envoy is to send the request: `ip:port[,ip:port…]`, best first. Gateway API inference extension, endpoint
/// picker protocol (proposal 004).
pub const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Which data-parallel rank of the worker is to serve it; read by vLLM's and Dynamo's frontends.
pub const DATA_PARALLEL_RANK: &str = "x-data-parallel-rank";
/// Which worker a Dynamo frontend is to use: a decimal u64. The second is for frontends before 1.4.
pub const DYNAMO_WORKER: [&str; 2] = ["x-dynamo-worker-instance-id", "x-worker-instance-id"];
/// Which of its ranks, likewise; besides [`DATA_PARALLEL_RANK`], which the newer ones read last.
pub const DYNAMO_RANK: [&str; 2] = ["x-dynamo-dp-rank", "x-dp-rank"];

/// Whose request it is, in Dynamo: its blocks are apart from others'.
pub const TENANT: &str = "x-tenant-id";

/// Everything that steers a request behind the gateway, so that nobody but the gateway may say it: the endpoint picker
/// protocol's headers, and the routing headers of Dynamo 1.6.1 with the aliases that its frontend reads
/// (`lib/llm/src/protocols/common/extensions.rs`).
pub const FORGEABLE: &[&str] = &[
    DESTINATION,
    "x-gateway-destination-endpoint-subset",
    "x-gateway-destination-endpoint-served",
    DATA_PARALLEL_RANK,
    DYNAMO_RANK[0],
    DYNAMO_RANK[1],
    "x-prefill-dp-rank",
    DYNAMO_WORKER[0],
    DYNAMO_WORKER[1],
    "x-prefill-instance-id",
    "x-prefiller-host-port",
    "x-dynamo-prefill-instance-id",
    "x-dynamo-prefill-dp-rank",
    "x-dynamo-routing-mode",
    "x-dynamo-token-data",
    "x-dynamo-backend-instance-id",
    "x-dynamo-decode-worker-id",
    "x-dynamo-prefill-worker-id",
];

/// The headers of a request as they came, names in lower case (Envoy makes them so).
#[derive(Debug, Default)]
pub struct RequestHeaders(pub Vec<(String, Vec<u8>)>);

impl RequestHeaders {
    /// A header's value, or its first one, if it is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The tenant as Dynamo 1.6.1 reads it: of the values of [`TENANT`] the last one that is not blank, without the blanks around
    /// it; a value with anything but ASCII counts as none.
    pub fn tenant(&self) -> Option<&str> {
        let is_text = |value: &[u8]| value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        let values = self.0.iter().rev().filter(|(name, _)| name == TENANT);
        let texts = values.filter_map(|(_, value)| std::str::from_utf8(value).ok().filter(|_| is_text(value)));
        texts.map(str::trim).find(|tenant| !tenant.is_empty())
    }

    /// Those of [`FORGEABLE`] that are there.
    pub fn forged(&self) -> impl Iterator<Item = &'static str> {
        let is_there = |name: &&&str| self.0.iter().any(|(known, _)| known == **name);
        FORGEABLE.iter().filter(is_there).copied()
    }
}

/// The value of [`DESTINATION`] for these candidates: their endpoints in order, each once (ranks share theirs), at
/// most `limit`.
pub fn destinations<'a>(candidates: impl Iterator<Item = &'a Candidate>, limit: usize) -> String {
    let mut endpoints: Vec<&str> = Vec::new();
    for candidate in candidates {
        if endpoints.len() >= limit {
            break;
        }
        if !endpoints.contains(&candidate.endpoint.as_str()) {
            endpoints.push(&candidate.endpoint);
        }
    }
    endpoints.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use router_core::Slot;

    #[test]
    fn headers_that_are_there() {
        let header = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
        let headers = [
            (":method", &b"POST"[..]),
            ("x-dp-rank", b"1"),
            ("x-dp-rank", b"2"),
            (DESTINATION, b"\xff"),
            ("x-dp-rank-not", b"3"),
        ];
        let headers = RequestHeaders(headers.map(header).to_vec());
        assert_eq!(headers.forged().collect::<Vec<_>>(), [DESTINATION, "x-dp-rank"]);
        let values = [":method", "x-dp-rank", DESTINATION, "x"].map(|name| headers.get(name));
        assert_eq!(values, [Some("POST"), Some("1"), None, None]);
    }

    #[test]
    fn the_tenant_is_the_last_one_that_is_named() {
        let tenant = |values: &[&[u8]]| {
            let header = |value: &&[u8]| (TENANT.to_owned(), value.to_vec());
            let headers = RequestHeaders(values.iter().map(header).collect());
            headers.tenant().map(str::to_owned)
        };
        // As Dynamo's own frontend answered, with these headers, by the hashes that it made.
        assert_eq!(tenant(&[]), None);
        assert_eq!(tenant(&[b"a", b"b"]).as_deref(), Some("b"));
        assert_eq!(tenant(&[b"a", b""]).as_deref(), Some("a"));
        assert_eq!(tenant(&[b" a ", b"  "]).as_deref(), Some("a"));
        assert_eq!(tenant(&[b"a\tb"]).as_deref(), Some("a\tb"));
        assert_eq!(tenant(&["müller".as_bytes()]), None);
        assert_eq!(tenant(&[b"a", "müller".as_bytes()]).as_deref(), Some("a"));
        assert_eq!(tenant(&[b"m\xfcller"]), None);
    }

    #[test]
    fn endpoints_in_order_each_once() {
        let candidate = |(slot, endpoint, dp_rank): (u16, &str, Option<u32>)| Candidate {
            slot: Slot(slot),
            endpoint: endpoint.to_owned(),
            dp_rank,
            instance_id: None,
        };
        let candidates = [
            (3, "b:1", Some(1)),
            (2, "b:1", Some(0)),
            (0, "a:1", None),
            (5, "c:1", None),
        ]
        .map(candidate);
        let listed = |limit| destinations(candidates.iter(), limit);
        assert_eq!(
            [listed(1), listed(2), listed(16)],
            ["b:1", "b:1,a:1", "b:1,a:1,c:1"].map(str::to_owned)
        );
    }
}
