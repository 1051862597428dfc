//! Tests that read the log. In a process of their own, because the subscriber is the process's.

mod blocked;
mod events;
#[cfg(all(feature = "axum", feature = "describe", feature = "usage"))]
#[path = "../../examples/jump_ehr.rs"]
mod example;
mod jump_ehr;
#[cfg(all(feature = "axum", feature = "config", feature = "describe", feature = "usage"))]
mod jump_ehr_in_toml;
mod log;
mod redis_user;
mod same_mistake;
mod sqlite_log;
#[cfg(all(feature = "config", feature = "describe"))]
mod watch;
