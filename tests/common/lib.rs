//! Shared by the tests: answers, example servers, logged lines, and Redis servers.

mod answer;
#[cfg(feature = "axum")]
pub mod endings;
pub mod failures;
mod lines;
#[cfg(feature = "redis")]
pub mod redis;
pub mod resets;
mod server;
pub mod unlimited;

pub use self::{
    answer::{Answer, answer},
    lines::Lines,
    server::{PATIENCE, Result, Server, until},
};
