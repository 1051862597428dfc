//! A check that is decided at once gives the same decision as one that is awaited, or none.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;
use tokio::time::advance;
use tower_quota::{
    Check, CheckError, Clock, Decision, Limiter, LimiterBuilder, Now, Policy, Quota, Refund,
    store::{Charge, Correction, MemoryStore, Store, StoreFuture},
};

/// A day that has just begun.
fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(86_400)))
}

fn limiter(policy: Policy) -> Limiter {
    Limiter::builder().check_only(policy).build().unwrap()
}

fn token_bucket(units: u64) -> Policy {
    Policy::token_bucket("p", Quota::per_minute(units))
}

/// All that can be said of a check.
fn said(decision: &Decision) -> impl PartialEq + std::fmt::Debug {
    let outcome = decision.outcomes().next().unwrap();
    (
        (outcome.policy().to_owned(), outcome.algorithm(), outcome.key_kind().to_owned()),
        (outcome.quota(), outcome.limit(), outcome.remaining(), outcome.reset()),
        (outcome.is_allowed(), outcome.retry_after()),
    )
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Check,
    Peek,
    GiveBack,
    Reset,
}

#[derive(Clone, Debug)]
struct Asked {
    question: Question,
    policy: &'static str,
    key: u64,
    cost: Option<u64>,
    quota: Option<u64>,
    later: u64,
}

impl Asked {
    fn check<'a>(&self, check: Check<'a>) -> Check<'a> {
        let check = self.cost.into_iter().fold(check, Check::cost);
        self.quota.map(Quota::per_minute).into_iter().fold(check, Check::quota)
    }

    fn refund<'a>(&self, refund: Refund<'a>) -> Refund<'a> {
        self.quota.map(Quota::per_minute).into_iter().fold(refund, Refund::quota)
    }

    fn at_once(&self, limiter: &Limiter) -> Result<Decision, CheckError> {
        let (policy, key, units) = (self.policy, self.key, self.cost.unwrap_or(1));
        match self.question {
            Question::Check => self.check(limiter.check(policy, key)).at_once(),
            Question::Peek => self.check(limiter.peek(policy, key)).at_once(),
            Question::GiveBack => self.refund(limiter.give_back(policy, key, units)).at_once(),
            Question::Reset => self.refund(limiter.reset(policy, key)).at_once(),
        }
    }

    async fn awaited(&self, limiter: &Limiter) -> Result<Decision, CheckError> {
        let (policy, key, units) = (self.policy, self.key, self.cost.unwrap_or(1));
        match self.question {
            Question::Check => self.check(limiter.check(policy, key)).await,
            Question::Peek => self.check(limiter.peek(policy, key)).await,
            Question::GiveBack => self.refund(limiter.give_back(policy, key, units)).await,
            Question::Reset => self.refund(limiter.reset(policy, key)).await,
        }
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    use Question::*;
    let question =
        prop_oneof![4 => Just(Check), 1 => Just(Peek), 1 => Just(GiveBack), 1 => Just(Reset)];
    let policy = prop_oneof![Just("bucket"), Just("fixed"), Just("sliding")];
    let cost = proptest::option::of(0..12_u64);
    let quota = proptest::option::weighted(0.2, 1..20_u64);
    (question, policy, 0..3_u64, cost, quota, 0..20_000_u64).prop_map(
        |(question, policy, key, cost, quota, later)| Asked {
            question,
            policy,
            key,
            cost,
            quota,
            later,
        },
    )
}

proptest! {
    #[test]
    fn what_is_said_at_once_is_what_awaiting_says(asked in prop::collection::vec(asked(), 1..80)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let quota = Quota::per_minute(10);
            let limiters = [(); 2].map(|()| {
                builder()
                    .check_only(Policy::token_bucket("bucket", quota))
                    .check_only(Policy::fixed_window("fixed", quota))
                    .check_only(Policy::sliding_window("sliding", quota))
                    .build()
                    .unwrap()
            });
            for asked in asked {
                let at_once = asked.at_once(&limiters[0]);
                let awaited = asked.awaited(&limiters[1]).await;
                match (&at_once, &awaited) {
                    (Ok(at_once), Ok(awaited)) => {
                        prop_assert_eq!(said(at_once), said(awaited), "{:?}", asked);
                    }
                    (at_once, awaited) => {
                        prop_assert_eq!(at_once.as_ref().err(), awaited.as_ref().err());
                    }
                }
                advance(Duration::from_millis(asked.later)).await;
            }
            Ok(())
        })?;
    }
}

#[test]
fn threads_without_a_runtime_are_admitted_exactly_the_quota() {
    let limiter = limiter(Policy::sliding_window("p", Quota::per_day(1_000)));
    let admitted = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    let allowed = limiter.check("p", "key").at_once().unwrap().is_allowed();
                    admitted.fetch_add(u64::from(allowed), SeqCst);
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_holds_refuses_a_check_at_once_and_waiting_requests_come_first() {
    let policy = token_bucket(60).hold(Duration::from_secs(9));
    let limiter = builder().check_only(policy).build().unwrap();
    let at_once = || limiter.check("p", "key").at_once().unwrap();
    assert!(limiter.check("p", "key").cost(60).at_once().unwrap().is_allowed());
    assert_eq!(at_once().retry_after(), Some(Duration::from_secs(1)));

    let mut waits = pin!(limiter.check("p", "key").cost(2).into_future());
    assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(at_once().retry_after(), Some(Duration::from_secs(3)), "after those of who waits");
    advance(Duration::from_secs(2)).await;
    assert!(!at_once().is_allowed(), "these units are waited for");
    assert!(waits.await.unwrap().is_allowed());
}

#[tokio::test(start_paused = true)]
async fn units_given_back_at_once_are_for_waiting_requests() {
    let policy = token_bucket(60).hold(Duration::from_secs(9));
    let limiter = builder().check_only(policy).build().unwrap();
    assert!(limiter.check("p", "key").cost(60).at_once().unwrap().is_allowed());
    let mut waits = pin!(limiter.check("p", "key").cost(2).into_future());
    let mut context = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    assert_eq!(limiter.give_back("p", "key", 2).at_once().unwrap().remaining(), 2);
    let Poll::Ready(decision) = waits.poll(&mut context) else { panic!("it still waits") };
    assert!(decision.unwrap().is_allowed());
    assert!(!limiter.check("p", "key").at_once().unwrap().is_allowed(), "both are used");
}

#[test]
fn a_dry_run_passes_and_an_unlimited_plan_is_not_counted() {
    let tried = limiter(token_bucket(1).dry_run());
    for _ in 0..3 {
        let decision = tried.check("p", "key").at_once().unwrap();
        assert!(decision.is_allowed() && decision.retry_after().is_none());
        assert_eq!(decision.dry_runs().next().unwrap().remaining(), 0);
    }
    let limiter = limiter(token_bucket(1));
    for _ in 0..3 {
        let unlimited = limiter.check("p", "key").quota(Quota::unlimited()).at_once().unwrap();
        assert!(unlimited.is_allowed());
        assert_eq!((unlimited.remaining(), unlimited.outcomes().len()), (u64::MAX, 0));
        let given_back = limiter.give_back("p", "key", 1).quota(Quota::unlimited()).at_once();
        assert_eq!(given_back.unwrap_err(), CheckError::NothingUsed("p".to_owned()));
    }
    assert!(limiter.check("p", "key").at_once().unwrap().is_allowed(), "nothing was used");
}

#[test]
fn a_refund_under_a_plan_of_no_units_is_of_the_policys_own_quota() {
    let limiter = limiter(token_bucket(5));
    assert!(limiter.check("p", "key").cost(3).at_once().unwrap().is_allowed());
    let refund = limiter.give_back("p", "key", 1).quota(Quota::per_minute(0)).at_once();
    assert_eq!(refund.unwrap().remaining(), 3);
}

#[test]
fn a_name_that_no_policy_has_is_an_error() {
    let limiter = limiter(token_bucket(1));
    for decision in [
        limiter.check("q", "key").cost(3).quota(Quota::per_hour(1)).at_once(),
        limiter.peek("q", "key").cost(3).quota(Quota::per_hour(1)).at_once(),
        limiter.give_back("q", "key", 3).quota(Quota::per_hour(1)).at_once(),
        limiter.reset("q", "key").quota(Quota::per_hour(1)).at_once(),
        limiter
            .policy("q")
            .map(|policy| policy.check("key").at_once())
            .and_then(|decision| decision),
    ] {
        let error = decision.unwrap_err();
        assert_eq!(error, CheckError::UnknownPolicy("q".to_owned()));
        assert_eq!(
            error.to_string(),
            "no policy is named `q`; add it to the limiter, as with `.check_only(…)`"
        );
    }
}

/// A store that takes its time.
#[derive(Clone, Default)]
struct Slow {
    charged: Arc<AtomicU64>,
    corrected: Arc<Mutex<Vec<Correction>>>,
    memory: Arc<MemoryStore>,
}

impl Slow {
    fn later(answer: StoreFuture) -> StoreFuture {
        StoreFuture::later(async {
            tokio::task::yield_now().await;
            answer.await
        })
    }
}

impl Store for Slow {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.charged.fetch_add(1, SeqCst);
        Self::later(self.memory.charge(charges, now))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.corrected.lock().unwrap().extend_from_slice(corrections);
        Self::later(self.memory.correct(corrections, now))
    }
}

#[tokio::test]
async fn a_slow_store_is_not_charged_by_a_check_at_once() {
    let store = Slow::default();
    let limiter = builder().check_only(token_bucket(5)).store(store.clone()).build().unwrap();
    for check in [limiter.check("p", "key"), limiter.peek("p", "key")] {
        assert_eq!(check.at_once().unwrap_err(), CheckError::WouldWait);
    }
    assert_eq!(store.charged.load(SeqCst), 0);
    assert_eq!(
        limiter.check("p", "key").cost(4).await.unwrap().outcomes().next().unwrap().remaining(),
        1
    );
    // What is given back needs no answer.
    let given_back = limiter.give_back("p", "key", 2).at_once();
    assert_eq!(given_back.unwrap_err(), CheckError::WouldWait);
    assert_eq!(store.corrected.lock().unwrap().len(), 1);
    assert_eq!(limiter.peek("p", "key").await.unwrap().outcomes().next().unwrap().remaining(), 3);
}

#[test]
fn an_answer_at_once_allocates_nothing() {
    for policy in [token_bucket(2), Policy::sliding_window("p", Quota::per_minute(2))] {
        let limiter = limiter(policy);
        let check = || limiter.check("p", "key").at_once().unwrap().is_allowed();
        assert!(check(), "a new key may need room");
        for allowed in [true, false] {
            let counted = allocation_counter::measure(|| assert_eq!(check(), allowed));
            assert_eq!(counted.count_total, 0);
        }
    }
}
