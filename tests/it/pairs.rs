//! Each pair of settings either works, or is an error of `build()` that says what to write instead.

use std::time::{Duration, UNIX_EPOCH};

use http::{Request, request::Parts};
use tower_quota::{
    Clock, Limiter, LimiterBuilder, Penalty, Policy, Quota,
    key::{bearer, header},
};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Setting {
    InFlight,
    Refusals,
    Failures,
    OrElse,
    FairBy,
    Settle,
    SettleAtEnd,
    Cost,
    Lease,
    Hold,
    CheckOnly,
    Global,
    DryRun,
}
use Setting::*;

const ALL: [Setting; 13] = [
    InFlight,
    Refusals,
    Failures,
    OrElse,
    FairBy,
    Settle,
    SettleAtEnd,
    Cost,
    Lease,
    Hold,
    CheckOnly,
    Global,
    DryRun,
];

/// The pairs that cannot work, and what the error says of both. A setting may need others, which are then
/// set as well: failures a response that settles, and tenants who take turns a time to hold them.
const ERRORS: [(Setting, Setting, &str); 20] = [
    (
        InFlight,
        Failures,
        "its penalty counts failures, which are responses that cost something, and units in flight come back whatever a response has cost; write `.refusals_within(…)`",
    ),
    (
        InFlight,
        OrElse,
        "policy `p` is of units in flight, which are held and not used up; leave it out of `.or_else(…)`",
    ),
    (
        InFlight,
        Settle,
        "its units come back when the request ends, whatever it has cost; leave `.settle(…)` out",
    ),
    (
        InFlight,
        SettleAtEnd,
        "its units come back when the request ends, whatever it has cost; leave `.settle_at_end()` out",
    ),
    (
        InFlight,
        Lease,
        "a replica cannot lease units in flight, as they come back one by one; leave `.lease(…)` out",
    ),
    (Refusals, Failures, "it says `.penalty(…)` twice"),
    (
        Refusals,
        OrElse,
        "policy `p` has a penalty, and who is blocked must not draw on another quota; leave `.penalty(…)` out",
    ),
    (Refusals, Lease, "it has a lease and a penalty"),
    (Refusals, Global, "it is global and has a penalty, which would block all callers"),
    (
        Failures,
        OrElse,
        "policy `p` has a penalty, and who is blocked must not draw on another quota; leave `.penalty(…)` out",
    ),
    (Failures, Lease, "it has a lease and a penalty"),
    (
        Failures,
        CheckOnly,
        "its penalty counts failures, which are responses, and only checks use it",
    ),
    (Failures, Global, "it is global and has a penalty, which would block all callers"),
    (
        OrElse,
        Lease,
        "policy `p` has a lease, and only the store knows which quota has room; leave `.lease(…)` out",
    ),
    (FairBy, CheckOnly, "checks have no tenant, and only they use it; leave `.fair_by(…)` out"),
    (FairBy, DryRun, "a dry run holds no request; leave `.fair_by(…)` out"),
    (Settle, Lease, "it has a lease, and responses settle its cost"),
    (
        Settle,
        CheckOnly,
        "only checks use it, and they have no response that could settle their cost; leave `.settle(…)` out",
    ),
    (SettleAtEnd, Lease, "it has a lease, and responses settle its cost"),
    (
        Cost,
        CheckOnly,
        "only checks use it, and they have no request whose cost `.cost(…)` could read",
    ),
];

fn policy(settings: &[Setting]) -> Policy {
    let has = |setting| settings.contains(&setting);
    let mut policy = match has(InFlight) {
        true => Policy::in_flight("p", 5),
        false => Policy::sliding_window("p", Quota::per_minute(5)),
    };
    policy = match has(Global) {
        true => policy.global(),
        false => policy.key(header("x-key")).or_refuse(),
    };
    let penalty = || Penalty::after(2);
    for setting in settings {
        policy = match setting {
            InFlight | CheckOnly | Global => policy,
            Refusals => policy.penalty(penalty().refusals_within(SECOND).block(SECOND)),
            Failures => policy.penalty(penalty().failures_within(SECOND).block(SECOND)),
            OrElse => {
                let credits = Policy::sliding_window("credits", Quota::per_minute(5));
                let credits = credits.key(header("x-key")).or_refuse();
                let credits = if has(Cost) { credits.cost(|_| 2) } else { credits };
                policy.or_else(if has(DryRun) { credits.dry_run() } else { credits })
            }
            FairBy => policy.fair_by(bearer()),
            Settle => policy.settle(|_| Some(1)),
            SettleAtEnd => policy.settle_at_end(),
            Cost => policy.cost(|_| 2),
            Lease => policy.lease(2),
            Hold => policy.hold(SECOND),
            DryRun => policy.dry_run(),
        };
    }
    // What these need.
    if has(Failures) && !has(Settle) && !has(SettleAtEnd) && !has(InFlight) {
        policy = policy.settle(|_| Some(1));
    }
    if has(FairBy) && !has(Hold) {
        policy = policy.hold(SECOND);
    }
    policy
}

fn builder(settings: &[Setting]) -> LimiterBuilder {
    let builder = Limiter::builder().clock(Clock::tokio(UNIX_EPOCH));
    match settings.contains(&CheckOnly) {
        true => builder.check_only(policy(settings)),
        false => builder.policy(policy(settings)),
    }
}

fn request() -> Parts {
    let request = Request::get("/").header("x-key", "a").header("authorization", "Bearer a");
    request.body(()).unwrap().into_parts().0
}

#[tokio::test(start_paused = true)]
async fn each_pair_of_settings_works_or_is_an_error_of_build() {
    for (index, one) in ALL.into_iter().enumerate() {
        for other in ALL.into_iter().skip(index) {
            let settings = if one == other { vec![one] } else { vec![one, other] };
            let error = ERRORS.iter().find(|(a, b, _)| one != other && (*a, *b) == (one, other));
            match (builder(&settings).build(), error) {
                (Ok(limiter), None) => works(&limiter, &settings).await,
                (Err(error), Some((.., message))) => {
                    assert!(error.to_string().contains(message), "{settings:?}: {error}");
                }
                (Ok(_), Some(_)) => panic!("{settings:?} is no error"),
                (Err(error), None) => panic!("{settings:?}: {error}"),
            }
        }
    }
}

/// Five units pass, and no sixth, unless a setting says otherwise.
async fn works(limiter: &Limiter, settings: &[Setting]) {
    let has = |setting| settings.contains(&setting);
    let cost = if has(Cost) { 2 } else { 1 };
    let quotas = if has(OrElse) { 2 } else { 1 };
    let mut kept = Vec::new();
    for number in 0..20 {
        let decision = match has(CheckOnly) {
            true => limiter.check("p", "a").at_once().unwrap(),
            false => match has(Hold) || has(FairBy) {
                // A held request is refused in the end, as no unit comes back in time.
                true => match tokio::time::timeout(2 * SECOND, limiter.decide(&request())).await {
                    Ok(decision) => decision,
                    Err(_) => panic!("{settings:?}, {number}: it is held for ever"),
                },
                false => limiter.decide(&request()).await,
            },
        };
        let passes = has(DryRun) || number < quotas * (5 / cost);
        assert_eq!(decision.is_allowed(), passes, "{settings:?}, {number}: {decision:?}");
        if has(DryRun) {
            let would_pass = decision.dry_runs().any(|outcome| outcome.is_drawn_on());
            assert_eq!(would_pass, number < quotas * (5 / cost), "{settings:?}, {number}");
        }
        kept.push(decision);
    }
}
