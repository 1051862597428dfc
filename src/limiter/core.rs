//! What all clones of a limiter share: [`Core`].

use std::sync::{Arc, OnceLock};

use http::{StatusCode, request::Parts};

use super::{
    apply::Dependents,
    current_rules::{CurrentRules, LoadedRules},
    decision::{Ruling, error_status},
    overrides::{
        ActiveOverrides, Answer, Ask, AwaitedCaller, CallersOwn, OnSourceFailure, OverrideError,
    },
    queue::WaitQueue,
    rules::Rule,
    trace::Trace,
};
#[cfg(feature = "metrics")]
use crate::metrics::Metrics;
use crate::{
    clock::{Clock, Now},
    first_requests::FirstRequests,
    key::{Caller, Extracted, Fingerprinter, Key, canonical},
    lock::Mutex,
    store::{Announcement, Charge, Correction, MemoryStore, Store, StoreFuture},
    warning::{Code, warn},
};

/// It lasts as long as the limiter, while [rules](Self::rules) are replaced.
pub(super) struct Core {
    pub(super) rules: CurrentRules,
    pub(super) store: Box<dyn Store>,
    /// The limiter whose store it is, if that is another one.
    pub(super) counts_of: Option<Arc<Core>>,
    /// The store announces the policies to other processes as long as this is alive.
    pub(super) announced: Mutex<Arc<[Announcement]>>,
    /// While this is locked, the rules stay what they are.
    pub(super) dependents: Mutex<Dependents>,
    /// The counts while the store does not answer.
    pub(super) local: OnceLock<MemoryStore>,
    /// Whether other processes share the counts.
    pub(super) is_shared: bool,
    pub(super) clock: Clock,
    pub(super) keys: Fingerprinter,
    pub(super) caller: Option<Caller>,
    pub(super) overrides: Arc<ActiveOverrides>,
    /// Watches whether requests have no caller.
    pub(super) without_caller: FirstRequests,
    pub(super) queue: WaitQueue,
    #[cfg(feature = "metrics")]
    pub(super) metrics: Metrics,
}

/// The overrides of a caller; or the ruling on a caller who is blocked, or who cannot be read and may
/// be blocked.
pub(super) type Overridden = Result<Option<CallersOwn>, Ruling>;

/// The domain of callers' fingerprints if the limiter has no [`Caller`].
const CALLER: &str = "caller";

impl Core {
    /// The current rules. A decision calls this once: it must not use the indices of two rule sets.
    #[inline]
    pub(super) fn rules(&self) -> LoadedRules<'_> {
        self.rules.load()
    }

    /// The fingerprint of a key that will be charged, and its shard, which chooses a cluster's
    /// server: the first of joined keys, or else the key. The store begins to load the key's count
    /// already. A policy that counts all requests together has one fingerprint, whatever the key is.
    #[inline(always)]
    pub(super) fn key_of(&self, rule: &Rule, kind: u8, key: &Key<'_>) -> (u128, u64) {
        if let Some(only) = rule.only_key {
            return (only, only as u64);
        }
        let domain = rule.domain(kind);
        let fingerprint = self.keys.fingerprint(domain.key, key);
        self.store.prefetch(fingerprint, rule.charge.algorithm);
        let first_part = if self.is_shared { key.first_part() } else { None };
        let first_part = first_part.map(|key| self.keys.fingerprint(domain.first_part, &key));
        (fingerprint, first_part.unwrap_or(fingerprint) as u64)
    }

    /// The shard that the policy reads from a request; `by_key` if it reads none.
    ///
    /// # Errors
    /// The status for a shard that cannot be read. It must not move the caller's counts to another
    /// server.
    #[inline]
    pub(super) fn shard_of(
        &self,
        rule: &Rule,
        request: &Parts,
        by_key: u64,
    ) -> Result<u64, StatusCode> {
        if self.is_shared { self.shard_by(rule, request, by_key) } else { Ok(by_key) }
    }

    fn shard_by(&self, rule: &Rule, request: &Parts, by_key: u64) -> Result<u64, StatusCode> {
        match rule.policy.settings.shard_of(request) {
            Extracted::Unreadable(status) => Err(status),
            Extracted::Missing => Ok(by_key),
            // The fingerprint is that of a policy which counts by this key, so that both are on one
            // server.
            Extracted::Found(shard) => {
                let domain = rule.shard_domain;
                let fingerprint = match shard.first_part() {
                    Some(first) => self.keys.fingerprint(domain.first_part, &first),
                    None => self.keys.fingerprint(domain.key, &shard),
                };
                Ok(fingerprint as u64)
            }
        }
    }

    /// The fingerprint of the caller of a request, and its key.
    ///
    /// # Errors
    /// The status for a caller that cannot be read.
    #[cold]
    pub(super) fn caller_of<'r>(
        &self,
        request: &'r Parts,
        trace: &mut impl Trace,
    ) -> Result<Option<(u128, Key<'r>)>, StatusCode> {
        let Some(caller) = &self.caller else { return Ok(None) };
        let extracted = caller.extractor.extract(request);
        trace.caller(caller, &extracted);
        match extracted {
            Extracted::Unreadable(status) => Err(error_status(Some(status))),
            extracted => Ok(extracted.found().map(|key| (caller.fingerprint(&key), key))),
        }
    }

    /// The overrides of the caller of a request; or the future that ends when they are known.
    #[cold]
    pub(super) fn overrides_of(
        &self,
        request: &Parts,
        trace: &mut impl Trace,
    ) -> Result<Overridden, Box<AwaitedCaller>> {
        let caller = self.caller_of(request, trace);
        self.without_caller.watch(caller != Ok(None), || {
            warn(Code::CallerNeverFound, "", || {
                format!(
                    "callers have overrides, and none of {} requests had a caller, so that no \
                     override applies; if a middleware sets the caller, add its layer after the \
                     limiter's, so that it runs first",
                    FirstRequests::MANY
                )
            });
        });
        self.overrides_by(caller, trace)
    }

    /// The overrides of the caller with this fingerprint and key; or the future that ends when they are
    /// known.
    #[cold]
    pub(super) fn overrides_by(
        &self,
        caller: Result<Option<(u128, Key<'_>)>, StatusCode>,
        trace: &mut impl Trace,
    ) -> Result<Overridden, Box<AwaitedCaller>> {
        let first_read = self.overrides.first_read();
        let asked = match (&self.overrides.source, &caller) {
            (Some(source), Ok(Some((caller, key)))) => Some(source.ask(*caller, key)),
            _ => None,
        };
        let caller = caller.map(|caller| caller.map(|(caller, _)| caller));
        match (first_read, asked) {
            (None, None) => Ok(self.known_overrides(caller, None, trace)),
            (None, Some(Ask::Known(answer))) => {
                Ok(self.known_overrides(caller, Some(answer), trace))
            }
            (first_read, asked) => Err(Box::new(AwaitedCaller::new(caller, async move {
                if let Some(first_read) = first_read {
                    first_read.await;
                }
                match asked? {
                    Ask::Known(answer) => Some(answer),
                    Ask::Later(answer) => Some(answer.await),
                }
            }))),
        }
    }

    /// The overrides of a caller, by what is known and by what the source has answered; none for a
    /// request without a caller.
    ///
    /// # Errors
    /// The ruling on a caller who is blocked, or who cannot be read and may be blocked, or of whom the
    /// source does not tell.
    pub(super) fn known_overrides(
        &self,
        caller: Result<Option<u128>, StatusCode>,
        answer: Option<Answer>,
        trace: &mut impl Trace,
    ) -> Overridden {
        let now = self.clock.now();
        let (table, source) = (&self.overrides.table, &self.overrides.source);
        let caller = match caller {
            // The last override has ended, so this caller has none.
            Err(_) if source.is_none() && !table.any_applies(now) => None,
            caller => caller.map_err(Ruling::UnreadableCaller)?,
        };
        let own = caller.and_then(|caller| table.get(caller, now));
        let blocked = own.as_ref().and_then(CallersOwn::blocked_for);
        let refuses = || {
            let on_failure = source.as_ref().map(|source| source.settings.on_failure);
            on_failure == Some(OnSourceFailure::Refuse)
        };
        if let Some(Err(_)) = answer {
            trace.source_unavailable();
        }
        let own = match answer {
            Some(Ok(found)) => Some(CallersOwn::with_source(own, found, now)),
            Some(Err(_)) if blocked.is_none() && refuses() => {
                trace.overrides(own.as_ref());
                return Err(Ruling::SourceUnavailable);
            }
            _ => own,
        };
        trace.overrides(own.as_ref());
        let blocked = own.as_ref().and_then(CallersOwn::blocked_for);
        blocked.map_or(Ok(own), |wait| Err(Ruling::Blocked { wait }))
    }

    /// The overrides of a caller that are known without waiting; those of a blocked caller, too.
    pub(super) fn remembered_overrides(&self, caller: u128) -> Option<CallersOwn> {
        let now = self.clock.now();
        let own = self.overrides.table.get(caller, now);
        let found = self.overrides.source.as_ref().map(|source| source.remembered(caller));
        match found {
            Some(Ok(found)) => Some(CallersOwn::with_source(own, found, now)),
            _ => own,
        }
    }

    /// The fingerprint of the caller with the key of a check, and the key as it is counted; `None` if no
    /// request has such a caller.
    #[cold]
    pub(super) fn caller_of_key<'k>(&self, key: Key<'k>) -> Option<(u128, Key<'k>)> {
        Some(match &self.caller {
            Some(caller) => {
                let key = canonical(&*caller.extractor, key)?;
                (caller.fingerprint(&key), key)
            }
            None => (self.keys.fingerprint(self.keys.domain(CALLER).key, &key), key),
        })
    }

    /// What makes fingerprints of callers, if they outlive the process.
    ///
    /// # Errors
    /// [`OverrideError::NoSecret`].
    pub(super) fn lasting_fingerprints(&self) -> Result<&Fingerprinter, OverrideError> {
        match &self.caller {
            Some(caller) if caller.has_secret || self.is_shared => Ok(caller.fingerprints()),
            None if self.is_shared => Ok(&self.keys),
            _ => Err(OverrideError::NoSecret),
        }
    }

    /// The counts while the store does not answer.
    pub(super) fn local(&self) -> &MemoryStore {
        self.local.get_or_init(|| {
            let local = MemoryStore::default();
            let announced = Arc::clone(&self.announced.lock());
            local.announce(&announced);
            local
        })
    }

    /// Sends charges to the store.
    pub(super) fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let answer = self.store.charge(charges, now);
        #[cfg(feature = "metrics")]
        let answer = answer.measured(&self.metrics.charge);
        answer
    }

    /// Sends corrections to the store in which the charges were counted: this replica's own if
    /// `counted_locally`.
    pub(super) fn correct(
        &self,
        counted_locally: bool,
        corrections: &[Correction],
        now: Now,
    ) -> StoreFuture {
        let store = if counted_locally { self.local() } else { &*self.store };
        let answer = store.correct(corrections, now);
        #[cfg(feature = "metrics")]
        let answer = answer.measured(&self.metrics.correct);
        answer
    }
}
