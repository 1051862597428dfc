//! What a limiter announces to its store of each policy: [`Announcement`]. A store that several
//! limiters share finds those that count together by mistake.

use crate::warning::{Code, warn};

/// A policy that a limiter counts in a store, and its settings in words.
///
/// A store gets them by [`Store::announce`](super::Store::announce). A store that several limiters
/// share [compares](Self::compare) those with the same [`policy`](Self::policy):
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
    /// The settings that the limiter has announced before, if they have been
    /// [replaced](crate::Limiter::apply).
    pub before: Option<String>,
}

impl Announcement {
    /// Gives the warning [`policy_differs`](crate::warning#policy_differs) if these settings differ
    /// from `other`: the [settings](Self::settings) of the same policy as another limiter has
    /// announced it. The limiter's own settings from [before](Self::before) are no difference.
    pub fn compare(&self, other: &str) {
        let Self { name, settings, before, .. } = self;
        if settings == other || before.as_deref() == Some(other) {
            return;
        }
        warn(Code::PolicyDiffers, name, || {
            format!(
                "policy `{name}` counts together with one of the same name in the same Redis that \
                 is `{other}`, and here it is `{settings}`; while a release changes it that is \
                 right, or else give each service a prefix: `RedisStore::builder(…).prefix(…)`"
            )
        });
    }
}
