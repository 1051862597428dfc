//! For tests of your own limits, with the feature `testing`: time that is moved by hand, a client whose
//! failed assertions say what each policy has decided, and a store that fails on command.
//!
//! Turn it on for tests only:
//!
//! ```toml
//! [dev-dependencies]
//! tower-quota = { version = "0.1", features = ["testing"] }
//! ```
//!
//! | | is |
//! |---|---|
//! | [`Clock::manual`](crate::Clock::manual) | a clock that stands still until the test moves it; held requests wait for it too |
//! | [`TestClient`] | sends requests through a layer or a router, and asserts how many pass |
//! | [`DecisionRecorder`] | records what each policy decides about each request, also in a real server |
//! | [`FaultyStore`] | a store that fails or times out when the test says so |
//!
//! No test framework and no runtime are needed:
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tower_quota::{
//!     BuildError, Clock, Limiter, Policy, Quota, RateLimitLayer, key::ClientIp, testing::TestClient,
//! };
//!
//! /// The application takes its clock as an argument; `main` gives it `Clock::system()`.
//! fn app(clock: Clock) -> Result<Router, BuildError> {
//!     let per_ip = Policy::sliding_window("per ip", Quota::per_minute(60)).key(ClientIp::new()).or_refuse();
//!     let limiter = Limiter::builder().clock(clock).policy(per_ip).build()?;
//!     Ok(Router::new().route("/", get(|| async { "hello" })).layer(RateLimitLayer::new(limiter)))
//! }
//!
//! # /*
//! #[test]
//! # */
//! fn sixty_a_minute() {
//!     let mut client = TestClient::of(app(Clock::manual()).unwrap());
//!     client.send(100, "/").expect_admitted(60).expect_retry_after(Duration::from_secs(60));
//!     client.advance(Duration::from_secs(60)).send(1, "/").expect_admitted(1);
//! }
//! # sixty_a_minute();
//! ```
//!
//! If it expected 61, the test would fail with this message:
//!
//! ```text
//! expected 61 of 100 requests to be admitted; of them, 60 were admitted, 40 were refused
//! the first that is not as expected is request 61:
//!   GET /: refused, status 429 Too Many Requests
//!     GET /: refused by `per ip`
//!       policy `per ip`, by `ip`: refuses, as too few units are left; 0 of 60 left, the request costs 1; …
//! ```
//!
//! # Held requests
//!
//! A request that a policy [holds](crate::Policy::hold) has no response until the clock is moved:
//!
//! ```
//! use std::time::Duration;
//! use tower_quota::{Clock, Limiter, Policy, Quota, RateLimitLayer, testing::TestClient};
//!
//! let second = Duration::from_secs(1);
//! let smooth = Policy::token_bucket("smooth", Quota::per_second(1)).global().hold(2 * second);
//! let limiter = Limiter::builder().clock(Clock::manual()).policy(smooth).build()?;
//! TestClient::new(RateLimitLayer::new(limiter))
//!     .send(5, "/")
//!     .expect_admitted(1)
//!     .expect_held(2)
//!     .expect_refused(2)
//!     .advance(second)
//!     .expect_admitted(2)
//!     .expect_held(1);
//! # Ok::<(), tower_quota::BuildError>(())
//! ```
//!
//! # Beside tokio's paused time
//!
//! | waits | with `Clock::manual` | with [`Clock::tokio`](crate::Clock::tokio) |
//! |---|---|---|
//! | windows, held requests, penalties, overrides with an end | for `Clock::advance` | for tokio's time |
//! | the time-outs of [`LookUpLayer`](crate::LookUpLayer) and [`BodyFieldLayer`](crate::BodyFieldLayer), override sources, handlers, `RedisStore` | for tokio's time | for tokio's time |
//!
//! So a test without sleeping handlers takes `Clock::manual` and a [`TestClient`]. A test in which a handler
//! and a limit wait for the same time takes `Clock::tokio` and `#[tokio::test(start_paused = true)]`, and
//! sends its requests itself: a `TestClient` has a runtime of its own, whose time is not paused. Redis counts
//! by the server's clock, which no test moves.

mod client;
mod driver;
mod exchange;
mod faulty_store;
mod recorder;
mod request;

pub use self::{
    client::TestClient,
    faulty_store::FaultyStore,
    recorder::{DecisionRecorder, RecordedDecision},
    request::TestRequest,
};
