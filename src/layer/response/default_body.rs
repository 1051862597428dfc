//! The body of [`Rejection::to_response`]: a JSON object.

use std::{cell::RefCell, ptr};

use bytes::Bytes;

use crate::{
    json_object::{Object, needs_escape},
    layer::rejection::{Complaint, Rejection},
    limiter::{Labels, Outcome, Reason},
    quota::Quota,
};

/// How many prepared bodies a thread keeps.
const KEPT: usize = 8;

thread_local! {
    /// The prepared bodies of this thread. The index is the number of the policy's labels modulo [`KEPT`].
    static PREPARED: RefCell<[Option<Prepared>; KEPT]> = const { RefCell::new([const { None }; KEPT]) };
}

/// The JSON that all bodies of a used-up quota of a policy share. In a flood of refusals, only the numbers are
/// written.
struct Prepared {
    labels: &'static Labels,
    quota: Quota,
    limit: u64,
    /// From the beginning of the object to `Retry after `.
    before_wait: Box<str>,
    /// From the end of the message to `"remaining":`.
    before_remaining: Box<str>,
}

/// The body of a refusal.
pub(in crate::layer) fn default_body(rejection: &Rejection) -> Bytes {
    body_of_used_up(rejection).unwrap_or_else(|| any_body(rejection))
}

/// Any body, member by member.
fn any_body(rejection: &Rejection) -> Bytes {
    let reason = rejection.reason();
    let error = match reason {
        Reason::QuotaExceeded => "rate_limit_exceeded",
        Reason::CostExceedsQuota => "cost_exceeds_quota",
        Reason::NoQuota => "no_quota",
        Reason::MissingKey => "missing_key",
        Reason::UnreadableKey => "unreadable_key",
        Reason::StoreUnavailable | Reason::SourceUnavailable => "rate_limit_unavailable",
        Reason::Blocked => "blocked",
        Reason::Penalty => "penalty",
    };
    let mut body = Object::new();
    body.text("error", error);
    body.text_by("message", |to| rejection.push_text(to));
    if let Some(outcome) = rejection.outcome() {
        body.text("policy", outcome.policy());
        if reason.is_counted() {
            body.number("limit", outcome.limit());
            body.number("remaining", outcome.remaining());
        }
    }
    if let Some(seconds) = rejection.blocked_until_seconds() {
        body.number("until", seconds);
    }
    if let Some(seconds) = rejection.retry_after_seconds() {
        body.number("retry_after", seconds);
    }
    if let Some(id) = rejection.request_id() {
        body.text("request_id", id);
    }
    body.end()
}

/// The body of a used-up quota, which is the most frequent one; `None` for any other.
fn body_of_used_up(rejection: &Rejection) -> Option<Bytes> {
    let (outcome, seconds) = (rejection.outcome()?, rejection.retry_after_seconds()?);
    let id = rejection.request_id();
    if !Complaint(outcome).is_used_up() || id.is_some_and(needs_escape) {
        return None;
    }
    // A thread that ends may have dropped them already.
    PREPARED
        .try_with(|all| {
            let mut all = all.borrow_mut();
            let number =
                ptr::from_ref(outcome.entry.labels).addr().checked_div(size_of::<Labels>());
            let prepared = match all.get_mut(number? % KEPT)? {
                Some(prepared) if prepared.is_of(&outcome) => prepared,
                slot => slot.insert(Prepared::new(&outcome)),
            };
            Some(prepared.body(outcome.remaining(), seconds, id))
        })
        .ok()
        .flatten()
}

impl Prepared {
    #[cold]
    #[expect(clippy::expect_used, reason = "an object has a beginning and an end")]
    fn new(outcome: &Outcome<'_>) -> Self {
        let (limit, quota) = (outcome.limit(), outcome.quota());
        let mut before_wait = Object::new();
        before_wait.text("error", "rate_limit_exceeded");
        before_wait.text_by("message", |to| {
            Complaint(*outcome).push_text(to);
            to.push_str(" Retry after ");
        });
        let before_wait = before_wait.end_as_text();
        let before_wait = before_wait.strip_suffix("\"}").expect("the message is the last member");
        let mut before_remaining = Object::new();
        before_remaining.text("policy", outcome.policy());
        before_remaining.number("limit", limit);
        let members = before_remaining.end_as_text();
        let members = members.strip_prefix('{').and_then(|members| members.strip_suffix('}'));
        let before_remaining = format!("\",{},\"remaining\":", members.expect("it is an object"));
        Self {
            labels: outcome.entry.labels,
            quota,
            limit,
            before_wait: before_wait.into(),
            before_remaining: before_remaining.into(),
        }
    }

    fn is_of(&self, outcome: &Outcome<'_>) -> bool {
        ptr::eq(self.labels, outcome.entry.labels)
            && self.limit == outcome.limit()
            && self.quota == outcome.quota()
    }

    fn body(&self, remaining: u64, seconds: u64, id: Option<&str>) -> Bytes {
        let (mut wait, mut left) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (wait, left) = (wait.format(seconds), left.format(remaining));
        let unit = if seconds == 1 { " second." } else { " seconds." };
        let (before_id, id, after_id) = match id {
            Some(id) => (",\"request_id\":\"", id, "\"}"),
            None => ("", "", "}"),
        };
        let parts = [
            &*self.before_wait,
            wait,
            unit,
            &*self.before_remaining,
            left,
            ",\"retry_after\":",
            wait,
            before_id,
            id,
            after_id,
        ];
        // `concat` allocates exactly what it needs, so the bytes are not allocated again.
        parts.concat().into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;
    use crate::{limiter::Decision, policy::Policy, store::Usage};

    #[test]
    fn a_prepared_body_is_the_same_as_one_that_is_written_member_by_member() {
        let ids = [None, Some("req_7"), Some(r#"a"b\c"#), Some("")]
            .map(|id| id.map(HeaderValue::from_static));
        // The same policy comes again with other quotas, whose prepared bodies do not fit.
        for units in [7, 1, 7] {
            for name in ["p", r#"a "b" \c"#, "größe", "tab\tnul\0"] {
                for (wait, remaining) in [(0, 0), (1, 0), (86_400, 0), (86_400, 3)] {
                    let usage = Usage::new(Duration::from_secs(wait), remaining, Duration::ZERO);
                    for policy in [
                        Policy::token_bucket(name, Quota::per_day(units)),
                        Policy::token_bucket(name, Quota::per_day(units).burst(2)),
                        Policy::in_flight(name, units),
                    ] {
                        let refused = (policy, Some(usage), Some(Reason::QuotaExceeded));
                        let mut rejection = Rejection::of(&Decision::of([refused])).unwrap();
                        for id in &ids {
                            rejection.request_id = id.clone();
                            let written = any_body(&rejection);
                            assert_eq!(default_body(&rejection), written);
                            let prepared = body_of_used_up(&rejection);
                            assert!(prepared.is_none_or(|prepared| prepared == written));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_a_quota_that_is_used_up_has_a_prepared_body() {
        let policy = || Policy::token_bucket("p", Quota::per_day(1));
        let rejection = |reason| Rejection::of(&Decision::of([(policy(), None, Some(reason))]));
        let prepared = |reason| body_of_used_up(&rejection(reason).unwrap()).is_some();
        let second = Usage::new(Duration::from_secs(1), 0, Duration::ZERO);
        let used_up = (policy(), Some(second), Some(Reason::QuotaExceeded));
        assert!(body_of_used_up(&Rejection::of(&Decision::of([used_up])).unwrap()).is_some());
        for reason in [Reason::CostExceedsQuota, Reason::MissingKey, Reason::StoreUnavailable] {
            assert!(!prepared(reason), "{reason:?}");
        }
    }
}
