//! Blocked keys whose quota is unlimited now: [`stay_blocked_whatever_the_quota`].

use std::{fmt, time::Duration};

use http::{Request, request::Parts};
use tower_quota::{
    AcquireError, Algorithm, Check, CheckError, Decision, Limiter, LimiterBuilder, Penalty, Policy,
    Quota, Reason, Reserve,
    key::{Key, header},
    overrides::{CachedSource, OverrideSource, SourceFuture, SourceOverrides},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Where an unlimited quota comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Plan,
    QuotaBy,
    Override,
    /// A database, whose answer a request may have to wait for.
    Source,
    /// A waterfall beside the policy, of which one member is unlimited. The policy's own quota is whole.
    Waterfall,
}

const ALL: [From; 5] = [From::Plan, From::QuotaBy, From::Override, From::Source, From::Waterfall];

/// A caller without overrides.
const OTHER: &str = "other";

struct Database;

impl OverrideSource for Database {
    fn find(&self, caller: Key<'_>) -> SourceFuture {
        let is_other = caller.as_bytes() == OTHER.as_bytes();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let own = SourceOverrides::new();
            Ok(if is_other { own } else { own.quota("p", Quota::unlimited()) })
        })
    }
}

fn policies() -> [Policy; 4] {
    [
        Policy::token_bucket("p", Quota::per_hour(100)),
        Policy::fixed_window("p", Quota::per_hour(100)),
        Policy::sliding_window("p", Quota::per_hour(100)),
        Policy::in_flight("p", 100),
    ]
}

/// A key for each policy and each origin of a quota.
struct Case {
    limiter: Limiter,
    algorithm: Algorithm,
    from: From,
    key: String,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

impl Case {
    fn new(builder: LimiterBuilder, policy: Policy, from: From) -> Self {
        let algorithm = policy.algorithm();
        let key = format!("{algorithm:?} {from:?}");
        let policy = policy
            .key(header("x-key"))
            .or_refuse()
            .penalty(Penalty::after(1).refusals_within(HOUR).block(HOUR));
        let policy = match from {
            From::Plan => policy.plans([("free", Quota::unlimited())], |request| {
                request.headers.get("x-plan")?.to_str().ok()
            }),
            From::QuotaBy => policy
                .quota_by(|request| request.headers.contains_key("x-plan").then(Quota::unlimited)),
            From::Override | From::Source | From::Waterfall => policy,
        };
        let builder = builder.policy(policy).caller(header("x-key"));
        let builder = match from {
            From::Source => builder.override_source(CachedSource::new(Database)),
            From::Waterfall => {
                let member = |name, quota| Policy::fixed_window(name, quota).key(header("x-key"));
                let credits = member("credits", Quota::unlimited()).or_refuse();
                let tokens = member("tokens", Quota::per_hour(900)).or_refuse().or_else(credits);
                builder.policy(tokens)
            }
            From::Plan | From::QuotaBy | From::Override => builder,
        };
        let limiter = builder.build().expect("the policies are in order");
        Self { limiter, algorithm, from, key }
    }

    fn request(&self) -> Parts {
        let request = Request::get("/").header("x-key", &self.key).header("x-plan", "free");
        request.body(()).expect("it has two headers").into_parts().0
    }

    fn check(&self) -> Check<'_> {
        self.with_plan(self.limiter.check("p", &*self.key))
    }

    fn with_plan<'a>(&self, check: Check<'a>) -> Check<'a> {
        match self.from {
            From::Plan => check.plan("free"),
            From::QuotaBy => check.quota(Quota::unlimited()),
            From::Override | From::Source | From::Waterfall => check,
        }
    }

    fn reserve(&self) -> Reserve<'_> {
        let reserve = self.limiter.reserve(["p"], &*self.key);
        match self.from {
            From::Plan => reserve.plan("p", "free"),
            From::QuotaBy => reserve.quota("p", Quota::unlimited()),
            From::Override | From::Source | From::Waterfall => reserve,
        }
    }

    /// Blocks the key: another caller asks for more than a limited quota has.
    async fn block(&self) {
        let quota = match self.algorithm {
            Algorithm::InFlight => Quota::in_flight(100),
            _ => Quota::per_hour(100),
        };
        let reserve = self.limiter.reserve(["p"], OTHER).key("p", &*self.key).cost("p", 999);
        let refused = acquired(reserve.quota("p", quota).await);
        assert_eq!(refused, Some(Reason::Penalty), "{self:?}");
    }

    /// The reason for which each kind of decision refuses.
    async fn ask(&self) -> Vec<(&'static str, Option<Reason>)> {
        let limiter = &self.limiter;
        let mut all = vec![
            ("request", limiter.decide(&self.request()).await.reason()),
            ("check", reason(self.check().await)),
            ("peek", reason(self.with_plan(limiter.peek("p", &*self.key)).await)),
            ("peek of a request", limiter.peek_request(&self.request()).await.reason()),
            ("reserve", acquired(self.reserve().await)),
        ];
        if let Some(reason) = at_once(self.check().at_once()) {
            all.push(("check at once", reason));
        }
        match self.reserve().at_once() {
            Err(AcquireError::Check(CheckError::WouldWait)) => {}
            reserved => all.push(("reserve at once", acquired(reserved))),
        }
        let handle = limiter.policy("p").expect("the policy is there");
        let entering = || match self.from {
            From::Plan => handle.enter(&*self.key).plan("free"),
            From::QuotaBy => handle.enter(&*self.key).quota(Quota::unlimited()),
            From::Override | From::Source | From::Waterfall => handle.enter(&*self.key),
        };
        match entering().await {
            Err(AcquireError::Check(CheckError::NotInFlight(_))) => {}
            entered => all.push(("enter", acquired(entered))),
        }
        match entering().at_once() {
            Err(AcquireError::Check(CheckError::NotInFlight(_) | CheckError::WouldWait)) => {}
            entered => all.push(("enter at once", acquired(entered))),
        }
        #[cfg(feature = "describe")]
        all.push(("explain", self.explained().await));
        all
    }

    #[cfg(feature = "describe")]
    async fn explained(&self) -> Option<Reason> {
        use tower_quota::explain::ExpectedVerdict;

        match self.limiter.explain(&self.request()).await.verdict {
            ExpectedVerdict::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

fn reason(decided: Result<Decision, CheckError>) -> Option<Reason> {
    decided.expect("the check is in order").reason()
}

/// `None` if it would have to wait.
fn at_once(decided: Result<Decision, CheckError>) -> Option<Option<Reason>> {
    match decided {
        Err(CheckError::WouldWait) => None,
        decided => Some(reason(decided)),
    }
}

fn acquired<T>(acquired: Result<T, AcquireError>) -> Option<Reason> {
    match acquired {
        Ok(_) => None,
        Err(AcquireError::Refused(decision)) => decision.reason(),
        Err(error) => panic!("{error}"),
    }
}

/// A key that a penalty blocks is refused by each kind of decision until the block is lifted, although its
/// quota is unlimited now. `builder` has the store.
///
/// # Panics
/// If some kind of decision lets a blocked key pass, or refuses one that is not blocked.
pub async fn stay_blocked_whatever_the_quota(builder: impl Fn() -> LimiterBuilder) {
    for from in ALL {
        for policy in policies() {
            let case = Case::new(builder(), policy, from);
            if from == From::Override {
                let caller = case.limiter.overrides().caller(&*case.key).expect("it is a key");
                let quota = Quota::unlimited();
                drop(caller.set_quota("p", quota, HOUR).await.expect("unlimited fits all"));
            }
            for (way, reason) in case.ask().await {
                assert_eq!(reason, None, "{case:?}, {way}, before the block");
            }
            for lifts_by_reset in [false, true] {
                case.block().await;
                for (way, reason) in case.ask().await {
                    assert_eq!(reason, Some(Reason::Penalty), "{case:?}, {way}");
                }
                if lifts_by_reset {
                    drop(case.limiter.reset("p", &*case.key).quota(Quota::unlimited()).await);
                } else {
                    let caller = case.limiter.overrides().caller(&*case.key).expect("it is a key");
                    drop(caller.unblock().await.expect("the store answers"));
                }
                for (way, reason) in case.ask().await {
                    assert_eq!(reason, None, "{case:?}, {way}, after the block");
                }
            }
        }
    }
}
