//! Many threads at once.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use tower_quota::{Limiter, Policy, Quota};

use super::{ALGORITHMS, drawn_on, left, policy, request};

const THREADS: u64 = 8;
const REQUESTS: u64 = 600;

/// Never more than both quotas together, and nothing of the second while the first has room.
#[test]
fn many_threads_use_up_one_quota_after_the_other() {
    for algorithm in ALGORITHMS {
        let quota = |units| Quota::per_window(units, std::time::Duration::from_secs(3_000_000));
        let next = |name, units| policy(name, algorithm, quota(units));
        let tokens = next("tokens", 1_500).or_else(next("credits", 900)).or_else(next("last", 300));
        // Half of the requests are counted under another policy as well.
        let all = next("all", 2_600);
        let limiter = Limiter::builder().policy(all).policy(tokens).build().unwrap();
        let drawn: [AtomicU64; 3] = Default::default();
        let refused = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for index in 0..REQUESTS {
                        let decision = match index % 2 {
                            0 => limiter.check("tokens", "a").at_once().unwrap(),
                            _ => decide(&limiter),
                        };
                        let names = drawn_on(&decision);
                        let Some(name) = names.last().filter(|_| decision.is_allowed()) else {
                            refused.fetch_add(1, Relaxed);
                            continue;
                        };
                        let index =
                            ["tokens", "credits", "last"].iter().position(|known| known == name);
                        let index = index.unwrap();
                        drawn[index].fetch_add(1, Relaxed);
                        let before = ["tokens", "credits"][..index].iter();
                        let has_room = before.clone().any(|name| left(&decision, name) > 0);
                        assert!(!has_room, "{algorithm:?}: {decision:?}");
                    }
                });
            }
        });
        let drawn = drawn.map(AtomicU64::into_inner);
        assert_eq!(drawn, [1_500, 900, 300], "{algorithm:?}");
        assert_eq!(refused.into_inner(), THREADS * REQUESTS - 2_700);
        let peeked = limiter.peek("tokens", "a").at_once().unwrap();
        assert!(!peeked.is_allowed());
    }
}

fn decide(limiter: &Limiter) -> tower_quota::Decision {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(limiter.decide(&request("a", 1)))
}

#[test]
fn a_chain_of_many_quotas_is_used_up_in_order() {
    let names: Vec<_> = (0..20).map(|number| format!("quota {number}")).collect();
    let each = |name: &String| policy(name, ALGORITHMS[1], Quota::per_day(1));
    let head = names[1..].iter().map(each).fold(each(&names[0]), Policy::or_else);
    let limiter = Limiter::builder().check_only(head).build().unwrap();
    for name in &names {
        assert_eq!(drawn_on(&limiter.check("quota 0", "a").at_once().unwrap()), [name]);
    }
    assert!(!limiter.check("quota 0", "a").at_once().unwrap().is_allowed());
}
