//! The layer in company: other layers of tower, other servers than axum's, other bodies.
//!
//! None of this needs the crate's own features.

mod bodies;
mod grpc;
mod hyper;
mod plain;
mod stack;
