//! What the script answers: the states that it keeps. What they mean to a caller is worked out here,
//! as for a count in memory, since the server is one and replicas are many.

use std::time::Duration;

use super::{EXACT, NANOS_PER_MICRO};
use crate::{
    algorithm::{Algorithm, Count, FixedWindow, Missing, SlidingWindow},
    clock::Now,
    quota::Quota,
    store::{Answer, Usage, Usages},
};

/// What is known of an operation when it is answered.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) algorithm: Algorithm,
    /// Its window is of so many nanoseconds as the script's is of microseconds.
    pub(super) quota: Quota,
    /// How many units must fit.
    pub(super) wanted: u64,
    pub(super) is_lease: bool,
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
    let leased = if asked.is_lease { reply.number()? } else { 0 };
    // The algorithms do not care what a unit of time is: here it is the script's.
    let (quota, now) = (&asked.quota, Duration::from_nanos(micros));
    let now = Now::new(now, now);
    let tell = |state: &dyn Count| {
        (state.wait(quota, now, asked.wanted), state.remaining(quota, now), state.reset(quota, now))
    };
    let (wait, remaining, reset) = match asked.algorithm {
        Algorithm::TokenBucket => {
            let (whole, rest) = (reply.number()?, reply.number()?);
            // When that is and of what quota is known.
            reply.take(4 * NUMBER)?;
            // The script has the rate in lowest terms: its parts are the quota's.
            let whole = u128::from(whole) * u128::from(quota.parts_per_unit());
            let missing = Missing(whole + u128::from(rest));
            (missing.wait(quota, asked.wanted), missing.remaining(quota), missing.reset(quota))
        }
        Algorithm::FixedWindow => {
            let (start, used) = (reply.number()?, reply.number()?);
            tell(&FixedWindow { start, used })
        }
        Algorithm::SlidingWindow => {
            // What is used is in the log.
            reply.take(NUMBER)?;
            let newest = (reply.number()?, reply.number()?);
            let older = u16::from_le_bytes(reply.take(2)?.try_into().ok()?);
            let older = (0..older).map(|_| Some((reply.number()?, reply.number()?)));
            let entries = older.chain((newest.1 > 0).then_some(Some(newest)));
            tell(&entries.collect::<Option<SlidingWindow>>()?)
        }
    };
    // The server decides: what did not fit there is no pass.
    let wait = if fits { 0 } else { wait.max(1) };
    Some(Usage::of_nanos(nanos(wait), remaining.saturating_add(leased), nanos(reset)))
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

    fn number(&mut self) -> Option<u64> {
        let number = f64::from_le_bytes(self.take(NUMBER)?.try_into().ok()?);
        let is_whole = (0.0..=EXACT as f64).contains(&number) && number.fract() == 0.0;
        is_whole.then_some(number as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(algorithm: Algorithm) -> Asked {
        let (units, window) = if algorithm == Algorithm::TokenBucket { (1, 10) } else { (6, 60) };
        let quota = Quota::per_window(units, Duration::from_nanos(window)).burst(6);
        Asked { algorithm, quota, wanted: 2, is_lease: false }
    }

    /// Packed as the script does.
    fn pack(fits: u8, numbers: &[u64]) -> Vec<u8> {
        let numbers = numbers.iter().flat_map(|number| (*number as f64).to_le_bytes());
        [fits].into_iter().chain(numbers).collect()
    }

    fn log(fits: u8, newest: [u64; 2], older: &[u64]) -> Vec<u8> {
        let count = (older.len() as u16 / 2).to_le_bytes().to_vec();
        let older = pack(0, older).split_off(1);
        [pack(fits, &[9, newest[0], newest[1]]), count, older].concat()
    }

    /// At 610 microseconds.
    fn read_one(asked: &Asked, reply: &[u8]) -> Option<(u64, u64, u64)> {
        let answer = read(std::slice::from_ref(asked), &[&pack(0, &[610])[1..], reply].concat())?;
        assert_eq!(answer.at.unix(), Duration::from_micros(610));
        let usage = answer.usages[0];
        let [wait, reset] = [usage.wait(), usage.reset()].map(|time| time.as_micros() as u64);
        Some((wait, usage.remaining(), reset))
    }

    #[test]
    fn a_state_is_told_as_what_it_means() {
        let bucket = asked(Algorithm::TokenBucket);
        // Five units and a half: a unit is back every ten microseconds.
        assert_eq!(read_one(&bucket, &pack(0, &[5, 5, 0, 0, 0, 0])), Some((15, 0, 5)));
        assert_eq!(read_one(&bucket, &pack(1, &[5, 0, 0, 0, 0, 0])), Some((0, 1, 10)));
        let window = asked(Algorithm::FixedWindow);
        assert_eq!(read_one(&window, &pack(0, &[600, 5])), Some((50, 1, 50)));
        assert_eq!(read_one(&window, &pack(1, &[600, 5])), Some((0, 1, 50)));
        let sliding = asked(Algorithm::SlidingWindow);
        assert_eq!(read_one(&sliding, &log(0, [590, 4], &[570, 1])), Some((20, 1, 20)));
        assert_eq!(read_one(&sliding, &log(1, [0, 0], &[])), Some((0, 6, 0)));
        let lease = Asked { is_lease: true, ..window };
        assert_eq!(read_one(&lease, &pack(1, &[3, 600, 5])), Some((0, 4, 50)));
        // The server decides: what did not fit there is no pass.
        let free = pack(0, &[0; 6]);
        assert!(!read(&[bucket], &[&[0; NUMBER][..], &free].concat()).unwrap().usages[0].fits());
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        for (algorithm, good) in [
            (Algorithm::TokenBucket, pack(1, &[EXACT; 6])),
            (Algorithm::FixedWindow, pack(1, &[EXACT; 2])),
            (Algorithm::SlidingWindow, log(0, [EXACT; 2], &[EXACT; 4])),
        ] {
            let asked = asked(algorithm);
            assert!(read_one(&asked, &good).is_some());
            for length in 0..good.len() {
                assert_eq!(read_one(&asked, &good[..length]), None, "{algorithm:?}: {length}");
            }
            assert_eq!(read_one(&asked, &[&good[..], &[0]].concat()), None);
            assert_eq!(read_one(&asked, &[&[2], &good[1..]].concat()), None);
        }
        for number in [-1.0, 0.5, f64::NAN, f64::INFINITY, (EXACT + 2) as f64] {
            assert!(read(&[], &number.to_le_bytes()).is_none(), "{number}");
        }
        for length in 0..NUMBER {
            assert!(read(&[], &[0; NUMBER][..length]).is_none());
        }
    }
}
