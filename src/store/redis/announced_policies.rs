//! The policies that limiters of one store have announced, and its secret: [`AnnouncedPolicies`]. They show
//! which limiters count together, or apart, by mistake.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::timeout;

use super::{connection::Connection, script::KeyNames};
use crate::{
    key::Fingerprinter,
    lock::Mutex,
    store::Announcement,
    warning::{Code, warn},
};

type Policies = [Announcement];

/// The policies of the limiters that are alive.
#[derive(Debug)]
pub(super) struct AnnouncedPolicies {
    names: KeyNames,
    /// A number that stands for the secret, and discloses nothing of it.
    secret: String,
    all: Mutex<Vec<Weak<Policies>>>,
    /// Whether some are to be sent: they are new, or the connection is and the server may be another.
    pub(super) has_unsent: AtomicBool,
}

impl AnnouncedPolicies {
    pub(super) fn new(names: KeyNames, secret: u128) -> Self {
        let secret = format!("{:016x}", Fingerprinter::with_secret(secret).identity());
        Self { names, secret, all: Mutex::default(), has_unsent: AtomicBool::new(false) }
    }

    /// Adds the policies of a limiter, for as long as it keeps them, and compares them with those of
    /// other limiters in this process.
    pub(super) fn add(&self, policies: &Arc<Policies>) {
        let mut all = self.all.lock();
        all.retain(|others| others.strong_count() > 0);
        for others in all.iter().filter_map(Weak::upgrade) {
            for policy in &**policies {
                let same = others.iter().filter(|other| other.policy == policy.policy);
                same.for_each(|other| policy.compare(&other.settings));
            }
        }
        all.push(Arc::downgrade(policies));
        self.has_unsent.store(true, Relaxed);
    }

    /// Writes the policies and the secret's number to the server, and compares them with what others have
    /// written there. Returns at once: a task does the work.
    #[cold]
    pub(super) fn send(&self, connection: Connection, within: Duration) {
        let unsent = self.take_unsent();
        if unsent.is_empty() {
            return;
        }
        let (names, secret) = (self.names.clone(), self.secret.clone());
        let unsent = unsent.iter().flat_map(|policies| policies.iter());
        let unsent: Vec<_> =
            unsent.map(|policy| (self.names.announcement(policy.policy), policy.clone())).collect();
        tokio::spawn(async move {
            let before = timeout(within, connection.replace(&names.secret(), &secret)).await;
            if before.is_ok_and(|before| before.is_some_and(|before| before != secret)) {
                warn_of_secret(&names.prefix);
            }
            for (key, policy) in unsent {
                let before = connection.replace(&key, &policy.settings);
                if let Ok(Some(before)) = timeout(within, before).await {
                    policy.compare(&before);
                }
            }
        });
    }

    fn take_unsent(&self) -> Vec<Arc<Policies>> {
        if !self.has_unsent.swap(false, Relaxed) {
            return Vec::new();
        }
        let all = self.all.lock();
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

fn warn_of_secret(prefix: &str) {
    warn(Code::SecretDiffers, prefix, || {
        format!(
            "another process counts in the same Redis under the prefix `{prefix}` with another secret, \
             so the two share no count; this is right while a release changes the secret; otherwise give \
             all replicas the same secret: `RedisStore::builder(…).secret(…)`; or if these are two \
             services, give each a prefix: `.prefix(…)`"
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Policy, english},
        quota::Quota,
        warning::{Code, warnings},
    };

    fn policies(name: &str, quota: Quota) -> Arc<Policies> {
        let settings = english::settings::<&str>(&Policy::token_bucket(name, quota).global(), &[]);
        Arc::new([Announcement { name: name.to_owned(), policy: 7, settings, before: None }])
    }

    fn warned(name: &str) -> usize {
        let given = warnings();
        let given = given.iter().filter(|given| given.code() == Code::PolicyDiffers);
        given.filter(|given| given.culprit() == name).count()
    }

    #[test]
    fn limiters_that_live_at_once_and_differ_are_warned_of() {
        let announced = AnnouncedPolicies::new(KeyNames::new("tower-quota"), 7);
        let (slow, fast) = (Quota::per_minute(10), Quota::per_minute(20));
        let gone = policies("succeeded", slow);
        announced.add(&gone);
        drop(gone);
        let (next, same) = (policies("succeeded", fast), policies("succeeded", fast));
        announced.add(&next);
        announced.add(&same);
        assert_eq!(warned("succeeded"), 0);
        assert_eq!(announced.take_unsent().len(), 2);
        assert!(announced.take_unsent().is_empty(), "they were sent");
        let other = policies("succeeded", slow);
        announced.add(&other);
        assert_eq!(warned("succeeded"), 1);
        assert_eq!(announced.take_unsent().len(), 3);
        announced.has_unsent.store(true, Relaxed);
        assert_eq!(announced.take_unsent().len(), 3);
    }
}
