//! Several replicas and one server: requests, replies and sweeps come in any order, and callers leave. The
//! server is the memory store. Each replica has a clock of its own.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

struct Replica {
    leases: Arc<LeaseTable>,
    /// The nanoseconds by which its clock is ahead.
    offset: u64,
}

struct Pending {
    replica: usize,
    reservation: Reservation,
    costs: Vec<u64>,
    /// How much of each cost was reserved when the command was sent; and when that was, by the
    /// replica's clock.
    had: Vec<u64>,
    sent: u64,
    /// The server's answer, and when it was made.
    answer: Option<(u64, Answer)>,
}

struct World {
    server: MemoryStore,
    policies: Vec<Charge>,
    /// The plans of the first policy, if it has several.
    plans: Vec<Quota>,
    replicas: Vec<Replica>,
    now: u64,
    /// The requests that wait for the server.
    pending: Vec<Pending>,
    /// The time, and the units of each policy.
    admitted: Vec<(u64, Vec<u64>)>,
    refused: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Request { replica: usize, costs: [u64; 2], ahead: u64, plan: usize },
    Pass(u64),
    Serve(usize),
    Receive { which: usize, leaves: bool },
    Sweep(usize),
}

impl World {
    fn new(policies: Vec<Charge>, replicas: usize) -> Self {
        let replica = |number| Replica {
            leases: Arc::new(LeaseTable::new(100)),
            offset: number as u64 * 3_600 * SECOND,
        };
        Self {
            server: MemoryStore::new(),
            policies,
            plans: Vec::new(),
            replicas: (0..replicas).map(replica).collect(),
            now: START,
            pending: Vec::new(),
            admitted: Vec::new(),
            refused: false,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Pass(nanos) => self.now += nanos,
            Step::Request { replica, costs, ahead, plan } => {
                if !self.plans.is_empty() {
                    self.policies[0].quota = self.plans[plan % self.plans.len()];
                }
                self.request(replica, &costs, ahead);
            }
            Step::Serve(which) => {
                let mut unserved: Vec<_> =
                    self.pending.iter_mut().filter(|pending| pending.answer.is_none()).collect();
                if !unserved.is_empty() {
                    let which = which % unserved.len();
                    let pending = &mut unserved[which];
                    let before = mem::take(&mut pending.reservation.expired);
                    let charges = pending.reservation.to_server();
                    let answer = serve(&self.server, &before, &charges, at(self.now));
                    pending.answer = Some((self.now, answer));
                }
            }
            Step::Receive { which, leaves } => self.receive(which, leaves),
            Step::Sweep(replica) => self.sweep(replica),
        }
        for Replica { leases, .. } in &self.replicas {
            for pool in leases.segments.iter().flat_map(|segment| {
                let segment = segment.lock();
                let held = |pool: &Pool| (pool.units.available() + pool.reserved, pool.charge);
                segment.values().map(held).collect::<Vec<_>>()
            }) {
                assert!(pool.0 <= u64::from(pool.1.lease), "{} units are here", pool.0);
            }
        }
    }

    fn request(&mut self, replica: usize, costs: &[u64], ahead: u64) {
        let which = replica % self.replicas.len();
        let Replica { leases, offset } = &self.replicas[which];
        let local = self.now + offset;
        let each = self.policies.iter().zip(costs);
        let charges: Vec<_> =
            each.map(|(policy, &cost)| Charge { cost, ahead, ..*policy }).collect();
        let costs: Vec<_> = charges.iter().map(|charge| charge.cost).collect();
        if let [charge] = &*charges
            && leases.spend(charge, local).is_some()
        {
            return self.admitted.push((self.now, costs));
        }
        // A request that would have to wait leaves.
        let Ok(mut reservation) = reserve(leases, &charges, local, true) else { return };
        if reservation.spend_if_covered(local).is_some() {
            return self.admitted.push((self.now, costs));
        }
        let parts = reservation.charges.iter().zip(&costs);
        let had = parts.map(|(part, &cost)| part.units.min(cost)).collect();
        let (sent, answer) = (local, None);
        self.pending.push(Pending { replica: which, reservation, costs, had, sent, answer });
    }

    fn receive(&mut self, which: usize, leaves: bool) {
        let answered: Vec<_> =
            (0..self.pending.len()).filter(|&which| self.pending[which].answer.is_some()).collect();
        if answered.is_empty() {
            return;
        }
        let Pending { replica, mut reservation, costs, had, sent, answer } =
            self.pending.remove(answered[which % answered.len()]);
        let received = self.now + self.replicas[replica].offset;
        let (served_at, answer) = answer.unwrap();
        let answer = reservation.apply_reply(&answer, RoundTrip { sent, received });
        let passes = answer.usages.iter().all(Usage::fits);
        if leaves {
            // Charges without a pool are given back as they were made.
            let charged = (0..costs.len())
                .filter(|&index| passes && !reservation.has_pool(index))
                .map(|index| {
                    let charge = self.policies[index];
                    give_back(&charge, costs[index], answer.at).unwrap()
                });
            let charged: Vec<_> = charged.collect();
            ready(self.server.correct(&charged, at(self.now)));
            return;
        }
        if passes {
            // The reserved units were spent when the command was sent.
            let rest = costs.iter().zip(&had).map(|(cost, had)| cost - had).collect();
            self.admitted.push((sent - self.replicas[replica].offset, had));
            self.admitted.push((served_at, rest));
        } else {
            self.refused = true;
        }
        reservation.commit();
    }

    fn sweep(&mut self, replica: usize) {
        let Replica { leases, offset } = &self.replicas[replica % self.replicas.len()];
        let (back, _) = leases.sweep(self.now + offset);
        ready(self.server.correct(&back, at(self.now)));
    }

    /// Answers all requests that are on their way.
    fn settle(&mut self) {
        while !self.pending.is_empty() {
            self.step(&Step::Serve(0));
            self.step(&Step::Receive { which: 0, leaves: false });
        }
    }

    fn used(&self, policy: usize) -> u64 {
        self.admitted.iter().map(|(_, costs)| costs[policy]).sum()
    }

    fn remaining(&self, policy: usize) -> u64 {
        let peek = Charge { mode: Mode::Peek, ..self.policies[policy] };
        ready(self.server.charge(&[peek], at(self.now))).usages[0].remaining()
    }

    /// The most that was admitted of a policy within any interval of this length.
    fn most_within(&self, policy: usize, length: u64) -> u64 {
        let used = |from: u64| {
            let within = |(time, _): &&(u64, Vec<u64>)| *time >= from && *time - from < length;
            self.admitted.iter().filter(within).map(|(_, costs)| costs[policy]).sum()
        };
        self.admitted.iter().map(|(time, _)| used(*time)).max().unwrap_or(0)
    }

    fn most_in_aligned(&self, policy: usize, length: u64) -> u64 {
        let window = |time: u64| time - time % length;
        let used = |from: u64| {
            let within = |(time, _): &&(u64, Vec<u64>)| window(*time) == from;
            self.admitted.iter().filter(within).map(|(_, costs)| costs[policy]).sum()
        };
        self.admitted.iter().map(|(time, _)| used(window(*time))).max().unwrap_or(0)
    }
}

fn steps(longest: u64) -> impl Strategy<Value = Vec<Step>> {
    let cost = || prop_oneof![4 => Just(1_u64), 1 => 1..4_u64];
    let ahead = prop_oneof![8 => Just(0_u64), 1 => 1..3_u64];
    let request = (0..3_usize, cost(), cost(), ahead, 0..6_usize);
    let request = request.prop_map(|(replica, one, other, ahead, plan)| {
        let costs = [one, other];
        Step::Request { replica, costs, ahead, plan }
    });
    let receive = (any::<usize>(), prop::bool::weighted(0.15))
        .prop_map(|(which, leaves)| Step::Receive { which, leaves });
    let step = prop_oneof![
        12 => request,
        3 => (0..longest).prop_map(Step::Pass),
        6 => any::<usize>().prop_map(Step::Serve),
        6 => receive,
        1 => (0..3_usize).prop_map(Step::Sweep),
    ];
    vec(step, 1..300)
}

/// The leases of two policies. The second may have none.
fn leases() -> impl Strategy<Value = [u32; 2]> {
    (4..16_u32, prop_oneof![Just(0), 4..16_u32]).prop_map(|(one, other)| [one, other])
}

proptest! {
    #[test]
    fn no_interval_sees_more_than_the_quota_and_what_replicas_may_hold(
        algorithm in select(ALGORITHMS.to_vec()),
        units in 4..40_u64,
        leases in leases(),
        replicas in 1..4_usize,
        steps in steps(80 * MILLI),
    ) {
        let window = SECOND;
        let quota = Quota::per_window(units, Duration::from_nanos(window));
        let policies =
            [policy(1, algorithm, quota, leases[0]), policy(2, algorithm, quota, leases[1])];
        let mut world = World::new(policies.to_vec(), replicas);
        steps.iter().for_each(|step| world.step(step));
        world.settle();
        for index in [0, 1] {
            let held = replicas as u64 * u64::from(leases[index]);
            match algorithm {
                Algorithm::SlidingWindow =>
                    prop_assert!(world.most_within(index, window) <= units + held),
                Algorithm::FixedWindow =>
                    prop_assert!(world.most_in_aligned(index, window) <= units),
                // A full bucket may be spent at once, and what comes back meanwhile.
                Algorithm::TokenBucket =>
                    prop_assert!(world.most_within(index, window) <= 2 * units + held),
                Algorithm::InFlight => unreachable!("it has no lease"),
            }
        }
    }

    /// Units that were leased under one plan cannot be spent under another.
    #[test]
    fn plans_admit_together_no_more_than_the_largest_and_what_replicas_may_hold(
        algorithm in select(ALGORITHMS.to_vec()),
        units in vec(4..40_u64, 1..4),
        leases in leases(),
        replicas in 1..4_usize,
        steps in steps(80 * MILLI),
    ) {
        let window = SECOND;
        let plan = |units: &u64| Quota::per_window(*units, Duration::from_nanos(window));
        let plans: Vec<_> = units.iter().map(plan).collect();
        let policies = [policy(1, algorithm, plans[0], leases[0]), policy(2, algorithm, plans[0], leases[1])];
        let mut world = World { plans, ..World::new(policies.to_vec(), replicas) };
        steps.iter().for_each(|step| world.step(step));
        world.settle();
        let held = replicas as u64 * u64::from(leases[0]);
        let (most, all) = (units.iter().max().unwrap(), units.iter().sum::<u64>());
        match algorithm {
            // Each plan counts all that is used in its window.
            Algorithm::SlidingWindow =>
                prop_assert!(world.most_within(0, window) <= most + held),
            Algorithm::FixedWindow =>
                prop_assert!(world.most_in_aligned(0, window) <= *most),
            // A full bucket may be spent at once, and what comes back meanwhile.
            Algorithm::TokenBucket =>
                prop_assert!(world.most_within(0, window) <= 2 * all + held),
            Algorithm::InFlight => unreachable!("it has no lease"),
        }
    }

    /// Nothing is charged twice or lost, and no pool stays.
    #[test]
    fn what_is_not_spent_goes_back(
        algorithm in select(ALGORITHMS.to_vec()),
        units in 4..100_u64,
        leases in leases(),
        replicas in 1..4_usize,
        is_shut_down in any::<bool>(),
        steps in steps(80 * MILLI),
    ) {
        let quota = Quota::per_window(units, Duration::from_secs(86_400 * 365));
        let policies =
            [policy(1, algorithm, quota, leases[0]), policy(2, algorithm, quota, leases[1])];
        let mut world = World::new(policies.to_vec(), replicas);
        steps.iter().for_each(|step| world.step(step));
        world.settle();
        if !is_shut_down {
            world.step(&Step::Pass(SECOND));
        }
        for replica in 0..replicas {
            if is_shut_down {
                let back = world.replicas[replica].leases.drain();
                ready(world.server.correct(&back, at(world.now)));
            } else {
                world.sweep(replica);
            }
        }
        let seconds = (world.now - START).div_ceil(SECOND);
        for index in [0, 1] {
            let used = world.used(index);
            // Units that have come back by the clock are not given back. If several batches were taken
            // one after the other, a part of that time counts for each.
            let (back, lost) = if algorithm == Algorithm::TokenBucket { (seconds, 1) } else { (0, 0) };
            let remaining = world.remaining(index);
            prop_assert!(remaining + lost >= units - used, "{remaining} of {units} left, {used} used");
            prop_assert!(remaining <= units - used + back);
        }
        for replica in &world.replicas {
            prop_assert!(is_shut_down || replica.leases.segments.iter().all(|segment| segment.lock().is_empty()));
        }
    }

    #[test]
    fn replicas_admit_what_others_do_not_hold(
        algorithm in select(ALGORITHMS.to_vec()),
        units in 1..200_u64,
        lease in 1..30_u32,
        replicas in 1..4_usize,
        requests in vec((0..3_usize, 0..20_u64), 400),
    ) {
        let quota = Quota::per_window(units, Duration::from_secs(86_400 * 365));
        let mut world = World::new(vec![policy(1, algorithm, quota, lease)], replicas);
        for (replica, millis) in requests {
            world.step(&Step::Pass(millis * MILLI));
            world.step(&Step::Request { replica, costs: [1, 1], ahead: 0, plan: 0 });
            world.settle();
            if millis == 0 {
                world.step(&Step::Sweep(replica));
            }
            if world.refused {
                break;
            }
        }
        prop_assert!(world.refused);
        let held_by_others = (replicas as u64 - 1) * u64::from(lease);
        prop_assert!(world.used(0) <= units);
        let lost = u64::from(algorithm == Algorithm::TokenBucket);
        prop_assert!(world.used(0) + lost >= units.saturating_sub(held_by_others));
    }
}
