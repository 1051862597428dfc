//! The smallest quota that would have refused only the loudest keys: [`suggest`].
//!
//! Each try sends the requests that a policy has counted through this policy alone. It ends when too many
//! keys are refused. A key is left out if it was refused under a larger quota, passed under a smaller one, or
//! has `enough` by the times of its requests. A try is a replay if the end of a request matters. Otherwise it
//! only checks the policy, once for each request.

use std::{sync::Arc, time::Duration};

use tower_quota::{Decision, Quota, config::Limits};

use crate::{
    engine::{self, Witness},
    enough::enough,
    log::Log,
    subject::Subject,
    tally::PolicyTally,
};

/// A quota for one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// How many keys it would have refused, at most.
    pub but_the_loudest: usize,
    pub quota: Quota,
    /// How many keys it would have refused.
    pub refused_keys: usize,
}

/// For each number of loudest keys, in ascending order, the smallest quota that refuses no other. Only the
/// units change; or if the quota has a burst of its own, only the burst. Numbers for which there are not
/// more keys than that are left out.
///
/// # Errors
/// Those of [`engine::replay`].
pub fn suggest(
    subject: &Subject,
    log: &Arc<Log>,
    tally: &PolicyTally,
    loudest: &[usize],
) -> Result<Vec<Suggestion>, String> {
    let Some(mut trial) = Trial::new(subject, log, tally) else { return Ok(Vec::new()) };
    let mut suggestions = Vec::new();
    let mut at_most = None;
    for &but_the_loudest in loudest {
        let Some(enough) = trial.enough_but_for(but_the_loudest) else { break };
        let enough = at_most.map_or(enough, |units: u64| units.min(enough));
        let units = trial.smallest(but_the_loudest, enough)?;
        at_most = Some(units);
        let refused_keys = trial.refused_at(units, but_the_loudest)?;
        suggestions.push(Suggestion { but_the_loudest, quota: trial.quota(units), refused_keys });
    }
    Ok(suggestions)
}

const NONE: u32 = u32::MAX;

/// One policy alone, with one quota after another.
struct Trial<'a> {
    subject: &'a Subject,
    log: &'a Arc<Log>,
    /// The key of each line; `NONE` for a line that the policy does not count.
    key_of: Arc<[u32]>,
    name: &'a str,
    limits: Limits,
    quota: Quota,
    has_burst: bool,
    /// Whether it matters how requests end.
    has_ends: bool,
    keys: Vec<Known>,
}

/// What is known of a key.
#[derive(Clone, Copy)]
struct Known {
    /// The largest units that refuse it, and the smallest that do not.
    refused_at: u64,
    passes_at: u64,
}

impl<'a> Trial<'a> {
    /// `None` if the policy has counted nothing.
    fn new(subject: &'a Subject, log: &'a Arc<Log>, tally: &'a PolicyTally) -> Option<Self> {
        let mut policy = subject.limits.policies.get(&tally.name)?.clone();
        if policy.quota.is_unlimited() || tally.counted.is_empty() {
            return None;
        }
        policy.dry_run = false;
        policy.hold = Some(Duration::ZERO);
        policy.fair_by = None;
        policy.fair_weights.clear();
        policy.penalty = None;
        policy.or_else.clear();
        policy.schedules.clear();
        policy.quota_by = None;
        policy.plan = None;
        policy.plans = Default::default();
        let quota = policy.quota;
        let has_burst = quota.with_units(quota.units() + 1).capacity() == quota.capacity();
        let has_ends = engine::has_ends(&policy);
        let mut limits = Limits::default();
        if has_ends {
            // The requests are those that it has counted, whatever their category.
            limits.every_request = vec![tally.name.clone()];
            limits.client_ip = subject.limits.client_ip.clone();
        } else {
            // The keys of the checks are the numbers of the tally.
            limits.check_only = vec![tally.name.clone()];
            policy.keys.clear();
            policy.without_key = None;
            policy.global = false;
        }
        let mut counted = tally.counted.clone();
        counted.sort_unstable_by_key(|(line, key)| (*key, *line));
        let known = |counted: &[(u32, u32)]| {
            let requests = counted.iter().map(|(line, _)| log.lines[*line as usize]);
            let passes_at = enough(policy.algorithm, quota, has_burst, requests);
            Known { refused_at: 0, passes_at }
        };
        let keys = counted.chunk_by(|(_, a), (_, b)| a == b).map(known).collect();
        let mut key_of = vec![NONE; log.lines.len()];
        for (line, key) in &counted {
            key_of[*line as usize] = *key;
        }
        limits.policies.insert(tally.name.clone(), policy);
        let (key_of, name) = (key_of.into(), &tally.name);
        Some(Self { subject, log, key_of, name, limits, quota, has_burst, has_ends, keys })
    }

    /// The quota with so many units, or with such a burst.
    fn quota(&self, units: u64) -> Quota {
        if self.has_burst { self.quota.burst(units) } else { self.quota.with_units(units) }
    }

    /// Units that surely refuse no more than so many keys. `None` if there are not more keys.
    fn enough_but_for(&self, loudest: usize) -> Option<u64> {
        let mut requests: Vec<_> = self.keys.iter().map(|key| key.passes_at).collect();
        requests.sort_unstable_by(|a, b| b.cmp(a));
        requests.get(loudest).copied()
    }

    /// The fewest units that refuse no more than so many keys. `enough` refuse no more.
    fn smallest(&mut self, loudest: usize, enough: u64) -> Result<u64, String> {
        let (mut too_few, mut enough) = (0, enough);
        // Too few units end a try early, so that the first tries are of few units.
        let mut next = 1;
        while enough - too_few > 1 {
            let tried = next.clamp(too_few + 1, enough - 1);
            if self.refused_at(tried, loudest)? > loudest {
                too_few = tried;
                next = tried.saturating_mul(2).min(too_few + (enough - too_few) / 2);
            } else {
                enough = tried;
                next = too_few + (enough - too_few) / 2;
            }
        }
        Ok(enough)
    }

    /// How many keys so many units refuse. It stops counting at one more than `loudest`.
    fn refused_at(&mut self, units: u64, loudest: usize) -> Result<usize, String> {
        let known = self.keys.iter().filter(|key| units <= key.refused_at).count();
        if known > loudest {
            return Ok(known);
        }
        let open = |key: &Known| key.refused_at < units && units < key.passes_at;
        if !self.keys.iter().any(open) {
            return Ok(known);
        }
        let quota = self.quota(units);
        let policy = self.limits.policies.get_mut(self.name).expect("it has this policy");
        policy.quota = quota;
        let is_refused = vec![false; self.keys.len()];
        let key_of = Arc::clone(&self.key_of);
        let witness = Refusals { key_of, is_refused, count: known, enough: loudest + 1 };
        let key_of = |line: u32| self.key_of[line as usize];
        let lines = (0..self.log.lines.len() as u32).filter(|line| {
            let key = key_of(*line);
            key != NONE && open(&self.keys[key as usize])
        });
        let (limits, registry) = (&self.limits, &self.subject.registry);
        let seen = if self.has_ends {
            engine::replay(limits, registry, self.log, lines, witness, |_| {})?
        } else {
            let lines = lines.map(|line| (line, key_of(line)));
            engine::check(limits, registry, self.log, self.name, lines, witness)?
        };
        let is_whole = seen.count < seen.enough;
        for (key, is_refused) in self.keys.iter_mut().zip(&seen.is_refused) {
            if *is_refused {
                key.refused_at = key.refused_at.max(units);
            } else if is_whole && open(key) {
                key.passes_at = units;
            }
        }
        Ok(seen.count)
    }
}

/// Which keys are refused.
struct Refusals {
    key_of: Arc<[u32]>,
    is_refused: Vec<bool>,
    count: usize,
    enough: usize,
}

impl Witness for Refusals {
    fn decided(&mut self, line: u32, decision: &Decision) {
        let is_refused = &mut self.is_refused[self.key_of[line as usize] as usize];
        if !decision.is_allowed() && !*is_refused {
            *is_refused = true;
            self.count += 1;
        }
    }

    /// One refusal of a key is enough.
    fn wants(&mut self, line: u32) -> bool {
        !self.is_refused[self.key_of[line as usize] as usize]
    }

    fn has_seen_enough(&self) -> bool {
        self.count >= self.enough
    }
}
