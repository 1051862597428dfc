//! What is given back after a reset.

use std::time::{Duration, UNIX_EPOCH};

use common::resets::take_nothing_off_later_uses;
use tower_quota::{Clock, Limiter};

#[tokio::test(start_paused = true)]
async fn a_correction_takes_nothing_off_uses_since_a_reset() {
    let start = UNIX_EPOCH + Duration::from_secs(1_705_402_800);
    let builder = || Limiter::builder().clock(Clock::tokio(start));
    // All steps at one moment, and then a millisecond between two of them.
    take_nothing_off_later_uses(builder, 0..150, Duration::ZERO).await;
    take_nothing_off_later_uses(builder, 0..150, Duration::from_millis(1)).await;
}
