//! Policies and requests by the header `x-key`, for the tests of several subjects.

use http::{Request, request::Parts};
use tower_quota::{Algorithm, Decision, Limiter, Policy, Quota, key::header};

pub(crate) fn policy(name: &str, algorithm: Algorithm, quota: Quota) -> Policy {
    let new = match algorithm {
        Algorithm::TokenBucket => Policy::token_bucket,
        Algorithm::FixedWindow => Policy::fixed_window,
        _ => Policy::sliding_window,
    };
    new(name, quota).key(header("x-key")).or_refuse()
}

pub(crate) fn request(path: &str, key: &str) -> Parts {
    Request::get(path).header("x-key", key).body(()).unwrap().into_parts().0
}

/// A decision whose future owns the limiter, for a task.
pub(crate) fn decide(
    limiter: &Limiter,
    request: Parts,
) -> impl Future<Output = Decision> + Send + use<> {
    let limiter = limiter.clone();
    async move { limiter.decide(&request).await }
}
