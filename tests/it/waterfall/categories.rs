//! Waterfalls of several categories, for a path that routers may read as any of them.

use http::{Request, request::Parts};
use tower_quota::{Algorithm, Category, Limiter, LimiterBuilder, Matcher, Policy, Quota};

use super::{ALGORITHMS, builder, drawn_on, policy};

const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// Policies of one unit, each with what it falls back on.
fn waterfalls(algorithm: Algorithm) -> Vec<Policy> {
    let one = |name| policy(name, algorithm, Quota::per_day(1));
    let (c, d) = (one("c"), one("d"));
    let b = one("b").or_else(c.clone());
    let a = one("a").or_else(b.clone());
    let e = one("e").or_else(d.clone());
    let f = one("f").or_else(c.clone()).or_else(d.clone());
    let g = one("g").or_else(d.clone()).or_else(c.clone());
    vec![c, d, b, a, e, f, g]
}

/// The names of a policy and of those that it falls back on.
fn names(policy: &Policy) -> &'static [&'static str] {
    match policy.name() {
        "a" => &["a", "b", "c"],
        "b" => &["b", "c"],
        "c" => &["c"],
        "d" => &["d"],
        "e" => &["e", "d"],
        "f" => &["f", "c", "d"],
        _ => &["g", "d", "c"],
    }
}

/// Categories that some router may choose for `/files/..%2Fexport`, one for each of these policies.
fn limiter(policies: &[&Policy]) -> Limiter {
    let paths = ["/files/{name}", "/export", "/files/{folder}/{name}"];
    let categories = policies.iter().zip(&paths).map(|(policy, path)| {
        Category::new(*path).on(Matcher::get(path)).policy((*policy).clone())
    });
    categories.fold(builder(), LimiterBuilder::category).build().unwrap()
}

fn of_any_category(key: &str) -> Parts {
    Request::get("/files/..%2Fexport").header("x-key", key).body(()).unwrap().into_parts().0
}

/// Whatever is used up already: a request that passes has drawn on each category, and one that draws on
/// what they share passes if that has room.
async fn check(policies: &[&Policy]) {
    let limiter = limiter(policies);
    let all: Vec<_> = policies.iter().map(|policy| names(policy)).collect();
    let of_any = |name: &&str| all.iter().any(|names| names.contains(name));
    let known: Vec<_> = NAMES.into_iter().filter(of_any).collect();
    for used_up in 0..1_u32 << known.len() {
        let key = used_up.to_string();
        let is_used_up = |name: &str| {
            known.iter().position(|known| *known == name).is_some_and(|at| used_up >> at & 1 == 1)
        };
        for name in known.iter().filter(|name| is_used_up(name)) {
            assert!(limiter.check(name, &*key).await.unwrap().is_allowed());
        }
        let decision = limiter.decide(&of_any_category(&key)).await;
        let drawn = drawn_on(&decision);
        let told = format!("{all:?} without {:?}: {decision:?}", {
            known.iter().filter(|name| is_used_up(name)).collect::<Vec<_>>()
        });
        let mut each_once = drawn.clone();
        each_once.sort_unstable();
        each_once.dedup();
        assert_eq!(each_once.len(), drawn.len(), "{told}");
        assert!(drawn.iter().all(|name| !is_used_up(name)), "{told}");
        let is_drawn_on = |names: &&[&str]| names.iter().any(|name| drawn.contains(name));
        assert_eq!(decision.is_allowed(), all.iter().all(is_drawn_on), "{told}");
        let has_room = |names: &[&str]| names.iter().any(|name| !is_used_up(name));
        let by_all = known.iter().filter(|name| all.iter().all(|names| names.contains(name)));
        if by_all.clone().any(|name| !is_used_up(name)) {
            assert!(decision.is_allowed(), "{told}");
        }
        // Where one waterfall is within the other, or they share nothing, no request is refused that
        // each of them would let pass.
        if let [one, other] = &all[..] {
            let shared = one.iter().filter(|name| other.contains(name)).count();
            if shared == 0 || shared == one.len().min(other.len()) {
                assert_eq!(decision.is_allowed(), has_room(one) && has_room(other), "{told}");
            }
        }
        for name in &known {
            let left = limiter.peek(name, &*key).await.unwrap();
            let left = left.outcome(name).unwrap().remaining();
            let is_used = is_used_up(name) || decision.is_allowed() && drawn.contains(name);
            assert_eq!(left, u64::from(!is_used), "{name}: {told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_of_several_categories_counts_in_each_and_once_under_each_policy() {
    for algorithm in ALGORITHMS {
        let waterfalls = waterfalls(algorithm);
        for one in &waterfalls {
            for other in &waterfalls {
                check(&[one, other]).await;
            }
        }
    }
    let waterfalls = waterfalls(Algorithm::FixedWindow);
    for one in &waterfalls {
        for other in &waterfalls {
            for third in &waterfalls {
                if ![one.name(), other.name()].contains(&third.name()) && one.name() != other.name()
                {
                    check(&[one, other, third]).await;
                }
            }
        }
    }
}
