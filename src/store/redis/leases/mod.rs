//! Leases: units that this replica takes from a server in batches, and spends without asking it.
//!
//! A policy with [`Policy::lease(n)`](crate::Policy::lease) has a [`Pool`](pool::Pool) for each key. No
//! more than `n` units are in a pool, those included that requests have reserved. A
//! [`Lease`](lease::Lease) says until when units may be spent: for a second after they were taken, or
//! for a tenth of a shorter window, and never after their fixed window.
//!
//! # How a batch is divided
//! A request that its pool covers spends the units at once. Any other request makes a
//! [`Reservation`], and asks the server by one charge: its `cost` must fit, and up to `lease` units are
//! taken, the cost included.
//! ```text
//! the pool's available units ──── all of them ─────────┐
//! the server's units ──── the cost that is missing ────┴──► reserved for the request
//!                    └─── the rest of the batch ──────────► the pool's available units
//! ```
//! A batch fills what the lease has room for: `n`, less what is reserved. Meanwhile other requests of
//! the key wait for it ([`BatchInFlight`](pool::BatchInFlight)) with nothing reserved, so no two
//! requests wait for each other. A request that has waited for three batches which did not come in full,
//! or for half of its time, asks for its own cost alone.
//!
//! # How it ends
//! - The caller has its answer: [`Reservation::commit`] spends the units if the request passes.
//! - The request fails, is refused, or its caller leaves: dropping the reservation puts its units back
//!   into their pools.
//! - A lease expires, or the key has another quota: the next request, or else a sweep every 50 ms,
//!   gives the units back to the server.
//! - The key is reset: its pool is dropped, and nothing goes back.
//! - The store is dropped or [gives back](super::RedisStore::give_back_leases): all goes back.
//!
//! # What holds, and which tests check it
//! | what | test |
//! |---|---|
//! | a pool never has more units than the lease | each step of `tests/world.rs` |
//! | no window sees more than the quota, and one lease per replica | `no_interval_sees_more_than_the_quota_and_what_replicas_may_hold` |
//! | the same while the key's plan changes | `plans_admit_together_no_more_than_the_largest_and_what_replicas_may_hold` |
//! | nothing is charged twice, lost or kept | `what_is_not_spent_goes_back` |
//! | a replica refuses only what others hold | `replicas_admit_what_others_do_not_hold` |
//! | of several leases in a pool, the earliest counts | `units_of_several_batches_end_with_the_first` |
//!
//! Nothing in this folder waits, or asks a server. Times are nanoseconds of the caller's monotonic
//! clock.

mod lease;
mod pool;
mod reservation;
mod table;
#[cfg(test)]
mod tests;

pub(super) use self::{
    lease::{date_back, is_leased, lifetime, normalize_lease, units_taken, without_those_of_runs},
    reservation::Reservation,
    table::LeaseTable,
};
