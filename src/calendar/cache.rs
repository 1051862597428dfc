//! The windows of a calendar, worked out once: [`Edges`]. A request only searches for its own.

use std::{ops::Range, sync::OnceLock};

#[cfg(feature = "redis")]
use super::zone;
use super::{Calendar, period};

/// How many calendars are kept.
const MAX: usize = 4_096;
/// How many places are tried for a calendar.
const PROBES: usize = 32;
/// The edges of 2^57 nanoseconds, 4.6 years, are worked out at once: at most 1,670.
const SPAN_BITS: u32 = 57;
const SPANS: usize = 1 << (u64::BITS - SPAN_BITS);

static CALENDARS: [OnceLock<Box<Edges>>; MAX] = [const { OnceLock::new() }; MAX];

pub(super) struct Edges {
    pub(super) calendar: Calendar,
    /// The calendar's hash.
    #[cfg(feature = "redis")]
    pub(super) hash: u64,
    /// The edges of each span that was asked for, with one before it and one after it.
    spans: [OnceLock<Box<[u64]>>; SPANS],
}

/// As [`Calendar::hash`].
#[cfg(feature = "redis")]
pub(super) fn hash(calendar: Calendar) -> u64 {
    zone::hash(calendar.to_string().bytes())
}

impl Edges {
    /// `None` if too many other calendars are kept.
    #[inline]
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "half of a hash is cut, and a remainder is below its divisor"
    )]
    pub(super) fn of(calendar: Calendar) -> Option<&'static Self> {
        let first = (calendar.to_bits().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize;
        let mut probed = (first..first + PROBES)
            .map(|index| &**CALENDARS[index % MAX].get_or_init(|| Box::new(Self::new(calendar))));
        probed.find(|edges| edges.calendar == calendar)
    }

    #[cold]
    fn new(calendar: Calendar) -> Self {
        Self {
            calendar,
            #[cfg(feature = "redis")]
            hash: hash(calendar),
            spans: [const { OnceLock::new() }; SPANS],
        }
    }

    /// Those that are kept.
    #[cfg(feature = "redis")]
    pub(super) fn all() -> impl Iterator<Item = &'static Self> {
        CALENDARS.iter().filter_map(|edges| edges.get().map(|edges| &**edges))
    }

    /// The window of a time.
    #[inline]
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "all times have a span, with an edge before it and one after it"
    )]
    pub(super) fn window(&self, at: u64) -> Range<u64> {
        let span = (at >> SPAN_BITS) as usize;
        let edges = self.spans[span].get_or_init(|| self.work_out(span as u64));
        let next = edges.partition_point(|edge| *edge <= at).min(edges.len() - 1).max(1);
        edges[next - 1]..edges[next]
    }

    #[cold]
    fn work_out(&self, span: u64) -> Box<[u64]> {
        let start = span << SPAN_BITS;
        period::edges_of_span(self.calendar, start..start.saturating_add(1 << SPAN_BITS))
    }
}
