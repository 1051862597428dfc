//! What the usage page draws, as JSON: [`Summary`] and [`LogJson`].

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    limiter::Decision,
    usage::{
        log::{Entry, LoggedKey, Page, Sum, millis},
        web::quota_json::{QuotaJson, unix_millis},
    },
};

/// How many of the slowest, and of the most refused endpoints are listed.
const TOP: usize = 5;

/// The time that a summary covers.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Span {
    Hour,
    Day,
}

impl Span {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "hour" => Some(Self::Hour),
            "day" => Some(Self::Day),
            _ => None,
        }
    }

    /// When the span begins whose last minute is that of `now`.
    pub(super) fn since(self, now: Duration) -> Duration {
        let minutes = match self {
            Self::Hour => 60,
            Self::Day => 1_440,
        };
        let minute = now.as_secs() / 60;
        Duration::from_secs(minute.saturating_add(1).saturating_sub(minutes).saturating_mul(60))
    }
}

/// A caller's quotas, sums and latest requests. Times are in milliseconds since 1970 UTC.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    key: &'a str,
    at: u64,
    /// How much longer an operator blocks this key.
    blocked_seconds: Option<f64>,
    quotas: Vec<QuotaJson<'a>>,
    span: Span,
    minutes: Vec<MinuteJson>,
    slowest: Vec<EndpointJson<'a>>,
    most_refused: Vec<EndpointJson<'a>>,
    log: LogJson<'a>,
}

#[derive(Serialize)]
struct MinuteJson {
    at: u64,
    /// The number of requests by how they ended: `2xx`, `refused`, or `none` for no answer.
    #[serde(flatten)]
    requests: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Serialize)]
struct EndpointJson<'a> {
    method: &'static str,
    endpoint: &'a str,
    requests: u64,
    refused: u64,
    /// Of the requests that were not refused.
    mean_ms: f64,
    longest_ms: f64,
}

#[derive(Serialize)]
pub(super) struct LogJson<'a> {
    entries: Vec<EntryJson<'a>>,
    next: Option<u64>,
}

#[derive(Serialize)]
struct EntryJson<'a> {
    at: u64,
    method: &'static str,
    endpoint: &'a str,
    status: Option<u16>,
    response_ms: f64,
    policy: Option<&'a str>,
    verdict: &'static str,
    refused: bool,
    units: u64,
    held_ms: f64,
}

impl<'a> Summary<'a> {
    pub(super) fn new(
        key: &'a LoggedKey,
        blocked: Option<Duration>,
        decision: &'a Decision,
        span: Span,
        sums: &'a [Sum],
        latest: &'a Page,
    ) -> Self {
        let endpoints = endpoints(sums);
        Self {
            key: &key.label,
            at: unix_millis(decision.decided_at()),
            blocked_seconds: blocked.map(|left| left.as_secs_f64()),
            quotas: decision.outcomes().map(|outcome| QuotaJson::new(&outcome)).collect(),
            span,
            minutes: minutes(sums),
            slowest: top(&endpoints, |endpoint| endpoint.mean_ms),
            most_refused: top(&endpoints, |endpoint| endpoint.refused as f64),
            log: LogJson::new(latest),
        }
    }
}

impl<'a> LogJson<'a> {
    pub(super) fn new(page: &'a Page) -> Self {
        Self { entries: page.entries.iter().map(EntryJson::new).collect(), next: page.next }
    }
}

impl<'a> EntryJson<'a> {
    fn new(entry: &'a Entry) -> Self {
        Self {
            at: unix_millis(entry.at),
            method: entry.method,
            endpoint: &entry.endpoint,
            status: entry.status,
            response_ms: millis(entry.response_time),
            policy: entry.policy.as_deref(),
            verdict: entry.verdict.as_str(),
            refused: entry.verdict.is_refused(),
            units: entry.units,
            held_ms: millis(entry.held),
        }
    }
}

fn minutes(sums: &[Sum]) -> Vec<MinuteJson> {
    let mut minutes: BTreeMap<u64, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for sum in sums {
        let minute = minutes.entry(unix_millis(sum.minute)).or_default();
        let requests = minute.entry(ending(sum)).or_default();
        *requests = requests.saturating_add(sum.requests);
    }
    minutes.into_iter().map(|(at, requests)| MinuteJson { at, requests }).collect()
}

fn ending(sum: &Sum) -> &'static str {
    match sum.status_class {
        _ if sum.refused => "refused",
        0 => "none",
        1 | 2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

fn endpoints(sums: &[Sum]) -> Vec<EndpointJson<'_>> {
    let mut endpoints: BTreeMap<_, EndpointJson<'_>> = BTreeMap::new();
    for sum in sums {
        let (method, endpoint) = (sum.method, &*sum.endpoint);
        let known = endpoints.entry((endpoint, method)).or_insert(EndpointJson {
            method,
            endpoint,
            requests: 0,
            refused: 0,
            mean_ms: 0.0,
            longest_ms: 0.0,
        });
        known.requests = known.requests.saturating_add(sum.requests);
        if sum.refused {
            known.refused = known.refused.saturating_add(sum.requests);
        } else {
            // The sum of the times, until all are added.
            known.mean_ms += millis(sum.response_time);
            known.longest_ms = known.longest_ms.max(millis(sum.longest));
        }
    }
    for endpoint in endpoints.values_mut() {
        endpoint.mean_ms /= endpoint.requests.saturating_sub(endpoint.refused).max(1) as f64;
    }
    endpoints.into_values().collect()
}

/// The endpoints with the highest numbers above 0, the highest first.
fn top<'a>(
    endpoints: &[EndpointJson<'a>],
    number: impl Fn(&EndpointJson<'_>) -> f64,
) -> Vec<EndpointJson<'a>> {
    let mut some: Vec<_> =
        endpoints.iter().filter(|endpoint| number(endpoint) > 0.0).cloned().collect();
    some.sort_by(|one, other| number(other).total_cmp(&number(one)));
    some.truncate(TOP);
    some
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::log::tests::entry;

    #[test]
    fn sums_of_a_log_that_is_out_of_order_do_not_overflow() {
        let sum = |refused| Sum { requests: u64::MAX, refused, ..Sum::empty_for(&entry(7)) };
        let sums = [sum(true), sum(true), sum(false)];
        assert_eq!(minutes(&sums)[0].requests["refused"], u64::MAX);
        let [endpoint] = &endpoints(&sums)[..] else { panic!("it is one endpoint") };
        assert_eq!((endpoint.requests, endpoint.refused), (u64::MAX, u64::MAX));
        assert_eq!(Span::Hour.since(Duration::MAX), Duration::from_secs((u64::MAX / 60 - 59) * 60));
    }
}
