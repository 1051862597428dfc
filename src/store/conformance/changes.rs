//! What changes stays right: plans, clocks, and what a request has cost after all.

use super::{Algorithm::*, *};

pub(super) async fn all(store: &dyn Store) {
    each!(store:
        a_refusal_under_a_new_plan_is_kept_in_mind
        a_longer_window_still_counts_what_the_shorter_one_did
        a_new_window_counts_no_use_that_a_window_of_its_length_has_passed
        plans_in_turn_admit_as_many_as_one
        a_smaller_bucket_is_empty_no_longer_than_it_takes_to_fill
        a_quick_success_costs_nothing_whatever_else_was_used
        what_an_empty_bucket_has_not_counted_does_not_come_back_to_it
        a_clock_that_was_ahead_locks_no_window
    );
    for_each_algorithm!(store:
        a_retry_after_the_wait_passes_after_a_change_of_plan
        failures_pass_the_burst_and_no_more_however_slow_successes_are
        a_debt_is_one_more_capacity_at_most
        a_plan_of_a_shorter_window_wipes_nothing
        to_switch_away_and_back_is_to_stay
        many_plans_in_turn_wash_none_of_them_clean
        larger_plans_in_turn_pass_no_more_than_the_largest
        what_a_small_plan_could_not_hold_counts_under_a_new_one
        what_a_short_plan_has_forgotten_counts_under_a_new_one
        a_use_comes_back_under_each_plan_that_has_counted_it
        what_costs_nothing_passes_under_a_debt_and_before_those_who_wait
    );
}

impl Subject<'_> {
    /// Makes so many `requests` with a `pause` after each. Returns how many pass.
    async fn count_passed(&self, charges: &[Charge], requests: usize, pause: u64) -> u64 {
        let mut passed = 0;
        for charge in charges.iter().cycle().take(requests) {
            passed += u64::from(self.charge_one(*charge).await.0 == 0);
            self.advance(pause);
        }
        passed
    }
}

async fn a_retry_after_the_wait_passes_after_a_change_of_plan(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let (slow, fast) = (Quota::per_day(1_000), Quota::per_second(100));
    let (slower, other) = (Quota::per_day(5), Quota::per_minute(7).burst(3));
    let changes = [(slow, fast), (fast, slow), (slow, slower), (slower, other), (other, slower)];
    for (number, (before, after)) in (1..).zip(changes) {
        let under = |quota| subject.one(number, algorithm, quota);
        let spent = Charge { cost: algorithm.capacity(&before), ..under(before) };
        assert_eq!(subject.charge_one(spent).await.0, 0);
        let (wait, left, _) = subject.charge_one(under(after)).await;
        // Not each change makes the key wait.
        if wait > 0 {
            assert_eq!(left, 0, "{before:?}, then {after:?}");
            subject.advance(wait - 1);
            // Refused requests do not make the wait longer.
            assert_eq!(subject.charge_one(under(after)).await.0, 1, "no earlier");
            subject.advance(1);
            assert_eq!(subject.charge_one(under(after)).await.0, 0, "{before:?}, then {after:?}");
        }
        subject.set_time(START);
    }
}

async fn a_refusal_under_a_new_plan_is_kept_in_mind(subject: &Subject<'_>) {
    let (slow, fast) = (Quota::per_day(10), Quota::per_second(10));
    let spent = Charge { cost: 10, ..subject.one(1, TokenBucket, slow) };
    assert_eq!(subject.charge_one(spent).await.0, 0);
    // Beside a charge that refuses the request, then as a dry run, and then at no cost.
    let beside = subject.one(2, FixedWindow, Quota::per_day(1));
    assert_eq!(subject.charge_one(beside).await.0, 0);
    let charge = subject.one(1, TokenBucket, fast);
    let answered = subject.charge(&[charge, beside]).await;
    assert_eq!(answered[0], (SECOND / 10, 0, SECOND / 10));
    subject.advance(SECOND / 10);
    assert_eq!(subject.peek(charge).await, (0, 1, SECOND / 10));
    for (number, charge) in
        [(3, Charge { mode: Mode::DryRun, ..charge }), (4, Charge { cost: 0, ..charge })]
    {
        let of =
            |charge: Charge| Charge { key: subject.one(number, TokenBucket, slow).key, ..charge };
        assert_eq!(subject.charge_one(of(spent)).await.0, 0);
        assert_eq!(subject.charge_one(of(charge)).await.1, 0);
        subject.advance(SECOND / 2);
        assert_eq!(subject.peek(of(charge)).await.1, 5, "{charge:?}");
    }
    // A peek does not make the new plan count.
    let of = |charge: Charge| Charge { key: subject.one(5, TokenBucket, slow).key, ..charge };
    assert_eq!(subject.charge_one(of(spent)).await.0, 0);
    for _ in 0..3 {
        assert_eq!(subject.peek(of(charge)).await.0.div_ceil(1_000), 100);
        subject.advance(SECOND / 10);
    }
}

async fn a_plan_of_a_shorter_window_wipes_nothing(subject: &Subject<'_>, algorithm: Algorithm) {
    let under = |quota| subject.one(1, algorithm, quota);
    let (minute, second) = (Quota::per_minute(5), Quota::per_second(1));
    assert_eq!(subject.charge_one(Charge { cost: 5, ..under(minute) }).await.1, 0);
    subject.advance(2 * SECOND);
    // The units used in this minute may have been used in this second.
    let wait = subject.charge_one(under(second)).await.0;
    assert!(wait <= SECOND, "waits {wait}");
    subject.advance(wait);
    let again = Charge { cost: u64::from(wait > 0), ..under(second) };
    assert_eq!(subject.charge_one(again).await.0, 0);
    assert_eq!(subject.charge_one(under(minute)).await.1, 0);
    assert!(subject.charge_one(under(minute)).await.0 > 9 * SECOND);
}

async fn a_longer_window_still_counts_what_the_shorter_one_did(subject: &Subject<'_>) {
    // Both uses are of one sixtieth of the longer window.
    for (algorithm, reset) in [(FixedWindow, 10 * SECOND), (SlidingWindow, 60 * MINUTE)] {
        let under = |quota| Charge { cost: 3, ..subject.one(1, algorithm, quota) };
        assert_eq!(subject.charge_one(under(Quota::per_minute(5))).await.1, 2);
        subject.advance(20 * SECOND);
        let longer = under(Quota::per_hour(6));
        assert_eq!(subject.charge_one(longer).await, (0, 0, reset), "{algorithm:?}");
        subject.set_time(START);
    }
}

async fn plans_in_turn_admit_as_many_as_one(subject: &Subject<'_>) {
    // The same quota, written in three ways: 3 units each second, and 10 at once.
    let same = [
        Quota::per_second(3).burst(10),
        Quota::per_minute(180).burst(10),
        Quota::per_hour(10_800).burst(10),
    ];
    let one = [subject.one(1, TokenBucket, same[0])];
    let in_turn = same.map(|quota| subject.one(2, TokenBucket, quota));
    for (requests, pause) in [(200, 0), (200, 111_111), (200, 333_333), (500, 166_667)] {
        let alone = subject.count_passed(&one, requests, pause).await;
        subject.set_time(subject.micros() - pause * requests as u64);
        assert_eq!(subject.count_passed(&in_turn, requests, pause).await, alone, "each {pause} us");
        subject.advance(MINUTE);
    }
}

async fn to_switch_away_and_back_is_to_stay(subject: &Subject<'_>, algorithm: Algorithm) {
    let (stays, away) = (Quota::per_hour(60), [Quota::per_second(2), Quota::per_day(90)]);
    let [one, other] = [1, 2].map(|number| subject.one(number, algorithm, stays));
    for step in 0..30 {
        // The same uses at the same times, but one of the keys uses other plans in between.
        let under = away[step % 2];
        let switched = subject.charge_one(Charge { quota: under, ..one }).await.0 == 0;
        if switched {
            assert_eq!(subject.correct_one(other, None, Change::Take(1)).await.0, 0);
        }
        assert_eq!(subject.peek(one).await, subject.peek(other).await, "{step}");
        assert_eq!(subject.charge_one(one).await, subject.charge_one(other).await, "{step}");
        subject.advance(7 * SECOND);
    }
}

async fn a_smaller_bucket_is_empty_no_longer_than_it_takes_to_fill(subject: &Subject<'_>) {
    let (large, small) = (Quota::per_hour(3_600), Quota::per_minute(6));
    let under = |quota| subject.one(1, TokenBucket, quota);
    assert_eq!(subject.charge_one(Charge { cost: 3_000, ..under(large) }).await.1, 600);
    assert_eq!(subject.charge_one(under(small)).await, (10 * SECOND, 0, 10 * SECOND));
    // The small bucket counts uses under the large one, but never owes them.
    assert_eq!(subject.charge_one(Charge { cost: 600, ..under(large) }).await.1, 0);
    assert_eq!(subject.charge_one(under(small)).await.0, 10 * SECOND);
    subject.advance(10 * SECOND);
    assert_eq!(subject.charge_one(under(small)).await, (0, 0, 10 * SECOND));
    // The large bucket still misses what was more than the small one holds.
    assert_eq!(subject.peek(under(large)).await.1, 9);
}

async fn many_plans_in_turn_wash_none_of_them_clean(subject: &Subject<'_>, algorithm: Algorithm) {
    let long = subject.one(1, algorithm, Quota::per_day(10));
    let short = |units| subject.one(1, algorithm, Quota::per_second(units));
    assert_eq!(subject.count_passed(&[long], 20, 0).await, 10);
    for _ in 0..5 {
        for units in 1..9 {
            subject.advance(SECOND);
            subject.charge_one(short(units)).await;
        }
        assert_eq!(subject.charge_one(long).await.1, 0);
    }
}

async fn larger_plans_in_turn_pass_no_more_than_the_largest(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let plans = [10, 11, 12, 13, 14].map(|units| subject.one(1, algorithm, Quota::per_day(units)));
    // In these 5,000 seconds, less than a unit of the largest plan comes back.
    assert!(subject.count_passed(&plans, 500, 10 * SECOND).await <= 15);
}

async fn what_a_small_plan_could_not_hold_counts_under_a_new_one(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let under = |units| subject.one(1, algorithm, Quota::per_day(units));
    assert_eq!(subject.charge_one(Charge { cost: 1_403, ..under(3_000) }).await.1, 1_597);
    assert!(subject.charge_one(under(1_000)).await.0 > 0);
    assert_eq!(subject.peek(under(4_000)).await.1, 2_597);
    assert_eq!(subject.charge_one(under(4_000)).await.1, 2_596);
}

async fn what_a_short_plan_has_forgotten_counts_under_a_new_one(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let under = |quota| subject.one(1, algorithm, quota);
    let (day, minute, new) = (Quota::per_day(1_000), Quota::per_minute(10), Quota::per_day(2_000));
    assert_eq!(subject.charge_one(Charge { cost: 1_000, ..under(day) }).await.1, 0);
    assert!(subject.charge_one(under(minute)).await.0 > 0);
    subject.advance(2 * MINUTE);
    assert_eq!(subject.charge_one(under(minute)).await.1, 9);
    // At most two units have come back, in a bucket.
    let left = subject.charge_one(under(new)).await.1;
    assert!((998..=1_000).contains(&left), "{left} are left");
}

async fn a_new_window_counts_no_use_that_a_window_of_its_length_has_passed(subject: &Subject<'_>) {
    for algorithm in [FixedWindow, SlidingWindow] {
        let under = |quota| subject.one(1, algorithm, quota);
        let days = under(Quota::per_window(10_000, 30 * 24 * Duration::from_secs(3_600)));
        assert_eq!(subject.charge_one(Charge { cost: 9_000, ..days }).await.1, 1_000);
        assert!(subject.charge_one(under(Quota::per_hour(100))).await.0 > 0);
        subject.advance(61 * MINUTE);
        assert_eq!(subject.charge_one(days).await.1, 999);
        assert_eq!(subject.charge_one(under(Quota::per_hour(200))).await.1, 198, "{algorithm:?}");
        subject.set_time(START);
    }
}

async fn failures_pass_the_burst_and_no_more_however_slow_successes_are(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let charge = subject.one(1, algorithm, Quota::per_minute(10));
    let mut under_way = Vec::new();
    for _ in 0..10 {
        let made = subject.charge_to_give_back(charge).await;
        assert!(made.usage.fits());
        under_way.push(made);
    }
    // They take so long that all has come back by itself.
    subject.advance(MINUTE);
    let mut failures = subject.count_passed(&[charge], 10, 0).await;
    for made in under_way {
        subject.correct(&[made]).await;
    }
    failures += subject.count_passed(&[charge], 10, 0).await;
    assert_eq!(failures, 10);
}

async fn a_quick_success_costs_nothing_whatever_else_was_used(subject: &Subject<'_>) {
    let charge = subject.one(1, TokenBucket, Quota::per_minute(10));
    assert_eq!(subject.count_passed(&[charge], 4, SECOND).await, 4);
    let before = subject.peek(charge).await;
    let made = subject.charge_to_give_back(charge).await;
    subject.advance(SECOND);
    assert_eq!(subject.correct(&[made]).await[0], (0, before.1, before.2 - SECOND));
}

async fn a_use_comes_back_under_each_plan_that_has_counted_it(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let under = |units| subject.one(1, algorithm, Quota::per_hour(units));
    assert_eq!(subject.charge_one(under(100)).await.1, 99);
    assert_eq!(subject.charge_one(Charge { cost: 5, ..under(1_000) }).await.1, 994);
    let of_five = Charge { cost: 5, ..under(1_000) };
    let answered = subject.correct_one(of_five, Some(subject.micros()), Change::GiveBack(5)).await;
    assert_eq!(answered.1, 999);
    // Of buckets, only that of the use's own plan gets it back.
    let left = if algorithm == TokenBucket { 94 } else { 99 };
    assert_eq!(subject.peek(under(100)).await.1, left);
}

async fn what_an_empty_bucket_has_not_counted_does_not_come_back_to_it(subject: &Subject<'_>) {
    let under = |units| subject.one(1, TokenBucket, Quota::per_hour(units));
    assert_eq!(subject.charge_one(Charge { cost: 8, ..under(10) }).await.1, 2);
    // The small bucket has counted two of these units, and cannot tell which.
    let large = Charge { cost: 5, ..under(1_000) };
    assert_eq!(subject.charge_one(large).await.1, 987);
    let answered = subject.correct_one(large, Some(subject.micros()), Change::GiveBack(5)).await;
    assert_eq!(answered.1, 992);
    assert_eq!(subject.peek(under(10)).await.1, 0);
}

async fn what_costs_nothing_passes_under_a_debt_and_before_those_who_wait(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let charge = subject.one(1, algorithm, Quota::per_minute(5));
    subject.correct_one(charge, None, Change::Take(9)).await;
    let free = Charge { cost: 0, ..charge };
    for ahead in [0, 3, u64::MAX] {
        assert_eq!(subject.charge_one(Charge { ahead, ..free }).await.0, 0);
        assert_eq!(subject.peek(Charge { ahead, ..free }).await.0, 0);
    }
}

async fn a_debt_is_one_more_capacity_at_most(subject: &Subject<'_>, algorithm: Algorithm) {
    let most = if algorithm == TokenBucket { 66 * SECOND } else { MINUTE };
    for (number, units) in (1..).zip([20, 1 << 40, u64::MAX]) {
        let charge = subject.one(number, algorithm, Quota::per_minute(10));
        assert_eq!(subject.correct_one(charge, None, Change::Take(units)).await.1, 0);
        subject.correct_one(charge, None, Change::Take(units)).await;
        let (wait, left, _) = subject.charge_one(charge).await;
        assert!(wait <= most && left == 0, "waits {wait}");
        subject.advance(wait);
        assert_eq!(subject.charge_one(charge).await.0, 0);
        subject.set_time(START);
    }
}

async fn a_clock_that_was_ahead_locks_no_window(subject: &Subject<'_>) {
    let charge = subject.one(1, FixedWindow, Quota::per_minute(1));
    for (ahead, end) in [(3_600 * SECOND, 30 * SECOND), (33 * SECOND, 30 * SECOND)] {
        subject.set_time(START + ahead);
        assert_eq!(subject.charge_one(charge).await.0, 0);
        // The wait that a refusal answers is true.
        subject.set_time(START);
        assert_eq!(subject.charge_one(charge).await, (end, 0, end));
        subject.advance(end);
        assert_eq!(subject.charge_one(charge).await.0, 0);
        subject.correct_one(charge, None, Change::Reset).await;
    }
}
