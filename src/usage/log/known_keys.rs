//! The quotas that the keys of a log draw on, for the operator's page: [`KnownKeys`].

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

use super::Fingerprint;
use crate::{
    limiter::{Decision, Limiter, QuotaRef},
    lock::Mutex,
};

/// The quotas that a key has used last, one for each policy.
pub(crate) type Quotas = SmallVec<[QuotaRef; 4]>;

/// The quotas of each key, in bounded memory. The log needs them because the limiter's fingerprints
/// differ from the log's.
pub(crate) struct KnownKeys {
    max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<Fingerprint, Known>,
    /// The keys in the order in which they are forgotten.
    order: VecDeque<Fingerprint>,
}

#[derive(Default)]
struct Known {
    quotas: Quotas,
    /// Whether the key has had another request since it was put at the end of `order`.
    came_again: bool,
}

/// How many keys are examined, at most, to find one that has not come again.
const MAX_LOOKED_AT: usize = 16;

impl KnownKeys {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, kept: Mutex::default() }
    }

    pub(crate) fn remember(&self, key: Fingerprint, decision: &Decision, limiter: &Limiter) {
        let caller = limiter.overrides().by_fingerprint(key);
        let overrides = caller.map(|caller| caller.list()).unwrap_or_default();
        let drawn: SmallVec<[(QuotaRef, bool); 4]> = decision
            .outcomes()
            .filter_map(|outcome| {
                let is_override =
                    overrides.iter().any(|own| own.policy() == Some(outcome.policy()));
                Some((outcome.quota_ref()?, is_override))
            })
            .collect();
        if drawn.is_empty() {
            return;
        }
        let kept = &mut *self.kept.lock();
        match kept.by_key.get_mut(&key) {
            Some(known) => known.came_again = true,
            None => {
                if kept.by_key.len() >= self.max {
                    kept.forget_one();
                }
                kept.order.push_back(key);
            }
        }
        let known = &mut kept.by_key.entry(key).or_default().quotas;
        for (quota, is_override) in drawn {
            match known.iter_mut().find(|before| before.is_of_same_policy(&quota)) {
                Some(before) if is_override => *before = quota.with_quota_of(before),
                Some(before) => *before = quota,
                None => known.push(quota),
            }
        }
    }

    pub(crate) fn of(&self, key: Fingerprint) -> Quotas {
        self.kept.lock().by_key.get(&key).map(|known| known.quotas.clone()).unwrap_or_default()
    }
}

impl Kept {
    /// Forgets the oldest key, but gives a key that has come again another round (the clock algorithm).
    /// So keys that come once, however many, push out no regular key.
    fn forget_one(&mut self) {
        for left in (0..MAX_LOOKED_AT).rev() {
            let Some(oldest) = self.order.pop_front() else { return };
            match self.by_key.get_mut(&oldest) {
                Some(known) if known.came_again && left > 0 => {
                    known.came_again = false;
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
