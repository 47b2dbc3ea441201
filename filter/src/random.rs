//! Seeds and jitter. Not for secrets.

/// SplitMix64 (Steele, Lea, Flood 2014): any starting value gives a good sequence.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        unit(self.draw())
    }
}

/// SplitMix64's output function: a bijection that spreads every bit.
pub fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Random bits as a number in `[0, 1)`.
pub fn unit(bits: u64) -> f64 {
    // 53 bits: all that an f64 holds.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs for seed 1234567, as in the reference implementation's published test.
    #[test]
    fn equals_the_reference() {
        let mut random = Random::new(1_234_567);
        let drawn = [random.draw(), random.draw(), random.draw()];
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn units_stay_below_one() {
        assert_eq!((unit(0), unit(u64::MAX) < 1.0), (0.0, true));
    }
}
