//! A key under several quotas: each counts all that it uses.

use super::*;

const DAY: Quota = Quota::per_day(1_000);

impl Sent {
    fn left(&mut self, micros: u64, charge: Charge) -> u64 {
        self.charge(micros, Charge { mode: Mode::Peek, cost: 1, ..charge }).1
    }

    /// The length of the count's text.
    fn length(&mut self, charge: &Charge) -> usize {
        let (name, field) = (self.names.key(charge), keys::field(charge));
        redis::cmd("HSTRLEN").arg(name).arg(&field).query(&mut self.connection).unwrap()
    }

    /// Gives back, at `micros`, what was charged at `charged_at`.
    fn give_back(&mut self, micros: u64, charged_at: u64, charge: Charge) {
        let correction = Correction::new(charge, Change::GiveBack(charge.cost));
        let correction = Correction { charged_at: Some(time(charged_at)), ..correction };
        let call = ScriptCall::new(&self.names, &[correction], &[]);
        self.run(&call.at(time(micros), Duration::ZERO));
    }
}

#[test]
fn who_waits_as_long_as_told_under_another_plan_passes() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        for quota in [Quota::per_second(100), Quota::per_hour(7), Quota::per_second(3).burst(2)] {
            let all = Charge { cost: 1_000, ..charge(algorithm, DAY) };
            assert_eq!(sent.charge(START, all), (0, 0), "{algorithm:?}");
            let other = charge(algorithm, quota);
            let (mut now, mut waits) = (START + 7, vec![]);
            while waits.len() < 9 {
                let (wait, left) = sent.charge(now, other);
                assert!(wait > 0 && left == 0, "{algorithm:?} of {quota:?}: {wait}, {left}");
                waits.push(wait);
                // Some retry early.
                let early = if waits.len() < 8 { wait / 2 } else { wait - 1 };
                now += early;
                assert_eq!(sent.charge(now, other).0, wait - early, "{algorithm:?} of {quota:?}");
                if waits.len() == 8 {
                    break;
                }
            }
            assert_eq!(sent.charge(now + 1, other).0, 0, "{algorithm:?} of {quota:?}: {waits:?}");
            sent.correct(now, all, Change::Reset);
        }
    }
}

#[test]
fn a_refusal_is_written_once_under_each_plan_and_a_peek_never() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        let all = Charge { cost: 1_000, ..charge(algorithm, DAY) };
        let before = sent.server.calls("hset");
        let written = |sent: &Sent| sent.server.calls("hset") - before;
        assert!(sent.charge(START, Charge { cost: 1_001, ..all }).0 > 0);
        assert_eq!(written(&sent), 0, "{algorithm:?}: there is no count");
        sent.charge(START, all);
        let other = charge(algorithm, Quota::per_second(100));
        let dry = Charge { mode: Mode::DryRun, ..charge(algorithm, Quota::per_second(50)) };
        for (what, charge, expected) in [
            ("a refusal under the plan", all, 1),
            ("a peek under another", Charge { mode: Mode::Peek, ..other }, 1),
            ("a refusal under another", other, 2),
            ("again", other, 2),
            ("what costs nothing", Charge { cost: 0, ..other }, 2),
            ("under the first", Charge { cost: 1, ..all }, 2),
            ("a dry run", dry, 3),
            ("again", dry, 3),
        ] {
            sent.charge(START, charge);
            assert_eq!(written(&sent), expected, "{algorithm:?}: {what}");
        }
    }
}

#[test]
fn a_plan_in_between_changes_nothing() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        let (day, second) = (charge(algorithm, DAY), charge(algorithm, Quota::per_second(1)));
        sent.charge(START, Charge { cost: 999, ..day });
        assert!(sent.charge(START, second).0 > 0, "{algorithm:?}");
        // Units used under the other plan count under this one as well.
        let later = START + SECOND;
        assert_eq!(sent.charge(later, second).0, 0, "{algorithm:?}");
        assert_eq!(sent.left(later, day), 0, "{algorithm:?}");
        assert!(sent.charge(later, day).0 > SECOND, "{algorithm:?}");
        // The key is kept as long as its longest count.
        let whole = sent.ttl(&day);
        assert!(whole > 12 * 3_600_000, "{algorithm:?} is kept for {whole} ms");
        // Giving back changes both counts, except of buckets that were empty. A reset removes both.
        sent.give_back(later, later, second);
        let left = u64::from(algorithm != Algorithm::TokenBucket);
        assert_eq!(
            [day, second].map(|charge| sent.left(later, charge)),
            [left; 2],
            "{algorithm:?}"
        );
        sent.correct(later, second, Change::Reset);
        assert_eq!(sent.left(later, day), 1_000, "{algorithm:?}");
        assert!(sent.ttl(&day) > 0, "{algorithm:?}: when it was reset is kept, for a time");
    }
}

#[test]
fn nothing_is_lost_by_going_to_and_fro() {
    let mut sent = Sent::start();
    // Each comes back at the rate of the other.
    let plans = [Quota::per_second(10).burst(100), Quota::per_second(10).burst(101)];
    let plans = plans.map(|quota| charge(Algorithm::TokenBucket, quota));
    assert_eq!(sent.charge(START, Charge { cost: 100, ..plans[0] }), (0, 0));
    let (mut passed, mut now) = (0, START);
    for place in (0..=1).cycle().take(300) {
        now += SECOND / 15;
        passed += u64::from(sent.charge(now, plans[place]).0 == 0);
    }
    assert_eq!(passed, 20 * 10, "as many as come back in 20 seconds");
}

#[test]
fn a_key_has_few_plans_and_the_last_written_stay() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        let plans = [1, 2, 3, 4, 5].map(|n| charge(algorithm, Quota::per_day(n * 100)));
        for (used, plan) in (1..).zip(plans) {
            assert_eq!(sent.charge(START, plan), (0, plan.quota.units() - used), "{algorithm:?}");
        }
        let four = sent.length(&plans[0]);
        plans.iter().for_each(|plan| _ = sent.charge(START, *plan));
        assert_eq!(sent.length(&plans[0]), four, "{algorithm:?}");
        // The first plan's state was dropped: it begins with what the others have.
        assert_eq!(sent.left(START, plans[0]), 90, "{algorithm:?}");
        sent.correct(START, plans[0], Change::Reset);
    }
}

#[test]
fn a_debt_has_an_end_and_what_costs_nothing_passes() {
    let mut sent = Sent::start();
    let quota = Quota::per_minute(6);
    for (algorithm, wait) in [
        // Six more than all, and one that is asked for.
        (Algorithm::TokenBucket, 70 * SECOND),
        (Algorithm::FixedWindow, 30 * SECOND),
        (Algorithm::SlidingWindow, 60 * SECOND),
    ] {
        let one = charge(algorithm, quota);
        for units in [5, 1 << 40, u64::MAX] {
            sent.correct(START, one, Change::Take(units));
        }
        assert_eq!(sent.charge(START, one), (wait, 0), "{algorithm:?}");
        let free = Charge { cost: 0, ahead: 9, ..one };
        assert_eq!(sent.charge(START, free), (0, 0), "{algorithm:?}");
        // Under another plan there is no debt: of a day's 8,640, one comes back in ten seconds.
        let day = charge(algorithm, Quota::per_day(6 * 24 * 60).burst(10));
        if algorithm == Algorithm::TokenBucket {
            assert_eq!(sent.charge(START, day), (10 * SECOND, 0));
        }
    }
}

#[test]
fn what_is_used_elsewhere_leaves_no_debt() {
    let mut sent = Sent::start();
    for (algorithm, wait) in
        [(Algorithm::TokenBucket, 10 * SECOND), (Algorithm::FixedWindow, 30 * SECOND)]
    {
        let one = charge(algorithm, Quota::per_minute(6));
        sent.charge(START, one);
        let other = Charge { cost: 900, ..charge(algorithm, DAY) };
        assert_eq!(sent.charge(START, other), (0, 99), "{algorithm:?}");
        assert_eq!(sent.charge(START, one), (wait, 0), "{algorithm:?}");
    }
}

#[test]
fn a_bucket_is_given_back_only_what_has_not_come_back() {
    let mut sent = Sent::start();
    let quota = Quota::per_minute(10);
    let one = charge(Algorithm::TokenBucket, quota);
    // Ten are used and come back by the clock; then ten more are used.
    let later = START + 60 * SECOND;
    for moment in [START, later] {
        assert_eq!(sent.charge(moment, Charge { cost: 10, ..one }), (0, 0));
    }
    for _ in 0..10 {
        sent.give_back(later, START, one);
    }
    assert_eq!(sent.left(later, one), 0);
    // A third of a unit is back after two seconds: two thirds are given back.
    sent.correct(later, one, Change::Reset);
    sent.charge(later, Charge { cost: 10, ..one });
    sent.give_back(later + 2 * SECOND, later, one);
    assert_eq!(sent.charge(later + 2 * SECOND, one).0, 0);
    assert_eq!(sent.charge(later + 2 * SECOND, one).0, 6 * SECOND);
}
