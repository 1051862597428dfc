//! Corrections of charges, with the answers spelled out.

use super::{Algorithm::*, *};

pub(super) async fn all(store: &dyn Store) {
    each!(store:
        units_may_be_given_back_to_when_they_were_used
        units_given_back_of_a_moment_that_has_none_left_are_the_next_ones
        all_given_back_is_as_new
        units_are_taken_whether_they_fit_or_not
        units_are_taken_when_their_charge_was_made
        units_taken_late_share_the_step_of_their_charge
        units_taken_late_bring_no_use_back
        units_taken_late_count_under_each_quota_by_its_own_window
        units_that_were_given_back_do_not_come_back_by_the_clock_as_well
        a_full_bucket_knows_what_it_was_given_back
        what_an_empty_bucket_may_not_have_recorded_is_not_freed
        many_corrections_of_one_bucket_give_back_no_more_than_they_may
    );
    for_each_algorithm!(store:
        what_is_given_back_can_be_used_again
        what_has_come_back_by_itself_is_not_given_back
        corrections_of_one_key_add_up
        a_reset_key_is_as_new
        what_was_charged_before_a_reset_is_not_given_back
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

async fn units_are_taken_when_their_charge_was_made(subject: &Subject<'_>) {
    // To the edge of a minute.
    subject.advance(MINUTE / 2);
    for (index, algorithm) in [FixedWindow, SlidingWindow].into_iter().enumerate() {
        let charge = subject.one(index as u64 + 1, algorithm, Quota::per_minute(10));
        let made = subject.micros();
        assert_eq!(subject.charge_one(charge).await, (0, 9, MINUTE), "{algorithm:?}");
        subject.advance(MINUTE / 2);
        assert_eq!(subject.charge_one(Charge { cost: 2, ..charge }).await.1, 7, "{algorithm:?}");
        // With the earlier use, not with the later one.
        let taken = subject.correct_one(charge, Some(made), Change::Take(12)).await;
        assert_eq!(taken, (0, 0, MINUTE / 2), "{algorithm:?}");
        assert_eq!(subject.charge_one(charge).await, (MINUTE / 2, 0, MINUTE / 2));
        subject.advance(MINUTE / 2);
        let left = if algorithm == FixedWindow { 10 } else { 8 };
        assert_eq!(subject.peek(charge).await.1, left, "{algorithm:?}");
        // A window that is over is charged nothing.
        let late = subject.correct_one(charge, Some(made), Change::Take(12)).await;
        assert_eq!(late.1, left, "{algorithm:?}");
        assert_eq!(subject.charge_one(charge).await.1, left - 1, "{algorithm:?}");
        subject.advance(MINUTE / 2);
    }
    // A bucket owes them from now on.
    let charge = subject.one(3, TokenBucket, Quota::per_minute(10));
    let made = subject.micros();
    assert_eq!(subject.charge_one(charge).await.1, 9);
    subject.advance(10 * MINUTE);
    assert_eq!(subject.correct_one(charge, Some(made), Change::Take(12)).await.1, 0);
    assert_eq!(subject.charge_one(charge).await.0, 18 * SECOND);
}

async fn units_taken_late_share_the_step_of_their_charge(subject: &Subject<'_>) {
    let charge = subject.one(1, SlidingWindow, Quota::per_minute(100));
    // Each time in milliseconds, and its units: in the steps of uses that are there, before and behind
    // them, and between them. A step is a second.
    let times: [(u64, u64); 9] = [
        (0, 1),
        (900, 1),
        (5_500, 2),
        (9_200, 4),
        (9_800, 8),
        (500, 16),
        (5_100, 32),
        (5_900, 5),
        (7_000, 6),
    ];
    let begin = subject.micros();
    let mut used = 0;
    for (index, (at, units)) in times.into_iter().enumerate() {
        let at = begin + at * 1_000;
        if index < 5 {
            subject.advance(at - subject.micros());
            subject.charge_one(Charge { cost: units, ..charge }).await;
        } else {
            subject.correct_one(charge, Some(at), Change::Take(units)).await;
        }
        used += units;
        assert_eq!(subject.peek(charge).await.1, 100 - used);
    }
    // What is used, and until when.
    for (leaves, left) in [(900, 18), (5_900, 39), (7_000, 6), (9_800, 12)] {
        assert_eq!(
            subject.peek(charge).await.2,
            begin + MINUTE + leaves * 1_000 - subject.micros()
        );
        subject.advance(begin + MINUTE + leaves * 1_000 - subject.micros());
        used -= left;
        assert_eq!(subject.peek(charge).await.1, 100 - used, "after {leaves} ms");
    }
}

async fn units_taken_late_bring_no_use_back(subject: &Subject<'_>) {
    // In few steps, and in more steps than an entry of the memory store has room for.
    for uses in [2, 9] {
        let charge = subject.one(uses, SlidingWindow, Quota::per_minute(20));
        let first = subject.micros();
        for _ in 0..uses {
            subject.charge_one(charge).await;
            subject.advance(5 * SECOND);
        }
        subject.advance(first + MINUTE - subject.micros());
        assert_eq!(subject.peek(charge).await.1, 21 - uses, "the first use has left");
        // In the step of the first use, and still in the window.
        let made = first + SECOND / 2;
        let taken = subject.correct_one(charge, Some(made), Change::Take(3)).await;
        assert_eq!(taken, (0, 18 - uses, SECOND / 2), "{uses} uses");
        subject.advance(MINUTE);
    }
}

async fn units_taken_late_count_under_each_quota_by_its_own_window(subject: &Subject<'_>) {
    // To the edge of an hour.
    subject.advance(MINUTE / 2);
    for (index, algorithm) in [FixedWindow, SlidingWindow].into_iter().enumerate() {
        let minute = subject.one(index as u64 + 1, algorithm, Quota::per_minute(10));
        let hour = Charge { quota: Quota::per_hour(100), ..minute };
        let made = subject.micros();
        assert_eq!(subject.charge_one(minute).await.1, 9, "{algorithm:?}");
        assert_eq!(subject.charge_one(hour).await.1, 98, "{algorithm:?}");
        subject.advance(MINUTE);
        let taken = subject.correct_one(minute, Some(made), Change::Take(5)).await.1;
        assert_eq!((taken, subject.peek(hour).await.1), (10, 93), "{algorithm:?}");
        let taken = subject.correct_one(hour, Some(made), Change::Take(5)).await.1;
        assert_eq!((taken, subject.peek(minute).await.1), (88, 10), "{algorithm:?}");
        subject.advance(119 * MINUTE);
    }
}

/// Charges key 1 two units of four an hour, twice, and gives those of the first charge back. Returns the
/// correction that gives those of the second charge back.
async fn charge_two_and_give_one_back(subject: &Subject<'_>) -> Correction {
    let two = Charge { cost: 2, ..subject.one(1, TokenBucket, Quota::per_hour(4)) };
    let [first, second] =
        [subject.charge_to_give_back(two).await, subject.charge_to_give_back(two).await]
            .map(|made| Correction { change: Change::GiveBack(2), ..made });
    assert_eq!(subject.correct(&[first]).await, [(0, 2, HOUR / 4)]);
    second
}

async fn units_that_were_given_back_do_not_come_back_by_the_clock_as_well(subject: &Subject<'_>) {
    let second = charge_two_and_give_one_back(subject).await;
    // All that was not given back comes back by the clock.
    subject.advance(HOUR / 2);
    assert_eq!(subject.charge_one(second.charge).await.1, 2);
    assert_eq!(subject.correct(&[second]).await, [(0, 2, HOUR / 4)]);
    // Under another quota as well.
    let day = Charge { quota: Quota::per_day(4), ..second.charge };
    assert_eq!(subject.charge_one(day).await.1, 0);
    assert_eq!(subject.correct(&[second]).await, [(0, 0, HOUR / 4)]);
}

async fn a_full_bucket_knows_what_it_was_given_back(subject: &Subject<'_>) {
    let second = charge_two_and_give_one_back(subject).await;
    subject.advance(HOUR / 2);
    let charge = second.charge;
    assert_eq!(subject.correct_one(charge, None, Change::Reset).await, (0, 4, 0));
    assert_eq!(subject.charge_one(charge).await.1, 2);
    assert_eq!(subject.correct(&[second]).await, [(0, 2, HOUR / 4)]);
}

async fn what_an_empty_bucket_may_not_have_recorded_is_not_freed(subject: &Subject<'_>) {
    let under = |number, quota| Charge { cost: 5, ..subject.one(number, TokenBucket, quota) };
    let give_back = |made| Correction { change: Change::GiveBack(5), ..made };
    // Of its own quota: it has recorded none of the 50 units.
    let (small, large) = (under(1, Quota::per_day(5)), under(1, Quota::per_day(100)));
    let made = subject.charge_to_give_back(small).await;
    assert_eq!(subject.charge_one(Charge { cost: 50, ..large }).await.1, 45);
    assert_eq!(subject.correct(&[give_back(made)]).await[0].1, 0);
    // Of another quota: it was used before that one counted.
    let (fast, slow) = (under(2, Quota::per_second(5)), under(2, Quota::per_day(100)));
    let made = subject.charge_to_give_back(fast).await;
    subject.advance(SECOND);
    assert_eq!(subject.charge_one(slow).await.1, 95);
    assert_eq!(subject.correct(&[give_back(made)]).await[0].1, 0);
    assert_eq!(subject.peek(slow).await.1, 95);
}

/// Many requests of a key are under way at once, and each gives back what it has not used. Compared with a naive
/// store.
async fn many_corrections_of_one_bucket_give_back_no_more_than_they_may(subject: &Subject<'_>) {
    let naive = NaiveStore::default();
    let naive = Subject { store: &naive, ..Subject::new(subject.store) };
    let naive = Subject { shard: subject.shard, ..naive };
    let mut random = (1_u64..).map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40);
    let mut random = |below: u64| random.next().unwrap() % below;
    let of_cost = |cost| Charge { cost, ..subject.one(1, TokenBucket, Quota::per_minute(1_000)) };
    let (mut under_way, mut admitted) = (Vec::new(), 0);
    for _ in 0..600 {
        let charge = of_cost(20 + random(100));
        if subject.peek(charge).await.0 == 0 {
            let made = [
                subject.charge_to_give_back(charge).await,
                naive.charge_to_give_back(charge).await,
            ];
            under_way.push((subject.micros() + random(20 * SECOND), made));
            admitted += 1;
        }
        let later = random(3 * SECOND);
        subject.advance(later);
        naive.advance(later);
        while let Some(index) = under_way.iter().position(|(ends, _)| *ends <= subject.micros()) {
            let (_, made) = under_way.swap_remove(index);
            let change = Change::GiveBack(random(made[0].charge.cost + 1));
            let [made, by_naive] = made.map(|made| Correction { change, ..made });
            let (_, left, _) = subject.correct(&[made]).await[0];
            let (_, most, _) = naive.correct(&[by_naive]).await[0];
            assert!(left <= most, "{left} are left, at most {most} may be");
            assert!(left + 100 >= most, "{left} are left, and {most} may be");
        }
    }
    assert!(admitted > 300, "{admitted}");
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

async fn what_was_charged_before_a_reset_is_not_given_back(
    subject: &Subject<'_>,
    algorithm: Algorithm,
) {
    let quota = Quota::per_hour(10);
    // Under another quota than the one that is reset, too.
    for (number, reset_under) in [(1, quota), (2, Quota::per_minute(90))] {
        let charge = Charge { cost: 4, ..subject.one(number, algorithm, quota) };
        let before = Some(subject.micros());
        assert_eq!(subject.charge_one(charge).await.1, 6);
        subject.advance(1);
        let reset = Charge { quota: reset_under, ..charge };
        subject.correct_one(reset, None, Change::Reset).await;
        subject.advance(1);
        let after = Some(subject.micros());
        assert_eq!(subject.charge_one(charge).await.1, 6);
        subject.advance(1);
        assert_eq!(subject.correct_one(charge, before, Change::GiveBack(4)).await.1, 6);
        assert_eq!(subject.peek(charge).await.1, 6, "the later use is still counted");
        assert_eq!(subject.correct_one(charge, after, Change::GiveBack(3)).await.1, 9);
        // A second reset is of the later charge as well.
        subject.correct_one(charge, None, Change::Reset).await;
        subject.advance(1);
        assert_eq!(subject.charge_one(Charge { cost: 1, ..charge }).await.1, 9);
        for charged_at in [before, after] {
            assert_eq!(subject.correct_one(charge, charged_at, Change::GiveBack(1)).await.1, 9);
        }
        // All of it in one step.
        let at = |micros| Some(super::at(micros));
        let correction =
            |change, charged_at| Correction { charged_at, ..Correction::new(charge, change) };
        let last = subject.micros();
        subject.advance(1);
        let all = [
            correction(Change::Reset, None),
            correction(Change::Take(5), at(subject.micros())),
            correction(Change::GiveBack(1), at(last)),
            correction(Change::GiveBack(2), at(subject.micros())),
        ];
        let left: Vec<u64> = subject.correct(&all).await.iter().map(|(_, left, _)| *left).collect();
        assert_eq!(left, [10, 5, 5, 7]);
    }
}
