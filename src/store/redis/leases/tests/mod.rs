//! One replica before one server, step by step.

mod world;

use std::{
    mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{lease::give_back, pool::Pool, table::SEGMENTS, *};
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

fn an_hour(lease: u32) -> Charge {
    policy(1, Algorithm::SlidingWindow, Quota::per_hour(1_000), lease)
}

#[test]
fn a_key_has_one_batch_at_a_time_and_one_count_of_what_is_left() {
    let (server, leases) = (MemoryStore::new(), Arc::new(LeaseTable::new(64)));
    let one = an_hour(100);
    assert!(leases.spend(&one, START).is_none());
    let mut reservation = Reservation::new(&leases, &[one], START, true).unwrap();
    assert_eq!(reservation.to_server()[0].lease, 100);
    let waits = Reservation::new(&leases, &[one], START, true).err().unwrap();
    assert!(waits.has_changed().is_ok(), "another waits for it");
    let alone = Reservation::new(&leases, &[one], START, false).unwrap();
    assert_eq!(
        (alone.to_server()[0].lease, alone.to_server()[0].cost),
        (0, 1),
        "or asks for itself"
    );
    drop(alone);
    let answer = serve(&server, &[], &reservation.to_server(), at(START));
    assert_eq!(reservation.apply_reply(&answer, at_once(START)).usages[0].remaining(), 999);
    reservation.commit();
    assert!(waits.has_changed().is_err(), "and goes on");
    for left in (900..999).rev() {
        let usage = leases.spend(&one, START + MILLI).unwrap().usages[0];
        assert_eq!((usage.remaining(), usage.reset().as_millis()), (left, 3_599_999));
    }
    assert!(leases.spend(&one, START + MILLI).is_none());
}

/// Takes a batch.
fn fill_at(leases: &Arc<LeaseTable>, charge: &Charge, server: &MemoryStore, now: u64) {
    let mut reservation = Reservation::new(leases, &[*charge], now, true).unwrap();
    let answer = serve(server, &[], &reservation.to_server(), at(now));
    reservation.apply_reply(&answer, at_once(now));
    reservation.commit();
}

#[test]
fn units_of_several_batches_end_with_the_first() {
    let (server, one) = (MemoryStore::new(), an_hour(100));
    let later = START + SECOND / 2;
    // Reserved units come back to a pool that has other units.
    let leases = Arc::new(LeaseTable::new(64));
    fill_at(&leases, &one, &server, START);
    let held = Reservation::new(&leases, &[Charge { cost: 30, ..one }], START, true).unwrap();
    leases.spend(&Charge { cost: 69, ..one }, START).unwrap();
    let reservation = Reservation::new(&leases, &[one], later, true).unwrap();
    assert_eq!(reservation.to_server()[0].lease, 70, "with those that are held, a batch");
    drop(reservation);
    fill_at(&leases, &one, &server, later);
    assert!(leases.covers(&one, START + SECOND));
    drop(held);
    assert!(!leases.covers(&one, START + SECOND));

    // A batch comes to a pool that has units, for requests ahead.
    let leases = Arc::new(LeaseTable::new(64));
    fill_at(&leases, &one, &server, START);
    leases.spend(&Charge { cost: 94, ..one }, START).unwrap();
    fill_at(&leases, &Charge { ahead: 10, ..one }, &server, later);
    assert!(leases.covers(&Charge { cost: 99, ..one }, later));
    assert!(!leases.covers(&one, START + SECOND));
}

#[test]
fn a_lease_ends_and_units_of_another_plan_go_back_first() {
    let (server, leases) = (MemoryStore::new(), Arc::new(LeaseTable::new(64)));
    let one = an_hour(100);
    fill_at(&leases, &one, &server, START);
    assert!(leases.covers(&one, START + SECOND - 1));
    assert!(!leases.covers(&one, START + SECOND));
    assert!(!leases.covers(&Charge { ahead: 99, ..one }, START), "others come before");
    let raised = Charge { quota: Quota::per_hour(2_000), ..one };
    assert!(!leases.covers(&raised, START));
    let reservation = Reservation::new(&leases, &[raised], START, true).unwrap();
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
        let reservation = Reservation::new(&leases, &[other], START, true).unwrap();
        assert_eq!(reservation.to_server()[0].lease, 0);
        assert!(!reservation.has_pool(0));
    }
    // There is room for one pool in each segment.
    let first = Reservation::new(&leases, &[one], START, true).unwrap();
    let beyond = Charge { key: one.key + SEGMENTS as u128, ..one };
    assert!(!Reservation::new(&leases, &[beyond], START, true).unwrap().has_pool(0));
    drop(first);
    assert!(Reservation::new(&leases, &[beyond], START, true).unwrap().has_pool(0));
}

#[test]
fn a_reset_forgets_what_was_taken() {
    let (server, leases) = (MemoryStore::new(), Arc::new(LeaseTable::new(64)));
    let one = an_hour(100);
    fill_at(&leases, &one, &server, START);
    leases.forget(&one);
    assert!(!leases.covers(&one, START));
    assert!(leases.drain().is_empty());
}

#[test]
fn a_batch_from_before_a_reset_does_not_end_the_batch_from_after_it() {
    let (leases, one) = (Arc::new(LeaseTable::new(64)), an_hour(100));
    let before = Reservation::new(&leases, &[one], START, true).unwrap();
    leases.forget(&one);
    let _after = Reservation::new(&leases, &[one], START, true).unwrap();
    drop(before);
    assert!(Reservation::new(&leases, &[one], START, true).is_err(), "another waits for it");
}

#[test]
fn no_request_waits_for_a_batch_that_is_used_up_by_its_own_request() {
    let leases = Arc::new(LeaseTable::new(64));
    let all = Charge { cost: 5, ..an_hour(5) };
    let reservation = Reservation::new(&leases, &[all], START, true).unwrap();
    assert_eq!(reservation.to_server()[0].lease, 0);
    assert!(Reservation::new(&leases, &[all], START, true).is_ok());
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
