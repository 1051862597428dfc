//! The Jump EHR example once more, with limits from a TOML file: it passes the same tests.
#![allow(clippy::duplicate_mod, reason = "the example is tested twice")]

#[path = "jump_ehr.rs"]
mod jump_ehr;

/// The example, of which two functions read the file.
mod example {
    use tower_quota::{
        BuildError, Clock, Limiter, RateLimitLayerBuilder,
        config::{Limits, Registry},
        key, response,
    };

    pub use crate::example::app;
    use crate::example::{API_KEY, api_key, refusal};

    pub fn limiter(clock: Clock) -> Result<Limiter, BuildError> {
        let (limits, registry) = limits();
        limits.builder(&registry).unwrap().clock(clock).build()
    }

    pub fn responses(limiter: Limiter) -> RateLimitLayerBuilder {
        let (limits, registry) = limits();
        limits.layer(limiter, &registry).unwrap()
    }

    fn limits() -> (Limits, Registry) {
        let registry = Registry::new()
            .key("api key", key::from_fn(API_KEY, api_key))
            .on_rejection("the page's 429", response::json(refusal));
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/limits/jump_ehr.toml");
        (Limits::read(file, &registry).unwrap(), registry)
    }
}
