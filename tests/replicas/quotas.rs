//! The quotas that replicas share: three policies of the hot keys, one for each algorithm.

use std::time::Duration;

use http::{Request, request::Parts};
use serde::{Deserialize, Serialize};
use tower_quota::{
    Category, Clock, Limiter, Matcher, OnStoreFailure, Policy, Quota,
    key::header,
    store::{RedisStore, RedisStoreBuilder},
};

/// In fingerprints only, as those of the keys.
pub const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
pub const KEYS: usize = 2;
pub const POLICIES: usize = 3;
pub const NAMES: [&str; POLICIES] = ["bucket", "fixed", "sliding"];
/// Of each policy alone, and of all at once.
pub const PATHS: usize = POLICIES + 1;
const ALL: usize = POLICIES;

#[derive(Clone, Copy)]
struct Cost(u64);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Quotas {
    pub units: u64,
    pub window: Duration,
}

/// Units that were used, and when: in microseconds since 1970, by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Used {
    pub at: u64,
    pub units: u64,
}

impl Quotas {
    /// Of which nothing is admitted without the server.
    pub fn limiter(&self, store: RedisStoreBuilder, clock: Clock) -> Limiter {
        let quota = Quota::per_window(self.units, self.window);
        let policies = [
            Policy::token_bucket(NAMES[0], quota.burst(self.burst())),
            Policy::fixed_window(NAMES[1], quota),
            Policy::sliding_window(NAMES[2], quota),
        ]
        .map(|policy| {
            let cost = |request: &Parts| request.extensions.get().map_or(1, |cost: &Cost| cost.0);
            let policy = policy.key(header("x-key")).or_refuse().cost(cost);
            policy.on_store_failure(OnStoreFailure::Refuse)
        });
        let all = Category::new("all").on(Matcher::get("/all"));
        let all = policies.iter().cloned().fold(all, Category::policy);
        let alone = NAMES.iter().zip(policies).map(|(name, policy)| {
            Category::new(*name).on(Matcher::get(&format!("/{name}"))).policy(policy)
        });
        // Never used up: it shows whether the server decides.
        let pulse = Policy::token_bucket("pulse", Quota::per_second(1_000_000));
        let limiter = Limiter::builder()
            .check_only(pulse.on_store_failure(OnStoreFailure::Refuse))
            .category(all)
            .clock(clock)
            .store(store.secret(SECRET).build().unwrap());
        alone.fold(limiter, |limiter, category| limiter.category(category)).build().unwrap()
    }

    pub fn store(urls: &[String]) -> RedisStoreBuilder {
        match urls {
            [url] => RedisStore::builder(url),
            urls => RedisStore::cluster_builder(urls.iter().cloned()),
        }
    }

    fn burst(&self) -> u64 {
        self.units / 2
    }

    /// What a policy lets pass of a key at once.
    pub fn capacity(&self, policy: usize) -> u64 {
        if policy == 0 { self.burst() } else { self.units }
    }

    /// The most of a key that a policy has let pass in any of its windows, of which its
    /// [`capacity`](Self::capacity) may. Of a bucket: beyond what flows in meanwhile.
    pub fn most(&self, policy: usize, used: &[Used]) -> u64 {
        assert!(used.is_sorted_by_key(|one| one.at), "by time");
        let window = self.window.as_micros() as u64;
        match NAMES[policy] {
            "bucket" => {
                // In parts of a unit of which one flows in each microsecond for each unit.
                let (mut missing, mut most, mut before) = (0_u64, 0, 0);
                for one in used {
                    let flowed = (one.at - before).saturating_mul(self.units);
                    missing = missing.saturating_sub(flowed) + one.units * window;
                    (most, before) = (most.max(missing), one.at);
                }
                most.div_ceil(window)
            }
            "fixed" => {
                let windows = used.chunk_by(|one, other| one.at / window == other.at / window);
                windows.map(sum).max().unwrap_or(0)
            }
            _ => {
                let until = |end: &Used| {
                    let first = used.partition_point(|one| one.at + window <= end.at);
                    sum(used[first..].iter().filter(|one| one.at <= end.at))
                };
                used.iter().map(until).max().unwrap_or(0)
            }
        }
    }

    /// What can pass of one key in so long, about.
    pub fn allow(&self, policy: usize, time: Duration) -> f64 {
        let windows = time.as_secs_f64() / self.window.as_secs_f64();
        match NAMES[policy] {
            "bucket" => self.burst() as f64 + self.units as f64 * windows,
            _ => self.units as f64 * (windows + 1.0),
        }
    }
}

fn sum<'a>(used: impl IntoIterator<Item = &'a Used>) -> u64 {
    used.into_iter().map(|one| one.units).sum()
}

pub fn request(path: usize, key: usize, cost: u64) -> Parts {
    let path = NAMES.get(path).copied().unwrap_or("all");
    let request = Request::get(format!("/{path}")).header("x-key", format!("hot-{key}"));
    request.extension(Cost(cost)).body(()).unwrap().into_parts().0
}

/// Whether a request of `path` is charged to a policy.
pub fn charges(path: usize, policy: usize) -> bool {
    path == policy || path == ALL
}

/// What would be too much is seen to be.
pub fn the_checks_see_what_is_too_much() {
    let quotas = Quotas { units: 4, window: Duration::from_micros(100) };
    let used = |each: &[(u64, u64)]| -> Vec<Used> {
        each.iter().map(|&(at, units)| Used { at, units }).collect()
    };
    let bucket = |each| quotas.most(0, &used(each));
    assert_eq!(bucket(&[(1_000, 2), (1_025, 1), (1_050, 1)]), 2, "a unit each 25");
    assert_eq!(bucket(&[(1_000, 2), (1_025, 1), (1_049, 1)]), 3);
    assert_eq!(bucket(&[(1_000, 1), (5_000, 2), (5_000, 1)]), 3, "it does not save up");
    let fixed = |each| quotas.most(1, &used(each));
    assert_eq!(fixed(&[(1_090, 4), (1_100, 4), (1_200, 1)]), 4);
    assert_eq!(fixed(&[(1_000, 4), (1_099, 1), (1_100, 2)]), 5);
    let sliding = |each| quotas.most(2, &used(each));
    assert_eq!(sliding(&[(1_050, 4), (1_150, 4)]), 4);
    assert_eq!(sliding(&[(1_050, 3), (1_149, 2), (1_150, 1)]), 5);
}
