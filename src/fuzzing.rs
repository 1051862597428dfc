//! What fuzz targets drive that is not public otherwise. It is there only under `cfg(fuzzing)`.

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
