//! What the keys of a log draw on, for the operator.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use smallvec::SmallVec;

use super::Fingerprint;
use crate::{
    limiter::Decision,
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
    by_key: HashMap<Fingerprint, Known>,
    /// The next to be forgotten first.
    order: VecDeque<Fingerprint>,
}

#[derive(Default)]
struct Known {
    drawn: AllDrawn,
    /// Whether it has come again since it was put into the order.
    again: bool,
}

/// How many keys that have come again are looked at for one that has not.
const LOOKED_AT: usize = 16;

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
        match kept.by_key.get_mut(&key) {
            Some(known) => known.again = true,
            None => {
                if kept.by_key.len() >= self.max {
                    kept.forget_one();
                }
                kept.order.push_back(key);
            }
        }
        let known = &mut kept.by_key.entry(key).or_default().drawn;
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
        self.lock().by_key.get(&key).map(|known| known.drawn.clone()).unwrap_or_default()
    }

    /// Each change under the lock is whole, but for one key's charges.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Forgets the oldest key; one that has come again stays for another round, so that keys that
    /// come once, however many, push out no regular.
    fn forget_one(&mut self) {
        for left in (0..LOOKED_AT).rev() {
            let Some(oldest) = self.order.pop_front() else { return };
            match self.by_key.get_mut(&oldest) {
                Some(known) if known.again && left > 0 => {
                    known.again = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    self.by_key.remove(&oldest);
                    return;
                }
            }
        }
    }
}
