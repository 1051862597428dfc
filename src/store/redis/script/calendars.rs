//! The windows of calendars, for the script: [`Windows`]. It has no time zones, so each call tells it
//! the windows that are about now. If the server's time is in none of them, the script does nothing
//! and says which calendars it needs; the call is then made again, with the windows of that time.

use super::numbers::EXACT;
#[cfg(feature = "calendar")]
use super::numbers::MAX_WINDOW_MICROS;
#[cfg(feature = "calendar")]
use crate::calendar::Calendar;
use crate::quota::Quota;

/// What the script calls a quota's calendar, instead of the microseconds of its window. It is the same
/// on all replicas. `None` if the quota has no calendar.
pub(super) fn number(quota: &Quota) -> Option<u64> {
    #[cfg(feature = "calendar")]
    return quota.calendar().map(number_of);
    #[cfg(not(feature = "calendar"))]
    {
        let _ = quota;
        None
    }
}

/// Above the longest window, and below 2^52: 48 bits of a hash, and two that tell the period.
#[cfg(feature = "calendar")]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers, and no period is 0")]
fn number_of(calendar: Calendar) -> u64 {
    let hash = calendar.hash();
    let hash = (hash ^ hash >> 48) & ((1 << 48) - 1);
    MAX_WINDOW_MICROS + 1 + (hash << 2 | (calendar.period() as u64 - 1))
}

/// When the window before that of a time begins, and the next three, in microseconds. All are 0 if this
/// process does not know the calendar.
fn edges(calendar: u64, micros: u64) -> [u64; 4] {
    #[cfg(feature = "calendar")]
    if let Some(calendar) = Calendar::find(|known| number_of(known) == calendar) {
        let calendar = calendar.in_micros();
        let now = calendar.window(micros);
        let before = calendar.window(now.start.saturating_sub(1)).start;
        return [before, now.start, now.end, calendar.window(now.end).end];
    }
    let _ = (calendar, micros);
    [0; 4]
}

/// What a call tells of calendars: the number of each, and its [`edges`].
#[derive(Clone, Debug, Default)]
pub(super) struct Windows {
    pub(super) packed: Vec<u8>,
}

impl Windows {
    /// Those of these calendars at a time of the server.
    pub(super) fn new(calendars: &[u64], micros: u64) -> Self {
        let mut windows = Self::default();
        for (index, calendar) in calendars.iter().enumerate() {
            if calendars.iter().take(index).all(|before| before != calendar) {
                let numbers = [*calendar].into_iter().chain(edges(*calendar, micros));
                let numbers = numbers.map(|number| (number.min(EXACT) as f64).to_le_bytes());
                windows.packed.extend(numbers.flatten());
            }
        }
        windows
    }
}
