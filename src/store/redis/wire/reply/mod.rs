//! What the script answers: the states that it keeps. What they mean to a caller is worked out here,
//! as for a count in memory, since the server is one and replicas are many.
//!
//! A server may be out of order, or be none of ours. So a state counts only if the script can have
//! written it under the quota that was asked about: then no number overflows, and no time is longer
//! than that quota can make anyone wait. Anything else is no answer.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::{EXACT, MOST, NANOS_PER_MICRO};
use crate::{
    algorithm::{Algorithm, Deficit, FixedWindow, MAX_AHEAD, QuotaState, SlidingWindow},
    clock::Now,
    quota::Quota,
    store::{Answer, Usage, Usages},
};

/// The microseconds by which a fixed window may begin after now; as in the script.
const AHEAD: u64 = MAX_AHEAD / NANOS_PER_MICRO;

/// What is known of an operation when it is answered.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) algorithm: Algorithm,
    /// Its window is of so many nanoseconds as the script's is of microseconds.
    pub(super) quota: Quota,
    /// How many units must fit.
    pub(super) wanted: u64,
    /// Up to so many units may be taken, if they are leased.
    pub(super) lease: u64,
}

/// `None` if it is malformed.
pub(super) fn read(asked: &[Asked], reply: &[u8]) -> Option<Answer> {
    let mut reply = Reply(reply);
    let micros = reply.number()?;
    let usages =
        asked.iter().map(|asked| usage(asked, &mut reply, micros)).collect::<Option<Usages>>()?;
    let at = Duration::from_micros(micros);
    reply.0.is_empty().then(|| Answer { usages, at: Now::new(at, at) })
}

fn usage(asked: &Asked, reply: &mut Reply<'_>, micros: u64) -> Option<Usage> {
    let fits = match reply.take(1)? {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    let leased = if asked.lease > 0 { reply.number()? } else { 0 };
    // The algorithms do not care what a unit of time is: here it is the script's.
    let (quota, now) = (&asked.quota, Duration::from_nanos(micros));
    let now = Now::new(now, now);
    let tell = |state: &dyn QuotaState| {
        (state.wait(quota, now, asked.wanted), state.remaining(quota, now), state.reset(quota, now))
    };
    let (wait, remaining, reset) = match asked.algorithm {
        Algorithm::TokenBucket => {
            let missing = reply.missing(quota)?;
            (missing.wait(quota, asked.wanted), missing.remaining(quota), missing.reset(quota))
        }
        Algorithm::FixedWindow => tell(&reply.fixed_window(quota, micros)?),
        Algorithm::SlidingWindow => tell(&reply.sliding_window(quota, micros)?),
    };
    // The server decides: what did not fit there is no pass.
    let wait = if fits { 0 } else { wait.max(1) };
    let remaining = remaining.checked_add(leased)?;
    let is_sound = leased <= asked.lease && remaining <= asked.algorithm.capacity(quota);
    is_sound.then(|| Usage::from_nanos(nanos(wait), remaining, nanos(reset)))
}

fn nanos(micros: u64) -> u64 {
    micros.saturating_mul(NANOS_PER_MICRO)
}

/// The packed size of a number.
const NUMBER: usize = size_of::<f64>();

/// What is not yet read.
struct Reply<'a>(&'a [u8]);

impl<'a> Reply<'a> {
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

    /// At most twice what the bucket holds.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "numbers of a reply are at most 2^53, and those of a quota its own"
    )]
    fn missing(&mut self, quota: &Quota) -> Option<Deficit> {
        let (whole, rest) = (self.number()?, self.number()?);
        // When that is and of what quota is known.
        self.take(4 * NUMBER)?;
        // The script has the rate in lowest terms: its parts are the quota's.
        let unit = u128::from(quota.parts_per_unit());
        let (whole, rest) = (u128::from(whole) * unit, u128::from(rest));
        let most = 2 * u128::from(quota.capacity()) * unit;
        (rest < unit && whole + rest <= most).then_some(Deficit(whole + rest))
    }

    /// The window of now, or one that is about to begin.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "numbers of a reply are at most 2^53, and those of a quota its own"
    )]
    fn fixed_window(&mut self, quota: &Quota, micros: u64) -> Option<FixedWindow> {
        let (start, used) = (self.number()?, self.number()?);
        // Of what quota is known.
        self.take(2 * NUMBER)?;
        let is_now = start <= micros + AHEAD && start + quota.window_nanos() > micros;
        (is_now && used <= MOST).then_some(FixedWindow { start, used })
    }

    /// A log in order, of uses that the window has not passed over.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "numbers of a reply are at most 2^53, and those of a quota its own"
    )]
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
            (is_now && is_next && sum <= MOST).then_some((last_use, units))
        };
        let older = (0..older).map(|_| Some((self.number()?, self.number()?)));
        let entries = older.chain((newest.1 > 0).then_some(Some(newest)));
        let log = entries.map(|entry| entry.and_then(&mut check)).collect::<Option<_>>()?;
        (sum == used).then_some(log)
    }
}

/// Panics where an answer can be true of no state: where more is left than there is, or where a time
/// is longer than it takes until twice that and what was wanted are back.
#[cfg(any(test, fuzzing))]
pub(super) fn check(asked: &[Asked], answer: &Answer) {
    assert_eq!(answer.usages.len(), asked.len());
    assert!(answer.at.unix() <= Duration::from_micros(EXACT));
    for (Asked { algorithm, quota, wanted, .. }, usage) in asked.iter().zip(&answer.usages) {
        let capacity = algorithm.capacity(quota);
        let units = 2 * u128::from(capacity) + u128::from(*wanted);
        let windows = units.div_ceil(u128::from(quota.units().max(1))) + 1;
        let most = windows * u128::from(quota.window_nanos()) + u128::from(AHEAD);
        let most = most.saturating_mul(NANOS_PER_MICRO.into());
        assert!(usage.remaining() <= capacity, "{usage:?} of {quota:?}");
        if quota.units() > 0 {
            assert!(u128::from(usage.wait_nanos()) <= most, "{usage:?} of {quota:?}");
        }
        assert!(usage.reset().as_nanos() <= most, "{usage:?} of {quota:?}");
    }
}
