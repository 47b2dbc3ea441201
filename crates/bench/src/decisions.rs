//! How the filter decided, from Envoy's counters `warmpath.decisions.<rung>.<reason>`.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Map, Value};
use testbed::Envoy;

/// Envoy puts its own prefix before the names that a module defines.
const COUNTERS: &str = "warmpath.decisions.";

/// Rungs of the ladder, best first: the order in which they are shown. Others come last.
const RUNGS: [&str; 5] = ["exact", "stale", "approximate", "load", "pass"];

/// Number of decisions by `<rung>.<reason>`, only those that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions(BTreeMap<String, u64>);

impl Decisions {
    /// Of this Envoy since it started.
    pub(crate) async fn of(envoy: &Envoy) -> Result<Self> {
        let stats = envoy.stats().await?;
        let counts = stats.iter().filter_map(|(name, count)| {
            let (_, name) = name.split_once(COUNTERS)?;
            Some((name, u64::try_from(*count).ok()?))
        });
        Ok(Self::from_counts(counts))
    }

    pub(crate) fn from_counts<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let happened = counts.into_iter().filter(|(_, count)| *count > 0);
        Self(happened.map(|(name, count)| (name.to_owned(), count)).collect())
    }

    /// Those that came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let earlier = |name: &str| before.0.get(name).copied().unwrap_or(0);
        Self::from_counts(
            self.0
                .iter()
                .map(|(name, count)| (name.as_str(), count.saturating_sub(earlier(name)))),
        )
    }

    /// In the order of the ladder.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let mut ordered: Vec<_> = self.0.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        ordered.sort_by_key(|(name, _)| {
            let rung = rung_of(name);
            RUNGS.iter().position(|known| *known == rung).unwrap_or(RUNGS.len())
        });
        ordered.into_iter()
    }

    /// Sums over reasons.
    pub(crate) fn by_rung(&self) -> Map<String, Value> {
        let mut sums: Vec<(&str, u64)> = Vec::new();
        for (name, count) in self.iter() {
            let rung = rung_of(name);
            match sums.last_mut() {
                Some((last, sum)) if *last == rung => *sum += count,
                _ => sums.push((rung, count)),
            }
        }
        sums.into_iter()
            .map(|(rung, sum)| (rung.to_owned(), sum.into()))
            .collect()
    }

    /// On this rung, for any reason.
    pub(crate) fn on(&self, rung: &str) -> u64 {
        self.0
            .iter()
            .filter(|(name, _)| rung_of(name) == rung)
            .map(|(_, count)| count)
            .sum()
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

fn rung_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(rung, _)| rung)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_since_by_rung_in_the_order_of_the_ladder() {
        let before = Decisions::from_counts([("exact.ok", 1), ("load.no_view", 3)]);
        let after = Decisions::from_counts([
            ("exact.ok", 11),
            ("load.no_view", 3),
            ("load.too_large", 2),
            ("stale.a", 1),
            ("stale.b", 1),
        ]);
        let since = after.since(&before);
        assert_eq!(
            since.iter().collect::<Vec<_>>(),
            [("exact.ok", 10), ("stale.a", 1), ("stale.b", 1), ("load.too_large", 2)]
        );
        assert_eq!(
            Value::Object(since.by_rung()),
            json!({"exact": 10, "stale": 2, "load": 2})
        );
        assert_eq!((since.on("stale"), since.on("pass"), since.total()), (2, 0, 14));
    }
}
