//! The numbers that the script counts with: doubles, which are exact below 2^53.

use crate::clock::Now;

pub(super) const NANOS_PER_MICRO: u64 = 1_000;
/// Whole numbers are exact below this.
pub(super) const EXACT: u64 = 1 << 53;
/// Counts end here, far above every quota.
pub(super) const MAX_COUNT: u64 = 1 << 52;

/// The script has one clock, which shows the time since 1970.
pub(super) fn micros(now: Now) -> u64 {
    (now.unix_nanos() / NANOS_PER_MICRO).min(EXACT - 1)
}
