//! What the page draws, as JSON.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    limiter::{Decision, Outcome},
    usage::{Entry, LoggedKey, Page, Sum, entry::millis},
};

/// How many endpoints are told.
const TOP: usize = 5;

/// What is looked back on.
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

    /// Where it begins, this minute being its last.
    pub(super) fn since(self, now: Duration) -> Duration {
        let minutes = match self {
            Self::Hour => 60,
            Self::Day => 1_440,
        };
        let minute = now.as_secs() / 60;
        Duration::from_secs(minute.saturating_add(1).saturating_sub(minutes).saturating_mul(60))
    }
}

/// Times are in milliseconds since 1970 UTC.
#[derive(Serialize)]
pub(super) struct Usage<'a> {
    key: &'a str,
    at: u64,
    /// How long an operator refuses this key still.
    blocked_seconds: Option<f64>,
    quotas: Vec<Quota<'a>>,
    span: Span,
    minutes: Vec<Minute>,
    slowest: Vec<Endpoint<'a>>,
    most_refused: Vec<Endpoint<'a>>,
    log: Log<'a>,
}

#[derive(Serialize)]
pub(in crate::usage) struct Quota<'a> {
    pub(in crate::usage) policy: &'a str,
    counted_by: String,
    algorithm: &'static str,
    limit: u64,
    used: u64,
    remaining: u64,
    reset_seconds: f64,
    units: u64,
    window_seconds: f64,
}

#[derive(Serialize)]
struct Minute {
    at: u64,
    /// How many, by how they ended: `2xx`, `refused`, `none` for no answer.
    #[serde(flatten)]
    requests: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Serialize)]
struct Endpoint<'a> {
    method: &'static str,
    endpoint: &'a str,
    requests: u64,
    refused: u64,
    /// Of those that were not refused.
    mean_ms: f64,
    longest_ms: f64,
}

#[derive(Serialize)]
pub(super) struct Log<'a> {
    entries: Vec<Told<'a>>,
    next: Option<u64>,
}

#[derive(Serialize)]
struct Told<'a> {
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

impl<'a> Usage<'a> {
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
            at: whole_millis(decision.decided_at()),
            blocked_seconds: blocked.map(|left| left.as_secs_f64()),
            quotas: decision.outcomes().iter().map(quota).collect(),
            span,
            minutes: minutes(sums),
            slowest: top(&endpoints, |endpoint| endpoint.mean_ms),
            most_refused: top(&endpoints, |endpoint| endpoint.refused as f64),
            log: Log::new(latest),
        }
    }
}

impl<'a> Log<'a> {
    pub(super) fn new(page: &'a Page) -> Self {
        Self { entries: page.entries.iter().map(told).collect(), next: page.next }
    }
}

pub(in crate::usage) fn quota(outcome: &Outcome) -> Quota<'_> {
    let (limit, quota) = (outcome.limit(), outcome.quota());
    Quota {
        policy: outcome.policy(),
        counted_by: outcome.key_kind().to_owned(),
        algorithm: outcome.algorithm().as_str(),
        limit,
        used: limit.saturating_sub(outcome.remaining()),
        remaining: outcome.remaining(),
        reset_seconds: outcome.reset().as_secs_f64(),
        units: quota.units(),
        window_seconds: quota.window().as_secs_f64(),
    }
}

fn minutes(sums: &[Sum]) -> Vec<Minute> {
    let mut minutes: BTreeMap<u64, BTreeMap<&'static str, u64>> = BTreeMap::new();
    for sum in sums {
        let minute = minutes.entry(whole_millis(sum.minute)).or_default();
        let requests = minute.entry(ending(sum)).or_default();
        *requests = requests.saturating_add(sum.requests);
    }
    minutes.into_iter().map(|(at, requests)| Minute { at, requests }).collect()
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

fn endpoints(sums: &[Sum]) -> Vec<Endpoint<'_>> {
    let mut endpoints: BTreeMap<_, Endpoint<'_>> = BTreeMap::new();
    for sum in sums {
        let (method, endpoint) = (sum.method, &*sum.endpoint);
        let told = endpoints.entry((endpoint, method)).or_insert(Endpoint {
            method,
            endpoint,
            requests: 0,
            refused: 0,
            mean_ms: 0.0,
            longest_ms: 0.0,
        });
        told.requests = told.requests.saturating_add(sum.requests);
        if sum.refused {
            told.refused = told.refused.saturating_add(sum.requests);
        } else {
            // All together, until they are all there.
            told.mean_ms += millis(sum.response_time);
            told.longest_ms = told.longest_ms.max(millis(sum.longest));
        }
    }
    for endpoint in endpoints.values_mut() {
        endpoint.mean_ms /= endpoint.requests.saturating_sub(endpoint.refused).max(1) as f64;
    }
    endpoints.into_values().collect()
}

/// Those with the most, as far as they have any.
fn top<'a>(endpoints: &[Endpoint<'a>], by: impl Fn(&Endpoint<'_>) -> f64) -> Vec<Endpoint<'a>> {
    let mut some: Vec<_> =
        endpoints.iter().filter(|endpoint| by(endpoint) > 0.0).cloned().collect();
    some.sort_by(|one, other| by(other).total_cmp(&by(one)));
    some.truncate(TOP);
    some
}

fn told(entry: &Entry) -> Told<'_> {
    Told {
        at: whole_millis(entry.at),
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

pub(in crate::usage) fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::entry::tests::entry;

    #[test]
    fn sums_of_a_log_that_is_out_of_order_are_told() {
        let sum = |refused| Sum { requests: u64::MAX, refused, ..Sum::of(&entry(7)) };
        let sums = [sum(true), sum(true), sum(false)];
        assert_eq!(minutes(&sums)[0].requests["refused"], u64::MAX);
        let [endpoint] = &endpoints(&sums)[..] else { panic!("it is one endpoint") };
        assert_eq!((endpoint.requests, endpoint.refused), (u64::MAX, u64::MAX));
        assert_eq!(Span::Hour.since(Duration::MAX), Duration::from_secs((u64::MAX / 60 - 59) * 60));
    }
}
