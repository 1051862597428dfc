//! One override of one caller, as data: [`Override`].

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{key::Fingerprint, quota::Quota, shown_text::text_problem};

/// The longest time of an override.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(366 * 86_400);

/// The longest reason, in characters.
pub(crate) const MAX_REASON: usize = 200;

/// The longest name of an author, in characters.
pub(crate) const MAX_AUTHOR: usize = 100;

/// What an operator has set for one caller, for a time: a block, or a quota under one policy. From
/// [`Overrides::list`](crate::overrides::Overrides::list).
///
/// Times are since 1970 UTC, by the limiter's clock.
///
/// It is serializable, to be saved. Its form may get new fields in later versions, and an older
/// version then refuses to read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
#[non_exhaustive]
pub struct Override {
    /// The caller. Its key is not known.
    pub caller: Fingerprint,
    /// What holds for the caller.
    pub kind: OverrideKind,
    /// Why; at most 200 characters.
    pub reason: Option<String>,
    /// Who has set it; at most 100 characters.
    pub author: Option<String>,
    /// When it was set, since 1970 UTC.
    pub since: Duration,
    /// When it ends, since 1970 UTC.
    pub until: Duration,
}

/// What an [`Override`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverrideKind {
    /// All requests and checks of the caller are refused.
    Block,
    /// The caller has this quota under a policy, instead of the policy's or its plan's.
    Quota {
        /// The policy's name.
        policy: String,
        /// The caller's quota.
        quota: Quota,
    },
}

impl Override {
    /// An override from a store of your own. `since` and `until` are times since 1970 UTC, by the
    /// store's clock.
    #[must_use]
    pub const fn new(
        caller: Fingerprint,
        kind: OverrideKind,
        since: Duration,
        until: Duration,
    ) -> Self {
        Self { caller, kind, reason: None, author: None, since, until }
    }

    /// The policy whose quota is another; `None` for a block. A caller has at most one override for
    /// each.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        match &self.kind {
            OverrideKind::Block => None,
            OverrideKind::Quota { policy, .. } => Some(policy),
        }
    }

    /// How long it lasts at this time of the same clock. A clock that was set back makes it no longer
    /// than it was set for.
    pub(crate) fn left(&self, now: Duration) -> Duration {
        let longest = self.until.saturating_sub(self.since).min(MAX_TIME);
        self.until.saturating_sub(now).min(longest)
    }

    /// What is wrong with its texts.
    pub(crate) fn text_problem(&self) -> Option<String> {
        let problem = |name, text: &Option<String>, max| text_problem(name, text.as_deref()?, max);
        problem("the reason", &self.reason, MAX_REASON)
            .or_else(|| problem("the author", &self.author, MAX_AUTHOR))
    }
}

/// What is wrong with the reason of an override.
#[cfg(feature = "config")]
pub(crate) fn reason_problem(reason: &str) -> Option<String> {
    text_problem("the reason", reason, MAX_REASON)
}

/// A quota as it is saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedQuota {
    /// `None`: unlimited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    units: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    window_nanos: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    burst: Option<u64>,
    /// In place of `window_nanos`: `["month", "15", "Asia/Shanghai"]`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    calendar: Option<[String; 3]>,
}

impl SavedQuota {
    /// What [`quota`](Self::quota) reads again, if a policy can have the quota. Any other quota is not
    /// read again.
    pub(crate) fn new(quota: Quota) -> Self {
        let burst = quota.has_burst().then(|| quota.capacity());
        if quota.is_unlimited() {
            return Self { units: None, window_nanos: None, burst, calendar: None };
        }
        let calendar = quota.calendar_parts();
        let window_nanos = calendar.is_none().then(|| quota.window_nanos());
        Self { units: Some(quota.units()), window_nanos, burst, calendar }
    }

    /// `None` for what is no quota, or has a calendar that is not known here.
    pub(crate) fn quota(&self) -> Option<Quota> {
        match (self.units, self.window_nanos, self.burst, &self.calendar) {
            (None, None, None, None) => Some(Quota::unlimited()),
            (Some(units), None, None, Some(parts)) => Quota::by_calendar_parts(units, parts),
            (Some(units), Some(window), burst, None) => {
                let quota = match window {
                    0 => Quota::in_flight(units),
                    _ => Quota::per_window(units, Duration::from_nanos(window)),
                };
                let quota = burst.map_or(quota, |burst| quota.burst(burst));
                let is_read = quota.units() == units && quota.window_nanos() == window;
                is_read.then_some(quota)
            }
            _ => None,
        }
    }
}

/// An override as it is saved.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    /// 32 hexadecimal digits.
    caller: String,
    kind: FormKind,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    quota: Option<SavedQuota>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    author: Option<String>,
    since_micros: u64,
    until_micros: u64,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormKind {
    Block,
    Quota,
}

impl From<Override> for Form {
    fn from(saved: Override) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (kind, policy, quota) = match saved.kind {
            OverrideKind::Block => (FormKind::Block, None, None),
            OverrideKind::Quota { policy, quota } => {
                (FormKind::Quota, Some(policy), Some(SavedQuota::new(quota)))
            }
        };
        Self {
            caller: saved.caller.to_string(),
            kind,
            policy,
            quota,
            reason: saved.reason,
            author: saved.author,
            since_micros: micros(saved.since),
            until_micros: micros(saved.until),
        }
    }
}

/// Why an override that was saved cannot be read.
#[derive(Debug)]
struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<Form> for Override {
    type Error = Unreadable;

    fn try_from(form: Form) -> Result<Self, Unreadable> {
        let fail = |problem: &str| Err(Unreadable(problem.to_owned()));
        let Some(caller) = Fingerprint::from_hex(&form.caller) else {
            return fail("a caller has 32 hexadecimal digits");
        };
        let quota = form.quota.as_ref().map(SavedQuota::quota);
        let kind = match (form.kind, form.policy, quota) {
            (FormKind::Block, None, None) => OverrideKind::Block,
            (FormKind::Quota, Some(policy), Some(Some(quota))) => {
                OverrideKind::Quota { policy, quota }
            }
            (FormKind::Block, ..) => return fail("a block has neither `policy` nor `quota`"),
            (FormKind::Quota, None, _) => return fail("a quota needs a `policy`"),
            (FormKind::Quota, ..) => {
                return fail(
                    "a `quota` has `units` and `window_nanos` or a known `calendar`, or nothing if it is unlimited",
                );
            }
        };
        let (since, until) = (form.since_micros, form.until_micros);
        let saved = Self {
            caller,
            kind,
            reason: form.reason,
            author: form.author,
            since: Duration::from_micros(since),
            until: Duration::from_micros(until),
        };
        saved.text_problem().map_or(Ok(saved), |problem| Err(Unreadable(problem)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(kind: OverrideKind) -> Override {
        let at = Duration::from_secs;
        let saved = Override::new(Fingerprint(0xabc << 100), kind, at(1_000), at(4_600));
        Override { reason: Some("scraping".into()), author: Some("ana".into()), ..saved }
    }

    #[test]
    fn each_override_is_read_as_it_was_saved() {
        let quota = |quota| OverrideKind::Quota { policy: "read".into(), quota };
        for kind in [
            OverrideKind::Block,
            quota(Quota::per_minute(600)),
            quota(Quota::per_day(0)),
            quota(Quota::per_window(7, Duration::from_nanos(3)).burst(2)),
            quota(Quota::unlimited()),
        ] {
            let saved = saved(kind);
            let text = serde_json::to_string(&saved).unwrap();
            assert_eq!(serde_json::from_str::<Override>(&text).unwrap(), saved, "{text}");
        }
    }

    #[test]
    fn what_no_policy_can_have_is_not_read_as_another_quota() {
        assert_eq!(SavedQuota::new(Quota::unlimited().burst(3)).quota(), None);
    }

    #[cfg(feature = "calendar")]
    #[test]
    fn a_quota_by_the_calendar_is_read_as_it_was_saved() {
        use crate::calendar::{Anchor, Weekday};
        let quota = |quota| saved(OverrideKind::Quota { policy: "read".into(), quota });
        for by_calendar in [
            Quota::per_calendar_month(5),
            Quota::per_calendar_month(5).anchor(31).in_zone("Asia/Shanghai"),
            Quota::per_calendar_week(5).anchor(Weekday::Sunday).in_zone("Europe/Berlin"),
            Quota::per_calendar_day(0).anchor(Anchor::Time { hour: 6, minute: 30 }),
            Quota::per_calendar_year(5).anchor(Anchor::YearDay { month: 4, day: 6 }),
        ] {
            let saved = quota(by_calendar);
            let text = serde_json::to_string(&saved).unwrap();
            assert_eq!(serde_json::from_str::<Override>(&text).unwrap(), saved, "{text}");
        }
        let text = serde_json::to_string(&quota(Quota::per_calendar_month(5).anchor(2))).unwrap();
        for (from, to) in [("UTC", "Mars"), ("\"2\"", "\"32\""), ("month", "moon")] {
            let wrong = text.replacen(from, to, 1);
            let error = serde_json::from_str::<Override>(&wrong).unwrap_err().to_string();
            assert!(error.contains("or a known `calendar`"), "{wrong}: {error}");
        }
        for of_no_policy in
            [Quota::per_calendar_month(5).in_zone("Mars"), Quota::per_calendar_month(5).burst(9)]
        {
            assert_eq!(SavedQuota::new(of_no_policy).quota(), None);
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_says_why() {
        let text = serde_json::to_string(&saved(OverrideKind::Block)).unwrap();
        for (from, to, problem) in [
            ("\"block\"", "\"bloc\"", "unknown variant `bloc`, expected `block` or `quota`"),
            ("\"block\"", "\"quota\"", "a quota needs a `policy`"),
            ("scraping", "scra\\nping", "the reason has a control character"),
            ("ana", "a\u{202e}na", "the author has a control character"),
            ("{\"caller\"", "{\"more\":1,\"caller\"", "unknown field `more`"),
            ("{\"caller\":\"", "{\"caller\":\"0", "a caller has 32 hexadecimal digits"),
            ("\"block\"", "\"block\",\"policy\":\"p\"", "neither `policy` nor `quota`"),
        ] {
            let wrong = text.replacen(from, to, 1);
            let error = serde_json::from_str::<Override>(&wrong).unwrap_err().to_string();
            assert!(error.contains(problem), "{wrong}: {error}");
        }
        let long = saved(OverrideKind::Block);
        let long = |reason: String| Override { reason: Some(reason), ..long.clone() };
        assert_eq!(long("é".repeat(MAX_REASON)).text_problem(), None);
        let problem = long("é".repeat(MAX_REASON + 1)).text_problem();
        assert_eq!(problem.as_deref(), Some("the reason has more than 200 characters"));
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_override_longer() {
        let hour = Duration::from_secs(3_600);
        let block = saved(OverrideKind::Block);
        for (now, left) in [(0, 3_600), (1_000, 3_600), (4_599, 1), (4_600, 0), (9_999, 0)] {
            assert_eq!(block.left(Duration::from_secs(now)), Duration::from_secs(left));
        }
        let endless = Override { until: Duration::MAX, ..block };
        assert_eq!(endless.left(hour), MAX_TIME);
    }
}
