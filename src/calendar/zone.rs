//! The time zones that a process uses, each with a number: [`number`]. They are never dropped, so
//! a quota can name its zone by the number. There are no more of them than the database has.

use std::sync::{
    LazyLock, OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use jiff::tz::TimeZone;

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
static UTC: LazyLock<Zone> = LazyLock::new(|| Zone { name: "UTC".into(), tz: Some(TimeZone::UTC) });
/// From number 1 on.
static ZONES: [OnceLock<Box<Zone>>; MAX] = [const { OnceLock::new() }; MAX];
static UNKNOWN: AtomicUsize = AtomicUsize::new(0);

/// A time zone.
pub(super) struct Zone {
    /// As the database spells it.
    pub(super) name: Box<str>,
    /// `None` if no zone has the name.
    pub(super) tz: Option<TimeZone>,
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
    // The database has a zone for those whose zone is not known. It would be UTC, which nobody meant.
    let tz = TimeZone::get(name).ok().filter(|tz| !tz.is_unknown());
    if tz.is_none() && UNKNOWN.fetch_add(1, Relaxed) >= MAX_UNKNOWN {
        UNKNOWN.store(MAX_UNKNOWN, Relaxed);
        return None;
    }
    let spelled = tz.as_ref().and_then(TimeZone::iana_name);
    let spelled = spelled.filter(|spelled| spelled.eq_ignore_ascii_case(name)).unwrap_or(name);
    Some(Box::new(Zone { name: spelled.into(), tz }))
}

/// The zone with this number.
pub(super) fn by_number(number: u64) -> Option<&'static Zone> {
    match usize::try_from(number).ok()?.checked_sub(1) {
        Some(index) => ZONES.get(index)?.get().map(|zone| &**zone),
        None => Some(&UTC),
    }
}
