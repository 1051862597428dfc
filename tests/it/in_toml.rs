//! The five example servers once more, with limits from TOML files: they pass the same tests as with
//! limits in code, and describe themselves in the same words.
#![cfg(all(
    feature = "axum",
    feature = "config",
    feature = "describe",
    feature = "redis",
    feature = "tracing",
    feature = "usage"
))]
#![allow(clippy::duplicate_mod, reason = "each example is tested twice")]

#[path = "fhir_directory.rs"]
mod fhir_directory;
#[path = "gateway.rs"]
mod gateway;
#[path = "gather.rs"]
mod gather;
#[path = "hellojohn/mod.rs"]
mod hellojohn;
#[path = "rate_limits.rs"]
mod rate_limits;

/// The examples, of which these functions read TOML files. Each has the same name as the function
/// that it stands for.
mod examples {
    use tower_quota::{
        BuildError, Clock, Limiter, RateLimitLayer, RateLimitLayerBuilder,
        config::{Limits, Registry},
        key, response,
    };

    fn limits(file: &str, registry: &Registry) -> Limits {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/");
        Limits::read(format!("{folder}{file}"), registry).unwrap_or_else(|error| panic!("{error}"))
    }

    fn limiter(limits: &Limits, registry: &Registry, clock: Clock) -> Limiter {
        limits.builder(registry).unwrap().clock(clock).build().unwrap()
    }

    fn layer(file: &str, registry: &Registry, clock: Clock) -> Result<RateLimitLayer, BuildError> {
        let limits = limits(file, registry);
        limits.layer(limiter(&limits, registry, clock), registry).unwrap().build()
    }

    pub mod fhir_directory {
        use super::*;
        pub use crate::examples::fhir_directory::*;

        pub fn rate_limit(clock: Clock) -> Result<RateLimitLayer, BuildError> {
            let registry = Registry::new()
                .key("api key", api_key())
                .plan("plan of the key", plan)
                .on_rejection("the page's 429", response::json(rate_limited));
            layer("limits/fhir_directory.toml", &registry, clock)
        }
    }

    pub mod gateway {
        use super::*;
        pub use crate::examples::gateway::*;

        pub fn rate_limit(clock: Clock) -> Result<RateLimitLayer, BuildError> {
            let registry = Registry::new().key("tenant", tenant()).key("credential", credential());
            layer("limits/gateway.toml", &registry, clock)
        }
    }

    pub mod gather {
        use super::*;
        pub use crate::examples::gather::*;

        pub fn rate_limit(clock: Clock) -> Result<RateLimitLayer, BuildError> {
            let registry = Registry::new().on_rejection("the page's 429", response::json(refusal));
            layer("limits/gather.toml", &registry, clock)
        }
    }

    pub mod hellojohn {
        use super::*;
        pub use crate::examples::configured::hellojohn::*;
        use crate::examples::configured::registry;

        const FILE: &str = "configured/limits.toml";

        pub fn limiter(contracts: Contracts, clock: Clock) -> Result<Limiter, BuildError> {
            let registry = registry(contracts);
            limits(FILE, &registry).builder(&registry).unwrap().clock(clock).build()
        }

        pub fn rate_limit(limiter: Limiter) -> Result<RateLimitLayer, BuildError> {
            let registry = registry(Contracts::default());
            limits(FILE, &registry).layer(limiter, &registry).unwrap().build()
        }
    }

    pub mod jump_ehr {
        use super::*;
        pub use crate::examples::jump_ehr::*;

        const FILE: &str = "limits/jump_ehr.toml";

        pub fn limiter(clock: Clock) -> Result<Limiter, BuildError> {
            let registry = registry();
            limits(FILE, &registry).builder(&registry).unwrap().clock(clock).build()
        }

        pub fn responses(limiter: Limiter) -> RateLimitLayerBuilder {
            let registry = registry();
            limits(FILE, &registry).layer(limiter, &registry).unwrap()
        }

        fn registry() -> Registry {
            Registry::new()
                .key("api key", key::from_fn(API_KEY, api_key))
                .on_rejection("the page's 429", response::json(refusal))
        }
    }
}
