//! A decision while it is made: the charges for the store, and what it answers.

use std::{ops::Range, time::Duration};

use http::{StatusCode, request::Parts};
use smallvec::SmallVec;

use super::{Inner, Members, Rule};
use crate::{
    clock::Now,
    first_requests::FirstRequests,
    key::{Domain, Extracted, Key},
    limiter::queue::Callers,
    limiter::{Decision, Outcome, Reason},
    path::SentPath,
    policy::WithoutKey,
    quota::Quota,
    store::{Charge, Mode, Usages},
    warning::{Code, warn},
};

/// What was read from a request: policies by the same key read it once.
struct Read<'a> {
    /// The [`Rule::key_source`].
    source: u32,
    kind: u8,
    key: Extracted<'a>,
    /// 0 unless the key is found.
    fingerprint: u128,
}

impl Inner {
    /// Adds to `decision` what each policy of the request charges.
    #[inline]
    pub(super) fn ask(&self, request: &Parts, decision: &mut Decision) {
        let (category, others) = match self.exempt.is_empty() && self.categories.is_empty() {
            true => (None, Vec::new()),
            false => match self.categories_of(request) {
                Some(categories) => categories,
                None => return,
            },
        };
        decision.record.category = category;
        let of_category = self.rules_of(category);
        decision.reserve(self.every_request.len().saturating_add(of_category.len()));
        let mut read = None;
        for place in self.every_request.clone().chain(of_category) {
            self.ask_one(self.rule(place), request, &mut read, decision);
        }
        if !others.is_empty() {
            self.ask_others(&others, request, decision);
        }
    }

    /// Adds the policies of further categories, each once.
    #[cold]
    fn ask_others(&self, others: &[u32], request: &Parts, decision: &mut Decision) {
        let mut read = None;
        for place in others.iter().flat_map(|other| self.rules_of(Some(*other))) {
            let rule = self.rule(place);
            if decision.all().all(|asked| asked.charge.policy != rule.unasked.charge.policy) {
                self.ask_one(rule, request, &mut read, decision);
            }
        }
    }

    /// The category of a request, and others in which it counts as well; `None` if it is exempt.
    pub(super) fn categories_of(&self, request: &Parts) -> Option<(Option<u32>, Vec<u32>)> {
        let path = SentPath::from_request(request);
        if !self.exempt.is_empty() {
            let is_exempt =
                self.exempt.iter().any(|matcher| matcher.surely_matches(request, &path));
            if !self.all_exempt.are_over() {
                self.watch_exemptions(is_exempt);
            }
            if is_exempt {
                return None;
            }
        }
        let is_in = |category: &Members| {
            category.matchers.iter().any(|matcher| matcher.matches_as_sent(request, &path))
        };
        let as_sent = self.categories.iter().position(is_in).map(|number| number as u32);
        Some(match path.is_plain() {
            true => (as_sent, Vec::new()),
            false => self.categories_of_odd(request, &path, as_sent),
        })
    }

    /// Some routers decode a path and split it as others do: they choose the first category that
    /// matches the decoded path. Routers that split it differently, or trim a trailing slash, may
    /// choose any category: a router that axum nests at `/v1` answers `/v1/`, or leaves it to the
    /// router outside.
    #[cold]
    #[inline(never)]
    fn categories_of_odd(
        &self,
        request: &Parts,
        path: &SentPath<'_>,
        as_sent: Option<u32>,
    ) -> (Option<u32>, Vec<u32>) {
        let is_in = |category: &Members| {
            category.matchers.iter().any(|matcher| matcher.may_match(request, path))
        };
        let all = self.categories.iter().enumerate().filter(|(_, category)| is_in(category));
        let may_be_any = path.is_ambiguous() || path.text.ends_with('/');
        let most = if may_be_any { usize::MAX } else { 1 };
        let mut all: Vec<_> = all.map(|(number, _)| number as u32).take(most).collect();
        let first = as_sent.or(all.first().copied());
        all.retain(|number| Some(*number) != first);
        (first, all)
    }

    fn rules_of(&self, category: Option<u32>) -> Range<u32> {
        category.map_or(0..0, |number| self.categories[number as usize].rules.clone())
    }

    fn ask_one<'a>(
        &self,
        rule: &Rule,
        request: &'a Parts,
        read: &mut Option<Read<'a>>,
        decision: &mut Decision,
    ) {
        let policy = &rule.policy;
        let quota = policy.settings.quota_of(request);
        if quota.is_unlimited() {
            return;
        }
        let read = match read {
            Some(read) if read.source == rule.key_source => read,
            _ => read.insert(self.read(rule, request)),
        };
        if !rule.without_key.are_over() {
            rule.watch_key(read.kind, &read.key);
        }
        match &read.key {
            Extracted::Found(key) => match self.shard_for(rule, request, read.kind, key) {
                Ok(shard) => {
                    let key = (read.fingerprint, shard.unwrap_or(read.fingerprint as u64));
                    rule.ask(decision, read.kind, key, quota, policy.settings.cost_of(request));
                }
                Err(status) => rule.refuse_unreadable(decision, read.kind, quota, status),
            },
            Extracted::Missing if policy.settings.keys.without_key() == WithoutKey::Skip => {}
            Extracted::Missing => {
                let missing = rule.ask(decision, 0, (0, 0), quota, 0);
                missing.refused = Some(Reason::MissingKey);
            }
            Extracted::Unreadable(status) => {
                rule.refuse_unreadable(decision, read.kind, quota, *status);
            }
        }
    }

    #[inline]
    fn read<'a>(&self, rule: &Rule, request: &'a Parts) -> Read<'a> {
        let (kind, key) = rule.policy.settings.keys.find(request);
        let fingerprint = match &key {
            Extracted::Found(key) => self.fingerprint(rule, kind, key),
            Extracted::Missing | Extracted::Unreadable(_) => 0,
        };
        Read { source: rule.key_source, kind, key, fingerprint }
    }
}

impl Inner {
    /// Reports that exemptions match each of the first requests, so that no request is counted.
    #[cold]
    fn watch_exemptions(&self, is_exempt: bool) {
        if !is_exempt {
            return self.all_exempt.end();
        }
        if self.all_exempt.count() {
            warn(Code::AllExempt, "", || {
                format!(
                    "the first {} requests were all exempt, and nothing was counted; write \
                     exemptions that match less, unless these are health checks",
                    FirstRequests::MANY
                )
            });
        }
    }

    /// The fingerprint of a key that is about to be charged. The store prefetches it, as early as
    /// can be.
    #[inline]
    pub(super) fn fingerprint(&self, rule: &Rule, kind: u8, key: &Key<'_>) -> u128 {
        let fingerprint = self.fingerprints.fingerprint(rule.domain(kind).key, key);
        self.store.prefetch(fingerprint);
        fingerprint
    }

    /// On which server of a cluster the counts of a key are kept, if not on its own.
    #[inline]
    pub(super) fn shard(&self, rule: &Rule, kind: u8, key: &Key<'_>) -> Option<u64> {
        if !self.is_shared {
            return None;
        }
        let domain = rule.domain(kind).first_part;
        key.first_part().map(|first| self.fingerprints.fingerprint(domain, &first) as u64)
    }

    /// On which server the counts of a request's key are kept, if not on the key's own: the policy
    /// may read the shard from the request.
    ///
    /// # Errors
    /// The status for a shard that cannot be read: it must not move the caller's counts to another
    /// server.
    #[inline]
    pub(super) fn shard_for(
        &self,
        rule: &Rule,
        request: &Parts,
        kind: u8,
        key: &Key<'_>,
    ) -> Result<Option<u64>, StatusCode> {
        if !self.is_shared {
            return Ok(None);
        }
        match rule.policy.settings.shard_of(request) {
            Extracted::Unreadable(status) => Err(status),
            chosen => Ok(match chosen.found() {
                Some(shard) => {
                    // Fingerprinted like the key of a policy that counts by it: both are on one server.
                    let (first, domain) = (shard.first_part(), rule.shard_domain);
                    let fingerprint = match first {
                        Some(first) => self.fingerprints.fingerprint(domain.first_part, &first),
                        None => self.fingerprints.fingerprint(domain.key, &shard),
                    };
                    Some(fingerprint as u64)
                }
                None => self.shard(rule, kind, key),
            }),
        }
    }
}

impl Rule {
    /// The domain of the keys of this kind.
    #[inline]
    pub(super) fn domain(&self, kind: u8) -> Domain {
        self.domains[usize::from(kind)]
    }

    /// Adds to `decision` what this rule charges to a key, and the key's shard.
    #[inline]
    pub(super) fn ask<'d>(
        &self,
        decision: &'d mut Decision,
        key_kind: u8,
        (key, shard): (u128, u64),
        quota: Quota,
        cost: u64,
    ) -> &'d mut Outcome {
        let asked = decision.push(&self.unasked);
        asked.key_kind = key_kind;
        asked.charge.key = key;
        asked.charge.shard = shard;
        asked.charge.quota = quota;
        asked.charge.cost = cost;
        if quota.units() == 0 {
            asked.refused = Some(Reason::NoQuota);
        }
        asked
    }

    /// Reports that none of the first requests has the key by which the policy counts first.
    #[cold]
    fn watch_key(&self, kind: u8, key: &Extracted<'_>) {
        if kind == 0 && !matches!(key, Extracted::Missing) {
            return self.without_key.end();
        }
        if self.without_key.count() {
            self.policy.settings.keys.warn_never_found(self.policy.name());
        }
    }

    /// Adds to `decision` that this rule refuses the request, as its key is unreadable.
    #[cold]
    fn refuse_unreadable(
        &self,
        decision: &mut Decision,
        kind: u8,
        quota: Quota,
        status: StatusCode,
    ) {
        let unreadable = self.ask(decision, kind, (0, 0), quota, 0);
        unreadable.refused = Some(Reason::UnreadableKey);
        unreadable.unreadable = Some(status);
    }
}

impl Decision {
    #[cfg(feature = "usage")]
    pub(super) fn only_peek(&mut self) {
        self.all_mut().for_each(|outcome| outcome.charge.mode = Mode::Peek);
    }

    #[cfg(any(feature = "metrics", feature = "tracing"))]
    pub(super) fn only_peeks(&self) -> bool {
        self.all().next().is_some_and(|outcome| outcome.charge.mode == Mode::Peek)
    }

    /// Whether the store decides. A request whose key is missing or unreadable is refused without it
    /// and costs nothing anywhere, unless only a dry run would refuse the request.
    #[inline]
    pub(super) fn needs_store(&self) -> bool {
        self.outcomes().iter().all(Outcome::has_key) && self.all().any(Outcome::has_key)
    }

    /// The charges for the store.
    pub(super) fn charges(&self) -> SmallVec<[Charge; 8]> {
        self.all().filter(|outcome| outcome.has_key()).map(|outcome| outcome.charge).collect()
    }

    pub(super) fn charges_mut(&mut self) -> impl Iterator<Item = &mut Charge> {
        self.all_mut().filter(|outcome| outcome.has_key()).map(|outcome| &mut outcome.charge)
    }

    /// Takes in the store's answer; `false` where that lacks one for some charge.
    #[inline]
    #[must_use]
    pub(super) fn answer(&mut self, usages: &Usages) -> bool {
        let charged = self.all().filter(|outcome| outcome.has_key()).count();
        for (outcome, usage) in self.all_mut().filter(|outcome| outcome.has_key()).zip(usages) {
            outcome.answer(usage);
        }
        charged == usages.len()
    }

    /// Those that keep the request from passing now.
    #[inline]
    fn waited_for(&self) -> impl Iterator<Item = &Outcome> {
        let waited_for =
            |outcome: &&Outcome| !outcome.usage.fits() && outcome.charge.mode == Mode::Enforced;
        self.outcomes().iter().filter(waited_for)
    }

    /// How long until all that refuse would pass; `None` when one of them would not have the
    /// request wait that long, of which it has waited `held_so_far`, or when none refuses.
    pub(super) fn wait_worthwhile(&self, inner: &Inner, held_so_far: Duration) -> Option<Duration> {
        let waits = self.waited_for().map(|outcome| {
            let wait = outcome.usage.wait();
            let in_time = held_so_far.saturating_add(wait) <= inner.rule(outcome.place).hold;
            (in_time && outcome.refused == Some(Reason::QuotaExceeded)).then_some(wait)
        });
        waits.max_by_key(|wait| wait.map_or(Duration::MAX, |wait| wait))?
    }

    /// The callers, for the line of those who wait: each key that is a caller's own and not shared
    /// by all. There are none where all policies are global.
    pub(super) fn callers(&self) -> Callers {
        let mut callers = Callers::new();
        for key in self.all().filter_map(Outcome::fingerprint) {
            if !callers.contains(&key) {
                callers.push(key);
            }
        }
        callers
    }

    /// How long the request may be held by any of its policies.
    pub(super) fn longest_hold(&self, inner: &Inner) -> Duration {
        self.all().map(|outcome| inner.rule(outcome.place).hold).max().unwrap_or_default()
    }

    /// Ends the decision without the store: only the policies that lack a key have a say.
    #[inline]
    pub(super) fn finish_uncounted(&mut self, now: Now) {
        self.retain(|outcome| !outcome.has_key());
        self.record.close(now, Duration::ZERO);
    }

    /// The decision is made.
    #[inline]
    pub(super) fn finish(&mut self, now: Now, held: Duration) {
        if self.all().any(|outcome| !outcome.usage.is_known()) {
            self.retain(|outcome| outcome.usage.is_known());
        }
        self.record.close(now, held);
    }
}
