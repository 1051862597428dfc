//! Units that are reserved without a request, and committed, given back or kept.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::{Duration, UNIX_EPOCH},
};

use tokio::time::advance;
use tower_quota::{
    AcquireError, CheckError, Clock, Decision, Limiter, LimiterBuilder, Now, OnStoreFailure,
    Policy, Quota, Reason, Reservation,
    key::{ClientIp, bearer, header},
    store::{Charge, Correction, MemoryStore, Store, StoreError, StoreFuture},
};

const ALGORITHMS: [fn(&'static str, Quota) -> Policy; 3] =
    [Policy::token_bucket, Policy::fixed_window, Policy::sliding_window];

/// A day that has just begun.
fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(86_400)))
}

fn tokens() -> Policy {
    Policy::fixed_window("tokens", Quota::per_day(10_000))
}

fn requests() -> Policy {
    Policy::sliding_window("requests", Quota::per_minute(2))
}

fn limiter() -> Limiter {
    builder().check_only(tokens()).check_only(requests()).build().unwrap()
}

fn left(limiter: &Limiter, policy: &str, key: &str) -> u64 {
    let peeked = limiter.peek(policy, key).at_once().unwrap();
    peeked.outcomes().chain(peeked.dry_runs()).next().unwrap().remaining()
}

fn refused(result: Result<Reservation, AcquireError>) -> Decision {
    let error = result.expect_err("it is refused");
    let wait = error.retry_after();
    match error {
        AcquireError::Refused(decision) => {
            assert_eq!(wait, decision.retry_after());
            decision
        }
        other => panic!("{other:?}"),
    }
}

fn wrong(result: Result<Reservation, AcquireError>) -> CheckError {
    let error = result.expect_err("it is wrong");
    assert_eq!(error.retry_after(), None, "{error}");
    match error {
        AcquireError::Check(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn all_policies_are_charged_or_none() {
    let limiter = limiter();
    let reserve = || limiter.reserve(["tokens", "requests"], "acme").cost("tokens", 4_000);
    let mut all: Vec<Reservation> = Vec::new();
    all.push(reserve().await.unwrap());
    all.push(reserve().at_once().unwrap());
    assert_eq!((all[0].reserved("tokens"), all[0].reserved("requests")), (4_000, 1));
    assert_eq!(all[0].decision().outcome("tokens").unwrap().remaining(), 6_000);
    assert_eq!((left(&limiter, "tokens", "acme"), left(&limiter, "requests", "acme")), (2_000, 0));

    // Both refuse; then only one. Nothing is charged under the other.
    let decision = refused(reserve().await);
    assert_eq!(decision.reason(), Some(Reason::QuotaExceeded));
    assert_eq!(decision.tightest().unwrap().policy(), "tokens");
    let decision = refused(reserve().cost("tokens", 1).at_once());
    assert_eq!(decision.tightest().unwrap().policy(), "requests");
    assert_eq!(decision.retry_after(), Some(Duration::from_secs(60)));
    assert_eq!((left(&limiter, "tokens", "acme"), left(&limiter, "requests", "acme")), (2_000, 0));
    assert!(reserve().cost("tokens", 10_001).await.unwrap_err().to_string().contains("`tokens`"));
    assert_eq!(left(&limiter, "tokens", "other"), 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_commit_charges_what_was_used_and_else_all_is_given_back_unless_it_is_kept() {
    for policy in ALGORITHMS {
        let limiter = builder().check_only(policy("p", Quota::per_hour(100)));
        let limiter = limiter.check_only(policy("q", Quota::per_hour(100))).build().unwrap();
        let reserve = || limiter.reserve(["p", "q"], "k").cost("p", 30).cost("q", 40);
        let both = || (left(&limiter, "p", "k"), left(&limiter, "q", "k"));
        let committed = reserve().await.unwrap().commit([("p", 10)]).await.unwrap();
        assert_eq!(committed.outcomes().map(|of| of.remaining()).collect::<Vec<_>>(), [90, 60]);
        assert_eq!(both(), (90, 60), "as many as were reserved under the other");
        let committed = reserve().await.unwrap().commit([("q", 0), ("p", 55)]).at_once().unwrap();
        assert_eq!(committed.outcome("p").unwrap().remaining(), 35, "more than was reserved");
        assert_eq!(both(), (35, 60));
        drop(reserve().await.unwrap());
        assert_eq!(both(), (35, 60), "dropped");
        assert_eq!(reserve().await.unwrap().give_back().await.unwrap().remaining(), 35);
        drop(reserve().keep_if_dropped().await.unwrap());
        assert_eq!(both(), (5, 20), "kept");
        let cloned = limiter.clone();
        let panics = move || {
            let reservation = cloned.reserve(["p", "q"], "k").at_once().unwrap();
            assert_eq!(cloned.peek("p", "k").at_once().unwrap().remaining(), 4);
            assert_eq!(reservation.reserved("p"), 0, "on purpose");
        };
        std::thread::spawn(panics).join().unwrap_err();
        assert_eq!(both(), (5, 20), "a panic gives them back");
    }
}

/// Each mistake, and its sentence. Nothing is charged.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_meant_is_an_error_that_says_what_to_write() {
    let by_kinds = Policy::fixed_window("by kinds", Quota::per_day(9))
        .key(header("x-key"))
        .or_key(ClientIp::new())
        .or_refuse();
    let planned = Policy::fixed_window("planned", Quota::per_day(9))
        .key(bearer())
        .or_refuse()
        .plans([("pro", Quota::per_day(99))], |_| None);
    let limiter = builder().check_only(tokens()).policy(by_kinds).policy(planned).build().unwrap();
    let of = |policies: &[&'static str]| limiter.reserve(policies.iter().copied(), "k");
    for (reserve, sentence) in [
        (
            of(&[]),
            "a reservation of no policy limits nothing; write the names of its policies, as `.reserve([\"tokens\", \"requests\"], …)`",
        ),
        (
            of(&["tokens", "tokens"]),
            "policy `tokens` is listed twice, or another falls back on it; write it once",
        ),
        (
            of(&["tokens"]).cost("token", 5),
            "the reservation does not have policy `token`; add it to the list of `.reserve([…], …)`, or compare the names",
        ),
        (
            of(&["tokens"]).key("planned", "k"),
            "the reservation does not have policy `planned`; add it to the list of `.reserve([…], …)`, or compare the names",
        ),
        (
            of(&["tokens", "token"]),
            "no policy is named `token`; add it to the limiter, as with `.check_only(…)`",
        ),
        (
            of(&["tokens", "by kinds"]),
            "policy `by kinds` counts by `x-key` or `ip`; write which, as `.kind(\"…\")`",
        ),
        (
            of(&["by kinds"]).kind("by kinds", "ip"),
            "no request has such a key under policy `by kinds`, which counts by `ip`; write a key without blanks around it, an address as an `IpAddr`, and several keys together as a tuple",
        ),
        (
            of(&["tokens", "planned"]),
            "policy `planned` has the plans `pro`; write the key's, as `.plan(\"…\")`, or its quota, as `.quota(…)`",
        ),
        (
            of(&["planned"]).plan("planned", "por"),
            "policy `planned` has no plan `por`; write `pro`",
        ),
    ] {
        let error = reserve.await.unwrap_err();
        assert_eq!(error.to_string(), sentence);
        wrong(Err(error));
    }
    assert_eq!(left(&limiter, "tokens", "k"), 10_000);

    let reserve = || of(&["tokens"]).cost("tokens", 70).at_once().unwrap();
    let not_listed = Err(CheckError::NotListed("token".to_owned()));
    assert_eq!(reserve().commit([("token", 1)]).await.map(drop), not_listed);
    let twice = Err(CheckError::ListedTwice("tokens".to_owned()));
    assert_eq!(reserve().commit([("tokens", 1), ("tokens", 2)]).at_once().map(drop), twice);
    assert_eq!(left(&limiter, "tokens", "k"), 10_000 - 140, "all stays as it was reserved");
}

#[tokio::test(start_paused = true)]
async fn each_policy_has_its_own_key_kind_and_plan() {
    let by_kinds = Policy::fixed_window("user", Quota::per_day(9))
        .key(header("x-key"))
        .or_key(ClientIp::new())
        .or_refuse();
    let planned = Policy::fixed_window("org", Quota::per_day(9))
        .key(header("x-org"))
        .or_refuse()
        .plans([("pro", Quota::per_day(99))], |_| None);
    let limiter = builder().policy(by_kinds).policy(planned).build().unwrap();
    let reservation = limiter
        .reserve(["user", "org"], "ann")
        .kind("user", "x-key")
        .key("org", "acme")
        .plan("org", "pro")
        .cost("org", 50)
        .await
        .unwrap();
    let left = || {
        let user = limiter.peek("user", "ann").kind("x-key").at_once().unwrap().remaining();
        (user, limiter.peek("org", "acme").plan("pro").at_once().unwrap().remaining())
    };
    assert_eq!(left(), (8, 49));
    let _ = reservation.commit([("org", 40), ("user", 0)]).await.unwrap();
    assert_eq!(left(), (9, 59));
    let unlimited = limiter.reserve(["user", "org"], "ann").kind("user", "x-key");
    let unlimited = unlimited.quota("org", Quota::unlimited()).await.unwrap();
    assert_eq!((unlimited.reserved("org"), unlimited.reserved("user")), (0, 1));
    let _ = unlimited.commit([("org", 1_000), ("user", 4)]).await.unwrap();
    assert_eq!(left(), (5, 59), "an unlimited quota is not counted");
}

#[tokio::test(start_paused = true)]
async fn overrides_of_the_caller_hold() {
    let limiter = limiter();
    let ann = limiter.overrides().caller("ann").unwrap();
    let hour = Duration::from_secs(3_600);
    ann.set_quota("requests", Quota::per_minute(5), hour).at_once().unwrap();
    let reserve = || limiter.reserve(["tokens", "requests"], "ann").key("tokens", "acme");
    let reservation = reserve().cost("requests", 4).await.unwrap();
    assert_eq!(reservation.decision().outcome("requests").unwrap().limit(), 5);
    ann.block(hour).at_once().unwrap();
    assert_eq!(refused(reserve().await).reason(), Some(Reason::Blocked));
    assert_eq!(refused(reserve().at_once()).reason(), Some(Reason::Blocked));
    // What a blocked caller has reserved is committed all the same.
    let decision = reservation.commit([("requests", 3), ("tokens", 0)]).await.unwrap();
    assert_eq!(decision.outcome("requests").unwrap().remaining(), 2);
    assert_eq!(left(&limiter, "tokens", "acme"), 10_000);
    assert!(limiter.reserve(["tokens"], "bob").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_that_would_refuse_has_charged_nothing_and_stays_so() {
    let limiter = builder().check_only(requests().dry_run()).check_only(tokens()).build().unwrap();
    let reserve = |requests| {
        limiter.reserve(["requests", "tokens"], "k").cost("requests", requests).at_once().unwrap()
    };
    let first = reserve(2);
    let second = reserve(2);
    assert_eq!((first.reserved("requests"), second.reserved("requests")), (2, 0));
    let _ = second.commit([("requests", 5)]).await.unwrap();
    assert_eq!(left(&limiter, "requests", "k"), 0);
    let _ = first.commit([("requests", 1)]).await.unwrap();
    assert_eq!(left(&limiter, "requests", "k"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_is_for_who_waits() {
    let second = Duration::from_secs(1);
    let limiter = builder().check_only(requests().hold(100 * second)).build().unwrap();
    let reserve = || limiter.reserve(["requests"], "k");
    let reservation = reserve().cost("requests", 2).await.unwrap();
    let mut waits = pin!(reserve());
    let mut context = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    assert!(matches!(reserve().at_once(), Err(AcquireError::Refused(_))), "it never waits");
    drop(reservation);
    let Poll::Ready(held) = waits.as_mut().poll(&mut context) else { panic!("it still waits") };
    assert_eq!(held.unwrap().reserved("requests"), 1);
    // One that stops to wait leaves nothing.
    let all = reserve().cost("requests", 2).await.unwrap();
    let mut leaves = Box::pin(reserve());
    assert!(leaves.as_mut().poll(&mut context).is_pending());
    drop((leaves, all));
    assert_eq!(left(&limiter, "requests", "k"), 2);
}

#[tokio::test(start_paused = true)]
async fn units_in_flight_come_back_when_it_is_committed_or_dropped() {
    let exports = Policy::in_flight("exports", 2);
    let limiter = builder().check_only(exports).check_only(tokens()).build().unwrap();
    let reserve = || limiter.reserve(["exports", "tokens"], "k").cost("tokens", 100).at_once();
    let exports_left = || left(&limiter, "exports", "k");
    let (first, second) = (reserve().unwrap(), reserve().unwrap());
    assert_eq!((exports_left(), second.reserved("exports")), (0, 1));
    assert_eq!(refused(reserve()).tightest().unwrap().policy(), "exports");
    let committed = first.commit([("tokens", 70), ("exports", 1)]).at_once().unwrap();
    assert_eq!(exports_left(), 1, "though the answer is still there");
    drop(committed);
    drop(second);
    assert_eq!((exports_left(), left(&limiter, "tokens", "k")), (2, 10_000 - 70));
    drop(limiter.reserve(["exports"], "k").keep_if_dropped().at_once().unwrap());
    assert_eq!(exports_left(), 2, "nobody is under way");
}

#[tokio::test(start_paused = true)]
async fn a_day_that_has_ended_gets_its_units_back_and_today_none() {
    let limiter = limiter();
    advance(Duration::from_secs(86_400 - 60)).await;
    let reserve = || limiter.reserve(["tokens"], "k").cost("tokens", 6_000);
    let (dropped, less) = (reserve(), reserve().cost("tokens", 4_000));
    let (dropped, less) = (dropped.await.unwrap(), less.await.unwrap());
    let more = limiter.reserve(["tokens"], "other").await.unwrap();
    advance(Duration::from_secs(61)).await;
    let _ = limiter.check("tokens", "k").cost(3_000).await.unwrap();
    drop(dropped);
    assert_eq!(less.commit([("tokens", 1)]).await.unwrap().remaining(), 7_000);
    // What was used beyond the reservation was used yesterday as well.
    assert_eq!(more.commit([("tokens", 9_000)]).await.unwrap().remaining(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn limits_that_are_applied_meanwhile_and_a_policy_that_is_gone_lose_nothing() {
    let limits = |tokens: u64| {
        let policy = Policy::fixed_window("tokens", Quota::per_day(tokens));
        Limiter::builder().check_only(policy).check_only(requests())
    };
    let limiter = limiter();
    let reserve = || limiter.reserve(["tokens"], "k").cost("tokens", 4_000);
    let (first, second) = (reserve().await.unwrap(), reserve().await.unwrap());
    limiter.apply(limits(20_000)).unwrap();
    let _ = first.commit([("tokens", 1_000)]).await.unwrap();
    assert_eq!(left(&limiter, "tokens", "k"), 15_000);
    limiter.apply(Limiter::builder().check_only(requests())).unwrap();
    drop(second);
    limiter.apply(limits(20_000)).unwrap();
    assert_eq!(left(&limiter, "tokens", "k"), 19_000);
}

#[tokio::test(start_paused = true)]
async fn a_reset_meanwhile_gives_back_once_what_is_used() {
    for policy in ALGORITHMS {
        let limiter = builder().check_only(policy("p", Quota::per_hour(10))).build().unwrap();
        let reservation = limiter.reserve(["p"], "k").cost("p", 6).await.unwrap();
        let _ = limiter.reset("p", "k").await.unwrap();
        drop(reservation);
        assert_eq!(left(&limiter, "p", "k"), 10, "never more than the quota");
        assert!(limiter.check("p", "k").cost(10).await.unwrap().is_allowed());
        assert!(!limiter.check("p", "k").await.unwrap().is_allowed());
    }
}

/// A store that answers later, if it does.
#[derive(Clone, Default)]
struct Slow {
    memory: Arc<MemoryStore>,
    corrected: Arc<Mutex<Vec<Correction>>>,
    fails: Arc<AtomicBool>,
}

impl Slow {
    fn later(&self, answer: impl FnOnce(&MemoryStore) -> StoreFuture) -> StoreFuture {
        if self.fails.load(SeqCst) {
            return StoreFuture::later(async { Err(StoreError::new("it is down")) });
        }
        let answer = answer(&self.memory);
        StoreFuture::later(async {
            tokio::task::yield_now().await;
            answer.await
        })
    }
}

impl Store for Slow {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.later(|memory| memory.charge(charges, now))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.later(|memory| {
            self.corrected.lock().unwrap().extend(corrections);
            memory.correct(corrections, now)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_its_time_is_corrected_though_nobody_waits() {
    let store = Slow::default();
    let limiter =
        builder().check_only(tokens()).check_only(requests()).store(store.clone()).build().unwrap();
    let reserve = || limiter.reserve(["tokens", "requests"], "k").cost("tokens", 100);
    assert_eq!(wrong(reserve().at_once()), CheckError::WouldWait);
    let left = async || limiter.peek("tokens", "k").await.unwrap().remaining();
    assert_eq!(left().await, 10_000);

    drop(reserve().await.unwrap());
    assert_eq!(left().await, 10_000);
    assert_eq!(store.corrected.lock().unwrap().len(), 2, "in one call for both policies");
    let would_wait = reserve().await.unwrap().commit([("tokens", 40)]).at_once();
    assert_eq!(would_wait.unwrap_err(), CheckError::WouldWait);
    assert_eq!(left().await, 9_960);
    drop(reserve().await.unwrap().commit([("tokens", 50)]));
    assert_eq!(left().await, 9_910);
    store.corrected.lock().unwrap().clear();
    let kept = limiter.reserve(["tokens"], "k").cost("tokens", 10).await.unwrap();
    assert_eq!(kept.commit([]).await.unwrap().remaining(), 9_900);
    assert_eq!(store.corrected.lock().unwrap().len(), 0, "nothing has to be corrected");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_leaves_each_policy_its_choice() {
    let store = Slow::default();
    store.fails.store(true, SeqCst);
    let limiter = builder()
        .check_only(tokens())
        .check_only(requests().on_store_failure(OnStoreFailure::Allow))
        .check_only(
            Policy::fixed_window("strict", Quota::per_day(9))
                .on_store_failure(OnStoreFailure::Refuse),
        )
        .store(store.clone())
        .build()
        .unwrap();
    let decision = refused(limiter.reserve(["tokens", "strict"], "k").await);
    assert_eq!(decision.reason(), Some(Reason::StoreUnavailable));
    // Counted by this process alone, and corrected there.
    let reserve = || limiter.reserve(["tokens", "requests"], "k").cost("tokens", 6_000);
    let reservation = reserve().await.unwrap();
    assert_eq!((reservation.reserved("tokens"), reservation.reserved("requests")), (6_000, 0));
    assert!(matches!(reserve().await, Err(AcquireError::Refused(_))));
    let decision = reservation.commit([("tokens", 1_000), ("requests", 7)]).await.unwrap();
    assert_eq!(decision.remaining(), 9_000);
    let reservation = reserve().await.unwrap();
    // It answers again, and has counted nothing of this.
    store.fails.store(false, SeqCst);
    drop(reservation);
    assert_eq!(store.corrected.lock().unwrap().len(), 0);

    let reservation = reserve().await.unwrap();
    store.fails.store(true, SeqCst);
    let decision = reservation.commit([("tokens", 1)]).await.unwrap();
    assert_eq!(decision.reason(), Some(Reason::StoreUnavailable));
    assert_eq!(decision.tightest().unwrap().policy(), "tokens");
}
