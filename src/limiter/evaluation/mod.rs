//! A request, or a check, before it is decided: [`Evaluation`]. It has the charges for the store, and
//! then the store's answers. `of_request` finds the charges of a request, and `key_read` reads the keys.

mod key_read;
mod of_request;

use std::{mem, time::Duration};

use http::request::Parts;
use smallvec::SmallVec;

use super::{
    Core,
    decision::{Decision, Entry, Outcome, Pooled, Reason, Record, Ruling, Standing},
    overrides::{AwaitedCaller, CallersOwn},
    queue::Turn,
    queued::Held,
    quota_ref::QuotaRef,
    rules::{Rule, RuleSet},
};
use crate::{
    clock::{Clock, Now, nanos},
    key::Extracted,
    quota::Quota,
    store::{Charge, Mode, Store, Usage, resets_so_far, runs},
    warning::{Code, warn},
};

/// A request before it is decided: the charges for the store, and then the store's answers.
#[derive(Default)]
#[must_use]
pub(crate) struct Evaluation {
    pub(crate) record: Pooled,
    /// The caller, until its overrides are known. Until then the charges are those without overrides,
    /// and unlimited quotas are among them.
    awaited: Option<Box<AwaitedCaller>>,
}

/// The policies of a waterfall, each with a key.
pub(super) type Members = SmallVec<[(Entry, Charge); 2]>;

impl Evaluation {
    /// A charge of one unit for each of these quotas. Those on which no key draws any more are left
    /// out.
    pub(super) fn of_quotas(
        rules: &RuleSet,
        quotas: &[QuotaRef],
        own: Option<&CallersOwn>,
    ) -> Self {
        let mut evaluation = Self::default();
        for quota_ref @ QuotaRef { charge, .. } in quotas {
            let Some((rule, key_kind)) = quota_ref.find_in(rules) else { continue };
            let own_quota = own.and_then(|own| rule.overridden(own));
            let quota = own_quota.unwrap_or(charge.quota);
            if evaluation.leaves_out(rule, quota) {
                continue;
            }
            let key = (charge.key, charge.shard);
            evaluation.push(rule, key_kind, key, quota, 1);
        }
        evaluation
    }

    /// The evaluation of a request or a check that is refused before any policy.
    #[cold]
    pub(super) fn ruled(ruling: Ruling) -> Self {
        let mut evaluation = Self::default();
        evaluation.record.ruling = ruling;
        evaluation
    }

    /// Waits for the overrides of the caller before anything is charged.
    #[cold]
    pub(super) fn await_overrides(&mut self, awaited: Box<AwaitedCaller>) {
        self.awaited = Some(awaited);
    }

    /// The caller whose overrides have to be known first.
    #[inline]
    pub(super) fn awaited(&mut self) -> Option<&mut AwaitedCaller> {
        self.awaited.as_deref_mut()
    }

    /// Applies the overrides of the caller, which are known now.
    #[cold]
    pub(super) fn apply_overrides(&mut self, core: &Core, rules: &RuleSet) {
        let Some(awaited) = self.awaited.take() else { return };
        let before = mem::take(&mut self.record);
        let own = match core.known_overrides(awaited.caller, awaited.answer, &mut ()) {
            Ok(own) => own,
            Err(_) if awaited.ignores_block => None,
            Err(ruling) => {
                *self = Self::ruled(ruling);
                self.record.category = before.category;
                return;
            }
        };
        let named = own.iter().flat_map(CallersOwn::source_policies);
        named.filter(|name| rules.by_name(name).is_none()).for_each(warn_unknown_policy);
        self.record.category = before.category;
        for run in runs(&before.charges) {
            let mut members = Members::new();
            for index in run {
                let (entry, charge) = (&before.entries[index], &before.charges[index]);
                let rule = rules.by_name(&entry.labels.policy);
                let own_quota = rule.and_then(|rule| rule.overridden(own.as_ref()?));
                let charge = Charge { quota: own_quota.unwrap_or(charge.quota), ..*charge };
                if !matches!(entry.refused(), Some(Reason::MissingKey | Reason::UnreadableKey)) {
                    members.push((Entry { standing: Standing::Passes, ..*entry }, charge));
                } else if !charge.quota.is_unlimited() || charge.has_penalty {
                    self.record.insert(*entry, charge);
                }
            }
            self.add_members(members);
        }
    }

    /// Adds a waterfall by its members. If one of its quotas is unlimited, the request passes, and is
    /// not counted. Quotas of no units are left out, unless all are.
    #[cold]
    pub(super) fn add_members(&mut self, mut members: Members) {
        let leaves_out = |charge: &Charge| charge.quota.is_unlimited() && !charge.has_penalty;
        if self.awaited.is_none() && members.iter().any(|(_, charge)| leaves_out(charge)) {
            return;
        }
        let has_units = |(_, charge): &mut (Entry, Charge)| charge.quota.units() > 0;
        if self.awaited.is_none() {
            match members.iter().any(|(_, charge)| charge.quota.units() > 0) {
                true => members.retain(has_units),
                false => members.truncate(1),
            }
        }
        self.record.push_waterfall(&members);
    }

    /// Whether the store gets no charge for this quota: it is unlimited, no penalty can block the key, and no
    /// override that may replace it is awaited.
    #[inline]
    pub(super) fn leaves_out(&self, rule: &Rule, quota: Quota) -> bool {
        quota.is_unlimited() && self.awaited.is_none() && !rule.charge.has_penalty
    }

    /// Adds a policy that charges a key and its shard.
    #[inline(always)]
    pub(super) fn push(
        &mut self,
        rule: &Rule,
        key_kind: u8,
        key: (u128, u64),
        quota: Quota,
        cost: u64,
    ) {
        self.record.push(&rule.entry, &rule.charge, key_kind, key, quota, cost);
    }

    /// Makes all charges peeks, which charge nothing.
    pub(super) fn only_peek(&mut self) {
        self.record.charges.iter_mut().for_each(|charge| charge.mode = Mode::Peek);
    }

    /// Replaces the quotas of the rules `from` by those of the same policies in `to`. Policies that are
    /// gone stay.
    #[cold]
    pub(super) fn adopt_quotas(&mut self, from: &RuleSet, to: &RuleSet, clock: &Clock) {
        for index in 0..self.record.charges.len() {
            let charge = &self.record.charges[index];
            if !self.record.entries[index].has_key() {
                continue;
            }
            let (Some(before), Some(now)) = (from.of_charge(charge), to.of_charge(charge)) else {
                continue;
            };
            let before = &before.policy.settings;
            let quota = now.policy.settings.quota_instead_of(charge.quota, before, clock);
            self.record.charges[index].quota = quota;
        }
        self.record.remove_unlimited();
    }

    /// Whether the store has to be called: not before the overrides of the caller are known. A request that an
    /// enforced policy refuses for its key is refused without the store, and charged nothing under any policy.
    #[inline]
    pub(super) fn needs_store(&self) -> bool {
        self.awaited.is_none() && self.record.counted > 0 && !self.record.skips_store
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

    /// Notes how many resets there were, right before the charges are made.
    #[inline(always)]
    pub(super) fn note_resets(&mut self) {
        self.record.resets = resets_so_far();
    }

    #[inline(always)]
    fn charges_and_usages(&mut self) -> (&[Charge], &mut [Usage]) {
        let Record { charges, usages, counted, .. } = &mut *self.record;
        (&charges[..*counted], &mut usages[..*counted])
    }

    /// Charges, if the store answers at once.
    pub(super) fn charge_at_once(&mut self, store: &dyn Store, now: Now) -> bool {
        self.note_resets();
        let (charges, usages) = self.charges_and_usages();
        let is_charged = store.charge_at_once(charges, usages, now);
        if is_charged {
            self.record.judge();
        }
        is_charged
    }

    /// Charges for the first time and decides, if the store answers at once.
    /// `count_refusals` is called before a refusal is decided.
    #[inline(always)]
    pub(super) fn decide_at_once(
        mut self,
        store: &dyn Store,
        now: Now,
        count_refusals: impl FnOnce(&mut Record),
    ) -> Result<Decision, Self> {
        self.note_resets();
        let (charges, usages) = self.charges_and_usages();
        if !store.charge_at_once(charges, usages, now) {
            return Err(self);
        }
        // Most requests pass, and need no verdict of each policy.
        let passes = usages.iter().all(|usage| usage.fits() && usage.is_known());
        (self.record.now, self.record.held) = (now, 0);
        if passes || self.record.refuse_by_only_policy() {
            return Ok(Decision { record: self.record });
        }
        self.record.judge();
        count_refusals(&mut self.record);
        Ok(self.into_decision(now, Duration::ZERO))
    }

    /// Copies the store's answers; `false` if the store has not answered each charge.
    #[must_use]
    pub(super) fn set_usages(&mut self, answers: &[Usage]) -> bool {
        let (_, usages) = self.charges_and_usages();
        for (usage, answer) in usages.iter_mut().zip(answers) {
            *usage = *answer;
        }
        let is_complete = usages.len() == answers.len();
        self.record.judge();
        is_complete
    }

    /// The enforced policies that keep the request from passing now.
    fn refusing(&self) -> impl Iterator<Item = Outcome<'_>> {
        let enforced = self.record.outcomes().take(self.record.enforced);
        enforced.filter(|outcome| !outcome.is_allowed() && outcome.charge.mode == Mode::Enforced)
    }

    /// How long until all policies whose units come back at a known time let the request pass.
    pub(super) fn known_wait(&self) -> Duration {
        self.refusing().filter_map(|outcome| outcome.usage.known_wait()).max().unwrap_or_default()
    }

    /// Whether it waits for units that come back at an unknown time.
    pub(super) fn waits_for_others(&self) -> bool {
        self.refusing().any(|outcome| outcome.usage.known_wait().is_none())
    }

    /// Whether a policy may hold the request.
    #[inline]
    pub(super) fn may_be_held(&self) -> bool {
        self.record.special.hold() > 0
    }

    /// Whether the store has made the charges.
    pub(super) fn is_charged(&self) -> bool {
        self.needs_store() && self.refusing().next().is_none()
    }

    /// Whose turn it is in the line of the policy that is fair to tenants; `None` if none is. `build()`
    /// refuses two for one request, but a path that routers read in different ways may lead to two: the
    /// first one holds then.
    #[inline]
    pub(super) fn turn(
        &self,
        core: &Core,
        rules: &RuleSet,
        request: Option<&Parts>,
    ) -> Option<Turn> {
        if self.may_be_held() { self.turn_of_tenant(core, rules, request) } else { None }
    }

    #[cold]
    fn turn_of_tenant(
        &self,
        core: &Core,
        rules: &RuleSet,
        request: Option<&Parts>,
    ) -> Option<Turn> {
        let mut fair = self.record.outcomes().filter(|outcome| outcome.entry.labels.is_fair);
        let charge = fair.next()?.charge;
        let rule = rules.of_charge(charge)?;
        let settings = &rule.policy.settings;
        let tenant = match request {
            Some(request) => settings.tenant_of(request),
            None => Extracted::Missing,
        };
        let tenant = match tenant {
            Extracted::Found(tenant) => Some(tenant),
            Extracted::Missing => Some("".into()),
            Extracted::Unreadable(_) => None,
        };
        let tenant = tenant.map(|tenant| core.keys.fingerprint(rule.tenant_domain.key, &tenant));
        let weight = request.map_or(1, |request| settings.weight_of(request));
        Some(Turn { policy: charge.policy, tenant, weight })
    }

    /// How long until all policies let the request pass. `None` if none refuses, or if one of them
    /// does not hold a request that long, or if the longest hold ends earlier. The request was held so far
    /// for all policies, and for units that come back at an unknown time.
    pub(super) fn wait_worthwhile(&self, held: Held) -> Option<Duration> {
        let left = Duration::from_nanos(self.record.longest_hold()).checked_sub(held.in_all)?;
        let waits = self.refusing().map(|outcome| {
            let hold = Duration::from_nanos(outcome.entry.special.hold());
            // Units that come back at an unknown time may come back now.
            let unknown = || left.min(hold.saturating_sub(held.for_unknown));
            let wait = outcome.usage.known_wait().unwrap_or_else(unknown);
            // When the request was queued, this policy was to add no more than its hold to the waits for
            // others. Its own wait may be longer, while others hold those ahead.
            let longest = if held.is_queued && !hold.is_zero() { left } else { left.min(hold) };
            let in_time = wait <= longest && !wait.is_zero();
            (in_time && outcome.reason() == Some(Reason::QuotaExceeded)).then_some(wait)
        });
        waits.max_by_key(|wait| wait.unwrap_or(Duration::MAX))?
    }

    /// The decision without the store: by the policies that lack a key, or by an operator's block.
    #[cold]
    pub(super) fn into_uncounted_decision(mut self, now: Now, held: Duration) -> Decision {
        self.record.retain(|outcome| !outcome.entry.has_key());
        self.into_decision(now, held)
    }

    /// The decision by the store's answers.
    #[inline]
    pub(super) fn into_decision(mut self, now: Now, held: Duration) -> Decision {
        let record = &mut *self.record;
        if record.usages.iter().any(|usage| !usage.is_known()) {
            record.leave_out_unknown();
        }
        if record.ruling == Ruling::Admitted
            && let Some(index) = record.refusing()
        {
            record.ruling = Ruling::Refused(index);
            record.show_unlimited();
        }
        (record.now, record.held) = (now, nanos(held));
        Decision { record: self.record }
    }
}

#[cold]
fn warn_unknown_policy(name: &str) {
    warn(Code::UnknownOverridePolicy, name, || {
        format!(
            "the override source has a quota under a policy `{name}`, which the limiter does not \
             have; return the name of one of its policies"
        )
    });
}
