//! What a usage page asks of the limiter.

use std::sync::Arc;

use http::request::Parts;

use super::{DecisionFuture, Limiter};
use crate::{clock::Now, limiter::Decision, path::SentPath};

impl Limiter {
    /// Tells what each policy says of a request's keys, and charges nothing.
    ///
    /// Unlike [`decide`](Self::decide), it asks the policies of all categories, so that the request
    /// for a usage page tells of the whole API: each that finds a key in this request, as if it
    /// cost one unit. It leaves out what is [global](crate::Policy::global), which tells of all
    /// callers, and where the plan is unlimited. Exemptions do not count.
    ///
    /// ```
    /// use http::Request;
    /// use tower_quota::{Category, Limiter, Matcher, Policy, Quota, key};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let reads = Policy::token_bucket("read", Quota::per_minute(100)).key(key::bearer()).or_refuse();
    /// let category = Category::new("read").on(Matcher::get("/v1/{*rest}")).policy(reads);
    /// let limiter = Limiter::builder().category(category).build()?;
    ///
    /// let request = Request::get("/my/usage").header("authorization", "Bearer key").body(())?;
    /// let usage = limiter.peek_request(&request.into_parts().0).await;
    /// assert_eq!(usage.outcomes()[0].remaining(), 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn peek_request(&self, request: &Parts) -> DecisionFuture {
        DecisionFuture::new(self.clone(), self.ask_to_peek(request))
    }

    pub(super) fn ask_to_peek(&self, request: &Parts) -> Decision {
        let inner = &*self.inner;
        let of_categories = inner.categories.iter().flat_map(|category| category.rules.clone());
        let (mut asked, mut seen) = (Decision::new(), Vec::new());
        for place in inner.every_request.clone().chain(of_categories) {
            let rule = inner.rule(place);
            let policy = &rule.policy;
            let quota = policy.settings.quota_of(request);
            if policy.settings.keys.is_global
                || quota.is_unlimited()
                || seen.contains(&rule.unasked.charge.policy)
            {
                continue;
            }
            seen.push(rule.unasked.charge.policy);
            let (kind, key) = policy.settings.keys.find(request);
            if let Some(key) = key.found()
                && let Ok(shard) = inner.shard_for(rule, request, kind, &key)
            {
                let key = inner.fingerprints.fingerprint(rule.domain(kind).key, &key);
                let shard = shard.unwrap_or(key as u64);
                rule.ask(&mut asked, kind, (key, shard), quota, 1);
            }
        }
        asked.only_peek();
        asked
    }

    pub(crate) fn now(&self) -> Now {
        self.inner.clock.now()
    }

    /// The path of the matcher by which a request is in its category, where it has one.
    pub(crate) fn pattern_of(&self, request: &Parts) -> Option<Arc<str>> {
        let path = SentPath::from_request(request);
        let all = || self.inner.categories.iter().flat_map(|category| &category.matchers);
        let as_sent = all().find(|matcher| matcher.matches_as_sent(request, &path));
        let matcher =
            as_sent.or_else(|| all().find(|matcher| matcher.may_match(request, &path)))?;
        matcher.pattern().cloned()
    }
}
