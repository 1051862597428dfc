//! A waterfall while the store does not answer, as a dry run, and what metrics count.

use tower_quota::{
    Algorithm::FixedWindow,
    Limiter, Now, OnStoreFailure, Policy, Quota, Reason,
    store::{Charge, Correction, Store, StoreError, StoreFuture},
};

use super::{builder, drawn_on, policy, request};

/// A store that is down.
struct Down;

impl Store for Down {
    fn charge(&self, _: &[Charge], _: Now) -> StoreFuture {
        StoreFuture::later(async { Err(StoreError::new("it is down")) })
    }

    fn correct(&self, _: &[Correction], _: Now) -> StoreFuture {
        StoreFuture::later(async { Err(StoreError::new("it is down")) })
    }
}

const LOCALLY: OnStoreFailure = OnStoreFailure::CountLocally { replicas: 1 };

fn with(tokens: OnStoreFailure, credits: OnStoreFailure) -> Limiter {
    let day = |name, units| policy(name, FixedWindow, Quota::per_day(units));
    let tokens = day("tokens", 2).on_store_failure(tokens);
    let credits = day("credits", 1).on_store_failure(credits);
    let beside: Policy = day("beside", 9);
    builder().store(Down).policy(tokens.or_else(credits)).policy(beside).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_quota_does_what_its_policy_says_while_the_store_is_down() {
    use OnStoreFailure::{Allow, Refuse};
    let tokens = ["tokens", "beside"];
    let credits = ["credits", "beside"];
    let passes = ["beside"];
    for (of_tokens, of_credits, expected) in [
        (LOCALLY, LOCALLY, [&tokens[..], &tokens, &credits, &[], &[]]),
        // What must not be counted without the store is as if it was used up.
        (LOCALLY, Refuse, [&tokens, &tokens, &[], &[], &[]]),
        (Refuse, LOCALLY, [&credits, &[], &[], &[], &[]]),
        (Refuse, Refuse, [&[], &[], &[], &[], &[]]),
        // What is allowed is not counted.
        (LOCALLY, Allow, [&tokens, &tokens, &passes, &passes, &passes]),
        (Refuse, Allow, [&passes, &passes, &passes, &passes, &passes]),
        (Allow, LOCALLY, [&passes, &passes, &passes, &passes, &passes]),
    ] {
        let limiter = with(of_tokens, of_credits);
        for (index, drawn) in expected.into_iter().enumerate() {
            let decision = limiter.decide(&request("a", 1)).await;
            let context = format!("{of_tokens:?}, {of_credits:?}: {index}: {decision:?}");
            assert_eq!(decision.is_allowed(), !drawn.is_empty(), "{context}");
            if decision.is_allowed() {
                assert_eq!(drawn_on(&decision), *drawn, "{context}");
            }
            if decision.is_allowed() && of_tokens == Refuse {
                assert!(decision.outcome("tokens").is_none(), "its numbers are not known");
            }
        }
        let refused = limiter.decide(&request("a", 1)).await;
        if (of_tokens, of_credits) == (Refuse, Refuse) {
            assert_eq!(refused.reason(), Some(Reason::StoreUnavailable));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peek_uses_nothing_while_the_store_is_down() {
    let limiter = with(LOCALLY, OnStoreFailure::Allow);
    for _ in 0..3 {
        let peeked = limiter.peek("tokens", "a").await.unwrap();
        assert_eq!(peeked.outcome("tokens").unwrap().remaining(), 2, "{peeked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_of_a_waterfall_tells_what_it_would_draw_on_and_refuses_nothing() {
    let day = |name, units| policy(name, FixedWindow, Quota::per_day(units));
    let tokens = day("tokens", 1).dry_run().or_else(day("credits", 2).dry_run());
    let limiter = builder().policy(tokens).policy(day("all", 9)).build().unwrap();
    for expected in [
        [("tokens", true), ("credits", false)],
        [("tokens", false), ("credits", true)],
        [("tokens", false), ("credits", true)],
        [("tokens", false), ("credits", false)],
    ] {
        let decision = limiter.decide(&request("a", 1)).await;
        assert!(decision.is_allowed());
        let dry_runs = decision.dry_runs().map(|outcome| (outcome.policy(), outcome.is_drawn_on()));
        assert_eq!(dry_runs.collect::<Vec<_>>(), expected);
        assert_eq!(drawn_on(&decision), ["all"]);
    }
    let refused = limiter.decide(&request("a", 1)).await;
    assert_eq!(refused.dry_runs().filter(|outcome| !outcome.is_allowed()).count(), 1);
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn metrics_count_the_policy_that_decides() {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::{left, tokens_or_credits};

    let recorder = PrometheusBuilder::new().build_recorder();
    let limiter = builder().policy(tokens_or_credits(FixedWindow, 1, 2)).build().unwrap();
    let rendered = metrics::with_local_recorder(&recorder, || {
        for _ in 0..5 {
            let decision = limiter.check("tokens", "a").at_once().unwrap();
            let _ = left(&decision, "tokens");
        }
        recorder.handle().render()
    });
    let count = |policy: &str, verdict: &str| {
        let labels = format!("policy=\"{policy}\",category=\"\",verdict=\"{verdict}\"}} ");
        let line = rendered.lines().find_map(|line| line.split_once(&labels));
        line.map(|(_, count)| count.parse::<u64>().unwrap())
    };
    assert_eq!(count("tokens", "allowed"), Some(1), "{rendered}");
    assert_eq!(count("credits", "allowed"), Some(2));
    let refused = ["tokens", "credits"].map(|policy| count(policy, "refused"));
    assert_eq!(refused.iter().flatten().sum::<u64>(), 2, "{rendered}");
}
