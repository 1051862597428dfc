//! One replica before one server, step by step.

mod queue;
mod world;

use std::{
    mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    demand::Demand,
    lease::{Lease, give_back},
    pool::Pool,
    queue::Waiting,
    table::SEGMENTS,
    *,
};
use tokio::sync::oneshot::error::TryRecvError;

use crate::{
    algorithm::Algorithm,
    clock::{NANOS_PER_SECOND, Now},
    quota::Quota,
    store::{
        Answer, Change, Charge, Correction, MemoryStore, Mode, Store, StoreFuture, Usage,
        redis::clock::RoundTrip,
    },
};

const SECOND: u64 = NANOS_PER_SECOND;
const MILLI: u64 = 1_000_000;
/// In the middle of a window of any length here.
const START: u64 = 1_705_402_800 * SECOND + 500 * MILLI;

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

fn at(nanos: u64) -> Now {
    Now::new(Duration::from_nanos(nanos), Duration::from_nanos(nanos))
}

fn at_once(now: u64) -> RoundTrip {
    RoundTrip { sent: now, received: now }
}

fn ready(answer: StoreFuture) -> Answer {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(answer)) => answer,
        _ => unreachable!("memory answers at once"),
    }
}

fn policy(number: u64, algorithm: Algorithm, quota: Quota, lease: u32) -> Charge {
    Charge { lease, ..Charge::new(number, 7, algorithm, quota) }
}

/// Runs corrections and charges as the script does.
fn serve(server: &MemoryStore, before: &[Correction], charges: &[Charge], now: Now) -> Answer {
    ready(server.correct(before, now));
    let peeks: Vec<_> = charges.iter().map(|one| Charge { mode: Mode::Peek, ..*one }).collect();
    let peeked = ready(server.charge(&peeks, now));
    let each = || charges.iter().zip(&*peeked.usages);
    if !each().all(|(_, usage)| usage.fits()) {
        return peeked;
    }
    let take = |(charge, usage)| Charge { cost: units_taken(charge, usage), ahead: 0, ..*charge };
    let taking: Vec<_> = each().map(take).collect();
    let mut answer = ready(server.charge(&taking, now));
    for ((charge, before), usage) in each().zip(&mut *answer.usages) {
        assert!(usage.fits());
        if charge.lease > 0 {
            *usage = Usage::new(usage.wait(), before.remaining(), usage.reset());
        }
    }
    answer
}

/// A lease that ends then.
pub(super) fn lease_until(expires_at: u64) -> Lease {
    let mut lease = Lease::NONE;
    lease.expires_at = expires_at;
    lease
}

/// The leases of one replica, whose next batch of this charge is of a whole lease.
fn leases_of(charge: &Charge) -> Arc<LeaseTable> {
    let leases = Arc::new(LeaseTable::new(64));
    let mut pool = Pool::new(charge);
    pool.demand = Demand::of_size(charge.lease.into());
    leases.segments[charge.id() as usize % SEGMENTS].lock().insert(charge.id(), pool);
    leases
}

fn reserve(
    leases: &Arc<LeaseTable>,
    charges: &[Charge],
    now: u64,
    may_wait: bool,
) -> Result<Reservation, Waiting> {
    Reservation::new(leases, charges, now, may_wait, None)
}

fn an_hour(lease: u32) -> Charge {
    policy(1, Algorithm::SlidingWindow, Quota::per_hour(1_000), lease)
}

#[test]
fn a_key_has_one_batch_at_a_time_and_one_count_of_what_is_left() {
    let (server, one) = (MemoryStore::new(), an_hour(100));
    let leases = leases_of(&one);
    assert!(leases.spend(&one, START).is_none());
    let mut reservation = reserve(&leases, &[one], START, true).ok().unwrap();
    assert_eq!(reservation.to_server()[0].lease, 100);
    let mut waits = reserve(&leases, &[one], START, true).err().unwrap();
    assert_eq!(waits.try_recv().err(), Some(TryRecvError::Empty), "another waits for it");
    let alone = reserve(&leases, &[one], START, false).ok().unwrap();
    assert_eq!(
        (alone.to_server()[0].lease, alone.to_server()[0].cost),
        (0, 1),
        "or asks for itself"
    );
    drop(alone);
    let answer = serve(&server, &[], &reservation.to_server(), at(START));
    let remaining = reservation.apply_reply(&answer, at_once(START)).usages[0].remaining();
    assert_eq!(remaining, 998, "one is for the other");
    reservation.commit();
    assert!(matches!(waits.try_recv(), Ok(Handed::Units(_))), "and gets its units; they go back");
    for left in (900..999).rev() {
        let (answer, _) = leases.spend(&one, START + MILLI).unwrap();
        let usage = answer.usages[0];
        assert_eq!((usage.remaining(), usage.reset().as_millis()), (left, 3_599_999));
    }
    assert!(leases.spend(&one, START + MILLI).is_none());
}

/// Takes a batch.
fn fill_at(leases: &Arc<LeaseTable>, charge: &Charge, server: &MemoryStore, now: u64) {
    let mut reservation = reserve(leases, &[*charge], now, true).ok().unwrap();
    let answer = serve(server, &[], &reservation.to_server(), at(now));
    reservation.apply_reply(&answer, at_once(now));
    reservation.commit();
}

#[test]
fn units_of_several_batches_end_with_the_first() {
    let (server, one) = (MemoryStore::new(), an_hour(100));
    let later = START + SECOND / 2;
    // Reserved units come back to a pool that has other units.
    let leases = leases_of(&one);
    fill_at(&leases, &one, &server, START);
    let held = reserve(&leases, &[Charge { cost: 30, ..one }], START, true).ok().unwrap();
    leases.spend(&Charge { cost: 69, ..one }, START).unwrap();
    let reservation = reserve(&leases, &[one], later, true).ok().unwrap();
    assert_eq!(reservation.to_server()[0].lease, 70, "with those that are held, a batch");
    drop(reservation);
    fill_at(&leases, &one, &server, later);
    assert!(leases.covers(&one, START + SECOND));
    drop(held);
    assert!(!leases.covers(&one, START + SECOND));

    // A batch comes to a pool that has units.
    let leases = leases_of(&one);
    fill_at(&leases, &one, &server, START);
    leases.spend(&Charge { cost: 94, ..one }, START).unwrap();
    fill_at(&leases, &Charge { cost: 10, ..one }, &server, later);
    let held = leases.held(&one, later);
    assert!(held > 50, "{held}");
    assert!(leases.covers(&one, START + SECOND), "5 units were spent first");
}

#[test]
fn a_lease_ends_and_units_of_another_plan_go_back_first() {
    let (server, one) = (MemoryStore::new(), an_hour(100));
    let leases = leases_of(&one);
    fill_at(&leases, &one, &server, START);
    assert!(leases.covers(&one, START + SECOND - 1));
    assert!(!leases.covers(&one, START + SECOND));
    assert!(!leases.covers(&Charge { ahead: 99, ..one }, START), "others come before");
    let raised = Charge { quota: Quota::per_hour(2_000), ..one };
    assert!(!leases.covers(&raised, START));
    let reservation = reserve(&leases, &[raised], START, true).ok().unwrap();
    assert_eq!(reservation.expired[0].change, Change::GiveBack(99));
    assert_eq!(reservation.expired[0].charge.quota, one.quota);
    assert_eq!(reservation.to_server()[0].lease, 100);
    drop(reservation);
    assert_eq!(leases.drain().len(), 1, "it was not sent, and waits to be");
}

#[test]
fn what_cannot_be_leased_is_charged_at_the_server() {
    let leases = Arc::new(LeaseTable::new(1));
    let one = an_hour(100);
    for other in [
        Charge { mode: Mode::DryRun, ..one },
        Charge { mode: Mode::Peek, ..one },
        Charge { is_settled: true, ..one },
        Charge { cost: 0, ..one },
        Charge { lease: 0, ..one },
    ] {
        let reservation = reserve(&leases, &[other], START, true).ok().unwrap();
        assert_eq!(reservation.to_server()[0].lease, 0);
        assert!(!reservation.has_pool(0));
    }
    // There is room for one pool in each segment.
    let first = reserve(&leases, &[one], START, true).ok().unwrap();
    let beyond = Charge { key: one.key + SEGMENTS as u128, ..one };
    assert!(!reserve(&leases, &[beyond], START, true).ok().unwrap().has_pool(0));
    drop(first);
    assert!(reserve(&leases, &[beyond], START, true).ok().unwrap().has_pool(0));
}

#[test]
fn a_reset_forgets_what_was_taken() {
    let (server, one) = (MemoryStore::new(), an_hour(100));
    let leases = leases_of(&one);
    fill_at(&leases, &one, &server, START);
    leases.forget(&one);
    assert!(!leases.covers(&one, START));
    assert!(leases.drain().is_empty());
}

#[test]
fn a_batch_from_before_a_reset_does_not_end_the_batch_from_after_it() {
    let (leases, one) = (Arc::new(LeaseTable::new(64)), an_hour(100));
    let before = reserve(&leases, &[one], START, true).ok().unwrap();
    leases.forget(&one);
    let _after = reserve(&leases, &[one], START, true).ok().unwrap();
    drop(before);
    assert!(reserve(&leases, &[one], START, true).is_err(), "another waits for it");
}

#[test]
fn no_request_waits_for_a_batch_that_is_used_up_by_its_own_request() {
    let leases = Arc::new(LeaseTable::new(64));
    let all = Charge { cost: 5, ..an_hour(5) };
    let reservation = reserve(&leases, &[all], START, true).ok().unwrap();
    assert_eq!(reservation.to_server()[0].lease, 0);
    assert!(reserve(&leases, &[all], START, true).is_ok());
}

#[test]
fn a_correction_of_a_lease_is_of_when_it_was_taken() {
    let change = Change::GiveBack(1);
    let correction = |charge| {
        date_back(&Correction { charged_at: Some(at(START)), ..Correction::new(charge, change) })
            .charged_at
    };
    assert_eq!(correction(an_hour(2)), Some(at(START - SECOND)));
    assert_eq!(correction(an_hour(0)), Some(at(START)));
    let bucket = Charge { algorithm: Algorithm::TokenBucket, ..an_hour(2) };
    assert_eq!(correction(bucket), Some(at(START - SECOND)));
    let fixed = Charge { algorithm: Algorithm::FixedWindow, ..an_hour(2) };
    assert_eq!(correction(fixed), Some(at(START)), "it is of one window");
}
