//! Percentiles of measured durations.

use std::time::Duration;

/// Durations, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sorted(Vec<Duration>);

impl Sorted {
    pub(crate) fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The nearest-rank percentile in milliseconds: the smallest value that at least `percent` in a hundred do not
    /// exceed. `None` without values.
    pub(crate) fn ms(&self, percent: usize) -> Option<f64> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map(|duration| duration.as_secs_f64() * 1e3)
    }
}

/// To so many places after the point, as results are printed.
pub(crate) fn rounded(value: f64, places: i32) -> f64 {
    let unit = 10f64.powi(places);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let hundred = Sorted::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(
            [50, 99, 100].map(|percent| hundred.ms(percent)),
            [Some(50.0), Some(99.0), Some(100.0)]
        );
        let three = Sorted::new([30, 10, 20].map(Duration::from_millis).to_vec());
        assert_eq!(
            [0, 33, 34, 50, 99].map(|percent| three.ms(percent)),
            [10.0, 10.0, 20.0, 20.0, 30.0].map(Some)
        );
        assert_eq!(Sorted::default().ms(50), None);
    }

    #[test]
    fn rounds() {
        assert_eq!(
            [rounded(1.23456, 3), rounded(-0.0004, 3), rounded(12.5, 0)],
            [1.235, -0.0, 13.0]
        );
    }
}
