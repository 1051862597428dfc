use std::time::Duration;

use http::request::Parts;
use smallvec::SmallVec;

use super::Rule;
use crate::{
    clock::Now,
    decision::{Decision, Outcome, Reason},
    key::Fingerprinter,
    quota::Quota,
    store::{Charge, Mode, Usage, Usages},
};

/// What a request's policies ask of the store.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) charges: SmallVec<[Charge; 4]>,
    /// The rules of `charges`, and the kinds of key found.
    rules: SmallVec<[(Rule, u8); 4]>,
    /// The policies that refuse because the request has no key.
    missing: SmallVec<[Outcome; 1]>,
    /// The number of the request's category.
    pub(super) category: Option<usize>,
}

impl Asked {
    pub(super) fn by_request(
        &mut self,
        rule: &Rule,
        request: &Parts,
        fingerprints: &Fingerprinter,
    ) {
        let policy = &rule.policy;
        let quota = policy.quota_of(request);
        if quota.is_unlimited() {
            return;
        }
        match policy.key_of(request) {
            Some((kind, key)) => {
                let key = fingerprints.fingerprint(kind, &key);
                self.charge(rule, kind, key, quota, policy.cost_of(request));
            }
            None if policy.skips_without_key() => {}
            None => self.missing.push(Outcome {
                policy: policy.clone(),
                key_kind: 0,
                quota,
                charge: None,
                refused: Some(Reason::MissingKey),
                remaining: 0,
                reset: Duration::ZERO,
                wait: Duration::ZERO,
            }),
        }
    }

    pub(super) fn charge(&mut self, rule: &Rule, kind: u8, key: u128, quota: Quota, cost: u64) {
        let Rule { policy, id, .. } = rule;
        let mode = if policy.is_dry_run() { Mode::DryRun } else { Mode::Enforced };
        let algorithm = policy.algorithm();
        self.charges.push(Charge { policy: *id, key, algorithm, quota, cost, ahead: 0, mode });
        self.rules.push((rule.clone(), kind));
    }

    pub(super) fn only_peek(&mut self) {
        self.charges.iter_mut().for_each(|charge| charge.mode = Mode::Peek);
    }

    pub(super) fn only_peeks(&self) -> bool {
        self.charges.first().is_some_and(|charge| charge.mode == Mode::Peek)
    }

    /// A request that lacks a key is refused by that, and costs nothing anywhere; unless it is
    /// only a dry run that would refuse it.
    pub(super) fn needs_store(&self) -> bool {
        let refused = self.missing.iter().any(|outcome| !outcome.policy.is_dry_run());
        !self.charges.is_empty() && !refused
    }

    pub(super) fn passes(&self, usages: &Usages) -> bool {
        self.refusing(usages).next().is_none()
    }

    /// How long until all that refuse would pass; `None` when one of them would not have the
    /// request wait that long, of which it has waited `held_so_far`.
    pub(super) fn wait_worthwhile(
        &self,
        usages: &Usages,
        held_so_far: Duration,
    ) -> Option<Duration> {
        let waits = self.refusing(usages).map(|(rule, charge, usage)| {
            let in_time = held_so_far.saturating_add(usage.wait) <= rule.hold;
            let ever = charge.cost <= charge.algorithm.capacity(&charge.quota);
            (in_time && ever).then_some(usage.wait)
        });
        waits.max_by_key(|wait| wait.map_or(Duration::MAX, |wait| wait))?
    }

    /// How long each charge may wait.
    pub(super) fn holds(&self) -> impl Iterator<Item = Duration> {
        self.rules.iter().map(|(rule, _)| rule.hold)
    }

    pub(super) fn longest_hold(&self) -> Duration {
        self.holds().max().unwrap_or_default()
    }

    fn refusing<'a>(
        &'a self,
        usages: &'a Usages,
    ) -> impl Iterator<Item = (&'a Rule, &'a Charge, &'a Usage)> {
        let all = self.rules.iter().zip(&self.charges).zip(usages);
        let all = all.map(|(((rule, _), charge), usage)| (rule, charge, usage));
        all.filter(|(_, charge, usage)| charge.mode == Mode::Enforced && !usage.wait.is_zero())
    }

    /// The decision where nothing was asked of the store.
    pub(super) fn uncounted(&mut self, now: Now) -> Decision {
        let missing = std::mem::take(&mut self.missing);
        Decision::new(missing, now, Duration::ZERO)
    }

    pub(super) fn decide(&mut self, usages: &Usages, now: Now, held: Duration) -> Decision {
        // In place: these are large to move.
        let all = self.rules.drain(..).zip(&self.charges).zip(usages);
        let outcomes = all.map(|(((rule, key_kind), charge), usage)| {
            let refused = match usage.wait {
                Duration::ZERO => None,
                _ if charge.cost > charge.algorithm.capacity(&charge.quota) => {
                    Some(Reason::CostExceedsQuota)
                }
                _ => Some(Reason::QuotaExceeded),
            };
            Outcome {
                policy: rule.policy,
                key_kind,
                quota: charge.quota,
                charge: Some(*charge),
                refused,
                remaining: usage.remaining,
                reset: usage.reset,
                wait: usage.wait,
            }
        });
        // What is missing here is a dry run's key: it is told, and refuses nothing.
        Decision::new(outcomes.chain(self.missing.drain(..)), now, held)
    }
}
