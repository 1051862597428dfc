//! What the rules of a time zone say, worked out once: [`Edges`] of a calendar, by [`Spans`]. A request
//! only searches for its own.

use std::{ops::Range, sync::OnceLock};

#[cfg(feature = "redis")]
use super::zone;
use super::{Calendar, period};

/// How many calendars are kept.
const MAX: usize = 4_096;
/// How many places are tried for a calendar.
const PROBES: usize = 32;
/// What happens in 2^57 nanoseconds, 4.6 years, is worked out at once: at most 1,670 days.
const SPAN_BITS: u32 = 57;
const SPANS: usize = 1 << (u64::BITS - SPAN_BITS);

/// For each span of time that was asked for, what happens in it.
pub(super) struct Spans<T>([OnceLock<Box<[T]>>; SPANS]);

impl<T> Spans<T> {
    pub(super) fn new() -> Self {
        Self([const { OnceLock::new() }; SPANS])
    }

    /// What happens in the span of this time.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "all times have a span")]
    pub(super) fn at(&self, time: u64, work_out: impl FnOnce(Range<u64>) -> Box<[T]>) -> &[T] {
        let span = time >> SPAN_BITS;
        self.0[span as usize].get_or_init(|| {
            let start = span << SPAN_BITS;
            work_out(start..start.saturating_add(1 << SPAN_BITS))
        })
    }
}

static CALENDARS: [OnceLock<Box<Edges>>; MAX] = [const { OnceLock::new() }; MAX];

pub(super) struct Edges {
    pub(super) calendar: Calendar,
    /// The calendar's hash.
    #[cfg(feature = "redis")]
    pub(super) hash: u64,
    /// The edges of each span, with one before it and one after it.
    spans: Spans<u64>,
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
            spans: Spans::new(),
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
        reason = "all times have an edge before them and one after them"
    )]
    pub(super) fn window(&self, at: u64) -> Range<u64> {
        let edges = self.spans.at(at, |span| period::edges_of_span(self.calendar, span));
        let next = edges.partition_point(|edge| *edge <= at).min(edges.len() - 1).max(1);
        edges[next - 1]..edges[next]
    }
}
