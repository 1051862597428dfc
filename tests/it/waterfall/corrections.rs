//! What is given back or settled goes to the quota that was drawn on.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use proptest::prelude::*;
use tokio::runtime::Builder;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{Algorithm, Clock, Limiter, LimiterBuilder, Policy, Quota, RateLimitLayer};

use super::{ALGORITHMS, builder, cost, drawn_on, policy, request};

/// What the request really costs.
fn really(response: &http::response::Parts) -> Option<u64> {
    response.extensions.get::<u64>().copied()
}

fn settled(algorithm: Algorithm) -> Limiter {
    let credits = policy("credits", algorithm, Quota::per_day(50)).cost(cost).settle(really);
    let tokens = policy("tokens", algorithm, Quota::per_day(10)).cost(cost).settle(really);
    builder().policy(tokens.or_else(credits)).build().unwrap()
}

/// Serves a request that really costs `really`, or fails.
async fn serve(limiter: &Limiter, cost: u64, really: Option<u64>) {
    let inner = service_fn(move |_| async move {
        let really = really.ok_or("the handler fails")?;
        let mut response = Response::new(Empty::<Bytes>::new());
        response.extensions_mut().insert(really);
        Ok::<_, &str>(response)
    });
    let mut service = RateLimitLayer::new(limiter.clone()).layer(inner);
    let request = Request::from_parts(request("a", cost), Empty::<Bytes>::new());
    let answered = service.ready().await.unwrap().call(request).await;
    assert_eq!(answered.is_ok(), really.is_some());
}

async fn left(limiter: &Limiter) -> [u64; 2] {
    let peeked = limiter.peek_request(&request("a", 1)).await;
    ["tokens", "credits"].map(|name| super::left(&peeked, name))
}

#[tokio::test(start_paused = true)]
async fn a_response_settles_the_quota_that_was_drawn_on() {
    for algorithm in ALGORITHMS {
        let limiter = settled(algorithm);
        for (cost, really, expected) in
            [(8, 5, [5, 50]), (8, 3, [5, 47]), (5, 4, [1, 47]), (2, 20, [1, 27]), (1, 0, [1, 27])]
        {
            serve(&limiter, cost, Some(really)).await;
            assert_eq!(left(&limiter).await, expected, "{algorithm:?}: {cost}, {really}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn units_are_given_back_to_the_quota_that_is_named() {
    for algorithm in ALGORITHMS {
        let limiter = settled(algorithm);
        serve(&limiter, 10, Some(10)).await;
        serve(&limiter, 10, Some(10)).await;
        assert_eq!(left(&limiter).await, [0, 40], "{algorithm:?}");
        drop(limiter.give_back("credits", "a", 4).await.unwrap());
        assert_eq!(left(&limiter).await, [0, 44]);
        drop(limiter.give_back("tokens", "a", 2).await.unwrap());
        assert_eq!(left(&limiter).await, [2, 44]);
        let decision = limiter.decide(&request("a", 5)).await;
        assert_eq!(drawn_on(&decision), ["credits"]);
        // The references of the decision are of both quotas, each for itself.
        let all: Vec<_> = decision.outcomes().filter_map(|outcome| outcome.quota_ref()).collect();
        assert_eq!(limiter.peek_quotas(&all, None).await.remaining(), 2);
        drop(limiter.reset_quotas(&all[..1]).await);
        assert_eq!(left(&limiter).await, [10, 39]);
        drop(limiter.reset("credits", "a").await.unwrap());
        assert_eq!(left(&limiter).await, [10, 50], "{algorithm:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Draw(u64),
    Serve(u64, u64),
    GiveBack(usize, u64),
    Reset(usize),
    /// To the next window of this policy.
    Next(usize),
    Quota(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..9_u64).prop_map(Step::Draw),
        3 => (0..9_u64, 0..12_u64).prop_map(|(cost, really)| Step::Serve(cost, really)),
        1 => (0..4_usize, 0..5_u64).prop_map(|(policy, units)| Step::GiveBack(policy, units)),
        1 => (0..4_usize).prop_map(Step::Reset),
        1 => (0..4_usize).prop_map(Step::Next),
        1 => (0..4_usize, 0..12_u64).prop_map(|(policy, units)| Step::Quota(policy, units)),
    ];
    prop::collection::vec(step, 1..40)
}

/// Fixed windows, and what is used in each.
struct Model {
    units: Vec<u64>,
    used: Vec<u64>,
    /// When the window began.
    since: Vec<u64>,
    now: u64,
}

const NAMES: [&str; 4] = ["0", "1", "2", "3"];

/// In seconds: each divides the next, and longer ones are later in the waterfall.
fn window(policy: usize) -> u64 {
    60 * 10_u64.pow(policy as u32)
}

impl Model {
    fn left(&self, policy: usize) -> u64 {
        self.units[policy].saturating_sub(self.used[policy])
    }

    fn next(&mut self, policy: usize) -> u64 {
        let to = (self.now / window(policy) + 1) * window(policy);
        let by = to - self.now;
        self.now = to;
        for policy in 0..self.units.len() {
            if self.now / window(policy) != self.since[policy] / window(policy) {
                (self.since[policy], self.used[policy]) = (self.now, 0);
            }
        }
        by
    }

    /// The quota that a request draws on. Quotas of no units are left out.
    fn draws_on(&self, cost: u64) -> Option<usize> {
        let fits = |policy: &usize| cost == 0 || cost <= self.left(*policy);
        (0..self.units.len()).filter(|policy| self.units[*policy] > 0).find(fits)
    }
}

fn limits(units: &[u64]) -> LimiterBuilder {
    let each = |policy: usize| {
        let quota =
            Quota::per_window(units[policy].max(1), std::time::Duration::from_secs(window(policy)));
        let none = Quota::per_window(0, quota.window());
        let own = if units[policy] == 0 { none } else { quota };
        super::policy(NAMES[policy], Algorithm::FixedWindow, quota)
            .quota_by(move |_| Some(own))
            .cost(cost)
            .settle(really)
    };
    let head: Policy = (1..units.len()).map(each).fold(each(0), Policy::or_else);
    Limiter::builder().policy(head)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is drawn, settled, given back, or allowed from now on, by chains of two to four.
    #[test]
    fn each_request_draws_on_what_a_naive_model_says(
        units in prop::collection::vec(0..12_u64, 2..5),
        steps in steps(),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let clock = Clock::tokio(std::time::UNIX_EPOCH + std::time::Duration::from_secs(86_400_000));
            let mut model = Model {
                used: vec![0; units.len()],
                since: vec![86_400_000; units.len()],
                now: 86_400_000,
                units,
            };
            let limiter = limits(&model.units).clock(clock).build().unwrap();
            let count = model.units.len();
            for step in steps {
                match step {
                    Step::Draw(cost) => {
                        let decision = limiter.decide(&request("a", cost)).await;
                        let drawn = model.draws_on(cost);
                        assert_eq!(decision.is_allowed(), drawn.is_some());
                        assert_eq!(drawn_on(&decision).first().copied(), drawn.map(|policy| NAMES[policy]));
                        if let Some(policy) = drawn {
                            model.used[policy] += cost;
                        }
                        for outcome in decision.outcomes() {
                            let policy = outcome.policy().parse().unwrap();
                            if model.units[policy] > 0 {
                                assert_eq!(outcome.remaining(), model.left(policy), "{policy}");
                            }
                        }
                    }
                    Step::Serve(cost, really) => {
                        if let Some(policy) = model.draws_on(cost) {
                            serve(&limiter, cost, Some(really)).await;
                            model.used[policy] += really;
                        }
                    }
                    Step::GiveBack(policy, units) if policy < count => {
                        let quota = Quota::per_window(model.units[policy].max(1), std::time::Duration::from_secs(window(policy)));
                        let back = limiter.give_back(NAMES[policy], "a", units).quota(quota).await;
                        assert_eq!(back.is_ok(), model.used[policy] > 0, "{back:?}");
                        model.used[policy] = model.used[policy].saturating_sub(units);
                    }
                    Step::Reset(policy) if policy < count => {
                        let quota = Quota::per_window(model.units[policy].max(1), std::time::Duration::from_secs(window(policy)));
                        let _ = limiter.reset(NAMES[policy], "a").quota(quota).await;
                        model.used[policy] = 0;
                    }
                    Step::Next(policy) if policy < count => {
                        tokio::time::advance(std::time::Duration::from_secs(model.next(policy))).await;
                    }
                    Step::Quota(policy, units) if policy < count => {
                        model.units[policy] = units;
                        limiter.apply(limits(&model.units)).unwrap();
                    }
                    _ => {}
                }
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_reservation_is_committed_under_the_quota_that_it_drew_on() {
    for algorithm in ALGORITHMS {
        let credits = policy("credits", algorithm, Quota::per_day(50));
        let tokens = policy("tokens", algorithm, Quota::per_day(10)).or_else(credits);
        let requests = policy("requests", algorithm, Quota::per_day(9));
        let limiter = builder().policy(tokens).check_only(requests).build().unwrap();
        let left = async || super::corrections::left(&limiter).await;
        let reserve = |cost| limiter.reserve(["tokens", "requests"], "a").cost("tokens", cost);

        let reservation = reserve(8).at_once().unwrap();
        assert_eq!(reservation.reserved("tokens"), 8, "{algorithm:?}");
        let used = reservation.commit([("tokens", 6)]).await.unwrap();
        assert_eq!((super::left(&used, "tokens"), left().await), (4, [4, 50]));

        let reservation = reserve(20).await.unwrap();
        assert_eq!((reservation.reserved("tokens"), left().await), (20, [4, 30]));
        let used = reservation.commit([("tokens", 25)]).at_once().unwrap();
        assert_eq!((super::left(&used, "credits"), left().await), (25, [4, 25]));

        // What is dropped goes back to where it came from.
        drop(reserve(5).at_once().unwrap());
        assert_eq!(left().await, [4, 25], "{algorithm:?}");
        assert!(reserve(26).at_once().is_err());
        let both = limiter.reserve(["tokens", "credits"], "a").at_once().unwrap_err().to_string();
        assert_eq!(
            both,
            "policy `credits` is listed twice, or another falls back on it; write it once"
        );
        assert_eq!(limiter.peek("requests", "a").await.unwrap().remaining(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_meter_settles_the_quota_that_was_drawn_on() {
    for algorithm in ALGORITHMS {
        let next =
            |name, units| policy(name, algorithm, Quota::per_day(units)).cost(cost).settle_at_end();
        let limiter =
            builder().policy(next("tokens", 10).or_else(next("credits", 50))).build().unwrap();
        for (cost, used, expected) in
            [(8, 5, [5, 50]), (8, 3, [5, 47]), (5, 4, [1, 47]), (2, 20, [1, 27])]
        {
            let decision = limiter.decide(&request("a", cost)).await;
            assert!(decision.is_allowed());
            let meter = decision.meter();
            meter.add(used);
            drop((decision, meter));
            assert_eq!(left(&limiter).await, expected, "{algorithm:?}: {cost}, {used}");
        }
    }
}
