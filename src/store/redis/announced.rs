//! The policies that limiters of one store have announced: [`Announced`].

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::store::Announcement;

type Policies = [Announcement];

/// The policies of the limiters that are alive.
#[derive(Debug)]
pub(super) struct Announced {
    prefix: String,
    all: Mutex<Vec<Weak<Policies>>>,
    /// The server does not know all of them, or has been connected to anew.
    is_news: AtomicBool,
}

impl Announced {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), all: Mutex::default(), is_news: AtomicBool::new(false) }
    }

    /// Adds the policies of a limiter, for as long as it keeps them.
    pub(super) fn add(&self, policies: &Arc<Policies>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|others| others.strong_count() > 0);
        for others in all.iter().filter_map(Weak::upgrade) {
            for policy in &**policies {
                let same = others.iter().filter(|other| other.policy == policy.policy);
                same.for_each(|other| policy.compare(&other.settings));
            }
        }
        all.push(Arc::downgrade(policies));
        self.is_news.store(true, Relaxed);
    }

    /// The server may be another one.
    pub(super) fn again(&self) {
        self.is_news.store(true, Relaxed);
    }

    pub(super) fn is_news(&self) -> bool {
        self.is_news.load(Relaxed)
    }

    /// The policies that the server does not know yet.
    pub(super) fn take(&self) -> Vec<Arc<Policies>> {
        if !self.is_news.swap(false, Relaxed) {
            return Vec::new();
        }
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// The Redis key of an announcement: in the slot of the probe's key, and unlike any count's.
    pub(super) fn key(&self, announcement: &Announcement) -> String {
        let [tag, policy] =
            [0, announcement.policy].map(|number| URL_SAFE_NO_PAD.encode(number.to_be_bytes()));
        format!("{}:{{{tag}}}policy:{policy}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::Policy,
        quota::Quota,
        warning::{Code, warnings},
    };

    fn policies(name: &str, quota: Quota) -> Arc<Policies> {
        Arc::new([Announcement::new(&Policy::token_bucket(name, quota).global(), 7)])
    }

    fn warned(name: &str) -> usize {
        let given = warnings();
        let given = given.iter().filter(|given| given.code() == Code::PolicyDiffers);
        given.filter(|given| given.culprit() == name).count()
    }

    #[test]
    fn limiters_that_live_at_once_and_differ_are_warned_of() {
        let announced = Announced::new("tower-quota");
        let (slow, fast) = (Quota::per_minute(10), Quota::per_minute(20));
        let gone = policies("succeeded", slow);
        announced.add(&gone);
        drop(gone);
        let (next, same) = (policies("succeeded", fast), policies("succeeded", fast));
        announced.add(&next);
        announced.add(&same);
        assert_eq!(warned("succeeded"), 0);
        assert_eq!(announced.take().len(), 2);
        assert!(announced.take().is_empty(), "the server knows it");
        let other = policies("succeeded", slow);
        announced.add(&other);
        assert_eq!(warned("succeeded"), 1);
        assert_eq!(announced.take().len(), 3);
        announced.again();
        assert_eq!(announced.take().len(), 3);
        assert_eq!(announced.key(&other[0]), "tower-quota:{AAAAAAAAAAA}policy:AAAAAAAAAAc");
    }
}
