//! Units in flight: how many requests of a key are under way at once.

#[cfg(feature = "axum")]
mod endings;
mod enter;
mod layer;
mod memory;
mod settings;
