//! What the demo found: the table and the JSON.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Map, Value};
use testbed::Engine;

use super::drive::Exchange;
use crate::decisions::Decisions;
use crate::percentile::{Sorted, rounded};

/// Warmpath must reach this share of the ideal hit rate ...
const SHARE_OF_IDEAL: f64 = 0.9;
/// ... while no worker serves more than this many times the mean ...
const BUSIEST_TO_MEAN: f64 = 1.5;
/// ... and round robin must stay this far below Warmpath.
const ROUND_ROBIN_BELOW: f64 = 0.05;

/// Both runs, as `--json` writes them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) requests: usize,
    pub(crate) ideal_hit_rate: f64,
    pub(crate) round_robin: Side,
    pub(crate) warmpath: Side,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Side {
    /// Cached tokens / prompt tokens, as the engines report them.
    pub(crate) hit_rate: f64,
    /// Of streamed requests.
    pub(crate) ttft_p50_ms: f64,
    /// Of streamed requests.
    pub(crate) ttft_p99_ms: f64,
    /// In the order of the engines.
    pub(crate) requests_per_worker: Vec<usize>,
    /// Decisions by rung.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rungs: Option<Map<String, Value>>,
    /// Decisions by rung and reason, for the table.
    #[serde(skip)]
    pub(crate) decisions: Option<Decisions>,
}

impl Side {
    pub(crate) fn new(exchanges: &[Exchange], engines: &[Engine], decisions: Option<Decisions>) -> Result<Self> {
        let sum = |count: fn(&Exchange) -> u64| exchanges.iter().map(count).sum::<u64>() as f64;
        let ttft = Sorted::new(exchanges.iter().filter_map(|exchange| exchange.reply.ttft).collect());
        let served = |engine: &Engine| exchanges.iter().filter(|e| e.reply.worker == engine.endpoint()).count();
        let requests_per_worker: Vec<_> = engines.iter().map(served).collect();
        ensure!(
            requests_per_worker.iter().sum::<usize>() == exchanges.len(),
            "a stranger answered some requests"
        );
        Ok(Self {
            hit_rate: rounded(
                sum(|e| e.reply.usage.cached_tokens) / sum(|e| e.reply.usage.prompt_tokens),
                4,
            ),
            ttft_p50_ms: rounded(ttft.ms(50).context("no streamed requests")?, 1),
            ttft_p99_ms: rounded(ttft.ms(99).context("no streamed requests")?, 1),
            requests_per_worker,
            rungs: decisions.as_ref().map(Decisions::by_rung),
            decisions,
        })
    }

    fn busiest_to_mean(&self) -> f64 {
        let total: usize = self.requests_per_worker.iter().sum();
        let busiest = self.requests_per_worker.iter().max().copied().unwrap_or(0);
        busiest as f64 * self.requests_per_worker.len() as f64 / total as f64
    }
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let Self {
            requests,
            ideal_hit_rate: ideal,
            round_robin,
            warmpath,
        } = self;
        let sides = [round_robin, warmpath];
        let mut table = String::new();
        let mut row = |name: &str, cells: [String; 3]| {
            let [a, b, c] = cells;
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{}", format!("{name:<22}{a:>18}{b:>18}{c:>12}").trim_end());
        };
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let both = |cell: &dyn Fn(&Side) -> String| {
            let [a, b] = sides.map(cell);
            [a, b, String::new()]
        };
        row("", ["round robin".into(), "Warmpath".into(), "ideal".into()]);
        row("requests", [requests.to_string(), requests.to_string(), String::new()]);
        row(
            "prefix hit rate",
            [
                percent(round_robin.hit_rate),
                percent(warmpath.hit_rate),
                percent(*ideal),
            ],
        );
        row("  of the ideal", both(&|side| percent(side.hit_rate / ideal)));
        row(
            "TTFT p50 (streamed)",
            both(&|side| format!("{:.0} ms", side.ttft_p50_ms)),
        );
        row(
            "TTFT p99 (streamed)",
            both(&|side| format!("{:.0} ms", side.ttft_p99_ms)),
        );
        row(
            "requests per worker",
            both(&|side| per_worker(&side.requests_per_worker)),
        );
        row("busiest / mean", both(&|side| format!("{:.2}", side.busiest_to_mean())));
        for (name, count) in warmpath.decisions.iter().flat_map(Decisions::iter) {
            row(
                &format!("decided {name}"),
                ["-".into(), count.to_string(), String::new()],
            );
        }
        table
    }

    /// Whether Warmpath did what it is for.
    pub(crate) fn check(&self) -> Result<()> {
        let Self {
            requests: _,
            ideal_hit_rate: ideal,
            round_robin,
            warmpath,
        } = self;
        let (hit_rate, busiest) = (warmpath.hit_rate, warmpath.busiest_to_mean());
        ensure!(
            hit_rate >= SHARE_OF_IDEAL * ideal,
            "hit rate {hit_rate:.3} is below {SHARE_OF_IDEAL} of the ideal {ideal:.3}"
        );
        ensure!(
            busiest <= BUSIEST_TO_MEAN,
            "the busiest worker served {busiest:.2} times the mean, more than {BUSIEST_TO_MEAN}"
        );
        let round_robin = round_robin.hit_rate;
        ensure!(
            round_robin + ROUND_ROBIN_BELOW <= hit_rate,
            "round robin reached {round_robin:.3}, not clearly below {hit_rate:.3}: the workload shows no difference"
        );
        Ok(())
    }
}

fn per_worker(counts: &[usize]) -> String {
    counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn side(hit_rate: f64, requests_per_worker: &[usize], decisions: Option<Decisions>) -> Side {
        Side {
            hit_rate,
            ttft_p50_ms: 40.0,
            ttft_p99_ms: 123.5,
            requests_per_worker: requests_per_worker.to_vec(),
            rungs: decisions.as_ref().map(Decisions::by_rung),
            decisions,
        }
    }

    fn report() -> Report {
        let decisions = Decisions::from_counts([("exact.ok", 10), ("load.too_large", 2), ("load.no_view", 0)]);
        Report {
            requests: 12,
            ideal_hit_rate: 0.8,
            round_robin: side(0.5, &[3, 3, 3, 3], None),
            warmpath: side(0.75, &[4, 3, 3, 2], Some(decisions)),
        }
    }

    #[test]
    fn json_has_the_documented_shape() {
        let common = |hit_rate: f64, per_worker: [usize; 4]| json!({"hit_rate": hit_rate, "ttft_p50_ms": 40.0, "ttft_p99_ms": 123.5, "requests_per_worker": per_worker});
        let mut warmpath = common(0.75, [4, 3, 3, 2]);
        warmpath["rungs"] = json!({"exact": 10, "load": 2});
        let expected = json!({
            "requests": 12,
            "ideal_hit_rate": 0.8,
            "round_robin": common(0.5, [3, 3, 3, 3]),
            "warmpath": warmpath,
        });
        assert_eq!(serde_json::to_value(report()).ok(), Some(expected));
    }

    #[test]
    fn table_for_people() {
        let expected = [
            "                             round robin          Warmpath       ideal",
            "requests                              12                12",
            "prefix hit rate                   50.0 %            75.0 %      80.0 %",
            "  of the ideal                    62.5 %            93.8 %",
            "TTFT p50 (streamed)                40 ms             40 ms",
            "TTFT p99 (streamed)               124 ms            124 ms",
            "requests per worker              3 3 3 3           4 3 3 2",
            "busiest / mean                      1.00              1.33",
            "decided exact.ok                       -                10",
            "decided load.too_large                 -                 2",
        ];
        assert_eq!(report().table().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn check_fails_for_each_goal_alone() {
        assert!(report().check().is_ok());
        let failing: [fn(&mut Report); 3] = [
            |report| report.warmpath.hit_rate = 0.719,
            |report| report.warmpath.requests_per_worker = vec![5, 3, 2, 2],
            |report| report.round_robin.hit_rate = 0.71,
        ];
        for break_it in failing {
            let mut report = report();
            break_it(&mut report);
            assert!(report.check().is_err());
        }
    }
}
