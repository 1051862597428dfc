//! The quota headers of responses: [`Headers`].

#[cfg(feature = "describe")]
mod descriptions;
mod inner;
pub(crate) mod number;
mod prepared;
mod structured;
mod style;

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

pub(crate) use self::prepared::{CLOSE, PreparedHeaders};
pub use self::style::{HeaderStyle, ResetFormat};
use self::{
    inner::Numbers,
    style::{Family, POLICY, STRUCTURED},
};
use crate::{
    error::BuildProblem,
    limiter::{Decision, Limiter, Outcome, Reason},
    policy::Policy,
};

/// The settings of a layer's quota headers.
#[derive(Clone, Debug)]
pub(crate) struct Headers {
    pub(crate) styles: Vec<HeaderStyle>,
    pub(crate) policy: Option<String>,
    pub(crate) retry_after: bool,
}

impl Default for Headers {
    fn default() -> Self {
        Self { styles: vec![HeaderStyle::x_ratelimit()], policy: None, retry_after: true }
    }
}

impl Headers {
    /// Why the headers of these policies cannot be written, or cannot be read by any client.
    pub(crate) fn problems<'a>(
        &self,
        policies: impl IntoIterator<Item = &'a Policy>,
    ) -> Vec<BuildProblem> {
        let mut problems = self.problems_of_styles();
        let has_lists = self.styles.iter().any(|style| style.family == Family::Lists);
        let mut names = BTreeSet::new();
        for policy in policies {
            if names.insert(policy.name()) && has_lists {
                problems.extend(problem_in_lists(policy));
            }
        }
        if let Some(policy) = &self.policy
            && let Some(problem) = self.problem_of_policy(policy, &names)
        {
            let culprit = format!("header policy `{policy}`");
            problems.push(BuildProblem::new(culprit, problem).in_setting("header_policy"));
        }
        problems
    }

    fn problems_of_styles(&self) -> Vec<BuildProblem> {
        let problem = |(index, style): (usize, &HeaderStyle)| {
            let names = style.names();
            let shares_header =
                |other: &&HeaderStyle| other.names().iter().any(|name| names.contains(name));
            let other = self.styles.iter().take(index).find(shares_header);
            let problem = match (style.problem(), other) {
                (Some(problem), _) => problem.to_owned(),
                (None, Some(other)) if other.family == style.family => {
                    "it is given twice; write it once".into()
                }
                (None, Some(other)) => {
                    format!("`{}` writes the same header otherwise; leave one out", other.name())
                }
                (None, None) => return None,
            };
            let culprit = format!("header style `{}`", style.name());
            Some(BuildProblem::new(culprit, problem).in_setting("headers").at(index))
        };
        self.styles.iter().enumerate().filter_map(problem).collect()
    }

    /// Why headers for one policy cannot show the one of this name.
    fn problem_of_policy(&self, policy: &str, names: &BTreeSet<&str>) -> Option<String> {
        if !names.contains(policy) {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let remedy = match &*names {
                [] => "leave `.header_policy(…)` out".to_owned(),
                names => format!("write one of {}", names.join(", ")),
            };
            return Some(format!("no policy for requests has this name; {remedy}"));
        }
        let has_one = self.styles.iter().any(|style| style.family != Family::Lists);
        (!has_one).then(|| {
            "no header style shows a single policy; leave `.header_policy(…)` out".to_owned()
        })
    }

    /// The headers that responses may have.
    pub(crate) fn names(&self) -> impl Iterator<Item = HeaderName> {
        let quota = self.styles.iter().flat_map(|style| style.names());
        quota.chain(self.retry_after.then_some(RETRY_AFTER))
    }

    /// The most headers of a refusal: three for each style, `Retry-After`, `Cache-Control`,
    /// `Content-Type`, `Content-Length` and `Connection`.
    pub(crate) fn capacity(&self) -> usize {
        self.styles.len().saturating_mul(3).saturating_add(5)
    }

    /// The same headers, each with its meaning.
    #[cfg(feature = "describe")]
    pub(crate) fn describe(&self) -> impl Iterator<Item = (HeaderName, &'static str)> {
        let quota = self.styles.iter().flat_map(|style| style.describe());
        let retry_after =
            "Only where a request is refused: the same request passes after this many seconds.";
        quota.chain(self.retry_after.then_some((RETRY_AFTER, retry_after)))
    }

    /// Writes the numbers of a refusal.
    pub(crate) fn write_refusal(
        &self,
        headers: &mut HeaderMap,
        decision: &Decision,
        limiter: Option<&Limiter>,
    ) {
        if decision.reason().is_none_or(Reason::is_counted) {
            self.write(headers, decision, limiter);
        }
    }

    /// Writes the numbers of `decision`. A decision of another limiter comes without `limiter`. A
    /// header with room for one policy keeps the numbers of an inner layer if they are tighter.
    pub(crate) fn write(
        &self,
        headers: &mut HeaderMap,
        decision: &Decision,
        limiter: Option<&Limiter>,
    ) {
        if self.styles.is_empty() {
            return;
        }
        let Some(outcome) = &self.outcome_of(decision) else { return };
        for &style in &self.styles {
            match style.family {
                Family::XRateLimit | Family::RateLimit => {
                    self.write_triple(headers, style, outcome, decision)
                }
                Family::Dictionary => self.write_dictionary(headers, style, outcome, decision),
                Family::Lists => self.write_lists(headers, style, decision, limiter),
            }
        }
    }

    /// Writes limit, remaining and reset, each into its own header.
    #[inline]
    fn write_triple(
        &self,
        headers: &mut HeaderMap,
        style: HeaderStyle,
        outcome: &Outcome<'_>,
        decision: &Decision,
    ) {
        let [limit, remaining, reset] = style.triple();
        if let Some(inner) = headers.insert(limit, number::limit(outcome.limit()))
            && self.keep_triple(headers, inner, style, outcome, decision)
        {
            return;
        }
        headers.insert(remaining, number::value(outcome.remaining()));
        match reset_in(style, outcome, decision) {
            Some(seconds) => headers.insert(reset, number::reset(seconds)),
            // An inner layer may have written it.
            None => headers.remove(reset),
        };
    }

    /// Keeps an inner layer's numbers, whose limit is no longer in the map, or returns `false`.
    #[cold]
    fn keep_triple(
        &self,
        headers: &mut HeaderMap,
        limit: HeaderValue,
        style: HeaderStyle,
        outcome: &Outcome<'_>,
        decision: &Decision,
    ) -> bool {
        let names = style.triple();
        let inner = Numbers::in_triple(headers, &limit, &names);
        let keep = self.keeps(inner, style, outcome, decision);
        if keep {
            let [name, ..] = names;
            headers.insert(name, limit);
        }
        keep
    }

    fn write_dictionary(
        &self,
        headers: &mut HeaderMap,
        style: HeaderStyle,
        outcome: &Outcome<'_>,
        decision: &Decision,
    ) {
        if headers.contains_key(STRUCTURED) {
            if self.keeps(Numbers::in_field(headers), style, outcome, decision) {
                return;
            }
            // An inner layer's lists may have written it. It does not belong to a dictionary.
            headers.remove(POLICY);
        }
        headers.insert(STRUCTURED, structured::dictionary(outcome));
    }

    fn write_lists(
        &self,
        headers: &mut HeaderMap,
        style: HeaderStyle,
        decision: &Decision,
        limiter: Option<&Limiter>,
    ) {
        let policies = structured::policies(decision, style, limiter);
        let limits = structured::limits(decision, style, limiter);
        let Some((mut policies, mut limits)) = policies.zip(limits) else { return };
        if headers.contains_key(STRUCTURED) && decision.is_allowed() {
            if let Some(joined) = inner::join_lists(headers, &policies, &limits) {
                (policies, limits) = joined;
            } else if decision.tightest().is_some_and(|outcome| {
                is_tighter(Numbers::in_field(headers), style, &outcome, decision)
            }) {
                return;
            }
        }
        headers.insert(POLICY, policies);
        headers.insert(STRUCTURED, limits);
    }

    /// Whether an inner layer's numbers stay. They do not in a refusal, nor if the settings name
    /// this policy.
    fn keeps(
        &self,
        inner: Option<Numbers>,
        style: HeaderStyle,
        outcome: &Outcome<'_>,
        decision: &Decision,
    ) -> bool {
        decision.is_allowed()
            && self.policy.as_deref() != Some(outcome.policy())
            && is_tighter(inner, style, outcome, decision)
    }

    /// Whether a header of this decision has the numbers of an enforced policy, or may have them.
    pub(crate) fn shows(&self, outcome: &Outcome<'_>, decision: &Decision) -> bool {
        let chosen = self.policy.as_deref().and_then(|name| decision.outcome(name));
        self.styles.iter().any(|style| match (style.family, &chosen) {
            (Family::Lists, _) | (_, None) => true,
            (_, Some(chosen)) => chosen.policy() == outcome.policy(),
        })
    }

    /// The policy that headers with room for one policy show.
    pub(crate) fn outcome_of<'a>(&self, decision: &'a Decision) -> Option<Outcome<'a>> {
        let name = self.policy.as_deref().filter(|_| decision.is_allowed());
        name.and_then(|name| decision.outcome(name)).or_else(|| decision.tightest())
    }
}

/// Why the lists cannot have the policy.
fn problem_in_lists(policy: &Policy) -> Option<BuildProblem> {
    let texts = [("name", Some(policy.name())), ("unit", policy.settings.unit.as_deref())];
    let is_unfit = |text: &str| !structured::fits_string(text);
    let (what, _) = texts.iter().find(|(_, text)| text.is_some_and(is_unfit))?;
    let problem = format!(
        "header style `ratelimit_lists` tells its {what}, which is not printable ASCII; rename it"
    );
    Some(BuildProblem::new(format!("policy `{}`", policy.name()), problem))
}

/// Whether the caller reaches an inner layer's limit before that of `outcome`.
fn is_tighter(
    inner: Option<Numbers>,
    style: HeaderStyle,
    outcome: &Outcome<'_>,
    decision: &Decision,
) -> bool {
    let reset = reset_in(style, outcome, decision).unwrap_or(0);
    let own = Numbers { limit: outcome.limit(), remaining: outcome.remaining(), reset };
    inner.is_some_and(|inner| inner.is_tighter_than(&own))
}

/// When more units come back, in the format of the style; `None` if that is unknown.
#[inline]
fn reset_in(style: HeaderStyle, outcome: &Outcome<'_>, decision: &Decision) -> Option<u64> {
    let reset = outcome.known_reset()?;
    let time = match style.reset_format() {
        // All units are there now, not only at the end of this second: so this is not rounded up.
        ResetFormat::UnixSeconds if reset.is_zero() => {
            return Some(decision.decided_at().as_secs());
        }
        ResetFormat::UnixSeconds => decision.decided_at().saturating_add(reset),
        ResetFormat::Seconds => reset,
        ResetFormat::Omitted => return None,
    };
    Some(whole_seconds(time))
}

/// Whole seconds, rounded up: a caller who waits this long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}
