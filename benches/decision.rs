//! One decision of ours beside one of governor's, in one process: ratios, governor = 1.
//!
//! `cargo bench --bench decision` prints the table. Rounds alternate, so that noise hits both; the
//! ratio is the median over paired rounds, with the quartiles beside it.

use std::{
    hint::black_box,
    num::NonZeroU32,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use governor::{DefaultKeyedRateLimiter, Quota as GovernorQuota};
use http::{Request, request::Parts};
use tower_quota::{Limiter, Policy, Quota, key::header, store::MemoryStore};

const ROUNDS: usize = 31;
const DECISIONS: usize = 20_000;
/// So much that nothing is refused.
const UNITS: u32 = 1_000_000_000;

fn main() {
    println!("| | 1 key | 1,000 keys | 100,000 keys |");
    println!("|---|---|---|---|");
    let quota = Quota::per_second(u64::from(UNITS));
    let one = |policy: fn(&'static str, Quota) -> Policy| vec![policy("p0", quota)];
    let names = ["p0", "p1", "p2", "p3", "p4"];
    for (row, policies) in [
        ("token bucket", one(Policy::token_bucket)),
        ("fixed window", one(Policy::fixed_window)),
        ("sliding window", one(Policy::sliding_window)),
        ("five token buckets", names.map(|name| Policy::token_bucket(name, quota)).to_vec()),
    ] {
        let cells = [1, 1_000, 100_000].map(|keys| compare(&policies, keys));
        println!("| {row} | {} |", cells.join(" | "));
    }
}

fn compare(policies: &[Policy], keys: usize) -> String {
    let requests: Vec<Parts> = (0..keys).map(request).collect();
    let governor = DefaultKeyedRateLimiter::<String>::keyed(GovernorQuota::per_second(
        NonZeroU32::new(UNITS).expect("not zero"),
    ));
    let mut ours = Limiter::builder().store(MemoryStore::with_max_keys(2_000_000));
    for policy in policies {
        ours = ours.policy(policy.clone().key(header("x-api-key")).or_refuse());
    }
    let ours = ours.build().expect("settings that work");

    let peer = |request: &Parts| {
        // governor needs a key of its own: what a middleware would hand it.
        let key = request.headers["x-api-key"].to_str().expect("text").to_owned();
        assert!(black_box(governor.check_key(&key)).is_ok());
    };
    let own = |request: &Parts| {
        let mut deciding = ours.decide(request);
        let mut context = Context::from_waker(Waker::noop());
        match std::pin::Pin::new(&mut deciding).poll(&mut context) {
            Poll::Ready(decision) => assert!(black_box(decision).is_allowed()),
            Poll::Pending => unreachable!("the memory store answers at once"),
        }
    };
    requests.iter().for_each(peer);
    requests.iter().for_each(own);
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let round: Vec<&Parts> = (0..DECISIONS)
                .map(|n| &requests[scattered(n + round * DECISIONS) % keys])
                .collect();
            time(&round, own).as_secs_f64() / time(&round, peer).as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |part: usize| ratios[ROUNDS * part / 4];
    format!("{:.2} ({:.2} to {:.2})", at(2), at(1), at(3))
}

fn time(requests: &[&Parts], decide: impl Fn(&Parts)) -> Duration {
    let start = Instant::now();
    requests.iter().for_each(|request| decide(request));
    start.elapsed()
}

/// A key of 40 bytes, as API keys are.
fn request(key: usize) -> Parts {
    let request = Request::get("/").header("x-api-key", format!("sk_live_{key:032x}"));
    request.body(()).expect("a request").into_parts().0
}

/// The same keys in no order that a prefetcher could guess.
fn scattered(n: usize) -> usize {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}
