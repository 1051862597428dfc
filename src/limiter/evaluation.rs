//! What a request charges: which policies apply, the key and the quota of each, and the cost.

use std::time::Duration;

use http::{StatusCode, request::Parts};

use super::{
    Core,
    decision::{Decision, Entry, Outcome, Pooled, Reason, Record, Ruling},
    overrides::Override,
    queue::{Callers, Request},
    quota_ref::QuotaRef,
    rules::Rule,
};
use crate::{
    clock::{Now, nanos},
    key::Extracted,
    policy::WithoutKey,
    quota::Quota,
    store::{Charge, Mode, Store, Usage},
};

/// A request before it is decided: the charges for the store, and then the store's answers.
#[derive(Default)]
#[must_use]
pub(crate) struct Evaluation {
    pub(crate) record: Pooled,
}

/// A key that was read from a request. Policies that count by the same key read it once.
struct KeyRead {
    /// The [`Rule::key_source`].
    source: u32,
    kind: u8,
    /// The key's fingerprint and shard; or the status for an unreadable key, and none for a missing
    /// one.
    found: Result<(u128, u64), Option<StatusCode>>,
}

impl Evaluation {
    /// The charges of all policies that apply to a request.
    #[inline]
    pub(super) fn of_request(core: &Core, request: &Parts) -> Self {
        let mut evaluation = Self::default();
        let own = match core.overrides.is_empty() {
            true => None,
            false => match core.override_of(request) {
                Ok(own) => own,
                Err(ruling) => return Self::ruled(core, request, ruling),
            },
        };
        let categories = match core.rules.is_plain() {
            true => Default::default(),
            false => match core.rules.categories_of(request) {
                Some(categories) => categories,
                None => return evaluation,
            },
        };
        let record = &mut *evaluation.record;
        record.category = categories.first;
        let mut read = None;
        for rule in core.rules.for_every_request() {
            record.add_rule(core, rule, request, own.as_ref(), &mut read);
        }
        for rule in core.rules.of_category(categories.first) {
            record.add_rule(core, rule, request, own.as_ref(), &mut read);
        }
        if !categories.others.is_empty() {
            record.add_others(core, &categories.others, request, own.as_ref());
        }
        evaluation
    }

    /// The charges, of one unit each, of all policies that find a key in a request, whatever its
    /// category. Global policies and unlimited quotas are left out.
    pub(super) fn of_all_policies(core: &Core, request: &Parts) -> Self {
        let mut evaluation = Self::default();
        let own = match core.overrides.is_empty() {
            true => None,
            false => core
                .caller_of(request)
                .ok()
                .flatten()
                .and_then(|caller| core.overrides.get(caller, core.clock.now())),
        };
        for rule in core.rules.for_requests() {
            let is_known = |charge: &Charge| charge.policy == rule.charge.policy;
            let own_quota = own.as_ref().and_then(|own| own.quota(rule.charge.policy));
            let quota = own_quota.unwrap_or_else(|| rule.policy.settings.quota_of(request));
            if rule.policy.settings.keys.is_global
                || quota.is_unlimited()
                || evaluation.record.charges.iter().any(is_known)
            {
                continue;
            }
            let KeyRead { kind, found, .. } = KeyRead::new(core, rule, request);
            if let Ok((key, shard)) = found
                && let Ok(shard) = core.shard_of(rule, request, shard)
            {
                evaluation.push(rule, kind, (key, shard), quota, 1);
            }
        }
        evaluation.only_peek();
        evaluation
    }

    /// A charge of one unit for each of these quotas.
    pub(super) fn of_quotas(core: &Core, quotas: &[QuotaRef], own: Option<&Override>) -> Self {
        let mut evaluation = Self::default();
        for QuotaRef { rule, key_kind, charge } in quotas {
            let own_quota = own.and_then(|own| own.quota(charge.policy));
            let quota = own_quota.unwrap_or(charge.quota);
            let key = (charge.key, charge.shard);
            evaluation.push(core.rules.rule(*rule), *key_kind, key, quota, 1);
        }
        evaluation
    }

    /// Adds a policy; see [`Record::push`].
    #[inline]
    pub(super) fn push(
        &mut self,
        rule: &Rule,
        key_kind: u8,
        key: (u128, u64),
        quota: Quota,
        cost: u64,
    ) {
        self.record.push(rule, key_kind, key, quota, cost);
    }

    /// The evaluation of a request that is refused before any policy.
    #[cold]
    fn ruled(core: &Core, request: &Parts, ruling: Ruling) -> Self {
        let mut evaluation = Self::default();
        evaluation.record.category =
            core.rules.categories_of(request).and_then(|categories| categories.first);
        evaluation.record.ruling = ruling;
        evaluation
    }

    /// The evaluation of a check of a blocked caller.
    #[cold]
    pub(super) fn blocked(wait: Duration) -> Self {
        let mut evaluation = Self::default();
        evaluation.record.ruling = Ruling::Blocked { wait };
        evaluation
    }

    /// Makes all charges peeks, which charge nothing.
    pub(super) fn only_peek(&mut self) {
        self.record.charges.iter_mut().for_each(|charge| charge.mode = Mode::Peek);
    }

    /// Whether the store has to be called. A request that an enforced policy refuses for its key is
    /// refused without the store, and charged nothing under any policy.
    #[inline]
    pub(super) fn needs_store(&self) -> bool {
        self.record.counted > 0 && !self.record.lacks_key
    }

    /// The charges for the store.
    #[inline]
    pub(super) fn charges(&self) -> &[Charge] {
        &self.record.charges[..self.record.counted]
    }

    #[inline]
    pub(super) fn charges_mut(&mut self) -> &mut [Charge] {
        let counted = self.record.counted;
        &mut self.record.charges[..counted]
    }

    #[inline(always)]
    fn charges_and_usages(&mut self) -> (&[Charge], &mut [Usage]) {
        let Record { charges, usages, counted, .. } = &mut *self.record;
        (&charges[..*counted], &mut usages[..*counted])
    }

    /// Charges, if the store answers at once.
    pub(super) fn charge_at_once(&mut self, store: &dyn Store, now: Now) -> bool {
        let (charges, usages) = self.charges_and_usages();
        let is_charged = store.charge_at_once(charges, usages, now);
        if is_charged {
            self.judge();
        }
        is_charged
    }

    /// Charges for the first time and decides, if the store answers at once.
    #[inline(always)]
    pub(super) fn decide_at_once(mut self, store: &dyn Store, now: Now) -> Result<Decision, Self> {
        let (charges, usages) = self.charges_and_usages();
        if !store.charge_at_once(charges, usages, now) {
            return Err(self);
        }
        // Most requests pass, and need no verdict of each policy.
        if usages.iter().any(|usage| !usage.fits() || !usage.is_known()) {
            self.judge();
            return Ok(self.into_decision(now, Duration::ZERO));
        }
        (self.record.now, self.record.held) = (now, 0);
        Ok(Decision { record: self.record })
    }

    /// Copies the store's answers; `false` if the store has not answered each charge.
    #[must_use]
    pub(super) fn set_usages(&mut self, answers: &[Usage]) -> bool {
        let (_, usages) = self.charges_and_usages();
        for (usage, answer) in usages.iter_mut().zip(answers) {
            *usage = *answer;
        }
        let is_complete = usages.len() == answers.len();
        self.judge();
        is_complete
    }

    /// Sets for each counted policy whether it refuses.
    fn judge(&mut self) {
        let Record { entries, charges, usages, counted, .. } = &mut *self.record;
        for index in 0..*counted {
            entries[index].judge(&charges[index], &usages[index]);
        }
    }

    /// The enforced policies that keep the request from passing now.
    fn refusing(&self) -> impl Iterator<Item = Outcome<'_>> {
        let enforced = self.record.outcomes().take(self.record.enforced);
        enforced.filter(|outcome| !outcome.usage.fits() && outcome.charge.mode == Mode::Enforced)
    }

    /// How long until all policies let the request pass. `None` if none refuses, or if one of them
    /// does not hold a request that long, `held_so_far` included.
    pub(super) fn wait_worthwhile(&self, held_so_far: Duration) -> Option<Duration> {
        let waits = self.refusing().map(|outcome| {
            let wait = outcome.usage.wait();
            let in_time = nanos(held_so_far.saturating_add(wait)) <= outcome.entry.hold;
            (in_time && outcome.reason() == Some(Reason::QuotaExceeded)).then_some(wait)
        });
        waits.max_by_key(|wait| wait.unwrap_or(Duration::MAX))?
    }

    /// The charges and their waits, for the queue.
    pub(super) fn queue_requests(&self) -> impl Iterator<Item = Request<'_>> {
        self.record.outcomes().map(|Outcome { entry, charge, usage }| Request {
            charge,
            wait: usage.wait(),
            hold: Duration::from_nanos(entry.hold),
            is_global: entry.labels.is_global,
        })
    }

    /// The callers for the bounds of the queue: each key of the request, except for those that all
    /// callers share. There are none if all policies are global.
    pub(super) fn callers(&self) -> Callers {
        let mut callers = Callers::new();
        for key in self.record.outcomes().filter_map(|outcome| outcome.fingerprint()) {
            if !callers.contains(&key) {
                callers.push(key);
            }
        }
        callers
    }

    /// Removes the policies that `keeps` does not accept.
    #[expect(clippy::arithmetic_side_effects, reason = "no more are kept than there are")]
    #[cold]
    fn retain(&mut self, keeps: impl Fn(Outcome<'_>) -> bool) {
        let record = &mut *self.record;
        let (enforced, mut kept) = (record.enforced, 0);
        record.enforced = 0;
        for index in 0..record.entries.len() {
            if keeps(record.outcome(index)) {
                record.entries.swap(kept, index);
                record.charges.swap(kept, index);
                record.usages.swap(kept, index);
                kept += 1;
                record.enforced += usize::from(index < enforced);
            }
        }
        record.entries.truncate(kept);
        record.charges.truncate(kept);
        record.usages.truncate(kept);
    }

    /// The decision without the store: by the policies that lack a key, or by an operator's block.
    #[cold]
    pub(super) fn into_uncounted_decision(mut self, now: Now) -> Decision {
        self.retain(|outcome| !outcome.has_key());
        self.into_decision(now, Duration::ZERO)
    }

    /// The decision by the store's answers.
    #[inline]
    pub(super) fn into_decision(mut self, now: Now, held: Duration) -> Decision {
        let mut record = &mut *self.record;
        if record.usages.iter().any(|usage| !usage.is_known()) {
            self.retain(|outcome| outcome.usage.is_known());
            record = &mut *self.record;
        }
        if record.ruling == Ruling::Admitted
            && let Some(index) = record.refusing()
        {
            record.ruling = Ruling::Refused(index);
        }
        (record.now, record.held) = (now, nanos(held));
        Decision { record: self.record }
    }
}

impl Record {
    /// The policies of further categories, each once.
    #[cold]
    fn add_others(&mut self, core: &Core, others: &[u32], request: &Parts, own: Option<&Override>) {
        let mut read = None;
        for rule in others.iter().flat_map(|other| core.rules.of_category(Some(*other))) {
            if self.charges.iter().all(|charge| charge.policy != rule.charge.policy) {
                self.add_rule(core, rule, request, own, &mut read);
            }
        }
    }

    fn add_rule(
        &mut self,
        core: &Core,
        rule: &Rule,
        request: &Parts,
        own: Option<&Override>,
        read: &mut Option<KeyRead>,
    ) {
        let policy = &rule.policy;
        let own_quota = own.and_then(|own| own.quota(rule.charge.policy));
        let quota = own_quota.unwrap_or_else(|| policy.settings.quota_of(request));
        if quota.is_unlimited() {
            return;
        }
        let read = match read {
            Some(read) if read.source == rule.key_source => read,
            _ => read.insert(KeyRead::new(core, rule, request)),
        };
        let kind = read.kind;
        rule.watch_key(kind == 0 && read.found != Err(None));
        let found = read.found.and_then(|(key, shard)| {
            let shard = core.shard_of(rule, request, shard).map_err(Some)?;
            Ok((key, shard))
        });
        match found {
            Ok(key) => self.push(rule, kind, key, quota, policy.settings.cost_of(request)),
            Err(None) if policy.settings.keys.without_key() == Some(WithoutKey::Skip) => {}
            Err(status) => self.push_keyless(rule, kind, quota, status),
        }
    }

    /// Adds a policy whose key is missing, or is unreadable and refused with this status.
    #[cold]
    fn push_keyless(&mut self, rule: &Rule, kind: u8, quota: Quota, status: Option<StatusCode>) {
        let entry = Entry { key_kind: kind, unreadable: status, ..rule.entry };
        let charge = Charge { quota, cost: 0, ..rule.charge };
        let reason = status.map_or(Reason::MissingKey, |_| Reason::UnreadableKey);
        self.push_refused(entry, charge, reason);
    }

    /// Adds a policy that charges a key and its shard.
    #[inline(always)]
    #[expect(clippy::arithmetic_side_effects, reason = "a limiter has far fewer policies")]
    fn push(
        &mut self,
        rule: &Rule,
        key_kind: u8,
        (key, shard): (u128, u64),
        quota: Quota,
        cost: u64,
    ) {
        let index = self.enforced;
        if quota.units() == 0 || rule.charge.mode == Mode::DryRun || index != self.entries.len() {
            return self.push_unusual(rule, key_kind, (key, shard), quota, cost);
        }
        self.longest_hold = self.longest_hold.max(rule.entry.hold);
        (self.enforced, self.counted) = (index + 1, index + 1);
        self.entries.push(rule.entry);
        self.entries[index].key_kind = key_kind;
        self.charges.push(rule.charge);
        let charge = &mut self.charges[index];
        (charge.key, charge.shard, charge.quota, charge.cost) = (key, shard, quota, cost);
        self.usages.push(Usage::default());
    }

    #[cold]
    fn push_unusual(
        &mut self,
        rule: &Rule,
        key_kind: u8,
        (key, shard): (u128, u64),
        quota: Quota,
        cost: u64,
    ) {
        let entry = Entry { key_kind, ..rule.entry };
        let charge = Charge { key, shard, quota, cost, ..rule.charge };
        if quota.units() == 0 {
            return self.push_refused(entry, charge, Reason::NoQuota);
        }
        self.longest_hold = self.longest_hold.max(entry.hold);
        let is_dry_run = charge.mode == Mode::DryRun;
        self.insert(if is_dry_run { self.counted } else { self.enforced }, entry, charge);
    }

    /// Adds a policy that refuses for lack of a key or a quota.
    #[cold]
    fn push_refused(&mut self, entry: Entry, charge: Charge, reason: Reason) {
        let index = if charge.mode == Mode::DryRun { self.entries.len() } else { self.enforced };
        self.lacks_key |= charge.mode != Mode::DryRun;
        self.insert(index, Entry { refused: Some(reason), ..entry }, charge);
    }

    #[cold]
    #[expect(clippy::arithmetic_side_effects, reason = "a limiter has far fewer policies")]
    fn insert(&mut self, index: usize, entry: Entry, charge: Charge) {
        let is_enforced = charge.mode != Mode::DryRun;
        self.enforced += usize::from(is_enforced);
        self.counted += usize::from(is_enforced || entry.refused.is_none());
        self.entries.insert(index, entry);
        self.charges.insert(index, charge);
        self.usages.insert(index, Usage::default());
    }
}

impl KeyRead {
    #[inline]
    fn new(core: &Core, rule: &Rule, request: &Parts) -> Self {
        let (kind, key) = rule.policy.settings.keys.find(request);
        let found = match &key {
            Extracted::Found(key) => Ok(core.key_of(rule, kind, key)),
            Extracted::Missing => Err(None),
            Extracted::Unreadable(status) => Err(Some(*status)),
        };
        Self { source: rule.key_source, kind, found }
    }
}
