//! Reads the script's reply: [`read`]. The script sends states; what a state means to a caller is worked
//! out here, by the same code as for a count in memory.
//!
//! A server may be broken, or none of ours. So a state is accepted only if the script can have written
//! it under the charge's quota. Then no number overflows, and no time is longer than that quota makes a
//! caller wait. Any other reply is an error.

#[cfg(test)]
mod tests;

use std::time::Duration;

use smallvec::SmallVec;

use super::numbers::{EXACT, MAX_COUNT, NANOS_PER_MICRO};
use crate::{
    algorithm::{
        Algorithm, Deficit, FixedWindow, InFlight, MAX_AHEAD, NOT_KNOWN, QuotaState, SlidingWindow,
    },
    clock::Now,
    penalty,
    quota::Quota,
    store::{Answer, Usage, Usages},
};

/// The microseconds by which a fixed window may begin after now; as in the script.
const AHEAD: u64 = MAX_AHEAD / NANOS_PER_MICRO;

/// The first byte of a reply that asks for the windows of calendars.
const NEEDS_WINDOWS: u8 = 2;
/// A request has fewer of them.
const MAX_CALENDARS: usize = 1_000;

/// The longest block, in microseconds.
const LONGEST_BLOCK: u64 = penalty::MAX_TIME.as_secs() * 1_000_000;

/// What must be known of an operation to read its reply.
#[derive(Clone, Debug)]
pub(super) struct ExpectedReply {
    pub(super) algorithm: Algorithm,
    /// Its nanoseconds are the script's microseconds.
    pub(super) quota: Quota,
    /// How many units must fit.
    pub(super) required: u64,
    /// The most units that may be leased; 0 if it is no lease.
    pub(super) lease: u64,
    /// Whether the reply says how much longer the key is blocked.
    pub(super) has_penalty: bool,
    /// Whether only that matters, as the quota is unlimited.
    pub(super) only_looks: bool,
}

/// `None`: the script cannot have sent this.
pub(super) fn read(expected: &[ExpectedReply], reply: &[u8]) -> Option<Answer> {
    let mut reply = Unread(reply);
    let micros = reply.number()?;
    let each = expected.iter().map(|expected| usage(expected, &mut reply, micros));
    let usages = each.collect::<Option<Usages>>()?;
    let at = Duration::from_micros(micros);
    reply.0.is_empty().then(|| Answer { usages, at: Now::new(at, at) })
}

/// The server's time, and the calendars whose windows the script needs; `None` if the reply says that it
/// has done its work.
pub(super) fn calendars_needed(reply: &[u8]) -> Option<(u64, SmallVec<[u64; 4]>)> {
    let mut reply = Unread(reply);
    let micros = reply.number()?;
    if reply.take(1)? != [NEEDS_WINDOWS] {
        return None;
    }
    let mut calendars = SmallVec::new();
    while !reply.0.is_empty() && calendars.len() < MAX_CALENDARS {
        calendars.push(reply.number()?);
    }
    Some((micros, calendars))
}

fn usage(expected: &ExpectedReply, reply: &mut Unread<'_>, micros: u64) -> Option<Usage> {
    let fits = match reply.take(1)? {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    let leased = if expected.lease > 0 { reply.number()? } else { 0 };
    let blocked = if expected.has_penalty { reply.number()? } else { 0 };
    if blocked > LONGEST_BLOCK || fits && blocked > 0 {
        return None;
    }
    // The algorithms work with any unit of time: here with the script's.
    let (quota, now) = (&expected.quota, Duration::from_nanos(micros));
    let now = Now::new(now, now);
    let derive = |state: &dyn QuotaState| {
        (
            state.wait(quota, now, expected.required),
            state.remaining(quota, now),
            state.reset(quota, now),
        )
    };
    let (wait, remaining, reset) = match expected.algorithm {
        Algorithm::TokenBucket => {
            let missing = reply.missing(quota)?;
            (missing.wait(quota, expected.required), missing.remaining(quota), missing.reset(quota))
        }
        Algorithm::FixedWindow => derive(&reply.fixed_window(quota, micros)?),
        Algorithm::SlidingWindow => derive(&reply.sliding_window(quota, micros)?),
        Algorithm::InFlight => derive(&InFlight { held: reply.number()?, ..InFlight::default() }),
    };
    let remaining = remaining.checked_add(leased)?;
    if leased > expected.lease || remaining > expected.algorithm.capacity(quota) {
        return None;
    }
    if expected.only_looks {
        return Some(Usage::looked(nanos(blocked)));
    }
    if blocked > 0 {
        return Some(Usage::blocked_nanos(nanos(blocked), nanos(wait), nanos(reset)));
    }
    // The server decides: a charge that did not fit there does not pass here.
    let wait = match (fits, expected.algorithm) {
        (true, _) => 0,
        (false, Algorithm::InFlight) => NOT_KNOWN,
        (false, _) => wait.max(1),
    };
    Some(Usage::from_nanos(nanos(wait), remaining, nanos(reset)))
}

fn nanos(micros: u64) -> u64 {
    micros.saturating_mul(NANOS_PER_MICRO)
}

/// The packed size of a number.
const NUMBER: usize = size_of::<f64>();

/// The part of a reply that is not read yet.
struct Unread<'a>(&'a [u8]);

#[expect(
    clippy::arithmetic_side_effects,
    reason = "numbers of a reply are at most 2^53, and those of a quota its own"
)]
impl<'a> Unread<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and below 2^53")]
    fn number(&mut self) -> Option<u64> {
        let number = f64::from_le_bytes(self.take(NUMBER)?.try_into().ok()?);
        let is_whole = (0.0..=EXACT as f64).contains(&number) && number.fract() == 0.0;
        is_whole.then_some(number as u64)
    }

    /// The state of a bucket: at most twice its capacity is missing.
    fn missing(&mut self, quota: &Quota) -> Option<Deficit> {
        let (whole, rest) = (self.number()?, self.number()?);
        // Its time and its quota are known.
        self.take(4 * NUMBER)?;
        // The script has the rate in lowest terms, and so has `quota`: their parts are the same.
        let unit = u128::from(quota.parts_per_unit());
        let (whole, rest) = (u128::from(whole) * unit, u128::from(rest));
        let most = 2 * u128::from(quota.capacity()) * unit;
        (rest < unit && whole + rest <= most).then_some(Deficit(whole + rest))
    }

    /// The current window, or one that is about to begin.
    fn fixed_window(&mut self, quota: &Quota, micros: u64) -> Option<FixedWindow> {
        let (start, used) = (self.number()?, self.number()?);
        // Its quota is known.
        self.take(if quota.is_by_calendar() { 3 } else { 2 } * NUMBER)?;
        let is_now = start <= micros + AHEAD && quota.windows_end(start, 1) > micros;
        (is_now && used <= MAX_COUNT).then_some(FixedWindow { start, used })
    }

    /// A log whose entries are in order, and still in the window.
    fn sliding_window(&mut self, quota: &Quota, micros: u64) -> Option<SlidingWindow> {
        let used = self.number()?;
        let newest = (self.number()?, self.number()?);
        let older = u16::from_le_bytes(self.take(2)?.try_into().ok()?);
        self.take(2 * NUMBER)?;
        let (mut before, mut sum) = (0, 0);
        let mut check = |(last_use, units): (u64, u64)| {
            let is_now = last_use <= micros && last_use + quota.window_nanos() > micros;
            let is_next = last_use >= before && units > 0;
            (before, sum) = (last_use, sum + units);
            (is_now && is_next && sum <= MAX_COUNT).then_some((last_use, units))
        };
        let older = (0..older).map(|_| Some((self.number()?, self.number()?)));
        let entries = older.chain((newest.1 > 0).then_some(Some(newest)));
        let log = entries.map(|entry| entry.and_then(&mut check)).collect::<Option<_>>()?;
        (sum == used).then_some(log)
    }
}

/// Panics if an answer cannot be true: if more is left than the capacity, or if a time is longer than
/// twice the capacity and the required units take to come back.
#[cfg(any(test, fuzzing))]
pub(super) fn check(expected: &[ExpectedReply], answer: &Answer) {
    assert_eq!(answer.usages.len(), expected.len());
    assert!(answer.at.unix() <= Duration::from_micros(EXACT));
    for (ExpectedReply { algorithm, quota, required, only_looks, .. }, usage) in
        expected.iter().zip(&*answer.usages)
    {
        if *only_looks {
            assert!(!usage.is_known() || usage.is_blocked(), "{usage:?}");
            continue;
        }
        let capacity = algorithm.capacity(quota);
        let units = 2 * u128::from(capacity) + u128::from(*required);
        let windows = units.div_ceil(u128::from(quota.units().max(1))) + 1;
        let most = windows * u128::from(quota.longest_window()) + u128::from(AHEAD);
        let most = most.max(usage.blocked_for().map_or(0, |_| LONGEST_BLOCK.into()));
        let most = most.saturating_mul(NANOS_PER_MICRO.into());
        assert!(usage.remaining() <= capacity, "{usage:?} of {quota:?}");
        if quota.units() > 0 {
            assert!(u128::from(usage.wait_nanos()) <= most, "{usage:?} of {quota:?}");
        }
        assert!(usage.reset().as_nanos() <= most, "{usage:?} of {quota:?}");
    }
}
