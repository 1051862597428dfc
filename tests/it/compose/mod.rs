//! The layer among others: layers of tower, servers other than axum's, bodies of other crates.
//!
//! None of this needs the crate's own features.

mod bodies;
mod grpc;
mod hyper;
mod plain;
mod stack;
