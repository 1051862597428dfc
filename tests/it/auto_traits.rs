//! Auto traits and common traits of the public types.

use std::{convert::Infallible, fmt::Debug};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_quota::{
    AcquireError, BodyFieldLayer, BuildError, Category, Check, CheckError, Clock, Commit, Decision,
    DecisionFuture, Enter, Limiter, LimiterBuilder, Matcher, Meter, OnStoreFailure, Outcome,
    PeekedBody, Permit, Policy, Quota, RateLimitLayer, Rejection, Reservation, Reserve,
    ResponseBody,
    key::{Caller, ClientIp, Key},
    store::{Answer, Charge, MemoryStore, StoreError, StoreFuture, Usage},
};

fn shared<T: Send + Sync + Debug + 'static>() {}
fn sent<T: Send + Debug + 'static>() {}
fn error<T: std::error::Error + Send + Sync + 'static>() {}

#[test]
fn types_are_shared_between_threads_and_printed() {
    shared::<BuildError>();
    shared::<Category>();
    shared::<Clock>();
    shared::<Decision>();
    #[cfg(feature = "describe")]
    shared::<tower_quota::describe::Description>();
    shared::<Limiter>();
    shared::<LimiterBuilder>();
    shared::<Matcher>();
    shared::<Meter>();
    shared::<Outcome<'static>>();
    shared::<Permit>();
    shared::<Policy>();
    shared::<Quota>();
    shared::<RateLimitLayer>();
    shared::<Rejection>();
    shared::<BodyFieldLayer>();
    shared::<Caller>();
    shared::<ClientIp>();
    shared::<Key<'static>>();
    shared::<Answer>();
    shared::<Charge>();
    shared::<OnStoreFailure>();
    shared::<Usage>();
    shared::<MemoryStore>();
    shared::<ResponseBody<Empty<Bytes>>>();
    shared::<PeekedBody<Empty<Bytes>>>();
    sent::<Check<'static>>();
    sent::<Reserve<'static>>();
    sent::<Reservation>();
    sent::<Commit>();
    error::<AcquireError>();
    sent::<DecisionFuture<'static>>();
    sent::<Enter<'static>>();
    sent::<StoreFuture>();
    error::<BuildError>();
    error::<CheckError>();
    error::<Rejection>();
    error::<StoreError>();
}

#[cfg(feature = "config")]
#[test]
fn limits_as_data_as_well() {
    use tower_quota::config::{ConfigError, Limits, Registry, Watch};

    shared::<Limits>();
    shared::<Registry>();
    shared::<Watch>();
    error::<ConfigError>();
}

#[cfg(feature = "redis")]
#[test]
fn the_redis_store_as_well() {
    use tower_quota::store::{RedisStore, RedisStoreBuilder};
    shared::<RedisStore>();
    shared::<RedisStoreBuilder>();
}

#[cfg(feature = "usage")]
#[test]
fn the_log_and_its_pages_as_well() {
    use tower_quota::usage::*;
    shared::<Entry>();
    shared::<MemoryLog>();
    shared::<Page>();
    shared::<RequestLog>();
    shared::<RequestLogBuilder>();
    shared::<Sum>();
    error::<ReadError>();
    #[cfg(feature = "axum")]
    {
        shared::<OperatorPage>();
        shared::<OperatorPageBuilder>();
        shared::<UsagePage>();
        shared::<UsagePageBuilder>();
    }
    #[cfg(feature = "tracing")]
    shared::<TracingLog>();
    #[cfg(feature = "usage-sqlite")]
    {
        shared::<SqliteLog>();
        shared::<SqliteLogBuilder>();
        shared::<SqliteLogStats>();
    }
}

#[test]
fn a_limited_service_is_cloned_and_sent() {
    fn check<S>(service: S)
    where
        S: Service<Request<Empty<Bytes>>> + Clone + Send + Sync + Debug + 'static,
        S::Future: Send + Debug,
    {
        drop(service.clone());
    }

    async fn handler(_: Request<Empty<Bytes>>) -> Result<Response<Empty<Bytes>>, Infallible> {
        Ok(Response::default())
    }

    let limiter = Limiter::builder().build().unwrap();
    check(RateLimitLayer::new(limiter).layer(service_fn(handler)));
}
