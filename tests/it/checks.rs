//! Checks of one policy without a request: which counts they use, and their errors.

use std::{
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use http::{Request, request::Parts};
use tower_quota::{
    CheckError, Clock, Limiter, LimiterBuilder, Policy, Quota,
    key::{ClientIp, PeerAddr, bearer, header},
};

fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(86_400)))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn request(peer: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(()).unwrap().into_parts().0;
    request.extensions.insert(PeerAddr((ip(peer), 443).into()));
    request
}

async fn send(limiter: &Limiter, request: &Parts) {
    assert!(limiter.decide(request).await.is_allowed());
}

/// By an API key, or else by the client's address.
fn by_two_kinds() -> Limiter {
    let reads = Policy::sliding_window("read", Quota::per_minute(9)).key(header("x-api-key"));
    builder().policy(reads.or_key(ClientIp::new()).or_refuse()).build().unwrap()
}

fn with_plans() -> Limiter {
    let plans = [("free", Quota::per_hour(9)), ("pro", Quota::per_hour(99))];
    let jobs = Policy::fixed_window("jobs", Quota::per_hour(5)).key(header("x-tenant")).or_refuse();
    let jobs = jobs.plans(plans, |request| request.headers.get("x-plan")?.to_str().ok());
    let one_off = Policy::fixed_window("one-off", Quota::per_hour(5)).key(header("x-tenant"));
    let one_off = one_off.or_refuse().quota_by(|_| Some(Quota::per_hour(7)));
    builder().policy(jobs).policy(one_off).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_address_is_counted_as_that_of_a_request() {
    let policy = Policy::sliding_window("per ip", Quota::per_minute(9)).key(ClientIp::new());
    let limiter = builder().policy(policy.or_refuse()).build().unwrap();
    let left = async |key: &str| {
        limiter.peek("per ip", ip(key)).await.unwrap().outcomes().next().unwrap().remaining()
    };
    send(&limiter, &request("2001:db8::1", &[])).await;
    assert_eq!(left("2001:db8::2").await, 8, "of the same /64");
    assert_eq!(left("2001:db8:0:1::1").await, 9);
    send(&limiter, &request("::ffff:192.0.2.7", &[])).await;
    assert_eq!(left("192.0.2.7").await, 8);
    assert_eq!(left("::ffff:192.0.2.7").await, 8);
    let _ = limiter.reset("per ip", ip("2001:db8::3")).await.unwrap();
    assert_eq!(left("2001:db8::1").await, 9);
    let text = limiter.peek("per ip", "192.0.2.7").at_once().unwrap();
    assert_eq!(text.remaining(), 8, "an address in text is one");
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_key_is_reached_by_its_name() {
    let limiter = by_two_kinds();
    send(&limiter, &request("192.0.2.7", &[("x-api-key", "k")])).await;
    send(&limiter, &request("192.0.2.7", &[])).await;
    send(&limiter, &request("192.0.2.7", &[])).await;
    let left = async || {
        let by_key = limiter.peek("read", "k").kind("x-api-key").await.unwrap();
        let by_ip = limiter.peek("read", ip("192.0.2.7")).kind("ip").at_once().unwrap();
        assert_eq!(
            (
                by_key.outcomes().next().unwrap().key_kind(),
                by_ip.outcomes().next().unwrap().key_kind()
            ),
            ("x-api-key", "ip")
        );
        (by_key.outcomes().next().unwrap().remaining(), by_ip.remaining())
    };
    assert_eq!(left().await, (8, 7));
    let _ = limiter.check("read", ip("192.0.2.7")).kind("ip").cost(3).await.unwrap();
    assert_eq!(left().await, (8, 4));
    let _ = limiter.give_back("read", ip("192.0.2.7"), 2).kind("ip").await.unwrap();
    assert_eq!(left().await, (8, 6));
    let _ = limiter.reset("read", ip("192.0.2.7")).kind("ip").at_once().unwrap();
    let _ = limiter.reset("read", "k").kind("x-api-key").await.unwrap();
    assert_eq!(left().await, (9, 9));
}

#[tokio::test(start_paused = true)]
async fn a_named_plan_is_the_one_of_its_requests() {
    let limiter = with_plans();
    send(&limiter, &request("192.0.2.7", &[("x-tenant", "a"), ("x-plan", "pro")])).await;
    let planned = limiter.check("jobs", "a").plan("pro").await.unwrap();
    assert_eq!(
        (
            planned.outcomes().next().unwrap().limit(),
            planned.outcomes().next().unwrap().remaining()
        ),
        (99, 97)
    );
    let given = limiter.peek("one-off", "a").quota(Quota::per_hour(7)).at_once().unwrap();
    assert_eq!((given.outcome("one-off").unwrap().limit(), given.remaining()), (7, 6));
}

#[tokio::test(start_paused = true)]
async fn all_keys_of_a_global_policy_are_one() {
    let policy = Policy::fixed_window("all", Quota::per_hour(9)).global();
    let limiter = builder().policy(policy).build().unwrap();
    send(&limiter, &request("192.0.2.7", &[])).await;
    let left =
        limiter.check("all", "whatever").await.unwrap().outcomes().next().unwrap().remaining();
    assert_eq!(left, 7);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_used_is_not_given_back() {
    for policy in [Policy::token_bucket, Policy::fixed_window, Policy::sliding_window] {
        let limiter =
            builder().check_only(policy("p".to_owned(), Quota::per_hour(9))).build().unwrap();
        let _ = limiter.check("p", "tenant-7").cost(2).await.unwrap();
        let unused = Err(CheckError::NothingUsed("p".to_owned()));
        assert_eq!(limiter.reset("p", "tenat-7").await.map(drop), unused);
        assert_eq!(limiter.reset("p", "tenat-7").at_once().map(drop), unused);
        assert_eq!(limiter.give_back("p", "tenat-7", 1).await.map(drop), unused);
        assert_eq!(limiter.give_back("p", "tenat-7", 1).at_once().map(drop), unused);
        let left = async || {
            limiter.peek("p", "tenant-7").await.unwrap().outcomes().next().unwrap().remaining()
        };
        assert_eq!(left().await, 7, "nothing was changed");
        let back = limiter.give_back("p", "tenant-7", 5).await.unwrap();
        assert_eq!(back.outcomes().next().unwrap().remaining(), 9, "never more than was used");
        assert_eq!(limiter.give_back("p", "tenant-7", 1).await.map(drop), unused);
        let _ = limiter.check("p", "tenant-7").await.unwrap();
        assert_eq!(limiter.reset("p", "tenant-7").at_once().unwrap().remaining(), 9);
        assert_eq!(left().await, 9);
    }
}

/// Each question that the policy cannot answer, with its sentence.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_meant_is_an_error_that_says_what_to_write() {
    let (two_kinds, plans) = (by_two_kinds(), with_plans());
    let both = Policy::fixed_window("both", Quota::per_hour(5)).key((bearer(), ClientIp::new()));
    let both = builder().policy(both.or_refuse()).build().unwrap();
    let direct =
        builder().check_only(Policy::fixed_window("job", Quota::per_hour(5))).build().unwrap();
    for (decision, sentence) in [
        (
            two_kinds.check("read", "k").await,
            "policy `read` counts by `x-api-key` or `ip`; write which, as `.kind(\"…\")`",
        ),
        (
            two_kinds.reset("read", "k").await,
            "policy `read` counts by `x-api-key` or `ip`; write which, as `.kind(\"…\")`",
        ),
        (
            two_kinds.peek("read", "k").kind("api-key").await,
            "policy `read` does not count by `api-key`; write `x-api-key` or `ip`",
        ),
        (
            two_kinds.give_back("read", "k", 1).kind("ip").await,
            "no request has such a key under policy `read`, which counts by `ip`; write a key without blanks around it, an address as an `IpAddr`, and several keys together as a tuple",
        ),
        (
            both.check("both", "token").await,
            "no request has such a key under policy `both`, which counts by `bearer token+ip`; write a key without blanks around it, an address as an `IpAddr`, and several keys together as a tuple",
        ),
        (
            direct.check("job", "k").kind("ip").await,
            "policy `job` does not count by `ip`; write `all`",
        ),
        (
            plans.check("jobs", "a").await,
            "policy `jobs` has the plans `free` or `pro`; write the key's, as `.plan(\"…\")`, or its quota, as `.quota(…)`",
        ),
        (
            plans.reset("one-off", "a").await,
            "policy `one-off` has plans; write the key's quota, as `.quota(…)`",
        ),
        (
            plans.peek("jobs", "a").plan("gold").await,
            "policy `jobs` has no plan `gold`; write `free` or `pro`",
        ),
        (
            plans.peek("one-off", "a").plan("gold").await,
            "policy `one-off` has no plan `gold`; write the key's quota, as `.quota(…)`",
        ),
        (
            direct.check("jbo", "k").await,
            "no policy is named `jbo`; add it to the limiter, as with `.check_only(…)`",
        ),
        (
            direct.reset("job", "k").await,
            "the key has used nothing of policy `job`, and nothing was changed; compare the key with what the policy counts by",
        ),
    ] {
        assert_eq!(decision.unwrap_err().to_string(), sentence);
    }
    assert!(both.check("both", ("token", ip("192.0.2.7"))).await.unwrap().is_allowed());
}

#[test]
fn a_handle_checks_peeks_gives_back_and_resets_its_policy() {
    let jobs = Policy::fixed_window("jobs", Quota::per_day(10));
    let other = Policy::fixed_window("other", Quota::per_day(3));
    let limiter = builder().check_only(other).check_only(jobs).build().unwrap();
    let jobs = limiter.policy("jobs").unwrap();
    assert_eq!(jobs.name(), "jobs");
    assert_eq!(jobs.check("a").cost(4).at_once().unwrap().remaining(), 6);
    for _ in 0..2 {
        assert_eq!(jobs.peek("a").at_once().unwrap().outcomes().next().unwrap().cost(), 1);
    }
    assert_eq!(jobs.give_back("a", 1).at_once().unwrap().remaining(), 7);
    assert_eq!(jobs.reset("a").at_once().unwrap().remaining(), 10);
}

#[test]
fn a_quota_ref_is_of_one_key_of_one_policy() {
    let policy = |name| Policy::fixed_window(name, Quota::per_day(10));
    let all = policy("all").global();
    let limiter = builder().check_only(policy("mails")).check_only(policy("rows")).check_only(all);
    let limiter = limiter.build().unwrap();
    let quota_ref = |policy, key: &str| {
        let decision = limiter.check(policy, key).at_once().unwrap();
        decision.outcome(policy).unwrap().quota_ref()
    };
    assert!(quota_ref("all", "a").is_none(), "all callers share this quota");
    let mails = quota_ref("mails", "a").unwrap();
    assert!(mails.is_of_same_policy(&quota_ref("mails", "b").unwrap()));
    assert!(!mails.is_of_same_policy(&quota_ref("rows", "a").unwrap()));
}
