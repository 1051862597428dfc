//! Charges of known keys without a lock that keys share: an entry is read, and written on condition
//! that it has not changed meanwhile. Otherwise the charge is worked out again under the lock of its
//! key's slot. A refusal writes nothing. Units in flight come back under the lock of the slot, too. Where this
//! is not enough, the [slow path](super::slow_path) charges and corrects under a lock.
//!
//! Most decisions are made here. The `inline` attributes keep each way through it in one piece: the
//! compiler would not inline functions that have two callers.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::hint::spin_loop;

use smallvec::SmallVec;

use super::{
    address::Address,
    entry::{COUNTER, Entry, Pack, uses_log},
    packed_log,
    seqlock::SlotGuard,
    shard::Shards,
    slow_path,
    table::{Place, SlotRead, TableRead, Tables},
};
use crate::{
    algorithm::{Algorithm, QuotaState, State},
    clock::Now,
    quota::Quota,
    store::{Change, Charge, Correction, Mode, Usage},
};

/// How often a request is tried again while other threads charge the same keys.
const RETRIES: usize = 16;

/// Why a charge was not made.
enum NotMade {
    /// Another thread has changed what was read, or moves slots.
    Conflict,
    /// The key is new, or its state is spilled.
    NeedsLock,
}

/// A charge that is worked out and not yet made.
struct Prepared<'a, const N: usize> {
    /// The charge's index in its request.
    index: usize,
    read: SlotRead<'a, N>,
    guard: Option<SlotGuard<'a, N>>,
    after: Entry<N>,
}

/// The charges of a request that are made in tables of one kind.
type AllPrepared<'a, const N: usize> = SmallVec<[Prepared<'a, N>; 8]>;

/// Makes the only charge of a request.
#[inline(always)]
pub(super) fn charge_one(shards: &Shards, charge: &Charge, usage: &mut Usage, now: Now) {
    if uses_log(charge) {
        charge_one_log(shards, charge, usage, now);
    } else {
        charge_one_in(shards, &shards.counters, charge, usage, now);
    }
}

/// Not inlined, so that counters do not pay for its stack frame.
#[inline(never)]
fn charge_one_log(shards: &Shards, charge: &Charge, usage: &mut Usage, now: Now) {
    charge_one_in(shards, &shards.logs, charge, usage, now);
}

#[inline(always)]
fn charge_one_in<const N: usize>(
    shards: &Shards,
    tables: &Tables<N>,
    charge: &Charge,
    usage: &mut Usage,
    now: Now,
) {
    let made = match try_one(shards, tables, charge, usage, now) {
        Err(NotMade::Conflict) => retry(|| try_one(shards, tables, charge, usage, now)),
        made => made.ok(),
    };
    if made.is_none() {
        slow_path::charge_one(shards, charge, usage, now);
    }
}

#[inline(always)]
fn try_one<const N: usize>(
    shards: &Shards,
    tables: &Tables<N>,
    charge: &Charge,
    usage: &mut Usage,
    now: Now,
) -> Result<(), NotMade> {
    let address = Address::of(charge);
    let table = begin(shards, tables, &address)?;
    let read = table.read(&address, None).ok_or(NotMade::NeedsLock)?;
    if N == COUNTER && try_bucket(shards, &read, charge, usage, now).is_some() {
        return Ok(());
    }
    // Handed over in few words, not as a whole: so what was read of a bucket stays in registers.
    try_any(shards, read.place(), charge, usage, now)
}

/// Makes the charge of a token bucket, unless another thread charges it at the same moment.
#[inline(always)]
fn try_bucket<const N: usize>(
    shards: &Shards,
    read: &SlotRead<'_, N>,
    charge: &Charge,
    usage: &mut Usage,
    now: Now,
) -> Option<()> {
    let mut bucket = read.entry.token_bucket().filter(|_| !read.entry.is_locked())?;
    if *read.entry.quota(&shards.quotas)? != charge.quota || charge.mode == Mode::Peek {
        return None;
    }
    *usage = bucket.charge(&charge.quota, now, charge.ahead, charge.cost).into();
    if usage.fits() && charge.cost > 0 {
        let after = read.entry.with(&bucket, &charge.quota)?;
        read.try_lock()?.write(after.0);
        return Some(());
    }
    read.is_valid().then_some(())
}

/// Makes the charge of any state.
#[inline(never)]
fn try_any<const N: usize>(
    shards: &Shards,
    place: Place<'_, N>,
    charge: &Charge,
    usage: &mut Usage,
    now: Now,
) -> Result<(), NotMade> {
    let read = SlotRead::again(place);
    if !read.entry.is_locked() {
        match evaluate(shards, &read, charge, usage, now) {
            Ok(after) if usage.fits() && charge.uses_units() => {
                if let Some(guard) = read.try_lock() {
                    guard.write(after.0);
                    return Ok(());
                }
            }
            Ok(_) if read.is_valid() => return Ok(()),
            Err(NotMade::NeedsLock) => return Err(NotMade::NeedsLock),
            Ok(_) | Err(NotMade::Conflict) => {}
        }
    }
    charge_locked(shards, &read, charge, usage, now)
}

/// Makes a charge of a key that another thread charges at the same moment: under the lock of its slot.
#[inline(never)]
fn charge_locked<const N: usize>(
    shards: &Shards,
    read: &SlotRead<'_, N>,
    charge: &Charge,
    usage: &mut Usage,
    now: Now,
) -> Result<(), NotMade> {
    let (guard, entry) = read.lock().ok_or(NotMade::Conflict)?;
    let after = evaluate_entry(shards, entry, charge, usage, now).ok_or(NotMade::NeedsLock)?;
    if usage.fits() && charge.uses_units() {
        guard.write(after.0);
    }
    Ok(())
}

/// Gives units in flight back to their key, and returns what is left. `None` if the shard has to be locked for
/// it, or if the correction is another one. Such an entry is all that is known of its key: the key has no
/// penalty, and no other quota.
#[inline(never)]
pub(super) fn give_back(shards: &Shards, correction: &Correction, now: Now) -> Option<Usage> {
    let Correction { charge, change: Change::GiveBack(units), .. } = correction else {
        return None;
    };
    if charge.algorithm != Algorithm::InFlight {
        return None;
    }
    let address = Address::of(charge);
    let read = begin(shards, &shards.counters, &address).ok()?.read(&address, None)?;
    read.entry.in_flight()?;
    let (guard, entry) = read.lock()?;
    let (mut in_flight, quota) = (entry.in_flight()?, entry.quota(&shards.quotas)?);
    if *quota != charge.quota {
        return None;
    }
    in_flight.give_back(quota, now, *units, &correction.past_use(now));
    guard.write(entry.with(&in_flight, quota)?.0);
    Some(in_flight.charged(quota, now, 0).into())
}

/// Makes all the charges of a request, or none.
#[inline(never)]
pub(super) fn charge_all(shards: &Shards, charges: &[Charge], usages: &mut [Usage], now: Now) {
    let made = match try_all(shards, charges, usages, now) {
        Err(NotMade::Conflict) => retry(|| try_all(shards, charges, usages, now)),
        made => made.ok(),
    };
    if made.is_none() {
        slow_path::charge_all(shards, charges, usages, now);
    }
}

/// Tries again after a conflict. Not inlined, so that the first try has no loop around it.
#[inline(never)]
fn retry<T>(mut attempt: impl FnMut() -> Result<T, NotMade>) -> Option<T> {
    for _ in 0..RETRIES {
        spin_loop();
        match attempt() {
            Err(NotMade::Conflict) => {}
            made => return made.ok(),
        }
    }
    None
}

fn try_all(
    shards: &Shards,
    charges: &[Charge],
    usages: &mut [Usage],
    now: Now,
) -> Result<(), NotMade> {
    let (mut counters, mut logs) = (AllPrepared::new(), AllPrepared::new());
    let uses_counter = |charge: &Charge| !uses_log(charge);
    prepare(uses_counter, shards, &shards.counters, charges, usages, now, &mut counters)?;
    prepare(uses_log, shards, &shards.logs, charges, usages, now, &mut logs)?;
    let is_made = |(charge, usage): (&Charge, &Usage)| {
        !charge.or_else && (charge.mode != Mode::Enforced || usage.fits())
    };
    if charges.iter().zip(&*usages).all(is_made) {
        // All are locked before any is written. No thread waits here, so they need no order.
        lock(&mut counters)?;
        lock(&mut logs)?;
        write(&mut counters);
        write(&mut logs);
    } else if charges.iter().any(|charge| charge.or_else) {
        // Of those that stand for each other, not all are made.
        return Err(NotMade::NeedsLock);
    } else {
        report_refused(shards, &counters, charges, usages, now)?;
        report_refused(shards, &logs, charges, usages, now)?;
    }
    Ok(())
}

/// Prepares those of the charges that are `of_kind`.
#[inline(always)]
#[expect(clippy::arithmetic_side_effects, reason = "a table has fewer than 2^17 slots")]
fn prepare<'a, const N: usize>(
    of_kind: impl Fn(&Charge) -> bool,
    shards: &'a Shards,
    tables: &'a Tables<N>,
    charges: &[Charge],
    usages: &mut [Usage],
    now: Now,
    prepared: &mut AllPrepared<'a, N>,
) -> Result<(), NotMade> {
    let mut last = None;
    for (index, (charge, usage)) in charges.iter().zip(usages).enumerate() {
        if of_kind(charge) {
            let address = Address::of(charge);
            // A key's entries under several policies came together: each lies behind the last.
            let (table, behind) = match last {
                Some((key, table, index)) if key == charge.key => (table, Some(index + 1)),
                _ => (begin(shards, tables, &address)?, None),
            };
            let read = table.read(&address, behind).ok_or(NotMade::NeedsLock)?;
            if read.entry.is_locked() {
                return Err(NotMade::Conflict);
            }
            let after = evaluate(shards, &read, charge, usage, now)?;
            last = Some((charge.key, table, read.index));
            if prepared.is_empty() {
                prepared.reserve(charges.len());
            }
            prepared.push(Prepared { index, read, guard: None, after });
        }
    }
    Ok(())
}

/// Begins to read the table of a key's shard.
#[inline(always)]
fn begin<'a, const N: usize>(
    shards: &'a Shards,
    tables: &'a Tables<N>,
    address: &Address,
) -> Result<TableRead<'a, N>, NotMade> {
    let shard = shards.shard(address);
    tables.get(shard.number).begin(shard.version()).ok_or(NotMade::Conflict)
}

/// Writes to `usage` the answer to a charge, as if its request passes. Returns the key's entry after it.
/// What was read was not locked.
#[inline(always)]
fn evaluate<const N: usize>(
    shards: &Shards,
    read: &SlotRead<'_, N>,
    charge: &Charge,
    usage: &mut Usage,
    now: Now,
) -> Result<Entry<N>, NotMade> {
    let after = match read.entry.token_bucket() {
        Some(bucket) => evaluate_state(shards, bucket, charge, read.entry, usage, now),
        // Half of a write must not be unpacked as a window.
        None if !read.is_valid() => return Err(NotMade::Conflict),
        None => evaluate_window(shards, charge, read.entry, usage, now),
    };
    after.ok_or(NotMade::NeedsLock)
}

/// The same with an entry that is known to be whole.
#[inline(always)]
fn evaluate_entry<const N: usize>(
    shards: &Shards,
    entry: Entry<N>,
    charge: &Charge,
    usage: &mut Usage,
    now: Now,
) -> Option<Entry<N>> {
    match entry.token_bucket() {
        Some(bucket) => evaluate_state(shards, bucket, charge, entry, usage, now),
        None => evaluate_window(shards, charge, entry, usage, now),
    }
}

/// Not inlined, so that token buckets do not pay for its registers.
#[inline(never)]
fn evaluate_window<const N: usize>(
    shards: &Shards,
    charge: &Charge,
    entry: Entry<N>,
    usage: &mut Usage,
    now: Now,
) -> Option<Entry<N>> {
    match entry.fixed_window() {
        Some(window) if window.is_ahead(now) && charge.mode != Mode::Peek => None,
        Some(window) => evaluate_state(shards, window, charge, entry, usage, now),
        None if entry.is_log() => match charge_log(shards, charge, entry, usage, now) {
            Some(after) => Some(after),
            None => {
                let log = entry.sliding_window(&shards.quotas)?;
                evaluate_state(shards, log, charge, entry, usage, now)
            }
        },
        None => evaluate_state(shards, entry.in_flight()?, charge, entry, usage, now),
    }
}

/// Charges a log as it is packed. `None` if it has to be unpacked.
#[inline]
fn charge_log<const N: usize>(
    shards: &Shards,
    charge: &Charge,
    entry: Entry<N>,
    usage: &mut Usage,
    now: Now,
) -> Option<Entry<N>> {
    let quota = entry.quota(&shards.quotas)?;
    if *quota != charge.quota || charge.mode == Mode::Peek {
        return None;
    }
    let (charged, after) = match entry.older_steps() {
        None => packed_log::charge(&entry, quota, now, charge.ahead, charge.cost)?,
        Some(older) => {
            packed_log::charge_long(&entry, &older, quota, now, charge.ahead, charge.cost)?
        }
    };
    *usage = charged.into();
    Some(after)
}

/// Compiled for each algorithm by itself, and inlined.
#[inline(always)]
fn evaluate_state<S: QuotaState + Pack + Into<State>, const N: usize>(
    shards: &Shards,
    mut state: S,
    charge: &Charge,
    entry: Entry<N>,
    usage: &mut Usage,
    now: Now,
) -> Option<Entry<N>> {
    let quota = entry.quota(&shards.quotas)?;
    if *quota != charge.quota || charge.mode == Mode::Peek {
        return peek(&state.into(), quota, charge, entry, usage, now);
    }
    *usage = state.charge(&charge.quota, now, charge.ahead, charge.cost).into();
    if usage.fits() && charge.cost > 0 { entry.with(&state, quota) } else { Some(entry) }
}

/// Answers a peek, which is rare, or checks for a block. Any other charge under a new quota needs
/// the lock: the new quota is tracked beside the old one, for which the entry has no room.
#[inline(never)]
fn peek<const N: usize>(
    state: &State,
    quota: &Quota,
    charge: &Charge,
    entry: Entry<N>,
    usage: &mut Usage,
    now: Now,
) -> Option<Entry<N>> {
    if charge.only_looks() {
        // A key with a penalty has no state in its entry.
        *usage = Usage::unknown();
        return Some(entry);
    }
    if charge.mode != Mode::Peek {
        return None;
    }
    let state = state.convert(quota, &charge.quota, now);
    let wait = state.wait(&charge.quota, now, charge.units_required());
    *usage = state.charged(&charge.quota, now, wait).into();
    Some(entry)
}

/// Writes to `usages` what is left if the request does not pass.
#[expect(clippy::indexing_slicing, reason = "the index is that of a charge, and of its usage")]
fn report_refused<const N: usize>(
    shards: &Shards,
    prepared: &AllPrepared<'_, N>,
    charges: &[Charge],
    usages: &mut [Usage],
    now: Now,
) -> Result<(), NotMade> {
    for Prepared { index, read, .. } in prepared {
        if charges[*index].only_looks() {
            continue;
        }
        let (quota, usage) = (&charges[*index].quota, &mut usages[*index]);
        let (state, before) = read.entry.unpack(&shards.quotas).ok_or(NotMade::NeedsLock)?;
        let state = state.convert(before, quota, now);
        *usage = state.charged(quota, now, usage.wait_nanos()).into();
        read.is_valid().then_some(()).ok_or(NotMade::Conflict)?;
    }
    Ok(())
}

#[inline(always)]
fn lock<const N: usize>(prepared: &mut AllPrepared<'_, N>) -> Result<(), NotMade> {
    for charge in prepared {
        charge.guard = Some(charge.read.try_lock().ok_or(NotMade::Conflict)?);
    }
    Ok(())
}

#[inline(always)]
fn write<const N: usize>(prepared: &mut AllPrepared<'_, N>) {
    for charge in prepared {
        if let Some(guard) = charge.guard.take() {
            guard.write(charge.after.0);
        }
    }
}
