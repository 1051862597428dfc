//! What limiters tell a store that they share of their policies, so that two which are not meant to
//! count together are noticed.

use crate::{
    describe::in_words,
    policy::Policy,
    warning::{Code, warn},
};

/// What a limiter counts in a store: a policy of this name and its settings; see
/// [`Store::announce`](super::Store::announce).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Announcement {
    /// The name of the policy.
    pub name: String,
    /// The fingerprint of its name and of how it counts, as in
    /// [`Charge::policy`](super::Charge::policy): policies with the same count together.
    pub policy: u64,
    /// Its quota without a plan and its kinds of key, in words: `10 per minute, by ip`.
    pub settings: String,
}

impl Announcement {
    pub(crate) fn new(policy: &Policy, fingerprint: u64) -> Self {
        let settings = in_words(policy);
        Self { name: policy.name().to_owned(), policy: fingerprint, settings }
    }

    /// Warns if another limiter that counts in the same store has announced other settings.
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
