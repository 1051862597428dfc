use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::request::Parts;
use smallvec::SmallVec;

use super::Rule;
use crate::{
    decision::{Decision, Outcome, Reason},
    key::Fingerprinter,
    policy::Policy,
    quota::Quota,
    store::{Charge, StoreFuture, Usage},
};

/// What a request's policies ask of the store.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) charges: SmallVec<[Charge; 4]>,
    /// The policies of `charges`, and the kinds of key found.
    policies: SmallVec<[(Policy, u8); 4]>,
    /// The policies that refuse because the request has no key.
    pub(super) missing: SmallVec<[Outcome; 1]>,
}

impl Asked {
    pub(super) fn ask(&mut self, rule: &Rule, request: &Parts, fingerprints: &Fingerprinter) {
        let policy = &rule.policy;
        let quota = policy.quota_of(request);
        if quota.is_unlimited() {
            return;
        }
        match policy.key_of(request) {
            Some((kind, key)) => {
                self.charge(
                    rule,
                    kind,
                    fingerprints.fingerprint(kind, &key),
                    quota,
                    policy.cost_of(request),
                );
            }
            None if policy.skips_without_key() => {}
            None => self.missing.push(Outcome {
                policy: policy.clone(),
                key_kind: 0,
                quota,
                refused: Some(Reason::MissingKey),
                remaining: 0,
                reset: Duration::ZERO,
                wait: Duration::ZERO,
            }),
        }
    }

    pub(super) fn charge(&mut self, rule: &Rule, kind: u8, key: u128, quota: Quota, cost: u64) {
        let Rule { policy, id } = rule;
        let algorithm = policy.algorithm();
        self.charges.push(Charge { policy: *id, key, algorithm, quota, cost });
        self.policies.push((policy.clone(), kind));
    }
}

/// A [`Decision`] to come. In memory it is there at the first poll.
#[must_use = "nothing is decided unless it is awaited"]
pub struct DecisionFuture {
    pub(super) asked: Asked,
    pub(super) usages: Option<StoreFuture>,
    pub(super) decided_at: Duration,
}

impl Future for DecisionFuture {
    type Output = Decision;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Decision> {
        let usages = match &mut self.usages {
            Some(usages) => ready!(Pin::new(usages).poll(context)),
            None => SmallVec::new(),
        };
        let asked = std::mem::take(&mut self.asked);
        if self.usages.is_none() {
            return Poll::Ready(Decision::new(
                asked.missing.into_iter().collect(),
                self.decided_at,
            ));
        }
        let outcomes = asked.policies.into_iter().zip(asked.charges).zip(usages).map(outcome);
        Poll::Ready(Decision::new(outcomes.collect(), self.decided_at))
    }
}

fn outcome((((policy, key_kind), charge), usage): (((Policy, u8), Charge), Usage)) -> Outcome {
    let Usage { wait, remaining, reset } = usage;
    let refused = match wait {
        Duration::ZERO => None,
        _ if charge.cost > policy.capacity(&charge.quota) => Some(Reason::CostExceedsQuota),
        _ => Some(Reason::QuotaExceeded),
    };
    Outcome { policy, key_kind, quota: charge.quota, refused, remaining, reset, wait }
}

impl fmt::Debug for DecisionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionFuture").finish_non_exhaustive()
    }
}
