//! Each promise of a store, with the answers spelled out.

use super::{Algorithm::*, *};

pub(super) async fn all(store: &dyn Store) {
    each!(store:
        a_bucket_refills_evenly
        a_fixed_window_ends_on_the_minute
        a_sliding_window_passes_over_each_use
        uses_of_one_sixtieth_of_a_window_leave_together
        uses_in_a_window_of_microseconds_are_distinct
        times_of_centuries_are_exact
        what_costs_nothing_uses_nothing
        what_costs_more_than_the_quota_never_fits
        a_request_is_charged_for_all_its_keys_and_policies_or_none
        a_bucket_of_another_rate_has_the_same_fraction_of_a_unit
        a_clock_set_back_neither_grants_a_window_twice_nor_blocks_for_hours
    );
    for_each_algorithm!(store:
        units_ahead_have_to_fit_as_well
        a_dry_run_is_charged_with_its_request_and_refuses_none
        a_peek_changes_nothing
        of_charges_that_stand_for_each_other_the_first_that_fits_is_made
        no_charge_that_stands_for_another_is_made_without_the_rest_of_its_request
        a_dry_run_may_stand_for_another
        what_was_used_stays_used_under_another_plan
        a_retry_in_time_passes_and_no_earlier_one
        huge_numbers_are_no_error
    );
}

async fn a_bucket_refills_evenly(subject: &Subject<'_>) {
    let quota = Quota::per_second(3);
    assert_eq!(subject.charge_cost(TokenBucket, quota, 2).await, (0, 1, 333_334));
    assert_eq!(subject.charge_cost(TokenBucket, quota, 2).await, (333_334, 1, 333_334));
    subject.advance(333_333);
    assert_eq!(subject.charge_cost(TokenBucket, quota, 2).await, (1, 1, 1));
    subject.advance(1);
    assert_eq!(subject.charge_cost(TokenBucket, quota, 2).await, (0, 0, 333_333));
    // A third of a second is not a whole number of microseconds, but nothing is lost: 5 units are
    // back after five thirds.
    subject.advance(1_333_332);
    assert_eq!(subject.charge_cost(TokenBucket, quota, 0).await, (0, 3, 0));
    let burst = Quota::per_minute(60).burst(10);
    let all = Charge { cost: 10, ..subject.one(2, TokenBucket, burst) };
    assert_eq!(subject.charge_one(all).await, (0, 0, SECOND));
}

async fn a_fixed_window_ends_on_the_minute(subject: &Subject<'_>) {
    let quota = Quota::per_minute(10);
    assert_eq!(subject.charge_cost(FixedWindow, quota, 7).await, (0, 3, 30 * SECOND));
    assert_eq!(subject.charge_cost(FixedWindow, quota, 4).await, (30 * SECOND, 3, 30 * SECOND));
    subject.advance(30 * SECOND - 1);
    assert_eq!(subject.charge_cost(FixedWindow, quota, 4).await, (1, 3, 1));
    subject.advance(1);
    assert_eq!(subject.charge_cost(FixedWindow, quota, 4).await, (0, 6, MINUTE));
    assert_eq!(subject.charge_cost(FixedWindow, quota, 17).await, (2 * MINUTE, 6, MINUTE));
}

async fn a_sliding_window_passes_over_each_use(subject: &Subject<'_>) {
    let quota = Quota::per_minute(3);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 1).await, (0, 2, MINUTE));
    subject.advance(10 * SECOND);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 2).await, (0, 0, 50 * SECOND));
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 1).await, (50 * SECOND, 0, 50 * SECOND));
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 2).await, (MINUTE, 0, 50 * SECOND));
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 5).await, (2 * MINUTE, 0, 50 * SECOND));
    subject.advance(50 * SECOND - 1);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 1).await, (1, 0, 1));
    subject.advance(1);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 1).await, (0, 0, 10 * SECOND));
    subject.advance(MINUTE);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 0).await, (0, 3, 0));
}

async fn uses_of_one_sixtieth_of_a_window_leave_together(subject: &Subject<'_>) {
    let quota = Quota::per_minute(10);
    for passed in [SECOND - 1, 0, 1, SECOND] {
        assert_eq!(subject.charge_cost(SlidingWindow, quota, 1).await.0, 0);
        subject.advance(passed);
    }
    // At 0, 0.999999, 0.999999 and 1: the first three share an entry.
    subject.advance(MINUTE - SECOND - 2);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 0).await, (0, 6, 1));
    subject.advance(1);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 0).await, (0, 9, 1));
    subject.advance(1);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 0).await, (0, 10, 0));
}

async fn uses_in_a_window_of_microseconds_are_distinct(subject: &Subject<'_>) {
    let quota = Quota::per_window(4, Duration::from_micros(9));
    // By then, more than 2^54 sixtieths of such a window have passed.
    subject.set_time(3_152_529_081_571_881);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 1).await, (0, 3, 9));
    subject.advance(1);
    assert_eq!(subject.charge_cost(SlidingWindow, quota, 1).await, (0, 2, 8));
}

async fn a_retry_in_time_passes_and_no_earlier_one(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.one(1, algorithm, Quota::per_minute(7));
    assert_eq!(subject.charge_one(Charge { cost: 7, ..charge }).await.0, 0);
    let (wait, remaining, reset) = subject.charge_one(charge).await;
    assert!(wait > 1, "waits {wait}");
    assert_eq!((remaining, reset), (0, wait));
    subject.advance(wait - 1);
    assert_eq!(subject.charge_one(charge).await, (1, 0, 1));
    subject.advance(1);
    assert_eq!(subject.charge_one(charge).await.0, 0);
}

async fn times_of_centuries_are_exact(subject: &Subject<'_>) {
    // The first window began in 1970. Three of them are more microseconds than a double can count.
    let quota = Quota::per_window(1, Duration::from_micros(3_016_523_538_046_877));
    let (second, fourth) = (1_311_120_768_046_877, 7_344_167_844_140_631);
    assert_eq!(subject.charge_cost(FixedWindow, quota, 1).await, (0, 0, second));
    assert_eq!(subject.charge_cost(FixedWindow, quota, 3).await, (fourth, 0, second));
    let both = Charge { cost: 2, ..subject.one(2, TokenBucket, quota.burst(2)) };
    assert_eq!(subject.charge_one(both).await, (0, 0, 3_016_523_538_046_877));
    subject.advance(1);
    let answered = (6_033_047_076_093_753, 0, 3_016_523_538_046_876);
    assert_eq!(subject.charge_one(both).await, answered);
}

async fn what_costs_nothing_uses_nothing(subject: &Subject<'_>) {
    for (algorithm, reset) in [(TokenBucket, 0), (FixedWindow, 30 * SECOND), (SlidingWindow, 0)] {
        let charge = Charge { cost: 0, ..subject.one(1, algorithm, Quota::per_minute(1)) };
        assert_eq!(subject.charge_one(charge).await, (0, 1, reset), "{algorithm:?}");
        assert_eq!(subject.charge_one(Charge { cost: 1, ..charge }).await.0, 0, "{algorithm:?}");
        let (wait, remaining, _) = subject.charge_one(charge).await;
        assert_eq!((wait, remaining), (0, 0), "{algorithm:?} passes when all is used, too");
    }
}

async fn what_costs_more_than_the_quota_never_fits(subject: &Subject<'_>) {
    // It waits as long as the last of eleven single units.
    let waits = [6 * SECOND, 30 * SECOND, MINUTE];
    for (algorithm, expected) in ALGORITHMS.into_iter().zip(waits) {
        let charge = Charge { cost: 11, ..subject.one(1, algorithm, Quota::per_minute(10)) };
        let (wait, remaining, _) = subject.charge_one(charge).await;
        assert_eq!((wait, remaining), (expected, 10), "{algorithm:?}");
        subject.advance(wait);
        assert!(subject.charge_one(charge).await.0 > 0, "{algorithm:?}");
        subject.set_time(START);
    }
}

async fn units_ahead_have_to_fit_as_well(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.one(1, algorithm, Quota::per_minute(5));
    let (wait, remaining, _) = subject.charge_one(Charge { ahead: 4, cost: 2, ..charge }).await;
    assert_eq!((wait > 0, remaining), (true, 5));
    let (wait, remaining, _) = subject.charge_one(Charge { ahead: 4, cost: 1, ..charge }).await;
    assert_eq!((wait, remaining), (0, 4), "charges its cost only");
}

async fn a_dry_run_is_charged_with_its_request_and_refuses_none(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let enforced = subject.one(1, algorithm, Quota::per_minute(2));
    let dry = Charge { mode: Mode::DryRun, ..subject.one(2, algorithm, Quota::per_minute(1)) };
    let charges = [dry, enforced];
    let left = |answered: Vec<Snapshot>| {
        [answered[0], answered[1]].map(|(wait, left, _)| (wait == 0, left))
    };
    assert_eq!(left(subject.charge(&charges).await), [(true, 0), (true, 1)]);
    assert_eq!(left(subject.charge(&charges).await), [(false, 0), (true, 0)]);
    // Now the enforced charge refuses: a dry run that would fit is not made.
    let fresh = Charge { mode: Mode::DryRun, ..subject.one(3, algorithm, dry.quota) };
    let answered = left(subject.charge(&[fresh, enforced]).await);
    assert_eq!(answered, [(true, 1), (false, 0)]);
}

async fn a_peek_changes_nothing(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.one(1, algorithm, Quota::per_minute(1));
    let before = subject.peek(charge).await;
    assert_eq!((before.0, before.1), (0, 1));
    assert_eq!(subject.peek(charge).await, before);
    assert_eq!(subject.charge_one(charge).await.0, 0);
    // It does not refuse a request either.
    let peek = Charge { mode: Mode::Peek, ..charge };
    let other = subject.one(2, algorithm, charge.quota);
    let answered = subject.charge(&[peek, other]).await;
    assert!(answered[0].0 > 0 && answered[1] == (0, 0, answered[1].2), "{answered:?}");
    assert_eq!(subject.charge_one(other).await.1, 0, "it was made");
}

async fn a_request_is_charged_for_all_its_keys_and_policies_or_none(subject: &Subject<'_>) {
    let one = |number, algorithm, units| subject.one(number, algorithm, Quota::per_minute(units));
    let spent = one(1, SlidingWindow, 1);
    assert_eq!(subject.charge_one(spent).await.0, 0);
    let charges = [one(1, TokenBucket, 5), one(1, FixedWindow, 5), one(2, FixedWindow, 5)];
    let left =
        |answered: Vec<Snapshot>| answered.into_iter().map(|(_, left, _)| left).collect::<Vec<_>>();
    for index in 0..=charges.len() {
        let mut request = charges.to_vec();
        request.insert(index, spent);
        let mut expected = vec![5; 3];
        expected.insert(index, 0);
        assert_eq!(left(subject.charge(&request).await), expected, "spent at {index}");
    }
    assert_eq!(left(subject.charge(&charges).await), [4; 3]);
}

async fn what_was_used_stays_used_under_another_plan(subject: &Subject<'_>, algorithm: Algorithm) {
    let under = |units| subject.one(1, algorithm, Quota::per_minute(units));
    assert_eq!(subject.charge_one(Charge { cost: 50, ..under(100) }).await.1, 50);
    assert_eq!(subject.peek(under(1_000)).await.1, 950, "raised");
    assert_eq!(subject.peek(under(60)).await.1, 10, "lowered");
    let (wait, left, reset) = subject.peek(under(20)).await;
    assert_eq!(left, 0, "far lowered");
    assert!((1..=MINUTE).contains(&wait), "waits {wait}");
    assert_eq!(wait, reset);
    assert_eq!(subject.peek(under(100)).await.1, 50, "to ask changes nothing");
    assert_eq!(subject.charge_one(Charge { cost: 900, ..under(1_000) }).await.1, 50);
}

async fn a_bucket_of_another_rate_has_the_same_fraction_of_a_unit(subject: &Subject<'_>) {
    let (slow, fast) = (Quota::per_minute(60), Quota::per_minute(600).burst(60));
    assert_eq!(subject.charge_cost(TokenBucket, slow, 2).await, (0, 58, SECOND));
    subject.advance(SECOND / 2);
    // One and a half are missing.
    assert_eq!(subject.charge_cost(TokenBucket, fast, 1).await, (0, 57, SECOND / 20));
    let burst = Quota::per_minute(600).burst(2);
    assert_eq!(subject.charge_cost(TokenBucket, burst, 1).await, (SECOND / 10, 0, SECOND / 10));
}

async fn a_clock_set_back_neither_grants_a_window_twice_nor_blocks_for_hours(
    subject: &Subject<'_>,
) {
    let quota = Quota::per_minute(10);
    subject.advance(30 * SECOND);
    assert_eq!(subject.charge_cost(FixedWindow, quota, 10).await, (0, 0, MINUTE));
    // A second back, over the edge of the window: it is still the later one.
    subject.set_time(subject.micros() - SECOND);
    assert_eq!(subject.charge_cost(FixedWindow, quota, 1).await, (61 * SECOND, 0, 61 * SECOND));
    // Twelve hours back: what was used stays used, until the end of the minute it is now.
    subject.set_time(START - 43_200 * SECOND);
    assert_eq!(subject.charge_cost(FixedWindow, quota, 1).await, (30 * SECOND, 0, 30 * SECOND));
    // And no longer.
    subject.advance(30 * SECOND);
    assert_eq!(subject.charge_cost(FixedWindow, quota, 1).await, (0, 9, MINUTE));
}

async fn huge_numbers_are_no_error(subject: &Subject<'_>, algorithm: Algorithm) {
    let quotas = [
        Quota::per_second(1),
        Quota::per_window(crate::quota::MAX_UNITS, Duration::from_nanos(1)),
        Quota::per_window(1, Duration::from_secs(100 * 365 * 86_400)).burst(3),
        Quota::unlimited(),
    ];
    for (number, quota) in (1..).zip(quotas) {
        let charge = subject.one(number, algorithm, quota);
        let huge = Charge { cost: u64::MAX, ahead: u64::MAX, ..charge };
        let (wait, ..) = subject.charge_one(huge).await;
        assert!(wait > 0 || quota.is_unlimited(), "{huge:?} does not fit");
        for units in [u64::MAX, 1 << 56] {
            let left = subject.correct_one(charge, None, Change::Take(units)).await.1;
            assert!(left == 0 || quota.is_unlimited(), "{left} of {quota:?}");
            subject.charge_one(huge).await;
            let (all, give_back) =
                (Charge { cost: u64::MAX, ..charge }, Change::GiveBack(u64::MAX));
            subject.correct_one(all, Some(1 << 60), give_back).await;
            subject.correct_one(all, Some(0), give_back).await;
            let left = subject.correct_one(all, None, Change::GiveBack(units)).await.1;
            assert!(left >= algorithm.capacity(&quota) || quota.is_unlimited(), "{charge:?}");
            // No sum wraps around.
            for _ in 0..16 {
                subject.correct_one(charge, None, Change::Take(units)).await;
            }
            let left = subject.peek(charge).await.1;
            assert!(left == 0 || quota.is_unlimited(), "{left} of {quota:?}");
            subject.correct_one(charge, None, Change::Reset).await;
        }
    }
}

/// Three quotas of which each stands for the one before: of 2, 3 and 1 units.
fn waterfall(subject: &Subject<'_>, algorithm: Algorithm, cost: u64) -> [Charge; 3] {
    let mut quotas = [(1, 2), (2, 3), (3, 1)].map(|(key, units)| Charge {
        cost,
        or_else: true,
        ..subject.one(key, algorithm, Quota::per_minute(units))
    });
    quotas[2].or_else = false;
    quotas
}

/// What each quota has left after a request, and whether it could have paid for it.
fn left<const N: usize>(answered: &[Snapshot]) -> [(bool, u64); N] {
    let left: Vec<_> = answered.iter().map(|(wait, left, _)| (*wait == 0, *left)).collect();
    left.try_into().unwrap()
}

async fn of_charges_that_stand_for_each_other_the_first_that_fits_is_made(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let one = waterfall(subject, algorithm, 1);
    for expected in [
        [(true, 1), (true, 3), (true, 1)],
        [(true, 0), (true, 3), (true, 1)],
        [(false, 0), (true, 2), (true, 1)],
        [(false, 0), (true, 1), (true, 1)],
    ] {
        assert_eq!(left(&subject.charge(&one).await), expected, "{algorithm:?}");
    }
    // No request is split: neither the second nor the third has two units.
    let two = subject.charge(&waterfall(subject, algorithm, 2)).await;
    assert_eq!(left(&two), [(false, 0), (false, 1), (false, 1)], "{algorithm:?}");
    for expected in [
        [(false, 0), (true, 0), (true, 1)],
        [(false, 0), (false, 0), (true, 0)],
        [(false, 0), (false, 0), (false, 0)],
    ] {
        assert_eq!(left(&subject.charge(&one).await), expected, "{algorithm:?}");
    }
    // A retry passes as soon as any of them has room, and not earlier.
    let refused = subject.charge(&one).await;
    let first = refused.iter().map(|(wait, ..)| *wait).min().unwrap();
    subject.advance(first - 1);
    assert!(subject.charge(&one).await.iter().all(|(wait, ..)| *wait > 0), "{algorithm:?}");
    subject.advance(1);
    assert!(subject.charge(&one).await.iter().any(|(wait, ..)| *wait == 0), "{algorithm:?}");
    // Each costs its own.
    subject.advance(5 * MINUTE);
    let mut costs = waterfall(subject, algorithm, 3);
    (costs[1].cost, costs[2].cost) = (2, 1);
    let paid = subject.charge(&costs).await;
    assert_eq!(left(&paid), [(false, 2), (true, 1), (true, 1)], "{algorithm:?}");
    // Nothing is paid for a request that costs nothing by the first.
    costs[0].cost = 0;
    let paid = subject.charge(&costs).await;
    assert_eq!(left(&paid), [(true, 2), (false, 1), (true, 1)], "{algorithm:?}");
}

async fn no_charge_that_stands_for_another_is_made_without_the_rest_of_its_request(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let [first, second, third] = waterfall(subject, algorithm, 1);
    let all = |cost| Charge { cost, ..subject.one(4, algorithm, Quota::per_minute(9)) };
    let refused = [(true, 2), (true, 3), (true, 1), (false, 9)];
    assert_eq!(left(&subject.charge(&[first, second, third, all(10)]).await), refused);
    let answered = subject.charge(&[all(10), first, second, third]).await;
    assert_eq!(left(&answered), [(false, 9), (true, 2), (true, 3), (true, 1)], "{algorithm:?}");
    let answered = subject.charge(&[all(4), first, second, third]).await;
    assert_eq!(left(&answered), [(true, 5), (true, 1), (true, 3), (true, 1)], "{algorithm:?}");
    // Of the last that stands for another, the next charge is none.
    let end = Charge { or_else: false, ..second };
    let answered = subject.charge(&[first, end, all(4)]).await;
    assert_eq!(left(&answered), [(true, 0), (true, 3), (true, 1)], "{algorithm:?}");
    let spent = [first, Charge { cost: 4, ..end }, all(1)];
    let answered = subject.charge(&spent).await;
    assert_eq!(left(&answered), [(false, 0), (false, 3), (true, 1)], "{algorithm:?}");
    // Without a charge behind it, it stands alone.
    assert_eq!(left(&subject.charge(&[all(1), first]).await), [(true, 1), (false, 0)]);
    assert_eq!(left(&subject.charge(&[all(1), second]).await), [(true, 0), (true, 2)]);
}

async fn a_dry_run_may_stand_for_another(subject: &Subject<'_>, algorithm: Algorithm) {
    let quotas = waterfall(subject, algorithm, 1);
    let [first, second, third] = quotas.map(|charge| Charge { mode: Mode::DryRun, ..charge });
    let all = |cost| Charge { cost, ..subject.one(4, algorithm, Quota::per_minute(9)) };
    subject.charge(&[all(0), Charge { cost: 2, ..first }, second, third]).await;
    let answered = subject.charge(&[all(1), first, second, third]).await;
    assert_eq!(left(&answered), [(true, 8), (false, 0), (true, 2), (true, 1)], "{algorithm:?}");
    let none = [first, second, third].map(|charge| Charge { cost: 4, ..charge });
    let answered = subject.charge(&[all(1), none[0], none[1], none[2]]).await;
    assert_eq!(left(&answered), [(true, 7), (false, 0), (false, 2), (false, 1)], "{algorithm:?}");
    let peek = [first, second, third].map(|charge| Charge { mode: Mode::Peek, ..charge });
    assert_eq!(left(&subject.charge(&peek).await), [(false, 0), (true, 2), (true, 1)]);
}
