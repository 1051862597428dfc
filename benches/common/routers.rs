//! An axum "hello", bare, behind a layer that only writes headers, and behind each limiter's layer,
//! all counting by the same header.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode},
    routing::get,
};
use rate_net::{RateLimiter, tower::HeaderKey};
use throttle_kit::InMemoryBackend;
use tower::{Service, util::MapResponseLayer};
use tower_governor::{
    GovernorError, GovernorLayer, governor::GovernorConfigBuilder, key_extractor::KeyExtractor,
};
use tower_quota::{Clock, Policy, Quota, RateLimitLayer};

use super::{API_KEY, keys::key, limiter, now_or_never};

/// How many keys ask in turn.
pub const KEYS: usize = 1_000;

const LIMIT: &str = "x-ratelimit-limit";
const REMAINING: &str = "x-ratelimit-remaining";
const RESET: &str = "x-ratelimit-reset";

const DAY: Duration = Duration::from_secs(86_400);

/// Who limits a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Bare,
    /// No limit, but three constant headers on each response: the cost of headers alone.
    FixedHeaders,
    TowerGovernor,
    /// It sets quota headers on refusals only.
    RateNet,
    /// It sets quota headers only on admitted requests.
    ThrottleKit,
    TowerQuota,
}

/// A router to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub limit: Limit,
    pub admitted: bool,
    /// Whether responses have quota headers.
    pub headers: bool,
}

pub const BARE: Variant = Variant { limit: Limit::Bare, admitted: true, headers: false };

impl Variant {
    /// What it answers from a key's second request on.
    pub fn status(self) -> StatusCode {
        if self.admitted { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS }
    }

    /// Builds the router, and sends the first request of each key.
    pub fn router(self) -> Router {
        let router = Router::new().route("/", get(|| async { "hello" }));
        let units = if self.admitted { 100_000 } else { 1 };
        let mut router = match self.limit {
            Limit::Bare => router,
            Limit::FixedHeaders => router.layer(MapResponseLayer::new(with_fixed_headers)),
            Limit::TowerGovernor => {
                let mut config = GovernorConfigBuilder::default().key_extractor(ApiKey);
                config.period(DAY / units).burst_size(units);
                if self.headers {
                    router.layer(GovernorLayer::new(config.use_headers().finish().expect("valid")))
                } else {
                    router.layer(GovernorLayer::new(config.finish().expect("valid")))
                }
            }
            Limit::RateNet => {
                let limiter = RateLimiter::builder().quota(units, DAY).try_build().expect("valid");
                let key = HeaderKey::new(API_KEY.clone());
                router.layer(rate_net::tower::RateLimitLayer::new(limiter, key))
            }
            Limit::ThrottleKit => {
                let quota = throttle_kit::Quota::from_parts(DAY / units, units);
                let layer = throttle_kit::RateLimitLayer::new(quota, InMemoryBackend::new());
                let key = |headers: &HeaderMap, _: &Extensions| {
                    headers.get(&API_KEY).and_then(|key| key.to_str().ok()).unwrap_or("").to_owned()
                };
                router.layer(layer.with_key_extractor(Arc::new(key)))
            }
            Limit::TowerQuota => {
                let quota = Quota::per_window(units.into(), DAY);
                let limiter = limiter([Policy::token_bucket("p", quota)], KEYS, Clock::system());
                if self.headers {
                    router.layer(RateLimitLayer::new(limiter))
                } else {
                    let layer = RateLimitLayer::builder(limiter).headers([]).build();
                    router.layer(layer.expect("settings that work"))
                }
            }
        };
        // As servers do for each connection, or the layer would make a new service for each request.
        router = router.with_state(());
        for n in 0..KEYS {
            assert_eq!(answer(&mut router, request(n)).status(), StatusCode::OK);
        }
        for n in 0..KEYS {
            let response = answer(&mut router, request(n));
            assert_eq!(response.status(), self.status(), "{self:?}");
            let told = response.headers().contains_key(REMAINING);
            let is_asked = !matches!(self.limit, Limit::RateNet | Limit::ThrottleKit);
            assert!(told == self.headers || !is_asked, "{self:?}");
        }
        router
    }
}

fn with_fixed_headers(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in [LIMIT, REMAINING, RESET].into_iter().zip(["100000", "99998", "86400"]) {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

pub fn request(n: usize) -> Request<Body> {
    let request = Request::get("/").header(&API_KEY, key(n % KEYS)).body(Body::empty());
    request.expect("a request")
}

pub fn answer(router: &mut Router, request: Request<Body>) -> Response<Body> {
    now_or_never(router.call(request)).unwrap_or_else(|never| match never {})
}

/// The header, as tower_governor reads it.
#[derive(Clone, Copy, Debug)]
struct ApiKey;

impl KeyExtractor for ApiKey {
    type Key = String;

    fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
        let key = request.headers().get(&API_KEY).and_then(|key| key.to_str().ok());
        key.map(str::to_owned).ok_or(GovernorError::UnableToExtractKey)
    }
}
