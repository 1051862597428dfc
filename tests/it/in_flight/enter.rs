//! Units in flight without HTTP: a permit holds them.

use std::time::Duration;

use tokio::time::{advance, timeout};
use tower_quota::{AcquireError, CheckError, Limiter, Permit, Policy, Quota, Reason};

fn limiter(exports: Policy) -> Limiter {
    let mails = Policy::token_bucket("mails", Quota::per_minute(60));
    Limiter::builder().check_only(exports).check_only(mails).build().unwrap()
}

fn left(limiter: &Limiter) -> u64 {
    limiter.peek("exports", "a").at_once().unwrap().outcome("exports").unwrap().remaining()
}

#[tokio::test]
async fn a_permit_holds_its_units_until_the_last_clone_is_dropped() {
    let limiter = limiter(Policy::in_flight("exports", 4));
    let exports = limiter.policy("exports").unwrap();
    let first = exports.enter("a").await.unwrap();
    let second = exports.enter("a").cost(3).at_once().unwrap();
    let AcquireError::Refused(decision) = exports.enter("a").await.unwrap_err() else {
        panic!("four are held")
    };
    let outcome = decision.tightest().unwrap();
    assert_eq!((outcome.remaining(), outcome.limit(), decision.retry_after()), (0, 4, None));
    let too_much = exports.enter("b").cost(5).await.unwrap_err();
    let AcquireError::Refused(decision) = too_much else { panic!("5 of 4 units never fit") };
    assert_eq!(decision.reason(), Some(Reason::CostExceedsQuota));

    let clone = second.clone();
    drop(second);
    assert_eq!(left(&limiter), 0);
    // Where there is no runtime, and while a thread unwinds.
    let unwound = std::thread::spawn(move || {
        let _clone = clone;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(unwound.join().is_err());
    assert_eq!(left(&limiter), 3);
    drop(first);
    assert_eq!(left(&limiter), 4);
}

#[test]
fn a_permit_moves_to_any_thread() {
    fn is_free<T: Send + Sync + 'static>() {}
    is_free::<Permit>();
}

#[tokio::test]
async fn a_check_holds_its_unit_as_long_as_its_decision() {
    let limiter = limiter(Policy::in_flight("exports", 1));
    let decision = limiter.check("exports", "a").await.unwrap();
    let copy = decision.clone();
    assert_eq!(left(&limiter), 0);
    drop(decision);
    assert_eq!(left(&limiter), 1, "a copy, as of a log, holds nothing");
    assert!(copy.permit().is_none());
}

#[tokio::test]
async fn only_the_end_of_what_holds_a_unit_gives_it_back() {
    let limiter = limiter(Policy::in_flight("exports", 2));
    let permit = limiter.policy("exports").unwrap().enter("a").await.unwrap();
    let in_flight = Err(CheckError::InFlight("exports".into()));
    assert_eq!(limiter.reset("exports", "a").await.map(drop), in_flight);
    assert_eq!(limiter.give_back("exports", "a", 1).await.map(drop), in_flight);
    let decision = limiter.check("exports", "a").await.unwrap();
    let quotas: Vec<_> = decision.outcomes().filter_map(|outcome| outcome.quota_ref()).collect();
    drop(limiter.reset_quotas(&quotas).await);
    assert_eq!(left(&limiter), 0);
    drop((permit, decision));
    assert_eq!(left(&limiter), 2);

    let mails = limiter.policy("mails").unwrap().enter("a").await.unwrap_err();
    assert!(matches!(mails, AcquireError::Check(CheckError::NotInFlight(name)) if name == "mails"));
}

#[test]
fn a_policy_that_has_no_more_units_in_flight_when_the_work_begins_is_an_error() {
    let limiter = limiter(Policy::in_flight("exports", 2));
    let exports = limiter.policy("exports").unwrap();
    let enter = exports.enter("a");
    let by_day = Policy::fixed_window("exports", Quota::per_day(3));
    limiter.apply(Limiter::builder().check_only(by_day)).unwrap();
    let problem = enter.at_once().unwrap_err();
    assert!(
        matches!(problem, AcquireError::Check(CheckError::NotInFlight(name)) if name == "exports")
    );
    assert_eq!(left(&limiter), 3, "nothing is charged");
}

#[tokio::test]
async fn an_unlimited_quota_counts_nothing() {
    let limiter = limiter(Policy::in_flight("exports", 1));
    let exports = limiter.policy("exports").unwrap();
    let unlimited = exports.enter("a").quota(Quota::unlimited()).await.unwrap();
    assert_eq!(left(&limiter), 1);
    drop(unlimited);
    assert_eq!(left(&limiter), 1);
}

/// Lets the tasks run that can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_next_in_line_enters_when_a_unit_comes_back_and_no_later_than_the_hold() {
    let hold = Duration::from_secs(10);
    let limiter = limiter(Policy::in_flight("exports", 1).hold(hold));
    let exports = limiter.policy("exports").unwrap();
    let first = exports.enter("a").await.unwrap();
    let waits = |limiter: &Limiter| {
        let limiter = limiter.clone();
        tokio::spawn(async move { limiter.policy("exports").unwrap().enter("a").await })
    };
    let mut line = Vec::new();
    for _ in 0..3 {
        line.push(waits(&limiter));
        settle().await;
    }
    advance(Duration::from_secs(3)).await;
    settle().await;
    assert!(line.iter().all(|waiting| !waiting.is_finished()));

    drop(first);
    settle().await;
    let second = timeout(Duration::ZERO, line.remove(0)).await.expect("at once").unwrap().unwrap();
    settle().await;
    assert!(line.iter().all(|waiting| !waiting.is_finished()), "one unit came back");
    // A caller who leaves the line lets the next one move up.
    line.remove(0).abort();
    settle().await;
    drop(second);
    settle().await;
    let third = timeout(Duration::ZERO, line.remove(0)).await.expect("at once").unwrap().unwrap();

    let late = waits(&limiter);
    settle().await;
    advance(hold - Duration::from_millis(1)).await;
    settle().await;
    assert!(!late.is_finished(), "a unit may come back at any time");
    advance(Duration::from_millis(2)).await;
    assert!(matches!(late.await.unwrap(), Err(AcquireError::Refused(_))));
    drop(third);
    assert_eq!(left(&limiter), 1);
}
