//! The cases: how long the prompts are, whether their prefix is known, how hard they come.

use std::time::Duration;

/// Length of the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// A short question.
    Tokens200,
    /// A chat with a history, or a few documents.
    Tokens8k,
    /// An agent's context, or a book.
    Tokens100k,
}

impl Size {
    pub(crate) const ALL: [Self; 3] = [Self::Tokens200, Self::Tokens8k, Self::Tokens100k];

    /// Tokens of a prompt, about.
    pub(crate) fn tokens(self) -> usize {
        match self {
            Self::Tokens200 => 200,
            Self::Tokens8k => 8_000,
            Self::Tokens100k => 100_000,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tokens200 => "200",
            Self::Tokens8k => "8k",
            Self::Tokens100k => "100k",
        }
    }
}

/// What of a prompt was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Novelty {
    /// Nothing, from the first block on.
    Cold,
    /// All but the last message, about 99 % of the longer prompts: by the filter's VM and by every worker.
    Known,
}

impl Novelty {
    const ALL: [Self; 2] = [Self::Cold, Self::Known];

    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Known => "known",
        }
    }
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// One at a time, at a fixed rate that keeps the machine mostly idle; the three Envoys take turns.
    Low {
        /// Between the starts of two turns.
        every: Duration,
        /// To each Envoy.
        requests: usize,
    },
    /// As many as possible, each as soon as one before it is answered; the Envoys take turns of one slice each.
    Busy {
        /// Requests in flight.
        connections: usize,
        /// Of one Envoy.
        slice: Duration,
        /// Slices of each Envoy.
        rounds: usize,
    },
}

/// Requests in flight at saturation.
pub(crate) const SATURATION: usize = 8;

impl Load {
    fn of(size: Size, quick: bool) -> [Self; 3] {
        let (rate, requests, slice_ms) = match size {
            Size::Tokens200 => (25, 300, 1_000),
            Size::Tokens8k => (10, 120, 1_500),
            Size::Tokens100k => (3, 45, 2_000),
        };
        let (requests, slice_ms, rounds) = if quick { (6, 250, 1) } else { (requests, slice_ms, 3) };
        let busy = |connections| Self::Busy {
            connections,
            slice: Duration::from_millis(slice_ms),
            rounds,
        };
        [
            Self::Low {
                every: Duration::from_secs(1) / rate,
                requests,
            },
            busy(1),
            busy(SATURATION),
        ]
    }

    fn name(self) -> &'static str {
        match self {
            Self::Low { .. } => "low",
            Self::Busy { connections: 1, .. } => "steady",
            Self::Busy { .. } => "saturated",
        }
    }
}

/// One line of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) size: Size,
    pub(crate) novelty: Novelty,
    pub(crate) load: Load,
}

impl Case {
    /// The cases of one size.
    pub(crate) fn of(size: Size, quick: bool) -> Vec<Self> {
        let loads = |novelty| Load::of(size, quick).map(|load| Self { size, novelty, load });
        Novelty::ALL.into_iter().flat_map(loads).collect()
    }

    /// As `8k-known-low`.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}-{}", self.size.name(), self.novelty.name(), self.load.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_cold_and_known_at_every_load() {
        let names: Vec<_> = Size::ALL
            .into_iter()
            .flat_map(|size| Case::of(size, false))
            .map(|case| case.name())
            .collect();
        let expected = [
            "200-cold-low",
            "200-cold-steady",
            "200-cold-saturated",
            "200-known-low",
            "200-known-steady",
            "200-known-saturated",
            "8k-cold-low",
            "8k-cold-steady",
            "8k-cold-saturated",
            "8k-known-low",
            "8k-known-steady",
            "8k-known-saturated",
            "100k-cold-low",
            "100k-cold-steady",
            "100k-cold-saturated",
            "100k-known-low",
            "100k-known-steady",
            "100k-known-saturated",
        ];
        assert_eq!(names, expected);
    }
}
