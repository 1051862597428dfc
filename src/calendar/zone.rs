//! The time zones that a process uses, each with a number: [`number`]. They are never dropped, so
//! a quota can name its zone by the number. There are no more of them than the database has.

use std::{
    ops::Range,
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use jiff::{Timestamp, tz::TimeZone};

use super::cache::Spans;
use crate::clock::NANOS_PER_SECOND;

/// How many zones have a number. A database has about 600, links included.
const MAX: usize = 2_048;
/// How many numbers are tried for a zone.
const PROBES: usize = 64;
/// The number of all zones that have none. Such a zone is refused.
const NO_NUMBER: u64 = (1 << 12) - 1;
/// The most names that are kept though no zone has them: enough for an error to tell.
const MAX_UNKNOWN: usize = 64;
/// No name is longer.
const MAX_LENGTH: usize = 64;

/// Number 0.
static UTC: LazyLock<Zone> = LazyLock::new(|| Zone::new("UTC", Some(TimeZone::UTC)));
/// From number 1 on.
static ZONES: [OnceLock<Box<Zone>>; MAX] = [const { OnceLock::new() }; MAX];
static UNKNOWN: AtomicUsize = AtomicUsize::new(0);

/// A time zone.
pub(super) struct Zone {
    /// As the database spells it.
    pub(super) name: Box<str>,
    /// `None` if no zone has the name.
    pub(super) tz: Option<TimeZone>,
    /// How far its clocks are ahead of UTC, if that was asked.
    offsets: OnceLock<Spans<(u64, i32)>>,
}

impl Zone {
    fn new(name: impl Into<Box<str>>, tz: Option<TimeZone>) -> Self {
        Self { name: name.into(), tz, offsets: OnceLock::new() }
    }

    /// What its clocks show, as the seconds since clocks that showed the beginning of 1970.
    #[expect(clippy::arithmetic_side_effects, reason = "a day is added to less than 585 years")]
    pub(super) fn local_seconds(&self, nanos: u64) -> i64 {
        let offsets = self.offsets.get_or_init(Spans::new).at(nanos, |span| self.offsets_of(span));
        let index = offsets.partition_point(|(from, _)| *from <= nanos).saturating_sub(1);
        let offset = offsets.get(index).map_or(0, |(_, offset)| *offset);
        (nanos / NANOS_PER_SECOND).cast_signed() + i64::from(offset)
    }

    /// The offsets from UTC in a span of time, in seconds, each with the time from which it holds.
    fn offsets_of(&self, span: Range<u64>) -> Box<[(u64, i32)]> {
        let Some(tz) = &self.tz else { return Box::default() };
        let moment =
            |nanos: u64| Timestamp::from_nanosecond(nanos.into()).unwrap_or(Timestamp::MAX);
        let first = (span.start, tz.to_offset(moment(span.start)).seconds());
        let changes = tz.following(moment(span.start)).map(|change| {
            let at = u64::try_from(change.timestamp().as_nanosecond()).unwrap_or(u64::MAX);
            (at, change.offset().seconds())
        });
        std::iter::once(first).chain(changes.take_while(|(at, _)| *at < span.end)).collect()
    }
}

/// What is wrong with a name that no zone has, and what to write instead.
pub(super) fn unknown(name: &str) -> String {
    let name = if name.is_empty() { String::new() } else { format!(" `{name}`") };
    format!(
        "the time zone{name} is not known; write a name of the IANA database, such as `Europe/Berlin`"
    )
}

/// The number of the zone with this name. Letter case does not matter.
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "half of a hash is cut, and a remainder is below its divisor"
)]
pub(super) fn number(name: &str) -> u64 {
    if name.eq_ignore_ascii_case(&UTC.name) {
        return 0;
    }
    if name.len() > MAX_LENGTH {
        return NO_NUMBER;
    }
    let first = (hash(name.bytes().map(|byte| byte.to_ascii_lowercase())) >> 32) as usize;
    for index in (first..first + PROBES).map(|index| index % MAX) {
        let zone = match ZONES[index].get() {
            Some(zone) => zone,
            None => match find(name) {
                // Another thread may have put another zone here meanwhile.
                Some(zone) => ZONES[index].get_or_init(|| zone),
                None => return NO_NUMBER,
            },
        };
        if zone.name.eq_ignore_ascii_case(name) {
            return index as u64 + 1;
        }
    }
    NO_NUMBER
}

/// The FNV-1a hash. It is the same in each process and each release.
pub(super) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// `None` if no zone has the name, and no more such names are kept.
fn find(name: &str) -> Option<Box<Zone>> {
    // `Etc/Unknown` has the clocks of UTC. A setting with this name is refused as a mistake.
    let tz = TimeZone::get(name).ok().filter(|tz| !tz.is_unknown());
    if tz.is_none() && UNKNOWN.fetch_add(1, Relaxed) >= MAX_UNKNOWN {
        UNKNOWN.store(MAX_UNKNOWN, Relaxed);
        return None;
    }
    let spelled = tz.as_ref().and_then(TimeZone::iana_name);
    let spelled = spelled.filter(|spelled| spelled.eq_ignore_ascii_case(name)).unwrap_or(name);
    let spelled: Box<str> = spelled.into();
    Some(Box::new(Zone::new(spelled, tz)))
}

/// The zone with this number.
pub(super) fn by_number(number: u64) -> Option<&'static Zone> {
    match usize::try_from(number).ok()?.checked_sub(1) {
        Some(index) => ZONES.get(index)?.get().map(|zone| &**zone),
        None => Some(&UTC),
    }
}
