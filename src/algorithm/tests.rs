//! What the algorithms promise, with the numbers spelled out.

use std::time::Duration;

use super::{Algorithm, State, oracle::at};
use crate::{clock::Now, quota::Quota};

const SECOND: u64 = 1_000_000_000;
const ALL: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

#[test]
fn a_third_of_a_second_is_exact() {
    let quota = Quota::per_second(3);
    let mut state = State::new(Algorithm::TokenBucket);
    state.consume(&quota, at(7), 3);
    assert_eq!(state.remaining(&quota, at(7 + SECOND - 1)), 2);
    assert_eq!(state.remaining(&quota, at(7 + SECOND)), 3);
}

#[test]
fn what_was_used_stays_used_when_the_plan_changes() {
    for algorithm in ALL {
        let mut state = State::new(algorithm);
        let now = at(60 * SECOND);
        let first = Quota::per_minute(100);
        state.consume(&first, now, 50);
        let left = |quota: Quota| state.convert(&first, &quota, now).remaining(&quota, now);
        assert_eq!(left(Quota::per_minute(1_000)), 950, "{algorithm:?} raised");
        assert_eq!(left(Quota::per_minute(60)), 10, "{algorithm:?} lowered");
        assert_eq!(left(Quota::per_minute(20)), 0, "{algorithm:?} far lowered");
        assert_eq!(left(Quota::per_hour(1_000)), 950, "{algorithm:?} with a longer window");

        let raised = Quota::per_minute(1_000);
        let mut state = state.convert(&first, &raised, now);
        state.consume(&raised, now, 900);
        assert_eq!(state.remaining(&raised, now), 50, "{algorithm:?}");
    }
}

#[test]
fn a_lowered_plan_blocks_no_longer_than_its_own_window() {
    for algorithm in ALL {
        let mut state = State::new(algorithm);
        let now = at(60 * SECOND);
        let (first, lowered) = (Quota::per_minute(1_000), Quota::per_minute(10));
        state.consume(&first, now, 1_000);
        let state = state.convert(&first, &lowered, now);
        let wait = state.wait(&lowered, now, 1);
        assert!(wait <= 60 * SECOND, "{algorithm:?} waits {wait}");
        assert_eq!(state.reset(&lowered, now), wait, "{algorithm:?}");
    }
}

#[test]
fn a_lowered_plan_resets_when_a_unit_is_left_again() {
    let mut state = State::new(Algorithm::SlidingWindow);
    let (first, lowered) = (Quota::per_minute(10), Quota::per_minute(5));
    state.consume(&first, at(0), 5);
    state.consume(&first, at(10 * SECOND), 5);
    let state = state.convert(&first, &lowered, at(10 * SECOND));
    assert_eq!(
        state.reset(&lowered, at(10 * SECOND)),
        60 * SECOND,
        "when the first five leave, none is left yet"
    );
}

#[test]
fn windows_begin_on_the_hour() {
    let quota = Quota::per_hour(1_000);
    let mut state = State::new(Algorithm::FixedWindow);
    // 2024-01-16 10:59:59 UTC
    let unix =
        |seconds: u64| Now::new(Duration::ZERO, Duration::from_secs(1_705_402_799 + seconds));
    state.consume(&quota, unix(0), 1_000);
    assert_eq!(state.wait(&quota, unix(0), 1), SECOND);
    assert_eq!(state.remaining(&quota, unix(1)), 1_000);
}

#[test]
fn a_wall_clock_set_back_neither_grants_a_window_twice_nor_blocks_for_hours() {
    let quota = Quota::per_minute(10);
    let read = |seconds: u64| Now::new(Duration::ZERO, Duration::from_secs(86_400 + seconds));
    let mut state = State::new(Algorithm::FixedWindow);
    state.consume(&quota, read(60), 10);
    // A second back, over the edge of the window: it is still the later one.
    assert_eq!(state.remaining(&quota, read(59)), 0);
    assert_eq!(state.wait(&quota, read(59), 1), 61 * SECOND);
    // Twelve hours back: what was used stays used, until the end of the minute it is now.
    let back = |seconds: u64| Now::new(Duration::ZERO, Duration::from_secs(43_230 + seconds));
    assert_eq!(state.remaining(&quota, back(0)), 0);
    assert_eq!(state.wait(&quota, back(0), 1), 30 * SECOND);
    assert!(state.is_ahead(back(0)));
    state.realign(&quota, back(0));
    assert!(!state.is_ahead(back(0)));
    assert_eq!(state.wait(&quota, back(30), 1), 0, "and no longer");
}

#[test]
fn only_fixed_windows_follow_the_wall_clock() {
    let quota = Quota::per_minute(10);
    let later = Now::new(Duration::from_secs(1), Duration::from_secs(7_200));
    for (algorithm, left) in
        [(Algorithm::TokenBucket, 0), (Algorithm::SlidingWindow, 0), (Algorithm::FixedWindow, 10)]
    {
        let mut state = State::new(algorithm);
        state.consume(&quota, Now::new(Duration::ZERO, Duration::from_secs(60)), 10);
        assert_eq!(state.remaining(&quota, later), left, "{algorithm:?}");
    }
}

#[test]
fn a_thread_that_read_the_clock_earlier_may_come_later() {
    for algorithm in ALL {
        let quota = Quota::per_second(2);
        let mut state = State::new(algorithm);
        state.consume(&quota, at(5 * SECOND), 1);
        state.consume(&quota, at(5 * SECOND - 1), 1);
        assert_eq!(state.remaining(&quota, at(5 * SECOND - 1)), 0, "{algorithm:?}");
        assert_eq!(state.remaining(&quota, at(5 * SECOND)), 0, "{algorithm:?}");
    }
}

#[test]
fn a_sliding_log_stays_small() {
    let quota = Quota::per_minute(1_000_000);
    let mut state = State::new(Algorithm::SlidingWindow);
    let mut largest = 0;
    for step in 0..10_000u64 {
        state.consume(&quota, at(step * 37_000_000), 1);
        let State::SlidingWindow(log) = &state else { unreachable!() };
        largest = largest.max(log.entries().count());
    }
    assert!((55..=62).contains(&largest), "{largest} entries");
}

#[test]
fn a_bucket_that_takes_longer_to_fill_than_can_be_counted_refuses() {
    let century = Duration::from_secs(100 * 365 * 86_400);
    let quota = Quota::per_window(1, century).burst(4_900_000);
    let mut state = State::new(Algorithm::TokenBucket);
    let admitted = (0..100).filter(|_| state.charge(&quota, at(0), 0, 1).wait == 0).count();
    assert_eq!(admitted, 5, "of which all are remembered");
    state.consume(&quota, at(0), 1_000_000);
    assert!(state.wait(&quota, at(0), 1) > 0);
}

#[cfg(feature = "calendar")]
#[test]
fn a_clock_set_back_over_the_edge_of_a_month_grants_nothing() {
    let quota = Quota::per_calendar_month(5).in_zone("Asia/Shanghai");
    // 2024-02-01 and 2024-03-01 in Shanghai.
    let (february, march) = (1_706_716_800 * SECOND, 1_709_222_400 * SECOND);
    let mut state = State::new(Algorithm::FixedWindow);
    state.consume(&quota, at(february), 5);
    // A little: another thread has begun the month already.
    assert_eq!(state.wait(&quota, at(february - SECOND), 1), march - february + SECOND);
    // More: what was used is used in the month of now.
    let before = february - 3_600 * SECOND;
    assert!(state.is_ahead(at(before)));
    state.realign(&quota, at(before));
    assert_eq!(state.wait(&quota, at(before), 1), 3_600 * SECOND);
    assert_eq!(state.wait(&quota, at(february - 1), 1), 1);
    assert_eq!(state.remaining(&quota, at(february)), 5);
}

/// Costs above the quota wait for as many months as it takes.
#[cfg(feature = "calendar")]
#[test]
fn months_are_waited_for_by_their_lengths() {
    let quota = Quota::per_calendar_month(5);
    let day = 86_400 * SECOND;
    // 2024-01-31
    let now = at(19_753 * day);
    let mut state = State::new(Algorithm::FixedWindow);
    state.consume(&quota, now, 5);
    for (cost, days) in [(1, 1), (5, 1), (6, 30), (10, 30), (11, 61), (60, 336)] {
        assert_eq!(state.wait(&quota, now, cost), days * day, "{cost}");
    }
    assert_eq!(state.expires_in(&quota, now), day);
}
