//! The data of an evaluation and of the decision that it becomes: [`Record`].

use std::{ops::Range, time::Duration};

use http::StatusCode;
use smallvec::SmallVec;

use super::{Outcome, Reason, special::Special};
use crate::{
    clock::Now,
    limiter::{
        Limiter,
        labels::Labels,
        meter::{Count, Meter},
        permit::Permit,
    },
    penalty::Counted,
    quota::Quota,
    store::{Change, Charge, Correction, Mode, Usage, runs},
};

/// The charge, the usage and the refusal of each policy, and the ruling over all of them.
///
/// `entries`, `charges` and `usages` have the same length: an index is the same policy in each.
/// Enforced policies come first, then dry runs with a key, then dry runs without one. So the
/// policies that the store counts are one slice.
///
/// A decided request may have more charges behind these: those of unlimited quotas under which a failure
/// counts towards a penalty. No outcome shows them.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) entries: Vec<Entry>,
    pub(crate) charges: Vec<Charge>,
    pub(crate) usages: Vec<Usage>,
    /// How many policies are enforced.
    pub(crate) enforced: usize,
    /// How many policies the store counts, unless `skips_store`.
    pub(crate) counted: usize,
    /// Whether the store is not called: an enforced policy lacks its key, and refuses the request
    /// without the store.
    pub(crate) skips_store: bool,
    /// What its policies need beyond a charge, all together. The hold in it is no time: see
    /// [`longest_hold`](Self::longest_hold).
    pub(crate) special: Special,
    /// The index of the request's category in the rules that decide. It means nothing afterwards.
    pub(crate) category: Option<u32>,
    /// Whether this replica counted alone, as the store did not answer.
    pub(crate) counted_locally: bool,
    pub(crate) ruling: Ruling,
    /// The time of the decision.
    pub(crate) now: Now,
    /// How many resets the process had made just before the charges. A later one may have freed what they used,
    /// so nothing of it is given back.
    pub(crate) resets: u64,
    /// How long the request was held, in nanoseconds.
    pub(crate) held: u64,
    /// The units in flight that the decision has taken.
    pub(crate) permit: Option<Permit>,
    /// What counts the cost of the request until its end.
    pub(crate) meter: Option<Meter>,
}

/// One policy in a [`Record`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) labels: &'static Labels,
    /// The index of the key's kind in the policy's kinds.
    pub(crate) key_kind: u8,
    pub(crate) standing: Standing,
    /// The status for an unreadable key.
    pub(crate) unreadable: Option<StatusCode>,
    /// The quota is divided by this. It is more than 1 if this replica counts alone, with a share
    /// of the quota.
    pub(crate) replicas: u32,
    pub(crate) special: Special,
}

/// What one policy says of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It lets the request pass, which draws on its quota.
    #[default]
    Passes,
    /// Another policy of its waterfall speaks for it: the request draws on that one's quota, or that
    /// one refuses with the shortest wait.
    PassedOver,
    Refuses(Reason),
}

/// The verdict as it is stored. [`Verdict`](super::Verdict) is its public view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ruling {
    #[default]
    Admitted,
    /// The policy at this index refuses.
    Refused(usize),
    Blocked {
        wait: Duration,
    },
    UnreadableCaller(StatusCode),
    SourceUnavailable,
}

impl Record {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            charges: Vec::new(),
            usages: Vec::new(),
            enforced: 0,
            counted: 0,
            skips_store: false,
            special: Special::NONE,
            category: None,
            counted_locally: false,
            ruling: Ruling::Admitted,
            now: Now::ZERO,
            resets: 0,
            held: 0,
            permit: None,
            meter: None,
        }
    }

    /// The policy at `index`.
    #[inline]
    pub(crate) fn outcome(&self, index: usize) -> Outcome<'_> {
        Outcome {
            entry: &self.entries[index],
            charge: &self.charges[index],
            usage: &self.usages[index],
        }
    }

    /// The longest time for which an enforced policy holds the request, in nanoseconds.
    pub(crate) fn longest_hold(&self) -> u64 {
        self.entries.iter().take(self.enforced).map(|entry| entry.special.hold()).max().unwrap_or(0)
    }

    /// Every policy, dry runs last.
    #[inline]
    pub(crate) fn outcomes(&self) -> impl ExactSizeIterator<Item = Outcome<'_>> + Clone {
        (0..self.entries.len()).map(|index| self.outcome(index))
    }

    /// The index of the enforced policy that refuses with the longest wait.
    #[inline]
    pub(crate) fn refusing(&self) -> Option<usize> {
        match &self.entries[..] {
            [entry] => (self.enforced == 1 && entry.refused().is_some()).then_some(0),
            _ => self.refusing_longest(),
        }
    }

    fn refusing_longest(&self) -> Option<usize> {
        let refuses = |index: &usize| self.entries[*index].refused().is_some();
        let wait = |index: &usize| self.outcome(*index).wait_or_never();
        (0..self.enforced).filter(refuses).max_by_key(wait)
    }

    /// Adds a policy that charges a key and its shard, by the templates of its rule.
    #[inline(always)]
    #[expect(clippy::arithmetic_side_effects, reason = "a limiter has far fewer policies")]
    pub(in crate::limiter) fn push(
        &mut self,
        entry: &Entry,
        charge: &Charge,
        key_kind: u8,
        (key, shard): (u128, u64),
        quota: Quota,
        cost: u64,
    ) {
        let index = self.enforced;
        if quota.units() == 0 || charge.mode == Mode::DryRun || index != self.entries.len() {
            let standing = match quota.units() {
                0 => Standing::Refuses(Reason::NoQuota),
                _ => entry.standing,
            };
            let charge = Charge { key, shard, quota, cost, ..*charge };
            return self.insert(Entry { key_kind, standing, ..*entry }, charge);
        }
        self.special.add(entry.special);
        (self.enforced, self.counted) = (index + 1, index + 1);
        self.entries.push(*entry);
        self.entries[index].key_kind = key_kind;
        self.charges.push(*charge);
        let charge = &mut self.charges[index];
        (charge.key, charge.shard, charge.quota, charge.cost) = (key, shard, quota, cost);
        self.usages.push(Usage::default());
    }

    /// Adds any policy. An enforced one comes before dry runs.
    #[cold]
    #[expect(clippy::arithmetic_side_effects, reason = "a limiter has far fewer policies")]
    pub(in crate::limiter) fn insert(&mut self, entry: Entry, charge: Charge) {
        let (is_enforced, lacks_key) = (charge.mode != Mode::DryRun, !entry.has_key());
        let index = match (is_enforced, lacks_key) {
            (true, _) => self.enforced,
            (false, false) => self.counted,
            (false, true) => self.entries.len(),
        };
        self.special.add(entry.special);
        self.skips_store |= is_enforced && lacks_key;
        self.enforced += usize::from(is_enforced);
        self.counted += usize::from(is_enforced || !lacks_key);
        self.entries.insert(index, entry);
        self.charges.insert(index, charge);
        self.usages.insert(index, Usage::default());
    }

    /// Adds the policies of a waterfall, each with a key. Of them, the request draws on the first that
    /// has room.
    pub(in crate::limiter) fn push_waterfall(&mut self, members: &[(Entry, Charge)]) {
        let Some((_, first)) = members.first() else { return };
        let is_enforced = first.mode != Mode::DryRun;
        let next = |record: &Self| if is_enforced { record.enforced } else { record.counted };
        let start = next(self);
        for (entry, charge) in members {
            let key = (charge.key, charge.shard);
            self.push(entry, charge, entry.key_kind, key, charge.quota, charge.cost);
        }
        let end = next(self);
        for index in start..end {
            self.charges[index].or_else = index.saturating_add(1) < end;
            if index > start && self.entries[index].has_key() {
                self.entries[index].standing = Standing::PassedOver;
            }
        }
    }

    /// Leaves only `policies` in each waterfall that has any of them; a policy alone is a waterfall of
    /// one. A request that then draws on one of them has also drawn on one of `policies`. Returns
    /// whether there is such a waterfall.
    #[cold]
    pub(in crate::limiter) fn narrow_waterfalls(&mut self, policies: &[u64]) -> bool {
        let is_shared = |charge: &Charge| policies.contains(&charge.policy);
        let has_shared = |run: &Range<usize>| self.charges[run.clone()].iter().any(is_shared);
        let all: SmallVec<[Range<usize>; 2]> = runs(&self.charges).filter(has_shared).collect();
        for run in all.iter().rev().filter(|run| run.len() > 1) {
            let (entries, charges) = (&self.entries[run.clone()], &self.charges[run.clone()]);
            let members = entries.iter().zip(charges).filter(|(_, charge)| is_shared(charge));
            let members: SmallVec<[(Entry, Charge); 2]> = members
                .map(|(entry, charge)| (Entry { standing: Standing::Passes, ..*entry }, *charge))
                .collect();
            self.remove_counted(run.clone());
            self.push_waterfall(&members);
        }
        !all.is_empty()
    }

    /// Removes the counted policies whose quotas are unlimited, each with its whole waterfall. Those that may
    /// block the key stay.
    pub(in crate::limiter) fn remove_unlimited(&mut self) {
        let is_unlimited = |run: &Range<usize>| {
            let is_counted = |charge: &Charge| !charge.quota.is_unlimited() || charge.has_penalty;
            !self.charges[run.clone()].iter().all(is_counted)
        };
        let all: SmallVec<[Range<usize>; 2]> =
            runs(&self.charges[..self.counted]).filter(is_unlimited).collect();
        for run in all.into_iter().rev() {
            self.remove_counted(run);
        }
    }

    /// Removes counted policies, which are all enforced or all dry runs.
    fn remove_counted(&mut self, run: Range<usize>) {
        self.enforced =
            self.enforced.saturating_sub(if run.start < self.enforced { run.len() } else { 0 });
        self.counted = self.counted.saturating_sub(run.len());
        self.entries.drain(run.clone());
        self.charges.drain(run.clone());
        self.usages.drain(run);
    }

    /// Refuses by the only policy. Does nothing and returns `false` if there are several policies, a dry run or a
    /// penalty, or if the usage fits or is not known.
    #[inline]
    pub(in crate::limiter) fn refuse_by_only_policy(&mut self) -> bool {
        let ([entry], [charge], [usage]) =
            (&mut self.entries[..], &self.charges[..], &self.usages[..])
        else {
            return false;
        };
        let refuses = !usage.fits() && usage.is_known();
        if self.enforced != 1 || charge.has_penalty || !refuses {
            return false;
        }
        entry.judge(charge, usage);
        self.ruling = Ruling::Refused(0);
        true
    }

    /// Sets for each counted policy whether it refuses.
    pub(in crate::limiter) fn judge(&mut self) {
        for index in 0..self.counted {
            self.entries[index].judge(&self.charges[index], &self.usages[index]);
        }
        self.judge_waterfalls();
    }

    /// Lets one policy of each waterfall speak for the others: the first that lets the request pass, or
    /// else the one that refuses with the shortest wait.
    pub(in crate::limiter) fn judge_waterfalls(&mut self) {
        if self.charges.iter().all(|charge| !charge.or_else) {
            return;
        }
        let all: SmallVec<[Range<usize>; 4]> = runs(&self.charges[..self.counted]).collect();
        for run in all {
            let passes = |index: &usize| self.entries[*index].refused().is_none();
            let wait = |index: &usize| self.outcome(*index).wait_or_never();
            let speaks = run.clone().find(passes).or_else(|| run.clone().min_by_key(wait));
            for index in run.filter(|index| Some(*index) != speaks) {
                if self.entries[index].refused().is_some_and(|reason| !reason.is_counted()) {
                    self.usages[index] = Usage::unknown();
                }
                self.entries[index].standing = Standing::PassedOver;
            }
        }
    }

    /// The correction of what one of its policies has charged.
    pub(in crate::limiter) fn correction(
        &self,
        outcome: &Outcome<'_>,
        change: Change,
    ) -> Correction {
        Correction {
            charged_at: Some(self.now),
            usage: *outcome.usage,
            resets: Some(self.resets),
            ..Correction::new(outcome.effective_charge(), change)
        }
    }

    /// Keeps what the request holds until its end: its units in flight, and its meter.
    #[cold]
    pub(in crate::limiter) fn keep_until_end(&mut self, limiter: &Limiter) {
        if self.ruling != Ruling::Admitted {
            return;
        }
        let (mut held, mut counts) = (SmallVec::new(), SmallVec::new());
        // A dry run that did not fit was not charged, nor was a quota that another was drawn on for.
        let is_charged =
            |outcome: &Outcome<'_>| outcome.is_drawn_on() && outcome.charge.mode != Mode::Peek;
        for outcome in self.outcomes().filter(is_charged) {
            let (special, cost) = (outcome.entry.special, outcome.cost());
            if special.lasts() && cost > 0 {
                held.push(self.correction(&outcome, Change::GiveBack(cost)));
            }
            if special.is_metered() {
                let is_dry_run = outcome.charge.mode == Mode::DryRun;
                let charged = self.correction(&outcome, Change::Take(0));
                counts.push(Count::new(outcome.entry.labels, is_dry_run, charged));
            }
        }
        for (_, charge) in self.looked() {
            if let Some(rule) = limiter.core.rules().of_charge(charge)
                && rule.entry.special.is_metered()
            {
                let charged = Correction::new(*charge, Change::Take(0));
                let is_dry_run = charge.mode == Mode::DryRun;
                counts.push(Count::new(rule.entry.labels, is_dry_run, charged));
            }
        }
        let alone = self.counted_locally;
        self.permit = (!held.is_empty()).then(|| Permit::new(limiter, held, alone));
        self.meter = (!counts.is_empty()).then(|| Meter::new(limiter, counts, alone));
    }

    /// Sets that the policy is not counted, as the store does not answer.
    pub(in crate::limiter) fn leave_uncounted(&mut self, index: usize) {
        (self.usages[index], self.entries[index].standing) = (Usage::unknown(), Standing::Passes);
    }

    /// Sets that the policy refuses, as the store does not answer.
    pub(in crate::limiter) fn refuse_without_store(&mut self, index: usize) {
        self.usages[index] = Usage::default();
        self.entries[index].standing = Standing::Refuses(Reason::StoreUnavailable);
    }

    /// Removes the policies whose usage is not known. The charges of unlimited quotas under which a failure
    /// counts stay, behind the others.
    #[cold]
    pub(in crate::limiter) fn leave_out_unknown(&mut self) {
        let looked = self.outcomes().filter(|outcome| {
            let penalty = outcome.entry.labels.penalty.as_ref();
            outcome.charge.only_looks()
                && outcome.charge.mode != Mode::Peek
                && !outcome.usage.is_known()
                && penalty.is_some_and(|penalty| penalty.counts(Counted::Failures))
        });
        let looked: SmallVec<[Charge; 2]> = looked.map(|outcome| *outcome.charge).collect();
        self.retain(|outcome| outcome.usage.is_known());
        self.charges.extend(looked);
    }

    /// Replaces unlimited quotas of a refused request, under which its key is blocked, by one whose numbers
    /// headers can carry.
    #[cold]
    pub(in crate::limiter) fn show_unlimited(&mut self) {
        for charge in self.charges.iter_mut().filter(|charge| charge.only_looks()) {
            charge.quota = charge.algorithm.largest();
        }
    }

    /// The unlimited quotas under which a failure counts, each with the index of its charge.
    pub(in crate::limiter) fn looked(&self) -> impl Iterator<Item = (usize, &Charge)> {
        self.charges.iter().enumerate().skip(self.entries.len())
    }

    /// Removes the policies that `keeps` does not accept.
    #[expect(clippy::arithmetic_side_effects, reason = "no more are kept than there are")]
    #[cold]
    pub(in crate::limiter) fn retain(&mut self, keeps: impl Fn(Outcome<'_>) -> bool) {
        let (enforced, mut kept) = (self.enforced, 0);
        self.enforced = 0;
        for index in 0..self.entries.len() {
            if keeps(self.outcome(index)) {
                self.entries.swap(kept, index);
                self.charges.swap(kept, index);
                self.usages.swap(kept, index);
                kept += 1;
                self.enforced += usize::from(index < enforced);
            }
        }
        self.entries.truncate(kept);
        self.charges.truncate(kept);
        self.usages.truncate(kept);
    }

    /// Drops what the request has held until its end. Not inlined, so that other requests do not pay for
    /// its registers.
    #[cold]
    #[inline(never)]
    fn end(&mut self) {
        (self.permit, self.meter) = (None, None);
    }

    /// Empties the record and keeps its allocations.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.charges.clear();
        self.usages.clear();
        (self.enforced, self.counted, self.resets, self.held) = (0, 0, 0, 0);
        (self.skips_store, self.counted_locally) = (false, false);
        if self.special.has_end() {
            self.end();
        }
        self.special = Special::NONE;
        self.category = None;
        self.ruling = Ruling::Admitted;
        self.now = Now::ZERO;
    }
}

impl Entry {
    /// Sets whether the policy refuses, by the store's answer.
    #[inline]
    pub(crate) fn judge(&mut self, charge: &Charge, usage: &Usage) {
        let limit = || charge.algorithm.capacity(&charge.quota.share(self.replicas));
        self.standing = match usage.fits() {
            true => Standing::Passes,
            false if usage.is_blocked() => Standing::Refuses(Reason::Penalty),
            false if charge.cost > limit() => Standing::Refuses(Reason::CostExceedsQuota),
            false => Standing::Refuses(Reason::QuotaExceeded),
        };
    }

    /// Why the policy refuses the request, if it does.
    #[inline]
    pub(crate) fn refused(&self) -> Option<Reason> {
        match self.standing {
            Standing::Refuses(reason) => Some(reason),
            Standing::Passes | Standing::PassedOver => None,
        }
    }

    /// Whether there is a key and a quota to count.
    #[inline]
    pub(crate) fn has_key(&self) -> bool {
        !self.refused().is_some_and(Reason::lacks_key)
    }
}
