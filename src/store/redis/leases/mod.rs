//! Leases: units that this replica takes from a server in batches, and spends without asking it.
//!
//! A policy with [`Policy::lease(n)`](crate::Policy::lease) has a [`Pool`](pool::Pool) for each key. No
//! more than `n` units are in a pool, those included that requests have reserved. A
//! [`Lease`](lease::Lease) says until when units may be spent: for a second after they were taken, or
//! for a tenth of a shorter window, and never after their fixed window.
//!
//! # How a batch is divided
//! A request that its pool covers spends the units at once. Of the others, one has the key's
//! [`Baton`](queue::Baton): it makes a [`Reservation`], and asks the server by one charge. Its `cost` must
//! fit, and up to `lease` units are taken: a batch, the cost included, and the costs of all that wait.
//! ```text
//! the pool's units ──── all of them ───────────────────┐
//! the server's units ──── the cost that is missing ────┴──► reserved for the request
//!                    ├─── what others wait for ───────────► handed to them, in the order of arrival
//!                    └─── the rest of the batch ──────────► the pool's units
//! ```
//! Requests that come meanwhile wait in the pool's queue with nothing reserved, so no two requests wait for
//! each other. The reply wakes only those that it serves, and the next one, which gets the baton. If the
//! reply is a refusal, a part of the batch, or none, all wake and decide anew. A request that has waited for
//! three such replies, or for half of its time, asks for its own cost alone.
//!
//! [`Demand`](demand::Demand) says how large a batch is: it follows the use of the key, and its lease is the
//! most. When two round trips would use up what is left, the next batch is asked for in the background.
//!
//! # How it ends
//! - The caller has its answer: [`Reservation::commit`] spends the units if the request passes.
//! - The request fails, is refused, or its caller leaves: dropping the reservation puts its units back
//!   into their pools. Units that were handed to it, or the baton, go to the next in the queue.
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
//! | units are spent until their own lease ends; of a third lease, until one of two ends | `no_unit_lasts_longer_than_its_lease` |
//! | those who wait are served in order by one command at a time, and no unit is lost | `requests_are_served_in_order_and_no_unit_is_lost`, `threads_share_batches_and_lose_nothing` |
//! | a batch follows what was used | `a_batch_follows_what_was_used` |
//! | the next batch is there before the last is used up | `the_next_batch_is_asked_for_before_the_last_is_used_up` |
//!
//! Nothing in this folder waits, or asks a server. Times are nanoseconds of the caller's monotonic
//! clock.

mod demand;
mod lease;
mod pool;
mod queue;
mod reservation;
mod table;
#[cfg(test)]
mod tests;
mod units;

pub(super) use self::{
    lease::{date_back, is_leased, lifetime, normalize_lease, units_taken, without_those_of_runs},
    queue::{Baton, Handed},
    reservation::Reservation,
    table::LeaseTable,
};
