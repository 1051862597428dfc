use std::time::Duration;

use http::request::Parts;
use smallvec::SmallVec;

use super::{Inner, Rule};
use crate::{
    clock::Now,
    decision::{Decision, Outcome, Reason},
    key::{Fingerprinter, Key},
    quota::Quota,
    store::{Charge, Mode, Usage, Usages},
};

/// What a request's policies ask of the store.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) charges: SmallVec<[Charge; 4]>,
    /// Of each charge: the place of its rule, and the kind of key found.
    rules: SmallVec<[(u32, u8); 4]>,
    /// The policies that refuse because the request has no key.
    missing: Vec<Outcome>,
}

/// The key that was hashed last: policies that count by the same one hash it once.
#[derive(Default)]
pub(super) struct LastKey<'a>(Option<(u8, Key<'a>, u128)>);

impl<'a> LastKey<'a> {
    fn fingerprint(&mut self, kind: u8, key: Key<'a>, fingerprints: &Fingerprinter) -> u128 {
        match &self.0 {
            Some((last_kind, last, fingerprint)) if *last_kind == kind && *last == key => {
                *fingerprint
            }
            _ => {
                let fingerprint = fingerprints.fingerprint(kind, &key);
                self.0 = Some((kind, key, fingerprint));
                fingerprint
            }
        }
    }
}

impl Asked {
    /// Asks for what the rule at `place` demands of a request.
    pub(super) fn by_request<'a>(
        &mut self,
        place: u32,
        inner: &Inner,
        request: &'a Parts,
        last_key: &mut LastKey<'a>,
    ) {
        let rule = inner.rule(place);
        let policy = &rule.policy;
        let quota = policy.quota_of(request);
        if quota.is_unlimited() {
            return;
        }
        match policy.key_of(request) {
            Some((kind, key)) => {
                let key = last_key.fingerprint(kind, key, &inner.fingerprints);
                self.charge(place, rule, kind, key, quota, policy.cost_of(request));
            }
            None if policy.skips_without_key() => {}
            None => self.missing.push(Outcome {
                policy: policy.clone(),
                key_kind: 0,
                refused: Some(Reason::MissingKey),
                charge: rule.charge(0, quota, 0),
                usage: Usage::default(),
            }),
        }
    }

    pub(super) fn charge(
        &mut self,
        place: u32,
        rule: &Rule,
        kind: u8,
        key: u128,
        quota: Quota,
        cost: u64,
    ) {
        self.charges.push(rule.charge(key, quota, cost));
        self.rules.push((place, kind));
    }

    pub(super) fn only_peek(&mut self) {
        self.charges.iter_mut().for_each(|charge| charge.mode = Mode::Peek);
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
        inner: &Inner,
        usages: &Usages,
        held_so_far: Duration,
    ) -> Option<Duration> {
        let waits = self.refusing(usages).map(|(place, charge, usage)| {
            let in_time = held_so_far.saturating_add(usage.wait()) <= inner.rule(place).hold;
            let ever = charge.cost <= charge.algorithm.capacity(&charge.quota);
            (in_time && ever).then_some(usage.wait())
        });
        waits.max_by_key(|wait| wait.map_or(Duration::MAX, |wait| wait))?
    }

    /// How long each charge may wait.
    pub(super) fn holds(&self, inner: &Inner) -> impl Iterator<Item = Duration> {
        self.rules.iter().map(|(place, _)| inner.rule(*place).hold)
    }

    pub(super) fn longest_hold(&self, inner: &Inner) -> Duration {
        self.holds(inner).max().unwrap_or_default()
    }

    fn refusing<'a>(
        &'a self,
        usages: &'a Usages,
    ) -> impl Iterator<Item = (u32, &'a Charge, &'a Usage)> {
        let all = self.rules.iter().zip(&self.charges).zip(usages);
        let all = all.map(|(((place, _), charge), usage)| (*place, charge, usage));
        all.filter(|(_, charge, usage)| charge.mode == Mode::Enforced && !usage.fits())
    }

    /// The decision where nothing was asked of the store.
    pub(super) fn uncounted(&mut self, now: Now) -> Decision {
        let mut decision = Decision::new(now, Duration::ZERO);
        self.missing.drain(..).for_each(|outcome| decision.push(outcome));
        decision
    }

    pub(super) fn decide(
        &mut self,
        inner: &Inner,
        usages: &Usages,
        now: Now,
        held: Duration,
    ) -> Decision {
        let mut decision = Decision::new(now, held);
        for ((&(place, key_kind), charge), usage) in
            self.rules.iter().zip(&self.charges).zip(usages)
        {
            let policy = &inner.rule(place).policy;
            let refused = match usage.fits() {
                true => None,
                false if charge.cost > charge.algorithm.capacity(&charge.quota) => {
                    Some(Reason::CostExceedsQuota)
                }
                false => Some(Reason::QuotaExceeded),
            };
            if charge.mode == Mode::DryRun && refused.is_some() {
                log_dry_run(policy.name());
            }
            let policy = policy.clone();
            decision.push(Outcome { policy, key_kind, refused, charge: *charge, usage: *usage });
        }
        // What is missing here is a dry run's key: it is told, and refuses nothing.
        self.missing.drain(..).for_each(|outcome| decision.push(outcome));
        decision
    }
}

/// Each of them: this is what a dry run is for.
fn log_dry_run(policy: &str) {
    #[cfg(feature = "tracing")]
    tracing::info!(policy, "a dry run would have refused this request");
    #[cfg(not(feature = "tracing"))]
    let _ = policy;
}
