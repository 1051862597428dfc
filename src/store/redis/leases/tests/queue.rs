//! Requests that wait for one key's units: who is served, in which order, and by how many commands.

use std::{collections::VecDeque, thread};

use proptest::{collection::vec, prelude::*};

use super::*;

/// Sends what a reservation asks for, and takes the reply in.
fn ask(server: &MemoryStore, reservation: &mut Reservation, now: u64) -> Answer {
    let before = mem::take(&mut reservation.expired);
    let answer = serve(server, &before, &reservation.to_server(), at(now));
    let answer = reservation.apply_reply(&answer, at_once(now));
    reservation.close_batons();
    answer
}

/// Takes what was handed to a request, and spends it if it is enough. Returns the reservation with which it
/// is to ask the server otherwise.
fn go_on(leases: &Arc<LeaseTable>, charge: &Charge, handed: Handed) -> Option<Reservation> {
    let handed = Some(handed);
    let mut reservation = Reservation::new(leases, &[*charge], START, true, handed).ok().unwrap();
    reservation.spend_if_covered(START).is_none().then_some(reservation)
}

fn wait(leases: &Arc<LeaseTable>, charge: &Charge) -> Waiting {
    reserve(leases, &[*charge], START, true).err().unwrap()
}

#[test]
fn one_command_asks_for_all_that_wait_and_serves_them_in_order() {
    let (server, one) = (MemoryStore::new(), an_hour(10));
    let leases = leases_of(&one);
    let mut first = reserve(&leases, &[one], START, true).ok().unwrap();
    let mut queue: VecDeque<_> = (0..30).map(|_| wait(&leases, &one)).collect();
    ask(&server, &mut first, START);
    first.commit();
    // 9 are served, and the next one has the baton.
    for _ in 0..9 {
        let handed = queue.pop_front().unwrap().try_recv().unwrap();
        assert!(go_on(&leases, &one, handed).is_none());
    }
    let handed = queue.pop_front().unwrap().try_recv().unwrap();
    assert!(matches!(handed, Handed::Baton(_)));
    assert!(queue.iter_mut().all(|waits| waits.try_recv().is_err()));
    let mut baton = go_on(&leases, &one, handed).unwrap();
    assert_eq!(baton.to_server()[0].lease, 10 + 20, "a batch, and what 20 wait for");
    let late = wait(&leases, &one);
    let answer = ask(&server, &mut baton, START);
    baton.commit();
    assert_eq!(answer.usages[0].remaining(), 1_000 - 10 - 1 - 21, "one is late, 8 units are left");
    for mut waits in queue.into_iter().chain([late]) {
        assert!(go_on(&leases, &one, waits.try_recv().unwrap()).is_none());
    }
    assert_eq!(leases.held(&one, START), 8);
}

#[test]
fn a_request_joins_the_queue_only_if_it_needs_what_another_asks_for() {
    let (server, one) = (MemoryStore::new(), an_hour(10));
    let leases = leases_of(&one);
    assert!(leases.join_queue(&one, START).is_none(), "there is no command to wait for");
    let mut first = reserve(&leases, &[one], START, true).ok().unwrap();
    for other in [
        Charge { key: one.key + 1, ..one },
        Charge { quota: Quota::per_hour(2_000), ..one },
        Charge { cost: 10, ..one },
        Charge { is_settled: true, ..one },
    ] {
        assert!(leases.join_queue(&other, START).is_none(), "{other:?}");
    }
    let mut waits = leases.join_queue(&one, START).unwrap();
    ask(&server, &mut first, START);
    assert!(matches!(waits.try_recv(), Ok(Handed::Units(_))));
    let large = reserve(&leases, &[Charge { cost: 9, ..one }], START, true).ok().unwrap();
    let _second = reserve(&leases, &[one], START, true).ok().unwrap();
    assert!(leases.join_queue(&one, START).is_some());
    drop(large);
    assert!(leases.join_queue(&one, START).is_none(), "its units are here");
}

#[test]
fn who_leaves_the_queue_gives_units_and_the_turn_to_the_next() {
    let (server, one) = (MemoryStore::new(), an_hour(4));
    let leases = leases_of(&one);
    let mut first = reserve(&leases, &[one], START, true).ok().unwrap();
    let [a, b, mut c, d, mut e, mut f] = [(); 6].map(|()| wait(&leases, &one));
    drop(a);
    ask(&server, &mut first, START);
    first.commit();
    // b, c and d have units, and e has the baton.
    drop(b);
    assert!(
        matches!(e.try_recv(), Ok(Handed::Baton(_))),
        "the units are there; the baton is dropped"
    );
    assert!(matches!(f.try_recv(), Ok(Handed::Units(_))), "of b; they go back too");
    let handed = c.try_recv().unwrap();
    assert!(go_on(&leases, &one, handed).is_none());
    assert_eq!(leases.held(&one, START), 1);
    drop(d);
    assert_eq!(leases.held(&one, START), 2);
    assert!(
        reserve(&leases, &[Charge { cost: 3, ..one }], START, true).is_ok(),
        "no baton is lost"
    );
}

#[test]
fn all_who_wait_decide_anew_after_a_refusal_or_a_failure() {
    let (server, one) = (MemoryStore::new(), Charge { quota: Quota::per_hour(3), ..an_hour(10) });
    for fails in [true, false] {
        let leases = leases_of(&one);
        let mut first = reserve(&leases, &[Charge { cost: 4, ..one }], START, true).ok().unwrap();
        let mut queue = [(); 3].map(|()| wait(&leases, &one));
        if fails {
            first.close_batons();
        } else {
            assert!(!ask(&server, &mut first, START).usages[0].fits());
        }
        for waits in &mut queue {
            assert_eq!(waits.try_recv().err(), Some(TryRecvError::Closed));
        }
        assert!(reserve(&leases, &[one], START, true).is_ok(), "the baton is free");
    }
    // A part of the batch serves as many as it can.
    let leases = leases_of(&one);
    let mut first = reserve(&leases, &[one], START, true).ok().unwrap();
    let mut queue = [(); 4].map(|()| wait(&leases, &one));
    ask(&server, &mut first, START);
    let served = queue.each_mut().map(|waits| waits.try_recv().is_ok());
    assert_eq!(served, [true, true, false, false]);
}

#[test]
fn a_reset_has_all_who_wait_decide_anew() {
    let one = an_hour(10);
    let leases = leases_of(&one);
    let _first = reserve(&leases, &[one], START, true).ok().unwrap();
    let mut waits = wait(&leases, &one);
    leases.forget(&one);
    assert_eq!(waits.try_recv().err(), Some(TryRecvError::Closed));
}

#[test]
fn what_was_handed_is_not_spent_after_its_lease() {
    let (server, one) = (MemoryStore::new(), an_hour(10));
    let leases = leases_of(&one);
    let mut first = reserve(&leases, &[one], START, true).ok().unwrap();
    let mut waits = wait(&leases, &one);
    ask(&server, &mut first, START);
    let handed = Some(waits.try_recv().unwrap());
    let late = Reservation::new(&leases, &[one], START + SECOND, true, handed).ok().unwrap();
    assert_eq!(late.to_server().len(), 1);
    assert_eq!(late.expired.len(), 1, "what is left of the batch");
}

/// A key that is used fast asks for the next batch while there are units; a key that is not, does not.
#[test]
fn the_next_batch_is_asked_for_before_the_last_is_used_up() {
    let slow = |now| RoundTrip { sent: now - 2 * MILLI, received: now };
    for (pause, asks) in [(MILLI, true), (200 * MILLI, false)] {
        let (server, one) = (MemoryStore::new(), an_hour(20));
        let leases = Arc::new(LeaseTable::new(64));
        let (mut now, mut batons, mut commands) = (START, 0, 0);
        for _ in 0..200 {
            now += pause;
            if let Some((_, baton)) = leases.spend(&one, now) {
                let Some(baton) = baton else { continue };
                let before = leases.held(&one, now);
                batons += u64::from(before > 0);
                let Some(mut ahead) = Reservation::ahead(&leases, baton, now) else { continue };
                let answer = serve(&server, &[], &ahead.to_server(), at(now));
                ahead.apply_reply(&answer, slow(now));
                assert!(leases.held(&one, now) > before);
                continue;
            }
            let mut reservation = reserve(&leases, &[one], now, true).ok().unwrap();
            let answer = serve(&server, &[], &reservation.to_server(), at(now));
            reservation.apply_reply(&answer, slow(now));
            reservation.commit();
            commands += 1;
        }
        assert_eq!(batons > 5, asks, "{batons}");
        assert_eq!(commands < 10, asks, "{commands} requests have waited");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Come {
        cost: u64,
    },
    Leave(usize),
    Reply,
    /// All that were handed something go on.
    GoOn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4_u64).prop_map(|cost| Step::Come { cost }),
        1 => any::<usize>().prop_map(Step::Leave),
        2 => Just(Step::Reply),
        2 => Just(Step::GoOn),
    ]
}

proptest! {
    /// Beside a list: each is served at most once, in the order of arrival; each unit is spent,
    /// held or at the server; and there is one command at a time.
    #[test]
    fn requests_are_served_in_order_and_no_unit_is_lost(
        lease in 4..20_u32,
        size in 1..20_u64,
        steps in vec(step(), 1..200),
    ) {
        let server = MemoryStore::new();
        let one = policy(1, Algorithm::FixedWindow, Quota::per_hour(1_000_000), lease);
        let leases = leases_of(&one);
        leases.segments[one.id() as usize % SEGMENTS].lock().get_mut(&one.id()).unwrap().demand =
            Demand::of_size(size);
        let mut queue: VecDeque<(Charge, Waiting)> = VecDeque::new();
        let (mut asking, mut spent): (Option<Reservation>, u64) = (None, 0);
        let mut asked_cost = 0;
        let finish = steps.len();
        let steps = steps.into_iter().chain((0..100).flat_map(|_| [Step::Reply, Step::GoOn]));
        for (number, step) in steps.enumerate() {
            match step {
                Step::Come { cost } => {
                    let charge = Charge { cost, ..one };
                    if leases.spend(&charge, START).is_some() {
                        spent += cost;
                        continue;
                    }
                    match reserve(&leases, &[charge], START, true) {
                        Err(waiting) => queue.push_back((charge, waiting)),
                        Ok(reservation) => {
                            prop_assert!(asking.is_none(), "two commands at a time");
                            (asking, asked_cost) = (Some(reservation), cost);
                        }
                    }
                }
                Step::Leave(which) if queue.is_empty() => drop((which, asking.take())),
                Step::Leave(which) => drop(queue.remove(which % queue.len())),
                Step::Reply => {
                    let Some(mut reservation) = asking.take() else { continue };
                    ask(&server, &mut reservation, START);
                    reservation.commit();
                    spent += asked_cost;
                }
                Step::GoOn => {
                    let mut waits = false;
                    for (charge, mut waiting) in mem::take(&mut queue) {
                        match waiting.try_recv() {
                            Ok(handed) => {
                                prop_assert!(!waits, "one was passed over");
                                match go_on(&leases, &charge, handed) {
                                    None => spent += charge.cost,
                                    Some(reservation) => {
                                        prop_assert!(asking.is_none(), "two commands at a time");
                                        (asking, asked_cost) = (Some(reservation), charge.cost);
                                    }
                                }
                            }
                            Err(TryRecvError::Empty) => {
                                waits = true;
                                queue.push_back((charge, waiting));
                            }
                            Err(TryRecvError::Closed) => prop_assert!(false, "nothing was refused"),
                        }
                    }
                }
            }
            if number >= finish && queue.is_empty() && asking.is_none() {
                break;
            }
        }
        prop_assert!(queue.is_empty() && asking.is_none(), "{} are not served", queue.len());
        let held = leases.held(&one, START);
        prop_assert!(held <= lease.into());
        let back = leases.drain();
        ready(server.correct(&back, at(START)));
        let peek = Charge { mode: Mode::Peek, ..one };
        let remaining = ready(server.charge(&[peek], at(START))).usages[0].remaining();
        prop_assert_eq!(remaining, 1_000_000 - spent);
    }
}

/// Threads that wait, leave, ask and are served at once: each is answered, and no unit is lost.
#[test]
fn threads_share_batches_and_lose_nothing() {
    const THREADS: u64 = 8;
    const REQUESTS: u64 = 2_000;
    // It would count too much if two commands were under way.
    let server = MemoryStore::new();
    let one = policy(1, Algorithm::FixedWindow, Quota::per_hour(1_000_000), 16);
    let leases = Arc::new(LeaseTable::new(64));
    let request = |number: u64| -> u64 {
        let charge = Charge { cost: 1 + number % 3, ..one };
        if leases.spend(&charge, START).is_some() {
            return charge.cost;
        }
        let mut handed = None;
        loop {
            match Reservation::new(&leases, &[charge], START, true, handed.take()) {
                Ok(mut reservation) => {
                    if reservation.spend_if_covered(START).is_some() {
                        return charge.cost;
                    }
                    if number.is_multiple_of(7) {
                        // It leaves before its command is sent.
                        return 0;
                    }
                    ask(&server, &mut reservation, START);
                    if number.is_multiple_of(11) {
                        // It has left while its command was on its way.
                        return 0;
                    }
                    reservation.commit();
                    return charge.cost;
                }
                Err(waiting) if number.is_multiple_of(5) => {
                    // It leaves, perhaps when it was served.
                    thread::yield_now();
                    drop(waiting);
                    return 0;
                }
                Err(waiting) => handed = waiting.blocking_recv().ok(),
            }
        }
    };
    let spent: u64 = thread::scope(|scope| {
        let threads = [(); THREADS as usize]
            .map(|()| scope.spawn(|| (0..REQUESTS).map(request).sum::<u64>()));
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    ready(server.correct(&leases.drain(), at(START)));
    let peek = Charge { mode: Mode::Peek, ..one };
    let remaining = ready(server.charge(&[peek], at(START))).usages[0].remaining();
    assert!(spent > THREADS * REQUESTS);
    assert_eq!(remaining, 1_000_000 - spent);
}
