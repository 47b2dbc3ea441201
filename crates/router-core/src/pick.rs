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

/// Every candidate's position, the picked one first, the others by rising cost: the order in which a gateway
/// should try them. `temperature` 0 picks the lowest cost.
pub fn rank(costs: &[f64], temperature: f64, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64::new(seed);
    // A random second key makes ties fair and sorting total.
    let mut ranked: Vec<(usize, f64, u64)> = costs
        .iter()
        .enumerate()
        .map(|(position, &cost)| (position, cost, random.next_u64()))
        .collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)));
    let mut order: Vec<usize> = ranked.into_iter().map(|(position, ..)| position).collect();
    if temperature > 0.0
        && let Some(picked) = sample(costs, &order, temperature, &mut random)
    {
        // The rest keeps its order.
        if let Some(up_to_picked) = order.get_mut(..=picked) {
            up_to_picked.rotate_right(1);
        }
    }
    order
}

/// Rank of a candidate drawn by softmax.
fn sample(costs: &[f64], order: &[usize], temperature: f64, random: &mut SplitMix64) -> Option<usize> {
    let cost_at = |rank: usize| order.get(rank).and_then(|&position| costs.get(position)).copied();
    let lowest = cost_at(0)?;
    let spread = cost_at(order.len().checked_sub(1)?)? - lowest;
    if spread <= 0.0 || !spread.is_finite() {
        return Some(random.below(order.len()));
    }
    // Shifted by the lowest cost, so that the largest weight is 1 and the sum cannot vanish.
    let weight = |rank: usize| cost_at(rank).map_or(0.0, |cost| libm::exp((lowest - cost) / spread / temperature));
    let total: f64 = (0..order.len()).map(weight).sum();
    let mut left = random.next_unit() * total;
    for rank in 0..order.len() {
        left -= weight(rank);
        if left < 0.0 {
            return Some(rank);
        }
    }
    Some(0)
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
