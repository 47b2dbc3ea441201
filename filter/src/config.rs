//! The plugin's configuration: a JSON object, given in Envoy's `configuration`.
//!
//! Unknown keys are refused and all mistakes are told at once, so that a typing error is neither silently ignored
//! nor found one reload at a time.

use reading::{DEFAULT_MAX_PROMPT_BYTES, DEFAULT_MEMORY_BYTES};
use serde_json::{Map, Value};
use work::Limits;

/// What to do with requests while no worker is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWorkers {
    /// Let them through to the cluster's own load balancer.
    Pass,
    /// Answer 503.
    Refuse,
}

const MILLISECOND: u64 = 1_000_000;

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `control_plane_cluster` (required): Envoy's name of the HTTP/2 cluster of the control plane.
    pub control_plane_cluster: String,
    /// `max_body_bytes` (default 32 MiB): longer bodies are not held but streamed to a worker picked by load. Envoy
    /// must be allowed to buffer as much, else it answers 413.
    pub max_body_bytes: usize,
    /// `max_prompt_bytes` (default 4 MiB, about a million tokens): longer bodies are read for their `model` only and
    /// routed by load. At worst, reading a prompt takes 120 times its size in memory (a template may write eight times
    /// the body, a tokenizer take 12 bytes per byte), of the 1 GiB that a VM gets.
    pub max_prompt_bytes: usize,
    /// `work_ms` (default 5, at most 1,000) and `work_ms_per_mb` (default 45, at most 10,000): what reading a prompt may
    /// cost, in milliseconds, for any request and for each megabyte of its body; beyond, it is routed by load. Work is
    /// counted, not timed ([`work`]), for the machine of `docs/benchmarks.md`; meanwhile the worker thread does nothing else.
    pub work: Limits,
    /// `prompt_memory_bytes` (default 8 MiB, at most 256 MiB): memory of each VM for prompts read before, of all pools
    /// together; 0 remembers none. What is remembered takes about as much as its text, and of conversations that just
    /// go on a fifth of it. Reading a prompt again takes a small part of the time that it took at first
    /// (`docs/benchmarks.md`).
    pub prompt_memory_bytes: usize,
    /// `max_view_bytes` (default 384 MiB): what the views of this VM may take together. Further blocks are refused and
    /// counted (`warmpath.view.refused`), as running out of memory would end the VM. While a view of more than half of
    /// it is sent anew, its pool is routed by load.
    pub max_view_bytes: usize,
    /// `destinations` (default 1, at most 16): how many workers to name, best first. Envoy's retries walk the list.
    pub destinations: usize,
    /// `no_workers` (default `pass`).
    pub no_workers: NoWorkers,
    /// `usage_sample` (default 0.1): share of streamed responses whose `usage` is read. Each look at a chunk costs
    /// about 8 us.
    pub usage_sample: f64,
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// Every mistake in it, one line each.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<String>> {
        let fields: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| vec![format!("not a JSON object: {error}")])?;
        let mut reader = Reader {
            fields,
            mistakes: Vec::new(),
        };
        let default_ms = (Limits::DEFAULT.base / MILLISECOND) as usize;
        let config = Self {
            control_plane_cluster: reader.text("control_plane_cluster"),
            max_body_bytes: reader.count("max_body_bytes", 1..=256 << 20, 32 << 20),
            max_prompt_bytes: reader.count("max_prompt_bytes", 0..=8 << 20, DEFAULT_MAX_PROMPT_BYTES),
            work: Limits {
                base: MILLISECOND.saturating_mul(reader.count("work_ms", 0..=1_000, default_ms) as u64),
                per_byte: reader.count("work_ms_per_mb", 0..=10_000, Limits::DEFAULT.per_byte as usize) as u64,
            },
            prompt_memory_bytes: reader.count("prompt_memory_bytes", 0..=256 << 20, DEFAULT_MEMORY_BYTES),
            max_view_bytes: reader.count("max_view_bytes", 1 << 20..=896 << 20, 384 << 20),
            destinations: reader.count("destinations", 1..=16, 1),
            no_workers: reader.choice(
                "no_workers",
                &[("pass", NoWorkers::Pass), ("refuse", NoWorkers::Refuse)],
                NoWorkers::Pass,
            ),
            usage_sample: reader.share("usage_sample", 0.1),
        };
        reader.finish()?;
        Ok(config)
    }
}

/// Takes the known keys out one by one; what is left is unknown.
struct Reader {
    fields: Map<String, Value>,
    mistakes: Vec<String>,
}

impl Reader {
    fn text(&mut self, key: &str) -> String {
        match self.fields.remove(key) {
            Some(Value::String(text)) if !text.is_empty() => text,
            Some(other) => self.mistake(key, &other, "must be a text that is not empty"),
            None => {
                self.mistakes.push(format!("{key}: required"));
                String::new()
            }
        }
    }

    fn count(&mut self, key: &str, range: std::ops::RangeInclusive<u64>, default: usize) -> usize {
        let Some(value) = self.fields.remove(key) else {
            return default;
        };
        let count = value.as_u64().filter(|count| range.contains(count));
        match count.and_then(|count| usize::try_from(count).ok()) {
            Some(count) => count,
            None => {
                let (least, most) = range.into_inner();
                self.mistake(key, &value, &format!("must be a whole number from {least} to {most}"))
            }
        }
    }

    fn share(&mut self, key: &str, default: f64) -> f64 {
        let Some(value) = self.fields.remove(key) else {
            return default;
        };
        match value.as_f64().filter(|share| (0.0..=1.0).contains(share)) {
            Some(share) => share,
            None => self.mistake(key, &value, "must be a number from 0 to 1"),
        }
    }

    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)], default: T) -> T {
        let Some(value) = self.fields.remove(key) else {
            return default;
        };
        let chosen = choices.iter().find(|(name, _)| value.as_str() == Some(name));
        if let Some((_, choice)) = chosen {
            return *choice;
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let () = self.mistake(key, &value, &format!("must be one of {}", names.join(", ")));
        default
    }

    fn mistake<T: Default>(&mut self, key: &str, value: &Value, why: &str) -> T {
        self.mistakes.push(format!("{key}: {value}: {why}"));
        T::default()
    }

    fn finish(mut self) -> Result<(), Vec<String>> {
        let unknown = self.fields.keys().map(|key| format!("{key}: unknown key"));
        self.mistakes.extend(unknown);
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(self.mistakes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let expected = Config {
            control_plane_cluster: "cp".to_owned(),
            max_body_bytes: 33_554_432,
            max_prompt_bytes: 4_194_304,
            work: Limits::DEFAULT,
            prompt_memory_bytes: 8_388_608,
            max_view_bytes: 402_653_184,
            destinations: 1,
            no_workers: NoWorkers::Pass,
            usage_sample: 0.1,
        };
        assert_eq!(Config::parse(br#"{"control_plane_cluster":"cp"}"#), Ok(expected));
    }

    #[test]
    fn every_key() {
        let json =
            br#"{"control_plane_cluster":"cp","max_body_bytes":1000,"max_prompt_bytes":500,"work_ms":7,"work_ms_per_mb":80,"prompt_memory_bytes":0,
            "max_view_bytes":1048576,"destinations":3,"no_workers":"refuse","usage_sample":1}"#;
        let expected = Config {
            control_plane_cluster: "cp".to_owned(),
            max_body_bytes: 1000,
            max_prompt_bytes: 500,
            work: Limits {
                base: 7_000_000,
                per_byte: 80,
            },
            prompt_memory_bytes: 0,
            max_view_bytes: 1_048_576,
            destinations: 3,
            no_workers: NoWorkers::Refuse,
            usage_sample: 1.0,
        };
        assert_eq!(Config::parse(json), Ok(expected));
    }

    #[test]
    fn all_mistakes_at_once() {
        let json =
            br#"{"max_body_bytes":-1,"max_prompt_bytes":"8","work_ms":5.5,"work_ms_per_mb":10001,"prompt_memory_bytes":1e9,"max_view_bytes":0,"destinations":17,"no_workers":"fail",
            "usage_sample":1.5,"cluster":"cp"}"#;
        let mistakes = [
            "control_plane_cluster: required",
            "max_body_bytes: -1: must be a whole number from 1 to 268435456",
            "max_prompt_bytes: \"8\": must be a whole number from 0 to 8388608",
            "work_ms: 5.5: must be a whole number from 0 to 1000",
            "work_ms_per_mb: 10001: must be a whole number from 0 to 10000",
            "prompt_memory_bytes: 1000000000.0: must be a whole number from 0 to 268435456",
            "max_view_bytes: 0: must be a whole number from 1048576 to 939524096",
            "destinations: 17: must be a whole number from 1 to 16",
            "no_workers: \"fail\": must be one of pass, refuse",
            "usage_sample: 1.5: must be a number from 0 to 1",
            "cluster: unknown key",
        ];
        assert_eq!(Config::parse(json), Err(mistakes.map(str::to_owned).to_vec()));
    }

    #[test]
    fn no_object() {
        for json in [&b""[..], b"[]", b"{", b"\"x\""] {
            let mistakes = Config::parse(json).unwrap_err();
            assert!(
                mistakes.len() == 1 && mistakes[0].starts_with("not a JSON object"),
                "{mistakes:?}"
            );
        }
    }
}
