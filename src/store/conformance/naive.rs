//! The simplest store that could be right: it forgets nothing, takes no shortcut, and counts all uses
//! of a key under each of its quotas, in whole parts of a unit.

use std::collections::HashMap;

use crate::{
    algorithm::{Algorithm, NaivePenalty},
    clock::Now,
    lock::Mutex,
    quota::Quota,
    store::{Answer, Change, Charge, Correction, Mode, Store, StoreFuture, Usage},
};

#[derive(Default)]
pub(crate) struct NaiveStore(Mutex<Keys>);

#[derive(Default)]
struct Keys {
    plans: HashMap<u128, Vec<Plan>>,
    penalties: HashMap<u128, NaivePenalty>,
    /// When each key was reset that had used something, and until when that matters.
    resets: HashMap<u128, (u64, u64)>,
    /// What was given back to the bucket of each key, and until when that matters.
    given_back: HashMap<u128, (Vec<GivenBack>, u64)>,
}

/// Units that were given back: when they were used, when they came back, and how many.
#[derive(Clone, Copy)]
struct GivenBack {
    used_at: u64,
    at: u64,
    units: u64,
}

/// What a key has used by one quota, since it was first charged under it.
#[derive(Clone)]
struct Plan {
    quota: Quota,
    counted: Counted,
}

#[derive(Clone)]
enum Counted {
    /// What was missing in parts, and when. A unit has as many parts as the window has nanoseconds.
    Bucket(u128, u64),
    /// The beginning of the last window that was used, and its units.
    Fixed(u64, u64),
    /// When each step was used last, and its units.
    Sliding(Vec<(u64, u64)>),
    /// The units that are held.
    InFlight(u64),
}

fn window(quota: &Quota) -> u64 {
    quota.window_nanos().max(1)
}

fn parts(units: u64, quota: &Quota) -> u128 {
    u128::from(units) * u128::from(window(quota))
}

fn whole(quota: &Quota) -> u128 {
    parts(quota.capacity(), quota)
}

fn refill(nanos: u64, quota: &Quota) -> u128 {
    u128::from(nanos) * u128::from(quota.units())
}

/// Rounded up.
fn nanos(parts: u128, quota: &Quota) -> u64 {
    u64::try_from(parts.div_ceil(quota.units().into())).unwrap_or(u64::MAX)
}

fn begins(now: Now, quota: &Quota) -> u64 {
    quota.window_start(now.unix_nanos())
}

impl Plan {
    fn new(charge: &Charge) -> Self {
        let counted = match charge.algorithm {
            Algorithm::TokenBucket => Counted::Bucket(0, 0),
            Algorithm::FixedWindow => Counted::Fixed(0, 0),
            Algorithm::SlidingWindow => Counted::Sliding(Vec::new()),
            Algorithm::InFlight => Counted::InFlight(0),
        };
        Self { quota: charge.quota, counted }
    }

    /// What is missing in a bucket.
    fn missing(&self, now: Now) -> u128 {
        let Counted::Bucket(missing, at) = self.counted else { return 0 };
        missing.saturating_sub(refill(now.monotonic_nanos() - at, &self.quota))
    }

    /// The window of now, and what is used in it.
    fn fixed(&self, now: Now) -> (u64, u64) {
        let Counted::Fixed(start, used) = self.counted else { return (0, 0) };
        let current = start.max(begins(now, &self.quota));
        (current, if start == current { used } else { 0 })
    }

    /// How long until each step that is still counted leaves, and its units.
    fn leaving(&self, now: Now) -> Vec<(u64, u64)> {
        let Counted::Sliding(steps) = &self.counted else { return Vec::new() };
        let leaves = |&(at, units): &(u64, u64)| {
            ((at + window(&self.quota)).saturating_sub(now.monotonic_nanos()), units)
        };
        steps.iter().map(leaves).filter(|(left, _)| *left > 0).collect()
    }

    fn is_over(&self, now: Now) -> bool {
        let is_held = matches!(self.counted, Counted::InFlight(1..));
        self.missing(now) == 0 && self.fixed(now).1 == 0 && self.leaving(now).is_empty() && !is_held
    }

    /// How long a use counts at most.
    fn longest(&self) -> u64 {
        match &self.counted {
            Counted::Bucket(..) => nanos(whole(&self.quota), &self.quota),
            Counted::Fixed(..) | Counted::Sliding(_) => window(&self.quota),
            Counted::InFlight(_) => u64::MAX,
        }
    }

    /// When the window of now began, by the clock of its algorithm.
    fn window_began(&self, now: Now) -> i128 {
        match self.counted {
            Counted::Bucket(..) | Counted::InFlight(_) => 0,
            Counted::Fixed(..) => self.fixed(now).0.min(now.unix_nanos()).into(),
            Counted::Sliding(_) => {
                i128::from(now.monotonic_nanos()) - i128::from(window(&self.quota))
            }
        }
    }

    /// Converts it to another quota.
    fn under(&self, quota: &Quota, now: Now) -> Self {
        let counted = match &self.counted {
            Counted::Bucket(..) => {
                let [old, new] = [&self.quota, quota].map(|quota| u128::from(window(quota)));
                let missing: u128 = self.missing(now);
                let missing = missing / old * new + (missing % old * new).div_ceil(old);
                // A quota's part may be several of these, and is the smallest that can be missing.
                let part = (window(quota) / quota.parts_per_unit().max(1)).into();
                let missing = (missing.div_ceil(part) * part).min(whole(quota));
                Counted::Bucket(missing, now.monotonic_nanos())
            }
            Counted::Fixed(..) => Counted::Fixed(begins(now, quota), self.fixed(now).1),
            Counted::Sliding(_) => {
                let mut steps = Vec::new();
                for (left, units) in self.leaving(now) {
                    let ago = window(&self.quota) - left;
                    if ago < window(quota) {
                        add_use(&mut steps, quota, now.monotonic_nanos() - ago, units);
                    }
                }
                Counted::Sliding(steps)
            }
            Counted::InFlight(held) => Counted::InFlight(*held),
        };
        Self { quota: *quota, counted }
    }

    /// Uses `units`, whether they fit or not.
    fn consume(&mut self, units: u64, now: Now, is_own: bool) {
        let (quota, missing, (current, used)) = (self.quota, self.missing(now), self.fixed(now));
        match &mut self.counted {
            Counted::Bucket(before, at) => {
                let most = whole(&quota) * if is_own { 2 } else { 1 };
                *before = (missing + parts(units, &quota)).min(most.max(missing));
                *at = now.monotonic_nanos();
            }
            // A window that is over stays over, even if the clock is set back.
            counted @ Counted::Fixed(..) => *counted = Counted::Fixed(current, used + units),
            Counted::Sliding(steps) => add_use(steps, &quota, now.monotonic_nanos(), units),
            Counted::InFlight(held) => *held += units,
        }
    }

    /// Uses `units` more for a charge that was made at `made`.
    fn consume_late(&mut self, units: u64, now: Now, made: Now, is_own: bool) {
        let (quota, (current, used)) = (self.quota, self.fixed(now));
        match &mut self.counted {
            Counted::Bucket(..) | Counted::InFlight(_) => self.consume(units, now, is_own),
            counted @ Counted::Fixed(..) if begins(made, &quota) >= current => {
                *counted = Counted::Fixed(current, used + units);
            }
            Counted::Fixed(..) => {}
            Counted::Sliding(steps) => {
                let (at, now) = (made.monotonic_nanos(), now.monotonic_nanos());
                let counts = |at: u64| at.min(now) + window(&quota) > now;
                if counts(at) {
                    // As if all uses that still count were made anew, in the order of time.
                    let mut uses = std::mem::take(steps);
                    uses.retain(|(last, _)| counts(*last));
                    uses.push((at.min(now), units));
                    uses.sort_by_key(|(at, _)| *at);
                    uses.into_iter().for_each(|(at, units)| add_use(steps, &quota, at, units));
                }
            }
        }
    }

    /// What was missing in a bucket right after a charge, without what was given back since.
    fn missing_at(&self, correction: &Correction, given_back: u64) -> u128 {
        let (quota, usage) = (&self.quota, &correction.usage);
        let cost = parts(correction.charge.cost, quota);
        let left = (usage.remaining(), usage.reset().as_nanos() as u64);
        let at_first = match left {
            (remaining, _) if usage.is_known() && remaining < quota.capacity() => {
                let further = parts(quota.capacity() - remaining - 1, quota);
                further + refill(left.1, quota).min(parts(1, quota))
            }
            _ if usage.is_known() => 0,
            _ => cost,
        };
        at_first.saturating_sub(parts(given_back, quota)).max(at_first.min(cost))
    }

    /// Returns how many units a bucket gets back, rounded up.
    fn give_back(
        &mut self,
        mut units: u64,
        now: Now,
        correction: &Correction,
        given_back: u64,
    ) -> u64 {
        let (quota, missing, (current, used)) = (self.quota, self.missing(now), self.fixed(now));
        let made = correction.charged_at.unwrap_or(now);
        let since = now.monotonic_nanos().saturating_sub(made.monotonic_nanos());
        let at_first = self.missing_at(correction, given_back);
        match &mut self.counted {
            Counted::Bucket(before, at) => {
                let still = at_first.saturating_sub(refill(since, &quota));
                *before = missing.saturating_sub(parts(units, &quota).min(still));
                *at = now.monotonic_nanos();
                return u64::try_from((missing - *before).div_ceil(parts(1, &quota))).unwrap();
            }
            counted @ Counted::Fixed(..) if begins(made, &quota) >= current => {
                *counted = Counted::Fixed(current, used.saturating_sub(units));
            }
            Counted::Sliding(steps) if since < window(&quota) => {
                // First the step of that moment, then those before it.
                let of_moment = steps.iter().position(|(last, _)| *last >= made.monotonic_nanos());
                let until = of_moment.map_or(steps.len(), |index| index + 1);
                for (_, used) in steps[..until].iter_mut().rev() {
                    let back = units.min(*used);
                    *used -= back;
                    units -= back;
                }
                steps.retain(|(_, used)| *used > 0);
            }
            Counted::InFlight(held) => *held = held.saturating_sub(units),
            _ => {}
        }
        0
    }

    /// How long until `cost` fits, what remains, and how long until that is more.
    fn usage(&self, now: Now, cost: u64) -> (u64, u64, u64) {
        let quota = &self.quota;
        match self.counted {
            Counted::Bucket(..) => {
                let missing = self.missing(now);
                let short = (missing + parts(cost, quota)).saturating_sub(whole(quota));
                let wait = if cost == 0 { 0 } else { nanos(short, quota) };
                let units = missing.div_ceil(window(quota).into()).min(quota.capacity().into());
                let further = units.saturating_sub(1) * u128::from(window(quota));
                let remaining = quota.capacity() - units as u64;
                (wait, remaining, nanos(missing - further, quota))
            }
            Counted::Fixed(..) => {
                let (start, used) = self.fixed(now);
                let remaining = quota.units().saturating_sub(used);
                let ends = |windows: u64| quota.windows_end(start, windows) - now.unix_nanos();
                let short = cost.saturating_sub(remaining);
                let wait = if short == 0 { 0 } else { ends(short.div_ceil(quota.units())) };
                (wait, remaining, ends(1))
            }
            Counted::Sliding(_) => {
                let leaving = self.leaving(now);
                let used_after = |time| -> u64 {
                    leaving.iter().filter(|(left, _)| *left > time).map(|(_, units)| units).sum()
                };
                let times = || [0].into_iter().chain(leaving.iter().map(|(left, _)| *left));
                let remaining = |time| quota.units().saturating_sub(used_after(time));
                let windows = cost.saturating_sub(1) / quota.units();
                let rest = cost - windows * quota.units();
                let fits = |time: &u64| used_after(*time) + rest <= quota.units();
                let wait = times().find(fits).unwrap_or(u64::MAX);
                let wait = wait.saturating_add(windows.saturating_mul(window(quota)));
                let reset = times().find(|time| remaining(*time) > remaining(0)).unwrap_or(0);
                (if cost == 0 { 0 } else { wait }, remaining(0), reset)
            }
            Counted::InFlight(held) => {
                let left = quota.units().saturating_sub(held);
                (if cost <= left { 0 } else { u64::MAX }, left, 0)
            }
        }
    }
}

/// Adds a use to the steps of a sliding window: uses of one 60th of the window leave together.
fn add_use(steps: &mut Vec<(u64, u64)>, quota: &Quota, at: u64, units: u64) {
    let step = |at: u64| u128::from(at) * 60 / u128::from(window(quota));
    match steps.last_mut() {
        Some(last) if step(last.0) == step(at) => *last = (at, last.1 + units),
        _ => steps.push((at, units)),
    }
}

/// What a plan begins with, beside others.
fn beginning(plans: &[Plan], charge: &Charge, now: Now) -> Plan {
    let converted: Vec<_> = plans.iter().map(|plan| plan.under(&charge.quota, now)).collect();
    if charge.algorithm == Algorithm::TokenBucket {
        return converted.into_iter().max_by_key(|plan| plan.missing(now)).unwrap();
    }
    // The windows that hold all of the new one, the shortest first; then the others, the longest first.
    let began = Plan::new(charge).window_began(now);
    let (mut hold_all, mut others): (Vec<_>, Vec<_>) =
        plans.iter().zip(converted).partition(|(plan, _)| plan.window_began(now) <= began);
    hold_all.sort_by_key(|(plan, _)| -plan.window_began(now));
    others.sort_by_key(|(plan, _)| plan.window_began(now));
    hold_all.into_iter().chain(others).next().unwrap().1
}

/// Counts under the charge's quota from now on.
fn track(plans: &mut Vec<Plan>, charge: &Charge, now: Now) {
    for plan in &mut *plans {
        if let Counted::Fixed(start, _) = &mut plan.counted
            && *start > now.unix_nanos() + 2_000_000_000
        {
            *start = begins(now, &plan.quota);
        }
    }
    if plans.iter().all(|plan| plan.is_over(now)) {
        *plans = vec![Plan::new(charge)];
    }
    if plans.iter().all(|plan| plan.quota != charge.quota) {
        let own = beginning(plans, charge, now);
        if plans.len() == 4 {
            let remembers = |plan: &Plan| match plan.is_over(now) {
                true => (0, 0),
                false => (plan.longest(), charge.algorithm.capacity(&plan.quota)),
            };
            let index = (0..4).rev().min_by_key(|index| remembers(&plans[*index]));
            plans.remove(index.unwrap());
        }
        plans.insert(0, own);
    }
}

/// Changes all plans. The plan of the charge comes to the front.
fn change(plans: &mut [Plan], charge: &Charge, mut change: impl FnMut(&mut Plan, bool)) {
    let index = plans.iter().position(|plan| plan.quota == charge.quota).unwrap();
    plans[..=index].rotate_right(1);
    let (own, others) = plans.split_first_mut().unwrap();
    change(own, true);
    others.iter_mut().for_each(|other| change(other, false));
}

fn look(plans: Option<&Vec<Plan>>, charge: &Charge, now: Now, cost: u64) -> (u64, u64, u64) {
    let Some(plans) = plans else { return Plan::new(charge).usage(now, cost) };
    let mut plans = plans.clone();
    track(&mut plans, charge, now);
    plans.iter().find(|plan| plan.quota == charge.quota).unwrap().usage(now, cost)
}

impl NaiveStore {
    /// Whether this key is as a new one.
    pub(crate) fn has_expired(&self, charge: &Charge, now: Now) -> bool {
        let keys = &self.0.lock().plans;
        keys.get(&charge.id()).is_none_or(|plans| plans.iter().all(|plan| plan.is_over(now)))
    }
}

impl Keys {
    /// Gives units back, and remembers how many came back to a bucket, unless nothing was used after them.
    fn give_back(&mut self, units: u64, now: Now, correction: &Correction) {
        let (charge, nanos) = (&correction.charge, now.monotonic_nanos());
        let Some(plans) = self.plans.get_mut(&charge.id()) else { return };
        let is_tracked = plans.iter().any(|plan| plan.quota == charge.quota);
        track(plans, charge, now);
        let may_lack_uses = plans.len() > 1;
        let (earlier, until) = self.given_back.entry(charge.id()).or_default();
        if *until <= nanos {
            earlier.clear();
        }
        let made = correction.charged_at.unwrap_or(now).monotonic_nanos();
        let since = earlier.iter().filter(|other| other.used_at <= made && made <= other.at);
        let given_back = since.fold(0_u64, |sum, other| sum.saturating_add(other.units));
        let plan = plans.iter().find(|plan| plan.quota == charge.quota).unwrap();
        let still = plan
            .missing_at(correction, 0)
            .saturating_sub(refill(nanos.saturating_sub(made), &plan.quota));
        let is_last = plans.len() == 1
            && window(&plan.quota) / plan.quota.units() >= 1_000
            && given_back == 0
            && plan.missing(now) <= still;
        let mut most = 0;
        change(plans, charge, |plan, is_own| {
            let is_bucket = matches!(plan.counted, Counted::Bucket(..));
            let since = refill(nanos.saturating_sub(made), &plan.quota);
            let was_empty = may_lack_uses && plan.missing(now) + since >= whole(&plan.quota);
            if !is_bucket || is_own && is_tracked && !was_empty {
                most = plan.give_back(units, now, correction, given_back).max(most);
            }
        });
        if most > 0 && !is_last {
            let used_at = correction.charged_at.map_or(0, |_| made.min(nanos));
            earlier.push(GivenBack { used_at, at: nanos, units: most });
            let longest = plans.iter().map(Plan::longest).max().unwrap();
            *until = nanos.saturating_add(longest).max(*until);
        }
    }

    /// How long until the charge fits, and how much longer its key is blocked.
    fn waits(&self, charge: &Charge, now: Now) -> (u64, u64) {
        let wanted = match charge.cost {
            0 => 0,
            cost => charge.ahead.saturating_add(cost),
        };
        let penalty = self.penalties.get(&charge.id()).filter(|_| charge.has_penalty);
        let blocked = penalty.map_or(0, |penalty| penalty.blocked_for(now));
        if charge.only_looks() {
            return (0, blocked);
        }
        (look(self.plans.get(&charge.id()), charge, now, wanted).0, blocked)
    }

    fn usage(&self, charge: &Charge, (wait, blocked): (u64, u64), now: Now) -> Usage {
        if charge.only_looks() {
            return Usage::looked(blocked);
        }
        let (_, remaining, reset) = look(self.plans.get(&charge.id()), charge, now, 0);
        match blocked {
            0 => Usage::from_nanos(wait, remaining, reset),
            blocked => Usage::blocked_nanos(blocked, wait, reset),
        }
    }
}

impl Store for NaiveStore {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let keys = &mut *self.0.lock();
        // The waits of each charge, and whether a charge before it has been chosen instead.
        let (mut waits, mut passes) = (Vec::new(), true);
        let mut rest = charges;
        while let Some(last) =
            rest.iter().position(|charge| !charge.or_else).or(rest.len().checked_sub(1))
        {
            let mut chosen = false;
            for charge in &rest[..=last] {
                if charge.mode != Mode::Peek && !chosen && !charge.only_looks() {
                    keys.plans
                        .get_mut(&charge.id())
                        .into_iter()
                        .for_each(|plans| track(plans, charge, now));
                }
                let wait = keys.waits(charge, now);
                waits.push((wait, chosen));
                chosen |= wait == (0, 0);
            }
            passes &= chosen || rest[0].mode != Mode::Enforced;
            rest = &rest[last + 1..];
        }
        let make = |(charge, (waits, is_spared)): (&Charge, ((u64, u64), bool))| {
            let fits = waits == (0, 0) && !is_spared;
            if passes && fits && charge.uses_units() {
                let new = || vec![Plan::new(charge)];
                let plans = keys.plans.entry(charge.id()).or_insert_with(new);
                change(plans, charge, |plan, is_own| plan.consume(charge.cost, now, is_own));
            }
            keys.usage(charge, waits, now)
        };
        let usages = charges.iter().zip(waits.iter().copied()).map(make).collect();
        StoreFuture::ready(Ok(Answer { usages, at: now }))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        let keys = &mut *self.0.lock();
        let correct = |correction: &Correction| {
            let charge = &correction.charge;
            let reset = keys.resets.get(&charge.id()).copied();
            let reset = reset.filter(|(_, until)| *until > now.monotonic_nanos());
            let is_before_reset = |correction: &Correction| {
                let made = correction.charged_at.unwrap_or(now);
                reset.is_some_and(|(at, _)| made.monotonic_nanos() < at)
            };
            match (correction.change, keys.plans.get_mut(&charge.id())) {
                (Change::Take(0), _) | (Change::GiveBack(_), None) => {}
                (Change::Take(_) | Change::GiveBack(_), _) if charge.only_looks() => {}
                (Change::Take(units), _) => {
                    let new = || vec![Plan::new(charge)];
                    let plans = keys.plans.entry(charge.id()).or_insert_with(new);
                    track(plans, charge, now);
                    let made = correction.charged_at.unwrap_or(now);
                    change(plans, charge, |plan, is_own| {
                        plan.consume_late(units, now, made, is_own);
                    });
                }
                (Change::GiveBack(_), Some(_)) if is_before_reset(correction) => {}
                (Change::GiveBack(units), Some(_)) => keys.give_back(units, now, correction),
                (Change::Reset, plans) => {
                    let given_back = keys.given_back.get(&charge.id());
                    if let Some(plans) = plans
                        && (plans.iter().any(|plan| !plan.is_over(now))
                            || given_back.is_some_and(|(_, until)| *until > now.monotonic_nanos()))
                    {
                        let longest = plans.iter().map(Plan::longest).max().unwrap_or(0);
                        let at = now.monotonic_nanos();
                        keys.resets.insert(charge.id(), (at, at.saturating_add(longest)));
                    }
                    keys.plans.remove(&charge.id());
                    keys.given_back.remove(&charge.id());
                    keys.penalties.remove(&charge.id());
                }
                (Change::Penalize(penalty), _) => {
                    keys.penalties.entry(charge.id()).or_default().count(penalty, now);
                    let charge = Charge { has_penalty: true, ..*charge };
                    return keys.usage(&charge, keys.waits(&charge, now), now);
                }
                (Change::Pardon, _) => {
                    keys.penalties.remove(&charge.id());
                }
            }
            keys.usage(charge, (0, 0), now)
        };
        let usages = corrections.iter().map(correct).collect();
        StoreFuture::ready(Ok(Answer { usages, at: now }))
    }

    fn keeps_penalties(&self) -> bool {
        true
    }
}
