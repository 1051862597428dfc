//! A key that is there and cannot be read is refused. It is never skipped, never exempt, and never
//! another key.

use http::{Request, StatusCode, request::Parts};
use tower_quota::{
    Category, Decision, Limiter, Matcher, Policy, Quota, Reason, Rejection,
    key::{self, Extracted, KeyExtractor},
};

fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let add = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    headers.iter().fold(Request::get(uri), add).body(()).unwrap().into_parts().0
}

fn quota() -> Quota {
    Quota::per_hour(3)
}

fn limiter(policy: Policy) -> Limiter {
    Limiter::builder().policy(policy).build().unwrap()
}

async fn admitted(limiter: &Limiter, request: &Parts) -> usize {
    let mut admitted = 0;
    for _ in 0..20 {
        admitted += usize::from(limiter.decide(request).await.is_allowed());
    }
    admitted
}

fn twice(name: &'static str) -> Parts {
    request("/", &[(name, "Bearer a"), (name, "Bearer b")])
}

type Keyed = fn(Policy) -> Policy;

/// Each kind of key that the caller alone writes, and a request that has it unreadable.
fn callers_keys() -> [(Keyed, Parts); 8] {
    [
        (|policy| policy.key(key::header("x-api-key")), twice("x-api-key")),
        (|policy| policy.key(key::bearer()), twice("authorization")),
        (|policy| policy.key(key::bearer()), request("/", &[("authorization", "Bearerabc")])),
        (|policy| policy.key(key::cookie("id")), request("/", &[("cookie", "id=a; id=b")])),
        (|policy| policy.key(key::cookie("id")), request("/", &[("cookie", "%69d=a")])),
        (|policy| policy.key(key::query("key")), request("/?key=a&key=b", &[])),
        (|policy| policy.key(key::path_param("/{tenant}", "tenant")), request("/%ff", &[])),
        (|policy| policy.key((key::query("q"), key::bearer())), twice("authorization")),
    ]
}

#[tokio::test]
async fn under_each_policy_it_is_refused() {
    for (keyed, unreadable) in callers_keys() {
        let policy = || keyed(Policy::token_bucket("p", quota()));
        let other = || key::from_fn("all", |_| Some("all".into()));
        for policy in [policy().or_skip(), policy().or_refuse(), policy().or_key(other()).or_skip()]
        {
            let limiter = limiter(policy);
            assert_eq!(admitted(&limiter, &unreadable).await, 0, "{unreadable:?}");
            let decision = limiter.decide(&unreadable).await;
            assert_eq!(decision.reason(), Some(Reason::UnreadableKey));
            let rejection = Rejection::of(&decision).unwrap();
            assert_eq!(rejection.status(), 400);
            assert_eq!(rejection.retry_after(), None);
            assert_eq!(
                rejection.to_string(),
                format!(
                    "Policy `p` counts by {}, which cannot be read: the request has it twice, or is malformed.",
                    rejection.outcome().unwrap().key_kind()
                )
            );
        }
    }
}

#[tokio::test]
async fn only_in_so_many_words_it_counts_as_missing() {
    for (keyed, unreadable) in callers_keys() {
        let policy = || keyed(Policy::token_bucket("p", quota())).unreadable_as_missing();
        assert_eq!(admitted(&limiter(policy().or_skip()), &unreadable).await, 20);
        let refuses = limiter(policy().or_refuse());
        assert_eq!(refuses.decide(&unreadable).await.reason(), Some(Reason::MissingKey));
        let other = key::from_fn("all", |_| Some("all".into()));
        assert_eq!(admitted(&limiter(policy().or_key(other).or_skip()), &unreadable).await, 3);
    }
}

#[tokio::test]
async fn policies_that_differ_in_that_word_do_not_share_what_was_read() {
    let policy = |name: &str| Policy::token_bucket(name, quota()).key(key::bearer());
    for flip in [false, true] {
        let mut policies =
            [policy("refuses").or_skip(), policy("skips").or_skip().unreadable_as_missing()];
        if flip {
            policies.reverse();
        }
        let [first, second] = policies;
        let limiter = Limiter::builder().policy(first).policy(second).build().unwrap();
        let decision = limiter.decide(&twice("authorization")).await;
        assert_eq!(decision.reason(), Some(Reason::UnreadableKey));
        assert_eq!(decision.tightest().unwrap().policy(), "refuses");
    }
}

#[tokio::test]
async fn it_costs_nothing_in_other_policies_and_before_what_is_missing() {
    let limiter = Limiter::builder()
        .policy(Policy::fixed_window("all", quota()).global())
        .policy(Policy::fixed_window("key", quota()).key(key::header("x-api-key")).or_skip())
        .build()
        .unwrap();
    assert_eq!(admitted(&limiter, &twice("x-api-key")).await, 0);
    assert_eq!(limiter.peek("all", "").await.unwrap().outcomes().next().unwrap().remaining(), 3);

    let limiter = self::limiter(
        Policy::fixed_window("p", quota()).key((key::query("q"), key::bearer())).or_skip(),
    );
    assert_eq!(admitted(&limiter, &request("/", &[("authorization", "Bearer a")])).await, 20);
    assert_eq!(admitted(&limiter, &twice("authorization")).await, 0, "and the other is missing");
}

#[tokio::test]
async fn a_dry_run_reports_it_and_does_not_refuse() {
    let policy = Policy::fixed_window("dry", quota()).key(key::bearer()).or_skip().dry_run();
    let decision = limiter(policy).decide(&twice("authorization")).await;
    assert!(decision.is_allowed());
    let [dry_run] = decision.dry_runs().collect::<Vec<_>>()[..] else {
        panic!("one policy is tried out")
    };
    assert!(!dry_run.is_allowed() && dry_run.policy() == "dry");
}

#[tokio::test]
async fn it_is_never_exempt() {
    let partner = || Matcher::key(key::header("x-api-key"), ["a", "b", "", "Bearer a"]);
    let limiter = Limiter::builder()
        .exempt(partner())
        .category(Category::new("partners").on(partner()))
        .policy(Policy::fixed_window("all", quota()).global())
        .build()
        .unwrap();
    assert_eq!(admitted(&limiter, &request("/", &[("x-api-key", "a")])).await, 20, "exempt");
    assert_eq!(admitted(&limiter, &twice("x-api-key")).await, 3);
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn nor_is_an_unreadable_shard_another_shard() {
    use tower_quota::store::RedisStore;

    // It is refused before a server is needed.
    let store = RedisStore::builder("redis://127.0.0.1:1").secret(7).build().unwrap();
    let policy = Policy::token_bucket("p", quota()).key(key::bearer()).or_skip();
    let policy = policy.shard(key::header("x-tenant"));
    let limiter = Limiter::builder().store(store).policy(policy).build().unwrap();
    let sent = [("authorization", "Bearer a"), ("x-tenant", "a"), ("x-tenant", "b")];
    let decision = limiter.decide(&request("/", &sent)).await;
    assert_eq!(decision.reason(), Some(Reason::UnreadableKey));
}

/// Refuses with a status of its own.
struct Refuses(StatusCode);

impl KeyExtractor for Refuses {
    fn kind(&self) -> std::borrow::Cow<'_, str> {
        "body field email".into()
    }

    fn extract<'a>(&self, _: &'a Parts) -> Extracted<'a> {
        Extracted::Unreadable(self.0)
    }
}

#[tokio::test]
async fn the_extractor_says_with_which_status() {
    for (status, answered, message) in [
        (400, 400, "the request has it twice, or is malformed"),
        (408, 408, "the body that has it takes too long"),
        (413, 413, "the body that has it is too large"),
        (415, 415, "the body that has it is of another type or encoding"),
        (200, 400, "the request has it twice, or is malformed"),
    ] {
        let key = Refuses(StatusCode::from_u16(status).unwrap());
        let decision: Decision = limiter(Policy::fixed_window("p", quota()).key(key).or_skip())
            .decide(&request("/", &[]))
            .await;
        let rejection = Rejection::of(&decision).unwrap();
        let response = rejection.to_response();
        assert_eq!((rejection.status().as_u16(), response.status().as_u16()), (answered, answered));
        assert_eq!(
            String::from_utf8_lossy(response.body()),
            format!(
                r#"{{"error":"unreadable_key","message":"Policy `p` counts by body field email, which cannot be read: {message}.","policy":"p"}}"#
            )
        );
    }
}
