//! Corrections of charges, with the answers spelled out.

use super::{Algorithm::*, *};

pub(super) async fn all(store: &dyn Store) {
    each!(store:
        units_may_be_given_back_to_when_they_were_used
        units_given_back_of_a_moment_that_has_none_left_are_the_next_ones
        all_given_back_is_as_new
        units_are_taken_whether_they_fit_or_not
    );
    for_each_algorithm!(store:
        what_is_given_back_can_be_used_again
        what_has_come_back_by_itself_is_not_given_back
        corrections_of_one_key_add_up
        a_reset_key_is_as_new
    );
}

async fn what_is_given_back_can_be_used_again(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = Charge { cost: 5, ..subject.one(1, algorithm, Quota::per_minute(5)) };
    assert_eq!(subject.charge_one(charge).await.1, 0);
    subject.advance(1);
    let charged_at = Some(subject.micros() - 1);
    assert_eq!(subject.correct_one(charge, charged_at, Change::GiveBack(2)).await.1, 2);
    assert_eq!(subject.correct_one(charge, None, Change::GiveBack(1)).await.1, 3, "just now");
    assert_eq!(subject.charge_one(Charge { cost: 3, ..charge }).await.0, 0);
    assert_eq!(subject.correct_one(charge, None, Change::GiveBack(99)).await.1, 5);
    let unknown = subject.one(2, algorithm, charge.quota);
    assert_eq!(subject.correct_one(unknown, None, Change::GiveBack(1)).await.1, 5);
}

async fn what_has_come_back_by_itself_is_not_given_back(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let charge = Charge { cost: 2, ..subject.one(1, algorithm, Quota::per_minute(2)) };
    let charged_at = Some(subject.micros());
    assert_eq!(subject.charge_one(charge).await.0, 0);
    subject.advance(MINUTE);
    assert_eq!(subject.charge_one(charge).await.0, 0, "they are back");
    let left = subject.correct_one(charge, charged_at, Change::GiveBack(2)).await.1;
    assert_eq!(left, 0);
}

async fn units_may_be_given_back_to_when_they_were_used(subject: &Subject<'_>) {
    let charge = subject.one(1, SlidingWindow, Quota::per_minute(3));
    let first = subject.micros();
    assert_eq!(subject.charge_one(charge).await, (0, 2, MINUTE));
    subject.advance(20 * SECOND);
    assert_eq!(subject.charge_one(charge).await, (0, 1, 40 * SECOND));
    subject.advance(20 * SECOND);
    assert_eq!(subject.charge_one(charge).await, (0, 0, 20 * SECOND));
    // The first use is given back: the second is the next to leave.
    let answered = subject.correct_one(charge, Some(first), Change::GiveBack(1)).await;
    assert_eq!(answered, (0, 1, 40 * SECOND));
    // The last use had one unit: the other one is taken from the use before.
    assert_eq!(subject.correct_one(charge, None, Change::GiveBack(2)).await, (0, 3, 0));
}

async fn units_given_back_of_a_moment_that_has_none_left_are_the_next_ones(subject: &Subject<'_>) {
    // In few steps, and in more steps than an entry of the memory store has room for.
    for units in [3, 9] {
        let charge = subject.one(units, SlidingWindow, Quota::per_minute(units));
        let first = subject.micros();
        for used in 1..=units {
            assert_eq!(subject.charge_one(charge).await.1, units - used);
            subject.advance(5 * SECOND);
        }
        for given in 1..=units {
            let answered = subject.correct_one(charge, Some(first), Change::GiveBack(1)).await;
            let reset = if given < units { MINUTE - (units - given) * 5 * SECOND } else { 0 };
            assert_eq!(answered, (0, given, reset), "{given} of {units}");
        }
    }
}

async fn all_given_back_is_as_new(subject: &Subject<'_>) {
    let quota = Quota::per_minute(3);
    let (charge, fresh) =
        (subject.one(1, SlidingWindow, quota), subject.one(2, SlidingWindow, quota));
    assert_eq!(subject.charge_one(charge).await.0, 0);
    assert_eq!(subject.correct_one(charge, None, Change::GiveBack(1)).await, (0, 3, 0));
    for passed in [600_000, 600_000, MINUTE - 900_000] {
        subject.advance(passed);
        assert_eq!(subject.charge_one(charge).await, subject.charge_one(fresh).await);
    }
}

async fn units_are_taken_whether_they_fit_or_not(subject: &Subject<'_>) {
    let taken = [
        // Two units are owed and one is needed: three units of 6 seconds each.
        (TokenBucket, (18 * SECOND, 0, 18 * SECOND)),
        (FixedWindow, (30 * SECOND, 0, 30 * SECOND)),
        (SlidingWindow, (MINUTE, 0, MINUTE)),
    ];
    for (algorithm, expected) in taken {
        let charge = subject.one(1, algorithm, Quota::per_minute(10));
        assert_eq!(subject.correct_one(charge, None, Change::Take(7)).await.1, 3, "{algorithm:?}");
        assert_eq!(subject.correct_one(charge, None, Change::Take(0)).await.1, 3, "{algorithm:?}");
        let (wait, left, _) = subject.correct_one(charge, None, Change::Take(5)).await;
        assert_eq!((wait, left), (0, 0), "{algorithm:?}");
        assert_eq!(subject.charge_one(charge).await, expected, "{algorithm:?}");
    }
}

async fn corrections_of_one_key_add_up(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = subject.one(1, algorithm, Quota::per_minute(10));
    let correction = |change| Correction::new(charge, change);
    let changes = [Change::Take(4), Change::Take(3), Change::GiveBack(1), Change::Take(0)];
    let answered = subject.correct(&changes.map(correction)).await;
    let left: Vec<u64> = answered.iter().map(|(_, left, _)| *left).collect();
    assert_eq!(left, [6, 3, 4, 4]);
    let answered = subject.correct(&[Change::Reset, Change::Take(2)].map(correction)).await;
    assert_eq!([answered[0].1, answered[1].1], [10, 8]);
    assert_eq!(subject.peek(charge).await.1, 8);
}

async fn a_reset_key_is_as_new(subject: &Subject<'_>, algorithm: Algorithm) {
    let charge = Charge { cost: 5, ..subject.one(1, algorithm, Quota::per_minute(5)) };
    let fresh = subject.peek(charge).await;
    assert_eq!(subject.correct_one(charge, None, Change::Reset).await, fresh);
    assert_eq!(subject.charge_one(charge).await.0, 0);
    let other = subject.one(2, algorithm, charge.quota);
    assert_eq!(subject.charge_one(other).await.1, 4);
    assert_eq!(subject.correct_one(charge, None, Change::Reset).await, fresh);
    assert_eq!(subject.peek(charge).await, fresh);
    assert_eq!(subject.peek(other).await.1, 4, "another key is not reset");
}
