//! What the usage page draws, as JSON. Points in time are milliseconds since 1970 UTC.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    limiter::Decision,
    usage::{
        log::{Entry, LoggedKey, Page, Sum, millis},
        web::quota_json::{quota_json, unix_millis},
    },
};

/// How many of the slowest, and of the most refused endpoints are listed.
const TOP: usize = 5;

/// When the `minutes` begin of which the last is that of `now`.
pub(super) fn since(now: Duration, minutes: u64) -> Duration {
    let minute = now.as_secs() / 60;
    Duration::from_secs(minute.saturating_add(1).saturating_sub(minutes).saturating_mul(60))
}

/// A caller's quotas, sums and latest requests. `blocked` is how much longer an operator blocks the key.
pub(super) fn summary_json(
    key: &LoggedKey,
    blocked: Option<Duration>,
    decision: &Decision,
    span: &str,
    sums: &[Sum],
    latest: &Page,
) -> Value {
    let endpoints = endpoints(sums);
    json!({
        "key": &*key.label,
        "at": unix_millis(decision.decided_at()),
        "blocked_seconds": blocked.map(|left| left.as_secs_f64()),
        "quotas": decision.outcomes().map(quota_json).collect::<Vec<_>>(),
        "span": span,
        "minutes": minutes(sums),
        "slowest": top(&endpoints, |endpoint| endpoint.mean_ms),
        "most_refused": top(&endpoints, |endpoint| endpoint.refused as f64),
        "log": log_json(latest),
    })
}

pub(super) fn log_json(page: &Page) -> Value {
    let entries: Vec<_> = page.entries.iter().map(entry_json).collect();
    json!({ "entries": entries, "next": page.next })
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "at": unix_millis(entry.at),
        "method": entry.method,
        "endpoint": &*entry.endpoint,
        "status": entry.status,
        "response_ms": millis(entry.response_time),
        "policy": entry.policy.as_deref(),
        "verdict": entry.verdict.as_str(),
        "refused": entry.verdict.is_refused(),
        "units": entry.units,
        "held_ms": millis(entry.held),
    })
}

/// For each minute, when it begins (`at`), and the number of its requests by [`ending`].
fn minutes(sums: &[Sum]) -> Vec<BTreeMap<&'static str, u64>> {
    let mut minutes = BTreeMap::new();
    for sum in sums {
        let at = unix_millis(sum.minute);
        let minute = minutes.entry(at).or_insert_with(|| BTreeMap::from([("at", at)]));
        let requests = minute.entry(ending(sum)).or_default();
        *requests = requests.saturating_add(sum.requests);
    }
    minutes.into_values().collect()
}

/// How requests ended: `2xx`, `refused`, or `none` for no response.
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
        assert_eq!(minutes(&sums)[0]["refused"], u64::MAX);
        let [endpoint] = &endpoints(&sums)[..] else { panic!("it is one endpoint") };
        assert_eq!((endpoint.requests, endpoint.refused), (u64::MAX, u64::MAX));
        assert_eq!(since(Duration::MAX, 60), Duration::from_secs((u64::MAX / 60 - 59) * 60));
    }
}
