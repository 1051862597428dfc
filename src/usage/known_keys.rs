use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use smallvec::SmallVec;

use super::Fingerprint;
use crate::{
    decision::Decision,
    limiter::{Drawn, Limiter},
};

/// What a key has drawn on last, of each policy.
pub(super) type AllDrawn = SmallVec<[Drawn; 4]>;

/// Which quotas the keys of the log draw on. The limiter counts by other fingerprints than the log.
pub(super) struct KnownKeys {
    max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<Fingerprint, AllDrawn>,
    /// The oldest first.
    order: VecDeque<Fingerprint>,
}

impl KnownKeys {
    pub(super) fn new(max: usize) -> Self {
        Self { max, kept: Mutex::default() }
    }

    pub(super) fn remember(&self, key: Fingerprint, decision: &Decision, limiter: &Limiter) {
        let own = decision.outcomes().iter();
        let mut own =
            own.filter_map(|outcome| Some((outcome.policy(), Drawn::of(outcome)?))).peekable();
        if own.peek().is_none() {
            return;
        }
        let exception = limiter.exception(key.0);
        let kept = &mut *self.lock();
        if !kept.by_key.contains_key(&key) {
            if kept.by_key.len() >= self.max
                && let Some(oldest) = kept.order.pop_front()
            {
                kept.by_key.remove(&oldest);
            }
            kept.order.push_back(key);
        }
        let known = kept.by_key.entry(key).or_default();
        for (policy, drawn) in own {
            let is_exception =
                exception.quotas.iter().any(|(excepted, _)| excepted.name() == policy);
            match known.iter_mut().find(|before| before.is_of_policy_of(&drawn)) {
                Some(before) if is_exception => *before = drawn.without_exception(before),
                Some(before) => *before = drawn,
                None => known.push(drawn),
            }
        }
    }

    pub(super) fn of(&self, key: Fingerprint) -> AllDrawn {
        self.lock().by_key.get(&key).cloned().unwrap_or_default()
    }

    /// Each change under the lock is whole, but for one key's charges.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
