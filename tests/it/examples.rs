//! The example servers, whose routers the tests run on a clock of their own.
#![cfg(all(feature = "axum", feature = "describe"))]
#![allow(clippy::duplicate_mod, reason = "each example has the common module")]

#[cfg(feature = "tracing")]
#[path = "../../examples/completions.rs"]
pub mod completions;
#[cfg(all(feature = "config", feature = "redis", feature = "tracing"))]
#[path = "../../examples/configured.rs"]
pub mod configured;
#[cfg(feature = "tracing")]
#[path = "../../examples/fhir_directory.rs"]
pub mod fhir_directory;
#[path = "../../examples/gateway.rs"]
pub mod gateway;
#[cfg(feature = "tracing")]
#[path = "../../examples/gather.rs"]
pub mod gather;
#[cfg(feature = "tracing")]
#[path = "../../examples/hellojohn.rs"]
pub mod hellojohn;
#[cfg(all(feature = "tracing", feature = "usage"))]
#[path = "../../examples/jump_ehr.rs"]
pub mod jump_ehr;
#[path = "../../examples/socket.rs"]
pub mod socket;
