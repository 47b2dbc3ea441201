//! Choosing among costs: the lowest, ties at random; or softmax with a temperature.
//!
//! Dynamo 1.6.1's rule: at temperature `T > 0` the weights are `exp(-cost / (max - min) / T)`.

use alloc::vec::Vec;

/// A generator of uniform numbers from a seed: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform over all of u64.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform in `[0, bound)`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let product = u128::from(self.next_u64()).wrapping_mul(bound as u128);
        usize::try_from(product >> 64).unwrap_or(0)
    }
}

/// As many candidates are ranked: gateways try the next one when the best fails, but not that often, and putting a
/// thousand in order costs more than scoring them.
pub const RANKED: usize = 16;

/// The positions of the best candidates, at most [`RANKED`]: the picked one first, the others by rising cost, which is the
/// order in which a gateway should try them. `temperature` 0 picks the lowest cost.
pub fn rank(costs: &[f64], temperature: f64, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64::new(seed);
    // A random second key makes ties fair and the order total.
    let mut ranked: Vec<(f64, u64, usize)> = (0..)
        .zip(costs)
        .map(|(position, &cost)| (cost, random.next_u64(), position))
        .collect();
    let by_cost = |a: &(f64, u64, usize), b: &(f64, u64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    if ranked.len() > RANKED {
        ranked.select_nth_unstable_by(RANKED, by_cost);
        ranked.truncate(RANKED);
    }
    ranked.sort_unstable_by(by_cost);
    let mut order: Vec<usize> = ranked.into_iter().map(|(.., position)| position).collect();
    if temperature > 0.0
        && let Some(picked) = sample(costs, temperature, &mut random)
    {
        // The rest keeps its order.
        order.retain(|&position| position != picked);
        order.insert(0, picked);
        order.truncate(RANKED);
    }
    order
}

/// A candidate drawn by softmax.
fn sample(costs: &[f64], temperature: f64, random: &mut SplitMix64) -> Option<usize> {
    let lowest = costs.iter().copied().min_by(f64::total_cmp)?;
    let spread = costs.iter().copied().max_by(f64::total_cmp)? - lowest;
    if spread <= 0.0 || !spread.is_finite() {
        return Some(random.below(costs.len()));
    }
    // Shifted by the lowest cost, so that the largest weight is 1 and the sum cannot vanish.
    let weight = |cost: f64| libm::exp((lowest - cost) / spread / temperature);
    let total: f64 = costs.iter().copied().map(weight).sum();
    let mut left = random.next_unit() * total;
    let drawn = costs.iter().position(|&cost| {
        left -= weight(cost);
        left < 0.0
    });
    drawn.or(Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn lowest_cost_first_and_the_rest_in_order() {
        assert_eq!(rank(&[3.0, 1.0, 2.0], 0.0, 7), vec![1, 2, 0]);
        assert_eq!(rank(&[], 0.0, 7), Vec::<usize>::new());
        assert_eq!(rank(&[], 1.0, 7), Vec::<usize>::new());
    }

    #[test]
    fn the_best_of_many_are_as_in_a_full_sort() {
        // 7919 is prime, so every cost occurs once.
        let costs: Vec<f64> = (0..1_000).map(|n| f64::from(n * 7919 % 1_000)).collect();
        let mut sorted: Vec<usize> = (0..1_000).collect();
        sorted.sort_by(|&a, &b| costs[a].total_cmp(&costs[b]));
        assert_eq!(rank(&costs, 0.0, 7), sorted[..RANKED]);
        // One that is drawn from behind them goes before them.
        let last = *sorted.last().unwrap();
        let drawn: Vec<_> = (0..)
            .map(|seed| rank(&costs, 1e9, seed))
            .find(|order| order[0] == last)
            .unwrap();
        let expected: Vec<_> = [last].iter().chain(&sorted[..RANKED - 1]).copied().collect();
        assert_eq!(drawn, expected);
    }

    #[test]
    fn ties_are_shared_fairly() {
        let firsts = (0..3000).map(|seed| rank(&[1.0, 1.0, 1.0, 9.0], 0.0, seed)[0]);
        let mut counts = [0_u32; 4];
        firsts.for_each(|first| counts[first] += 1);
        assert!(
            counts[..3].iter().all(|&count| (800..1200).contains(&count)),
            "{counts:?}"
        );
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn temperature_follows_softmax() {
        // Weights 1 : exp(-1/T) with T = 0.5, so the cheaper one has 88.1 %.
        let cheap = (0..10_000).filter(|&seed| rank(&[2.0, 5.0], 0.5, seed)[0] == 0).count();
        assert!((8600..9000).contains(&cheap), "{cheap}");
    }

    #[test]
    fn a_sampled_pick_leaves_the_others_in_order() {
        for seed in 0..200 {
            let order = rank(&[4.0, 3.0, 2.0, 1.0], 1.0, seed);
            let rest: Vec<usize> = order[1..].to_vec();
            assert!(rest.is_sorted_by(|a, b| a > b), "{order:?}");
        }
    }

    #[test]
    fn not_a_number_is_never_preferred() {
        assert_eq!(rank(&[f64::NAN, 1.0], 0.0, 1)[0], 1);
    }
}
