//! What fuzz targets drive that is not public otherwise: only under `cfg(fuzzing)`, and in tests, which
//! run what fuzzing has found.

#[cfg(feature = "redis")]
use crate::store::{Answer, Charge, Correction, StoreError};

/// What is understood when Redis answers a request with any bytes.
///
/// # Errors
/// Where they are no answer.
///
/// # Panics
/// Where what is understood cannot be true of the quotas that were asked about.
#[cfg(feature = "redis")]
pub fn redis_reply(
    corrections: &[Correction],
    charges: &[Charge],
    reply: &[u8],
) -> Result<Answer, StoreError> {
    crate::store::read_any_reply(corrections, charges, reply)
}
