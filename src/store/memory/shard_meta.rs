//! What a shard knows beside its entries: [`ShardMeta`], behind the shard's mutex.

use std::{borrow::Cow, collections::HashMap};

use slab::Slab;

use super::{
    address::Address,
    entry::{Entry, LOG},
    fair_shares::FairShares,
    quota_table::QuotaTable,
    recent_keys::RecentKeys,
    shared_count::SharedCount,
};
use crate::{
    algorithm::{Algorithm, GivenBack, PastUse, PenaltyState, State, StatesByQuota},
    clock::Now,
    store::{Charge, Correction, Reset, Usage},
};

/// What is kept of a key.
#[derive(Clone)]
pub(super) struct KeyState {
    pub(super) states: StatesByQuota,
    /// Boxed, as few keys have one.
    pub(super) penalty: Option<Box<PenaltyState>>,
    /// The last reset, and until when units that were charged before it may be given back.
    pub(super) reset: Option<Box<(Reset, u64)>>,
    /// What was given back lately, of a token bucket.
    given_back: Option<Box<GivenBack>>,
}

impl From<StatesByQuota> for KeyState {
    fn from(states: StatesByQuota) -> Self {
        Self { states, penalty: None, reset: None, given_back: None }
    }
}

impl KeyState {
    /// How much longer a charge's key is blocked; 0 if it is not.
    pub(super) fn blocked_for(&self, charge: &Charge, now: Now) -> u64 {
        let penalty = self.penalty.as_ref().filter(|_| charge.has_penalty);
        penalty.map_or(0, |penalty| penalty.blocked_for(now))
    }

    /// Whether its key goes last from a full store: a block runs or is remembered, or a reset or what was
    /// given back still matters.
    pub(super) fn goes_last(&self, now: Now) -> bool {
        let was_blocked =
            |penalty: &PenaltyState| penalty.was_blocked() && penalty.expires_in(now) > 0;
        self.penalty.as_deref().is_some_and(was_blocked)
            || self.reset_expires_in(now) > 0
            || self.given_back_expires_in(now) > 0
    }

    /// Whether it is as that of a new key.
    pub(super) fn is_expired(&self, now: Now) -> bool {
        self.states.is_expired(now) && self.extras_expire_in(now) == 0
    }

    /// Whether it has more than states: a penalty, a reset, or what was given back.
    pub(super) fn has_extras(&self) -> bool {
        self.penalty.is_some() || self.reset.is_some() || self.given_back.is_some()
    }

    /// For how many nanoseconds any of these [extras](Self::has_extras) still matters.
    fn extras_expire_in(&self, now: Now) -> u64 {
        let penalty = self.penalty.as_ref().map_or(0, |penalty| penalty.expires_in(now));
        penalty.max(self.reset_expires_in(now)).max(self.given_back_expires_in(now))
    }

    fn given_back_expires_in(&self, now: Now) -> u64 {
        self.given_back.as_ref().map_or(0, |given_back| given_back.expires_in(now))
    }

    fn reset_expires_in(&self, now: Now) -> u64 {
        let until = self.reset.as_ref().map_or(0, |reset| reset.1);
        until.saturating_sub(now.monotonic_nanos())
    }

    /// Whether it has a penalty, a reset, or a record of what was given back that no longer matters.
    pub(super) fn has_expired_extras(&self, now: Now) -> bool {
        self.penalty.as_ref().is_some_and(|penalty| penalty.expires_in(now) == 0)
            || self.reset.is_some() && self.reset_expires_in(now) == 0
            || self.given_back.is_some() && self.given_back_expires_in(now) == 0
    }

    /// Drops what [no longer matters](Self::has_expired_extras).
    pub(super) fn drop_expired_extras(&mut self, now: Now) {
        self.penalty.take_if(|penalty| penalty.expires_in(now) == 0);
        self.given_back.take_if(|given_back| given_back.expires_in(now) == 0);
        if self.reset_expires_in(now) == 0 {
            self.reset = None;
        }
    }

    /// Gives back units of a correction's charge.
    pub(super) fn give_back(&mut self, correction: &Correction, units: u64, now: Now) {
        let quota = &correction.charge.quota;
        let at = correction.past_use(now).at.monotonic_nanos();
        let given_back = self.given_back.as_ref().map_or(0, |earlier| earlier.since(at, now));
        let past_use = PastUse { given_back, ..correction.past_use(now) };
        let is_last = self.states.is_last_use(quota, now, &past_use);
        let given = self.states.give_back(quota, now, units, &past_use);
        if correction.charge.algorithm == Algorithm::TokenBucket && given > 0 && !is_last {
            let used_at = correction.charged_at.map_or(0, |at| at.monotonic_nanos());
            let longest = self.states.longest();
            self.given_back.get_or_insert_default().add(given, used_at, now, longest);
        }
    }

    /// Gives all units back, and drops the penalty. If units were counted, the reset is remembered as long
    /// as a use can count.
    pub(super) fn reset(&mut self, charge: &Charge, now: Now) {
        let is_counted = !self.states.is_expired(now) || self.given_back_expires_in(now) > 0;
        if is_counted && charge.algorithm != Algorithm::InFlight {
            let reset = Reset::new(now);
            let until = reset.at().saturating_add(self.states.longest());
            self.reset = Some(Box::new((reset, until)));
        }
        self.states = StatesByQuota::new(charge.quota, State::new(charge.algorithm));
        (self.penalty, self.given_back) = (None, None);
    }

    /// The monotonic nanoseconds at which it may be forgotten.
    pub(super) fn expires_at(&self, now: Now) -> u64 {
        let expires_in = self.states.expires_in(now).max(self.extras_expire_in(now));
        now.monotonic_nanos().saturating_add(expires_in)
    }
}

/// What a shard knows beside its entries.
pub(super) struct ShardMeta {
    pub(super) budget: Budget,
    pub(super) shares: FairShares,
    counter_keys: usize,
    log_keys: usize,
    /// The slot that is swept next. The slots of the log table follow those of the counter table.
    pub(super) cursor: usize,
    /// The states that have no room in an entry: long logs, large numbers, those of several quotas,
    /// and those of keys with a penalty.
    pub(super) spilled: Slab<KeyState>,
    /// By policy, what new keys without an entry share.
    pub(super) shared: HashMap<u64, SharedCount>,
    /// By policy, the most that any key had used that was evicted to make room for another policy's
    /// key. New keys of the policy begin with it, so that an evicted key that comes back gains
    /// nothing.
    evicted: HashMap<u64, StatesByQuota>,
    /// By policy, the keys that were evicted with a reset, or with what was given back.
    evicted_resets: HashMap<u64, EvictedResets>,
}

/// The keys of a policy that were evicted with a [reset](KeyState::reset), or with what was
/// [given back](GivenBack). An eviction with what was given back counts as a reset. The keys get back nothing that
/// was charged before the latest of all these resets.
struct EvictedResets {
    last: Reset,
    /// These keys, until no earlier use counts any more.
    keys: RecentKeys,
}

/// How much room the keys of a shard may use: a number of keys, or of bytes.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    /// Below 0 if keys needed more after they had come.
    pub(super) left: isize,
    pub(super) cost: Cost,
}

/// What a key uses of the budget.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) counter: isize,
    pub(super) log: isize,
    /// What a key uses beside its entry if its state is spilled: for a log, or for a few other
    /// states.
    pub(super) spilled: isize,
}

impl Cost {
    const fn entry(&self, is_log: bool) -> isize {
        if is_log { self.log } else { self.counter }
    }

    /// The most that a new key may use.
    pub(super) const fn max(&self, is_log: bool) -> isize {
        self.entry(is_log) + self.spilled
    }
}

impl ShardMeta {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            budget,
            shares: FairShares::new(budget.left),
            counter_keys: 0,
            log_keys: 0,
            cursor: 0,
            spilled: Slab::new(),
            shared: HashMap::new(),
            evicted: HashMap::new(),
            evicted_resets: HashMap::new(),
        }
    }

    /// How many keys have entries.
    pub(super) fn keys(&self) -> usize {
        self.counter_keys + self.log_keys
    }

    /// How many keys have entries of `N` words.
    pub(super) fn keys_in<const N: usize>(&mut self) -> &mut usize {
        if N == LOG { &mut self.log_keys } else { &mut self.counter_keys }
    }

    /// Accounts for a new entry.
    pub(super) fn add<const N: usize>(&mut self, entry: &Entry<N>, quotas: &QuotaTable) {
        self.spend(quotas.policy(entry.quota_number()), self.cost(entry));
        *self.keys_in::<N>() += 1;
    }

    /// Accounts for an entry that goes, and returns its states.
    pub(super) fn remove<const N: usize>(
        &mut self,
        entry: &Entry<N>,
        quotas: &QuotaTable,
    ) -> KeyState {
        self.spend(quotas.policy(entry.quota_number()), -self.cost(entry));
        *self.keys_in::<N>() -= 1;
        let Some(index) = entry.spilled_index() else {
            return self.states(entry, quotas).into_owned().into();
        };
        let mut state = self.spilled.remove(index);
        update_log(&mut state.states, entry);
        state
    }

    /// The keys of a policy use `more` of the budget, or less if it is negative.
    pub(super) fn spend(&mut self, policy: u64, more: isize) {
        self.budget.left -= more;
        self.shares.add(policy, more);
    }

    /// The states of an entry.
    #[expect(clippy::expect_used, reason = "a key whose state is lost has its whole quota again")]
    pub(super) fn states<const N: usize>(
        &self,
        entry: &Entry<N>,
        quotas: &QuotaTable,
    ) -> Cow<'_, StatesByQuota> {
        match entry.unpack(quotas) {
            Some((state, quota)) => Cow::Owned(StatesByQuota::new(*quota, state)),
            None => {
                let spilled = self.spilled_of(entry);
                let spilled = spilled.expect("a state that is not in its entry is spilled");
                let mut states = Cow::Borrowed(&spilled.states);
                if entry.newest_of_long_log().is_some() {
                    update_log(states.to_mut(), entry);
                }
                states
            }
        }
    }

    /// The spilled state of an entry, which may lack what was used since in the newest step of a long
    /// log; `None` if the entry holds its state itself.
    #[expect(clippy::expect_used, reason = "a key whose state is lost has its whole quota again")]
    pub(super) fn spilled_of<const N: usize>(&self, entry: &Entry<N>) -> Option<&KeyState> {
        let index = entry.spilled_index()?;
        Some(self.spilled.get(index).expect("a spilled state lives as long as its entry"))
    }

    /// Remembers what an evicted key had used, and its reset. `tag` is that of its entry. A key of units in flight
    /// is evicted only if it holds none: a new key without room must not begin as if it held some.
    pub(super) fn remember_evicted(&mut self, policy: u64, tag: u64, key: KeyState, now: Now) {
        // What was given back is forgotten, so no later correction may give anything back: as after a reset.
        let given_back_until =
            key.given_back.as_ref().map_or(0, |given_back| given_back.expires_at());
        let unknown =
            (key.given_back_expires_in(now) > 0).then(|| (Reset::new(now), given_back_until));
        let KeyState { states, reset, .. } = key;
        for (reset, until) in unknown.into_iter().chain(reset.map(|reset| *reset)) {
            let evicted = self.evicted_resets.entry(policy);
            let new = || EvictedResets { last: reset, keys: RecentKeys::new() };
            let evicted = evicted.or_insert_with(new);
            evicted.last = evicted.last.later(reset);
            evicted.keys.add(tag, until, now);
        }
        if states.iter().any(|(_, state)| state.algorithm() == Algorithm::InFlight) {
            return;
        }
        if let Some(shared) = self.shared.get_mut(&policy) {
            shared.states.merge(&states, now);
        }
        let evicted = self.evicted.entry(policy);
        evicted.and_modify(|evicted| evicted.merge(&states, now)).or_insert(states);
    }

    /// Whether a key of the policy may be evicted: there is room for what it has used under each quota, in the
    /// policy's shared count too.
    pub(super) fn can_remember(&self, policy: u64, states: &StatesByQuota, now: Now) -> bool {
        let shared = self.shared.get(&policy).map(|shared| &shared.states);
        let mut remembered = self.evicted.get(&policy).into_iter().chain(shared);
        remembered.all(|remembered| remembered.can_merge(states, now))
    }

    /// Whether the key of a correction may have been evicted with a reset that came after the charge. It may be
    /// back since.
    pub(super) fn is_evicted_reset_since(&self, correction: &Correction, now: Now) -> bool {
        let charge = &correction.charge;
        let evicted = self.evicted_resets.get(&charge.policy);
        evicted.is_some_and(|EvictedResets { last, keys }| {
            correction.is_before(last) && keys.may_have(Address::of(charge).tag, now)
        })
    }

    /// What the new key of a charge begins with; `None` for a whole quota. `is_shared` if the key has no room.
    pub(super) fn beginning(
        &self,
        charge: &Charge,
        is_shared: bool,
        now: Now,
    ) -> Option<&StatesByQuota> {
        let shared = self.shared.get(&charge.policy);
        let shared = shared.filter(|shared| is_shared || shared.may_count(charge, now));
        shared.map(|shared| &shared.states).or_else(|| self.evicted.get(&charge.policy))
    }

    /// Changes what the new keys of a charge's policy share.
    pub(super) fn change_shared(
        &mut self,
        charge: &Charge,
        now: Now,
        change: impl FnOnce(&mut StatesByQuota),
    ) {
        let Self { shared, evicted, .. } = self;
        let shared = shared.entry(charge.policy).or_insert_with(|| {
            let new = || StatesByQuota::new(charge.quota, State::new(charge.algorithm));
            SharedCount::new(evicted.get(&charge.policy).cloned().unwrap_or_else(new))
        });
        shared.change(charge, now, change);
    }

    /// What an entry uses of the budget.
    pub(super) fn cost<const N: usize>(&self, entry: &Entry<N>) -> isize {
        let (cost, spilled) = (&self.budget.cost, self.spilled_of(entry));
        let len = |spilled: &KeyState| spilled.states.len();
        let logs = if N == LOG { spilled.map_or(1, len) as isize } else { 1 };
        cost.entry(N == LOG) + if entry.may_spill() { logs * cost.spilled } else { 0 }
    }

    /// Whether an entry's state answers as a new one does. The expiry that a spilled entry has is
    /// right only as long as no clock steps, so the state is checked as well.
    pub(super) fn is_expired<const N: usize>(
        &self,
        entry: &Entry<N>,
        quotas: &QuotaTable,
        now: Now,
    ) -> bool {
        let is_expired = |state: &KeyState| state.is_expired(now);
        entry.is_expired(quotas, now) && self.spilled_of(entry).is_none_or(is_expired)
    }
}

/// Sets the newest step of a long log to what its entry says.
fn update_log<const N: usize>(states: &mut StatesByQuota, entry: &Entry<N>) {
    if let Some((last_use, units)) = entry.newest_of_long_log()
        && let Some((_, log)) = states.single_log_mut()
    {
        log.set_newest(last_use, units);
    }
}

/// What is left for a charge by a state, if it has to wait so long for its units, and its key is blocked
/// for so long.
pub(super) fn usage(state: &State, charge: &Charge, wait: u64, blocked: u64, now: Now) -> Usage {
    let charged = state.charged(&charge.quota, now, wait);
    if blocked == 0 {
        return charged.into();
    }
    Usage::blocked_nanos(blocked, wait, charged.reset)
}
