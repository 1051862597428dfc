//! The script that counts in Redis, and its Rust side.
//!
//! A request is one run of `count.lua`: the server makes some corrections, and then all charges or
//! none, while no other command runs. Its clock counts, and not the replicas'.
//!
//! # Keys and fields
//! A caller's key is a Redis hash. It has one field for each policy, and one for when the hash expires:
//! ```text
//! tower-quota:{<shard>}<key>             base64; a cluster places the key by what is in the braces
//!   <policy: u64><format | algorithm>    9 bytes: the policy's count, see below
//!   <policy: u64><… | 8>                 the penalty of the key under the policy
//!   <policy: u64><… | 4>                 when the key was reset, and what its bucket was given back lately
//!   expires                              microseconds since 1970
//! ```
//!
//! # Arguments
//! `KEYS` are the hashes. `ARGV[1]` says what is used, in six bytes of 0 or 1: each algorithm in the order of
//! their numbers, whether units are given back where keys may have been reset, and whether there are fields of
//! penalties. For each key, the number of its fields follows (`u16`), and their names. Then come the operations,
//! corrections first. All numbers are little-endian:
//! ```text
//!  0  u16  key        from 1: which of KEYS
//!  2  u16  field      from 1: which of the key's fields
//!  4  u8   algorithm  1 token bucket, 2 fixed window, 3 sliding window, 4 in flight
//!  5  u8   action     0 enforced, 1 dry run, 2 peek, 3 lease, 4 give back, 5 take, 6 reset, 8 penalize,
//!                     9 pardon; and 16 more, if it is a charge that has the rest
//!  6  f64  first      charge, and penalize: how many units must fit; another correction: when its
//!                     charge was made
//! 14  f64  amount     how many units are charged, leased or corrected; penalize: where its penalty
//!                     begins in ARGV[3], from 1
//! 22  f64  units      the quota …
//! 30  f64  window     … in microseconds
//! 38  f64  capacity
//!     the rest, which leases and corrections have, and other charges unless all of it is 0:
//! 46  u16  penalty    from 1: the field of the key's penalty; of action 4, the field that says when the key
//!                     was reset; 0: there is none, or it does not matter
//! 48  f64  cost       correction: the cost of its charge
//! 56  f64  missing    charge: 1 if the next one stands for it; correction in a bucket: what was
//!                     missing right after its charge,
//! 64  f64  rest       as whole units and parts of one (`window` parts are one unit)
//! ```
//! For units in flight, `units` is the replica, `window` how long it holds them if it says no more, and
//! `cost` the number of its last statement. The action *take* is a statement.
//!
//! `ARGV[2]` is there if any operation is of a calendar: 40 bytes for each calendar, see
//! [`calendars`]. The window of such an operation is the calendar's number.
//! ```text
//!  0  f64  the calendar's number
//!  8  f64  when the window before that of now begins, as far as the caller knows,
//! 16  f64  … when that of now begins,
//! 24  f64  … when it ends,
//! 32  f64  … and when the next one ends. All are 0: the caller does not know the calendar.
//! ```
//!
//! `ARGV[3]` is there if any operation penalizes: how many refusals begin a block, how many blocks there
//! are, and in microseconds: within which time refusals count together, after which time blocks are
//! forgotten, and each block. All are `f64`.
//!
//! # Reply
//! One string: the server's time, and for each operation whether it fits and the count's state.
//! [`reply`] works out what a state means to a caller, since the server is one and the replicas are
//! many.
//! ```text
//! f64 now
//! for each operation:
//!   u8  1: fits, 0: does not
//!   f64 units taken, if the action is a lease
//!   f64 for how many microseconds more the key is blocked, if the operation has the field of a penalty
//!   state:
//!     token bucket    f64 missing, rest, at, units, window, capacity
//!     fixed window    f64 start, used, units, window; and of a calendar: end
//!     sliding window  f64 used, end of newest entry, units in it; u16 number of older entries;
//!                     f64 units, window; for each older entry: f64 end, units
//!     in flight       f64 units held
//! ```
//! If the script needs windows of calendars that the call does not have, nothing is done, and the
//! reply is: `f64 now; u8 2;` and for each of them its number as `f64`.
//!
//! A count in a field is one state, or several: one for each of the key's last four quotas.
//!
//! # Versions, and rolling releases
//! A release that writes states in another way has another [`FORMAT`](keys). Its fields have other
//! names, so replicas of two releases neither misread nor overwrite each other's counts; each release
//! counts by itself. The script's text may change freely: a server that does not know it gets it with
//! the call. A state that cannot be read counts as a key that has used its whole quota.

mod calendars;
mod call;
mod holder;
mod keys;
mod numbers;
mod operation;
mod reply;
#[cfg(test)]
mod tests;

#[cfg(any(fuzzing, test))]
pub(crate) use self::call::read_any;
pub(super) use self::{call::ScriptCall, keys::KeyNames, numbers::stamped};
