//! Units in flight: with the answers spelled out, and beside a number for each key.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;

use super::{Algorithm::*, *};

/// The unknown wait.
const NOT_KNOWN: u64 = 1 << 53;

pub(super) async fn all(store: &dyn Store) {
    each!(store:
        units_come_back_when_they_are_given_back_and_not_by_the_clock
        a_request_takes_units_in_flight_and_others_or_none
        what_is_held_is_held_under_any_quota
        units_ahead_dry_runs_and_peeks
    );
}

async fn units_come_back_when_they_are_given_back_and_not_by_the_clock(subject: &Subject<'_>) {
    let one = subject.one(1, InFlight, Quota::in_flight(3));
    let two = Charge { cost: 2, ..one };
    assert_eq!(subject.peek(one).await, (0, 3, 0));
    assert_eq!(subject.charge_one(two).await, (0, 1, 0));
    assert_eq!(subject.charge_one(two).await, (NOT_KNOWN, 1, 0));
    subject.advance(3 * SECOND);
    assert_eq!(subject.charge_one(one).await, (0, 0, 0));
    assert_eq!(subject.charge_one(Charge { cost: 0, ..one }).await, (0, 0, 0));
    assert_eq!(subject.charge_one(Charge { cost: 4, ..one }).await, (NOT_KNOWN, 0, 0));
    let give_back = Correction::new(two, Change::GiveBack(2));
    assert_eq!(subject.correct(&[give_back]).await, [(0, 2, 0)]);
    let give_back = Correction::new(one, Change::GiveBack(1));
    assert_eq!(subject.correct(&[give_back]).await, [(0, 3, 0)]);
    assert_eq!(subject.charge_one(Charge { cost: 3, ..one }).await, (0, 0, 0));
}

async fn a_request_takes_units_in_flight_and_others_or_none(subject: &Subject<'_>) {
    let stream = subject.one(1, InFlight, Quota::in_flight(1));
    let token = subject.one(1, TokenBucket, Quota::per_hour(2));
    let both = subject.charge(&[stream, token]).await;
    assert_eq!([both[0].1, both[1].1], [0, 1]);
    let refused = subject.charge(&[stream, token]).await;
    assert_eq!([refused[0], (refused[1].0, refused[1].1, 0)], [(NOT_KNOWN, 0, 0), (0, 1, 0)]);
    let back = subject.correct(&[Correction::new(stream, Change::GiveBack(1))]).await;
    assert_eq!(back[0].1, 1);
    assert_eq!(subject.charge_one(token).await.1, 0);
    let refused = subject.charge(&[stream, token]).await;
    assert_eq!(refused[0], (0, 1, 0), "it holds nothing, as the other charge does not fit");
}

async fn what_is_held_is_held_under_any_quota(subject: &Subject<'_>) {
    let under = |units| subject.one(1, InFlight, Quota::in_flight(units));
    assert_eq!(subject.charge_one(Charge { cost: 3, ..under(4) }).await.1, 1);
    // More quotas than a key tracks.
    for units in [2, 3, 5, 6, 7, 8] {
        let fits = units > 3;
        let expected = if fits { (0, units - 4, 0) } else { (NOT_KNOWN, 0, 0) };
        assert_eq!(subject.charge_one(under(units)).await, expected, "of {units}");
        if fits {
            let give_back = Correction::new(under(units), Change::GiveBack(1));
            assert_eq!(subject.correct(&[give_back]).await, [(0, units - 3, 0)]);
        }
    }
    let give_back = Correction::new(under(4), Change::GiveBack(3));
    assert_eq!(subject.correct(&[give_back]).await, [(0, 4, 0)]);
    assert_eq!(subject.peek(under(8)).await, (0, 8, 0));
}

async fn units_ahead_dry_runs_and_peeks(subject: &Subject<'_>) {
    let one = subject.one(1, InFlight, Quota::in_flight(2));
    assert_eq!(subject.charge_one(Charge { ahead: 2, ..one }).await, (NOT_KNOWN, 2, 0));
    assert_eq!(subject.charge_one(Charge { ahead: 1, ..one }).await, (0, 1, 0));
    assert_eq!(subject.peek(one).await, (0, 1, 0));
    let dry_run = Charge { mode: Mode::DryRun, ..one };
    assert_eq!(subject.charge_one(dry_run).await, (0, 0, 0));
    assert_eq!(subject.charge_one(dry_run).await, (NOT_KNOWN, 0, 0));
    let back = Correction::new(Charge { cost: 2, ..one }, Change::GiveBack(2));
    assert_eq!(subject.correct(&[back]).await, [(0, 2, 0)]);
}

/// One step of a history: so many units of a key are asked for beside a unit of a bucket, under a quota;
/// or one of the requests ends.
#[derive(Clone, Debug)]
enum Step {
    Begins { key: u64, cost: u64, units: u64, beside: bool },
    Ends(usize),
}

/// After any history, what is held is what was admitted and has not ended.
pub(crate) fn holds_what_has_not_ended(store: &dyn Store, runtime: &Runtime, cases: u32) {
    let begins = (1..3_u64, 0..4_u64, 1..6_u64, any::<bool>())
        .prop_map(|(key, cost, units, beside)| Step::Begins { key, cost, units, beside });
    let step = prop_oneof![4 => begins, 3 => (0..8_usize).prop_map(Step::Ends)];
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let steps = prop::collection::vec(step, 1..60);
    let result = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(follow(&Subject::new(store), &steps));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

async fn follow(subject: &Subject<'_>, steps: &[Step]) {
    let mut held: Vec<Charge> = Vec::new();
    let mut tokens = 20;
    for step in steps {
        match *step {
            Step::Begins { key, cost, units, beside } => {
                let of_key =
                    |charge: &&Charge| charge.key == subject.one(key, InFlight, charge.quota).key;
                let before: u64 = held.iter().filter(of_key).map(|charge| charge.cost).sum();
                let stream = Charge { cost, ..subject.one(key, InFlight, Quota::in_flight(units)) };
                let token = subject.one(9, FixedWindow, Quota::per_day(20));
                let charges = if beside { vec![stream, token] } else { vec![stream] };
                let answers = subject.charge(&charges).await;
                let fits = cost == 0 || before + cost <= units;
                assert_eq!(answers[0].0 == 0, fits, "{before} are held: {step:?}");
                let passes = fits && (!beside || tokens > 0);
                let left = units.saturating_sub(before + if passes { cost } else { 0 });
                assert_eq!(answers[0].1, left, "{before} are held: {step:?}");
                if passes {
                    held.push(stream);
                    tokens -= u64::from(beside);
                }
            }
            Step::Ends(index) if index < held.len() => {
                let ended = held.swap_remove(index);
                subject.correct(&[Correction::new(ended, Change::GiveBack(ended.cost))]).await;
            }
            Step::Ends(_) => {}
        }
    }
    for ended in held {
        subject.correct(&[Correction::new(ended, Change::GiveBack(ended.cost))]).await;
    }
    for key in 1..3 {
        assert_eq!(subject.peek(subject.one(key, InFlight, Quota::in_flight(5))).await, (0, 5, 0));
    }
}
