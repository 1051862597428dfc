//! Quotas by the calendar, for random plans.

use proptest::prelude::*;

#[cfg(feature = "calendar")]
use crate::calendar::{Anchor, Period, Weekday};
use crate::quota::Quota;

/// Makes some of these quotas quotas by the calendar, of the same units.
#[cfg(feature = "calendar")]
pub(super) fn or_by_calendar(quotas: impl Strategy<Value = Quota>) -> impl Strategy<Value = Quota> {
    let zones = ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe"];
    let calendars = vec![
        (Period::Day, None),
        (Period::Day, Some(Anchor::Time { hour: 2, minute: 30 })),
        (Period::Week, None),
        (Period::Week, Some(Anchor::Weekday(Weekday::Sunday))),
        (Period::Month, None),
        (Period::Month, Some(Anchor::MonthDay(31))),
        (Period::Year, None),
    ];
    let calendars = prop::option::weighted(0.5, prop::sample::select(calendars));
    (quotas, calendars, prop::sample::select(zones.to_vec())).prop_map(|(quota, calendar, zone)| {
        let Some((period, anchor)) = calendar else { return quota };
        let by_calendar = Quota::per_calendar(quota.units(), period).in_zone(zone);
        anchor.map_or(by_calendar, |anchor| by_calendar.anchor(anchor))
    })
}

#[cfg(not(feature = "calendar"))]
pub(super) fn or_by_calendar(quotas: impl Strategy<Value = Quota>) -> impl Strategy<Value = Quota> {
    quotas
}
