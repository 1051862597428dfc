//! Counts in this process's memory: hash tables of small entries, which known keys use without
//! waiting.
//!
//! # What a store of N keys is made of
//! [`Shards`] has about N / 4,096 shards, a power of two. Each shard has:
//! - a [`Version`](seqlock::Version), odd while its entries move;
//! - two hash tables with linear probing ([`table`]), of counter entries and of log entries;
//! - a mutex around [`ShardMeta`](shard_meta::ShardMeta): the budget, each policy's use of it, the
//!   sweep's cursor, and the states that have no room in an entry.
//!
//! Half of a key's fingerprint depends on the key alone: it chooses the shard and the *home* slot.
//! So a key's entries under several policies lie side by side ([`address`]).
//!
//! # An entry's bits
//! ```text
//!          63        52 51  49 48      39  38   37                    0
//! word 0  |  tag: 32 bits of policy and key  | 32 bits of the key: home |
//! word 1  |  time, in nanoseconds                                       |
//! last    | rest of tag | kind | quota no. | L |  number                |
//!              12 bits     3        10       1      38
//!
//! counter entry, 3 words:  word 0, word 1, last
//! log entry, 8 words:      word 0, word 1, five older steps, last
//! ```
//! | kind | time | number |
//! |---|---|---|
//! | 0 empty | | |
//! | 1 token bucket | when it is full (TAT) | the rest of that, in parts of a nanosecond |
//! | 2 fixed window | when the window began | the units used |
//! | 3 sliding window | the last use | the units of its step; each older step has a word: `units << bits of the window \| nanoseconds before the last use` |
//! | 4 spilled | when it expires | its index in `ShardMeta::spilled` |
//! | 5 in flight | the last change | the units held |
//! | 6 long log | the last use | the units of its step; the older steps are in `ShardMeta::spilled`. The five words are their index there, when the oldest leaves, the units of the oldest, the units of all of them, and when the next step begins |
//!
//! `L` is the lock bit. The quota number stands for a quota and its policy ([`quota_table`]). A
//! state that needs more bits, more steps or more quotas is *spilled* ([`large_states`]), and so is that of
//! a key with a penalty, so the fast path need not look for one. The entry of a *long log*, which has more
//! steps, has what a charge needs as long as no step begins or leaves ([`packed_log`]).
//!
//! # One charge's way
//! 1. [`fast_path`]: finds the entry, works out the entry after the charge, locks the slot if the
//!    entry is unchanged, writes. If another thread was faster, it locks the slot as it is, and works
//!    it out again. A refusal writes nothing. All charges of a request are locked before any is
//!    written. After another conflict, and while entries move, it tries again, 16 times.
//!    It also gives units in flight back.
//! 2. [`slow_path`]: for a new key, a new quota, a spilled state, or if entries move for long, and for all other
//!    corrections. It locks the shards, makes room ([`eviction`]), charges, and inserts the entry.
//!
//! # The order of locks
//! 1. The shards of a request, in the order of their numbers: of each first the mutex, then the
//!    version ([`ShardWriter`](seqlock::ShardWriter)).
//! 2. Single slots. A thread that moves entries waits for the lock bit of one slot at a time. The
//!    fast path holds lock bits for a few instructions, or while it works out one charge or one unit in flight
//!    that comes back. It waits for a lock bit only while it holds none, so it needs no order. A thread that
//!    charges a long log has the mutex, and not the version, and then waits for the lock bit of its slot.
//!
//! The lock in [`overflow_counts`] is taken alone, and nothing is logged under any of these locks.
//!
//! # What makes room in a full store
//! In this order ([`eviction`]), until a new key has room:
//! 1. Each new key sweeps 4 slots: keys that expired half a second ago or earlier go.
//! 2. Full: the next 32 slots are swept. Expired keys go, or else the first key with 7/8 of its
//!    quota left, of the same policy or of one above its share. Keys that are or were blocked stay.
//!    Here and in step 3, keys that hold units in flight stay: these come back, and must find their
//!    count.
//! 3. The key's policy uses less than its equal share of the shard: up to 384 slots are swept for a
//!    key of a policy above its share: first for one with half of its quota left, and last for one
//!    that is or was blocked.
//! 4. Otherwise the new key gets no entry. It *overflows*: such keys of a policy share one state in
//!    the shard ([`shared_count`]), and are counted. When such a key gets an entry, it begins with the
//!    shared state.
//!
//! In the literature's words: lazy expiration, and *sampled eviction by cost with admission
//! control*, within *equal partitions* that borrow what others leave. The sample is what a clock
//! hand passes. There are no reference bits: it is neither second chance nor LRU, as recency does
//! not matter. The cost of a victim is the units that dropping it gives back, and the first victim
//! that is cheap enough goes. No such victim means no admission. What the victims of step 3 had used is
//! where new keys of their policy begin, so that no flood frees a spent key. It is kept for each quota of a
//! policy, for 16 at most: a key under a 17th quota stays. If such a victim was reset or given units back, it may
//! get nothing back for earlier charges when it has come back. So these victims are remembered ([`recent_keys`])
//! in 1 KB for each policy and shard, so that some other keys look like them: an eighth, if there are 500.
//!
//! A correction changes the entry of its key, if there is one, wherever the charge was counted. That entry
//! began with at least what was counted there, except after step 2. So after a correction has given units
//! back, the entry still counts at least what else the key has used.
//!
//! # Why each memory ordering is enough
//! Words are read and written `Relaxed`. These edges order them ([`seqlock`]):
//! - *Version, even*: the writer's `Release` store and the reader's `Acquire` load. A reader sees
//!   all that was written before.
//! - *Validation*: a `Release` fence after the version is odd, or after the lock bit is set, and
//!   before the words are written; an `Acquire` fence before they are read again. A reader that saw
//!   one word of a write sees that version or that lock bit, or what came after it, and so finds a
//!   difference.
//! - *Lock bit*: set with `Acquire`, cleared with `Release`, and a shard's writer exchanges the
//!   last word with `AcqRel`. Two threads that have the same slot one after the other see each
//!   other's words, and a thread that locks a slot behind a writer sees the odd version.
//! - Writers of one shard are ordered by its mutex. Capacities change only while the version is
//!   odd.
//!
//! # What the tests check
//! | invariant | tests |
//! |---|---|
//! | No thread reads half of a write or of a move. | `loom.rs`: `what_is_read_is_never_half_of_a_write`, `what_moves_is_never_half_read`, `a_slot_that_another_key_has_got_is_not_read` |
//! | No use is lost or charged to another key. | `loom.rs`: `of_what_two_count_nothing_is_lost`, `nothing_is_lost_while_slots_move`, `a_slot_that_another_key_has_got_is_not_charged`, and the same tests for a slot that is locked as it is |
//! | Each answer is that of a naive store. | `tests.rs`: `each_answer_is_that_of_a_naive_store`, `it_conforms` |
//! | No key is admitted more than its quota by many threads. | `tests.rs`: `keys_that_come_from_many_threads_are_admitted_their_quota_each`, `units_in_flight_of_many_threads_are_never_more_than_there_are_and_all_come_back`; `long_logs.rs`: `a_long_log_of_many_threads_admits_its_quota_in_each_window` |
//! | A log's words, and the sum of a long one, answer as the log. | `packed_log.rs`: `a_packed_log_is_charged_as_an_unpacked_one`, `a_long_log_is_charged_by_its_sum_as_the_log_is`; `long_logs.rs`: `each_answer_is_that_of_a_naive_store` |
//! | Memory is bounded. A flood frees no spent key. | `tests.rs`: `a_flood_of_new_keys_stays_bounded_and_frees_no_spent_key`, `a_bound_in_bytes_counts_what_keys_take` |
//! | Memory is bounded with penalties as well. No flood frees a blocked key. | `penalties.rs` |
//! | No key has more than its quota after it was dropped or overflowed, not even by corrections, unless step 2 dropped it. A key that step 3 drops takes no units from other keys. | `full_store.rs` |
//! | A flood under one policy takes no other policy's share. | `floods.rs`: `a_flood_under_one_policy_costs_the_callers_of_another_nothing`, `no_spent_key_has_its_quota_back_when_another_policy_takes_its_room` |

mod address;
mod entry;
mod eviction;
mod fair_shares;
mod fast_path;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod full_store;
mod large_states;
mod locked_shard;
#[cfg(test)]
mod long_logs;
mod overflow_counts;
mod packed_log;
#[cfg(test)]
mod penalties;
mod preview;
mod quota_table;
mod recent_keys;
mod seqlock;
mod shard;
mod shard_meta;
mod shared_count;
mod slow_path;
mod table;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, atomic},
};

use self::{
    address::Address,
    shard::Shards,
    shard_meta::{Budget, Cost},
};
use super::{Announcement, Answer, Charge, Correction, Store, StoreFuture, Usage, Usages};
use crate::{algorithm::Algorithm, clock::Now};

const DEFAULT_MAX_KEYS: usize = 1_000_000;
/// So few that a shard grows within microseconds.
const KEYS_PER_SHARD: usize = 4_096;
const MAX_SHARDS: usize = 1 << 16;
/// Four billion keys in all, which take 150 GB.
const MAX_KEYS_PER_SHARD: isize = 1 << 16;
/// The bytes that a key uses at most, with its share of free slots; and more with a full log of a
/// sliding window.
const BYTES: Cost = Cost { counter: 40, log: 105, spilled: 1_400 };

/// Counts in this process's memory, up to a number of keys.
///
/// **Memory.** A key takes about 35 bytes for each token bucket or fixed window that it is counted
/// under, and 90 bytes for each sliding window. A sliding window has 60 steps; a key with uses in
/// more than six of them takes from 370 bytes to 1.25 KB. A store numbers about 900 different
/// quotas (the same quota under two policies is two); keys under further quotas take 150 bytes
/// more. Memory grows as keys come, whatever the maximum. Half a second after a key has its whole quota
/// again, it may be dropped, little by little while others are charged: there is no thread, no timer and no
/// pause.
///
/// **When the store is full**, a new key takes the room of another key, in this order: one that has
/// its whole quota again; one that has seven eighths of it; one of a policy with more than its
/// share, if the new key's policy has less. (Each policy that has keys has an equal share.)
/// Otherwise the new key gets no room. All such keys of a policy share one quota, in each part of
/// the store of about 4,000 keys; units in flight are refused to them. So a flood of new keys under
/// one policy neither passes freely nor takes the room that another policy needs.
///
/// Nor does a flood give a used-up key its quota back: where a key was dropped, new keys of its
/// policy begin with what it had used, until that has come back. And a key that has drawn on a shared quota
/// gets no second quota: when it has room, it begins with all that was used of the shared quota. (A few other
/// keys begin with it too, as the store remembers in few bytes which keys have shared.) The first shared charge
/// of each policy gives the warning [`store_full`](crate::warning#store_full), and
/// [`PolicyHandle::overflowed`](crate::PolicyHandle::overflowed) counts all.
///
/// A key may be dropped soon after it was reset or was given units back. Nothing is then given back for its
/// earlier charges: their units come back by the clock. The same can happen to some other keys of its policy, as
/// the store remembers in few bytes which keys these were.
///
/// **Units in flight** are the exception: a key that holds some is never dropped, not even where its
/// policy has more than its share. So while requests in flight hold units of as many keys as the
/// store has room for, other policies get no room. Choose a store for more keys than a server has
/// requests at the same time.
///
/// ```
/// use tower_quota::{Limiter, store::MemoryStore};
///
/// let limiter = Limiter::builder().store(MemoryStore::with_max_keys(100_000)).build()?;
/// # let _ = limiter;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
pub struct MemoryStore {
    shards: Shards,
}

impl MemoryStore {
    /// A store for up to 1,000,000 keys, each counted once per policy.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_keys(DEFAULT_MAX_KEYS)
    }

    /// A store for up to `max_keys` keys, each counted once per policy; for four billion at most.
    #[must_use]
    pub fn with_max_keys(max_keys: usize) -> Self {
        Self::with_budget(max_keys, Cost { counter: 1, log: 1, spilled: 0 })
    }

    /// A store that takes up to about `max_bytes` of memory, plus 100 KB, or less than one
    /// hundredth of it.
    ///
    /// A key with uses in many steps of a sliding window counts as the most that it may take, 1.5
    /// KB.
    #[must_use]
    pub fn with_max_bytes(max_bytes: usize) -> Self {
        Self::with_budget(max_bytes, BYTES)
    }

    /// The answer of [`preview`](Store::preview).
    pub(crate) fn preview_at_once(&self, charges: &[Charge], now: Now) -> Usages {
        preview::preview(&self.shards, charges, now)
    }

    /// With so much room in all. Each key uses its `cost` of it.
    fn with_budget(total: usize, cost: Cost) -> Self {
        let shards = total / cost.counter.unsigned_abs() / KEYS_PER_SHARD;
        let shards = shards.clamp(1, MAX_SHARDS).next_power_of_two();
        let max = MAX_KEYS_PER_SHARD * cost.counter;
        let left = isize::try_from(total / shards).map_or(max, |left| left.min(max));
        Self { shards: Shards::new(shards, Budget { left, cost }) }
    }

    /// How many keys take room, each once per policy. This includes keys that have their whole
    /// quota again and are not dropped yet; [`Store::live_keys`] does not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.keys()
    }

    /// Whether no key takes room.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many charges were counted in a shared quota, because the store was full: the sum over
    /// all policies. [`PolicyHandle::overflowed`](crate::PolicyHandle::overflowed) has the number
    /// of each policy.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.shards.overflow.total()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn counts(&self, _: Algorithm) -> bool {
        true
    }

    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        match (charges, usages) {
            ([charge], [usage]) => fast_path::charge_one(&self.shards, charge, usage, now),
            (charges, usages) if charges.len() != usages.len() => return false,
            (charges, usages) => fast_path::charge_all(&self.shards, charges, usages, now),
        }
        true
    }

    fn prefetch(&self, key: u128, algorithm: Algorithm) {
        let address = Address::new(key);
        self.shards.shard(&address).prefetch(&address, algorithm);
    }

    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let mut usages = Usages::unknown(charges.len());
        self.charge_at_once(charges, &mut usages, now);
        StoreFuture::ready(Ok(Answer { usages, at: now }))
    }

    fn preview(&self, charges: &[Charge], now: Now) -> StoreFuture {
        StoreFuture::ready(Ok(Answer { usages: self.preview_at_once(charges, now), at: now }))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        let correct = |correction: &Correction| {
            fast_path::give_back(&self.shards, correction, now)
                .unwrap_or_else(|| slow_path::correct(&self.shards, correction, now))
        };
        let usages = corrections.iter().map(correct).collect();
        StoreFuture::ready(Ok(Answer { usages, at: now }))
    }

    fn keeps_penalties(&self) -> bool {
        true
    }

    fn live_keys(&self, now: Now) -> Option<usize> {
        Some(self.shards.live_keys(now))
    }

    fn announce(&self, policies: &Arc<[Announcement]>) {
        let overflow = &self.shards.overflow;
        policies.iter().for_each(|policy| overflow.set_name(policy.policy, &policy.name));
    }

    fn overflowed(&self, policy: u64) -> Option<u64> {
        Some(self.shards.overflow.get(policy))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("len", &self.len()).finish_non_exhaustive()
    }
}
