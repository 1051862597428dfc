//! The HelloJohn example, line by line of its rate-limit page.
//!
//! These tests run the example's own router on a paused clock.
#![cfg(all(feature = "axum", feature = "describe", feature = "tracing"))]

mod api;
mod auth;
mod bodies;
mod callers;
mod credentials;
mod data;
mod deliveries;
mod responses;
mod sliding;
mod webhooks_and_email;
