//! The same application twice: `before` has the limits of `tower_governor`, `after` those of `tower-quota`.
//! It stands behind a proxy in 10.0.0.0/8. The tests send both the same requests.

pub mod after;
pub mod before;
mod handlers;
