//! What watches the steps of an evaluation: [`Trace`].

use super::{
    categories::{Categories, CategoryRules},
    overrides::CallersOwn,
    rules::Rule,
};
use crate::{
    key::{Caller, Extracted},
    matcher::Matcher,
    policy::QuotaSource,
    quota::Quota,
};

/// Watches the steps of an evaluation, and changes nothing. A decision passes `&mut ()`, which the
/// compiler removes; an explanation keeps what it sees. So both take the same steps.
pub(super) trait Trace {
    /// Whether it watches the matchers that cannot match, too. A decision leaves out many of them.
    fn watches_all(&self) -> bool {
        false
    }

    /// An exemption was compared with the request.
    fn exemption(&mut self, _matcher: &Matcher, _matches: bool) {}

    /// A matcher of a category was compared with the request: with its path as it was sent, or else
    /// with all its readings.
    fn category(&mut self, _of: &CategoryRules, _by: &Matcher, _as_sent: bool, _matches: bool) {}

    /// The request's category, and others in which it counts as well.
    fn categories(&mut self, _all: &[CategoryRules], _found: &Categories) {}

    /// The caller was read, as some callers have overrides.
    fn caller(&mut self, _caller: &Caller, _extracted: &Extracted<'_>) {}

    /// The overrides of the request's caller.
    fn overrides(&mut self, _own: Option<&CallersOwn>) {}

    /// The override source does not answer, and nothing is remembered of the caller.
    fn source_unavailable(&mut self) {}

    /// The evaluation of a policy begins.
    fn policy(&mut self, _rule: &Rule) {}

    /// The quota comes from the caller's override, or else from this source.
    fn quota_source(&mut self, _rule: &Rule, _from: Option<QuotaSource<'_>>) {}

    /// The quota is this.
    fn quota(&mut self, _quota: Quota) {}

    /// The search for a key begins. Policies that count by the same key share a search.
    fn key_search(&mut self) {}

    /// A kind of key was tried.
    fn key(&mut self, _rule: &Rule, _kind: u8, _extracted: &Extracted<'_>) {}

    /// The search for the key of this policy has ended.
    fn key_searched(&mut self) {}

    /// The request has no key, and the policy does not count it.
    fn skipped(&mut self) {}
}

/// The trace of a decision.
impl Trace for () {}
