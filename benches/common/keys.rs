//! Keys of 40 bytes, as API keys are.

use std::fmt::Write;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Zipf};

/// Key number `n`.
pub fn key(n: usize) -> String {
    let mut key = String::new();
    write_key(&mut key, n);
    key
}

/// Writes key number `n` into `key`.
pub fn write_key(key: &mut String, n: usize) {
    key.clear();
    write!(key, "sk_live_{n:032x}").expect("a string takes all");
}

/// How often each key is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    Uniform,
    /// By Zipf's law with exponent 1: the most frequent twice as often as the next.
    Zipf,
}

impl Spread {
    /// The share that the most frequent of `keys` has.
    pub fn largest_share(self, keys: usize) -> f64 {
        match self {
            Self::Uniform => 1.0 / keys as f64,
            Self::Zipf => 1.0 / (1..=keys).map(|rank| 1.0 / rank as f64).sum::<f64>(),
        }
    }
}

/// The numbers of the keys asked for, in an order that no prefetcher could guess; the same in each
/// run.
pub struct Order {
    random: SmallRng,
    keys: usize,
    zipf: Option<Zipf<f64>>,
}

impl Order {
    pub fn new(keys: usize, spread: Spread) -> Self {
        let zipf = || Zipf::new(keys as f64, 1.0).expect("at least one key");
        let zipf = (spread == Spread::Zipf).then(zipf);
        Self { random: SmallRng::seed_from_u64(4), keys, zipf }
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.keys
    }

    pub fn next(&mut self) -> usize {
        match &self.zipf {
            // The frequent ones shall not lie side by side: a prime that divides no number of keys
            // scatters them.
            Some(zipf) => (zipf.sample(&mut self.random) as usize * 2_654_435_761) % self.keys,
            None => self.random.random_range(0..self.keys),
        }
    }
}
