//! The policies that a limiter announces to its store: [`Announcement`]. Two limiters that count
//! together by mistake are found by it.

use crate::{
    policy::{Policy, english},
    warning::{Code, warn},
};

/// A policy that a limiter counts in a store, and its settings in words.
///
/// A store gets them by [`Store::announce`](super::Store::announce). One whose counts several
/// limiters share compares those with the same [`policy`](Self::policy):
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_quota::store::Announcement;
///
/// #[derive(Default)]
/// struct Announced(Mutex<Vec<Announcement>>);
///
/// impl Announced {
///     // Called by `Store::announce`.
///     fn add(&self, policies: &Arc<[Announcement]>) {
///         let mut known = self.0.lock().expect("no thread has panicked");
///         for new in policies.iter() {
///             for known in known.iter().filter(|known| known.policy == new.policy) {
///                 new.compare(&known.settings);
///             }
///         }
///         known.extend(policies.iter().cloned());
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announcement {
    /// The policy's name.
    pub name: String,
    /// The fingerprint of the policy's name and algorithm, as in
    /// [`Charge::policy`](super::Charge::policy): policies with the same count together.
    pub policy: u64,
    /// The policy's own quota and its kinds of key, in words: `10 per minute, by ip`.
    pub settings: String,
}

impl Announcement {
    pub(crate) fn new(policy: &Policy, fingerprint: u64) -> Self {
        let settings = english::settings(policy);
        Self { name: policy.name().to_owned(), policy: fingerprint, settings }
    }

    /// Gives the warning [`policy_differs`](crate::warning#policy_differs) if `others`, the
    /// [settings](Self::settings) that another limiter has announced, differ from these.
    pub fn compare(&self, others: &str) {
        let Self { name, settings, .. } = self;
        if settings == others {
            return;
        }
        warn(Code::PolicyDiffers, name, || {
            format!(
                "policy `{name}` counts together with one of the same name in the same Redis that \
                 is `{others}`, and here it is `{settings}`; while a release changes it that is \
                 right, or else give each service a prefix: `RedisStore::builder(…).prefix(…)`"
            )
        });
    }
}
