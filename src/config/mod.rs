//! Limits as data: from a TOML file, or from any other format of serde.

mod build;
mod category;
mod error;
mod key;
mod layer;
mod limits;
mod mistakes;
mod nearest;
mod phrases;
mod policy;
mod registry;
mod repair;
mod source;
mod text;
mod watch;

pub use self::{
    category::{Category, KnownKeys, Requests},
    error::{ConfigError, ConfigProblem},
    key::{ClientIp, Key, PathParam, Prefixes},
    layer::{HeaderStyle, Layer, OnRejection, Problem, StyleName},
    limits::Limits,
    policy::{Plans, Policy, WithoutKey},
    registry::Registry,
    watch::Watch,
};

/// Whether a setting need not be written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
