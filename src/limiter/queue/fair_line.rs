//! The turns of tenants in one line of held requests: [`FairLine`], a deficit round robin.
//!
//! The tenants with held requests stand in a ring. They are visited in turn. On each visit a tenant gets
//! as many units of credit as its weight says, and its requests pass, in order of arrival, while its
//! credit covers their cost. A tenant whose requests have all left gives up its credit.
//!
//! This is the deficit round robin of Shreedhar and Varghese, with one unit of credit for each unit of
//! weight. The visits are not made one by one: which one a request passes on is a division. So one
//! request of a million units takes no more work than one of one unit.

use std::collections::VecDeque;

use crate::store::Charge;

/// Whose request it is, in the line of one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// As in the [`Charge`](crate::store::Charge) of the policy.
    pub(crate) policy: u64,
    /// The tenant's fingerprint; `None` for a tenant that cannot be read.
    pub(crate) tenant: Option<u128>,
    pub(crate) weight: u32,
}

/// The held requests of one key of a policy, by tenant.
#[derive(Clone, Debug, Default)]
pub(super) struct FairLine {
    /// The first one is being visited, and has the credit of this visit.
    ring: VecDeque<Tenant>,
}

#[derive(Clone, Debug)]
struct Tenant {
    id: Option<u128>,
    weight: u32,
    /// Negative if a request has passed before its turn, as others were late.
    credit: i128,
    /// The tickets and their costs, in order of arrival.
    tickets: VecDeque<(u64, u64)>,
}

/// The visit on which a request passes: how many visits later, and where in the ring.
type Visit = (i128, usize);

impl Turn {
    /// This charge, if the turn is in its line.
    pub(super) fn of(self, charge: &Charge) -> Option<&Charge> {
        (charge.policy == self.policy).then_some(charge)
    }
}

impl FairLine {
    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Adds a ticket behind those of its tenant.
    pub(super) fn push(&mut self, turn: Turn, ticket: u64, cost: u64) {
        let weight = turn.weight.max(1);
        if let Some(tenant) = self.ring.iter_mut().find(|tenant| tenant.id == turn.tenant) {
            // The tenant's plan may be another one now.
            tenant.weight = weight;
            tenant.tickets.push_back((ticket, cost));
            return;
        }
        let credit = if self.ring.is_empty() { weight.into() } else { 0 };
        let tickets = VecDeque::from([(ticket, cost)]);
        self.ring.push_back(Tenant { id: turn.tenant, weight, credit, tickets });
    }

    /// All tickets, in the order in which they pass.
    pub(super) fn order(&self) -> Vec<u64> {
        let mut visits: Vec<(Visit, u64)> = Vec::new();
        for (position, tenant) in self.ring.iter().enumerate() {
            let mut cost = 0_i128;
            for (ticket, own) in &tenant.tickets {
                cost = cost.saturating_add(i128::from(*own));
                visits.push((self.visit(position, tenant, cost), *ticket));
            }
        }
        // Stable: the tickets of one visit stay in order of arrival.
        visits.sort_by_key(|(visit, _)| *visit);
        visits.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// The visit on which a tenant's credit covers this cost.
    fn visit(&self, position: usize, tenant: &Tenant, cost: i128) -> Visit {
        let short = cost.saturating_sub(tenant.credit);
        let is_visited = position == 0;
        if is_visited && short <= 0 {
            return (0, 0);
        }
        let later = ceil_div(short, tenant.weight).max(1);
        // The one that is being visited is visited next after all others.
        (later, if is_visited { self.ring.len() } else { position })
    }

    /// Removes a ticket that has passed: its cost is taken from its tenant's credit.
    pub(super) fn pass(&mut self, ticket: u64) {
        let Some(position) = self.position(ticket) else { return };
        let is_first = self.order().first() == Some(&ticket);
        let Some(tenant) = self.ring.get(position) else { return };
        let cost = tenant.tickets.iter().find(|(known, _)| *known == ticket);
        let cost = cost.map_or(0, |(_, cost)| i128::from(*cost));
        // If others were first and are late, their visits are still to come.
        let (later, _) = if is_first { self.visit(position, tenant, cost) } else { (0, 0) };
        if later > 0 {
            for (other, tenant) in self.ring.iter_mut().enumerate() {
                let is_before = match position {
                    0 => true,
                    _ => other != 0 && other <= position,
                };
                let visits = later.saturating_sub(i128::from(!is_before));
                let credit = visits.saturating_mul(tenant.weight.into());
                tenant.credit = tenant.credit.saturating_add(credit);
            }
            self.ring.rotate_left(position);
        }
        if let Some(tenant) = self.ring.iter_mut().find(|tenant| tenant.has(ticket)) {
            tenant.credit = tenant.credit.saturating_sub(cost);
        }
        self.leave(ticket);
    }

    /// Removes a ticket that has not passed.
    pub(super) fn leave(&mut self, ticket: u64) {
        let Some(position) = self.position(ticket) else { return };
        let Some(tenant) = self.ring.get_mut(position) else { return };
        tenant.tickets.retain(|(known, _)| *known != ticket);
        if !tenant.tickets.is_empty() {
            return;
        }
        self.ring.remove(position);
        // The next one is visited.
        if let Some(first) = self.ring.front_mut().filter(|_| position == 0) {
            first.credit = first.credit.saturating_add(first.weight.into());
        }
    }

    /// The ticket that makes room in a full line for one more of this tenant's: the last one of the
    /// tenant that has most of them for its weight. `None` if the tenant would then have more than its
    /// share, and also more for its weight than that one.
    pub(super) fn makes_room(&self, turn: Turn) -> Option<u64> {
        let weight = u64::from(turn.weight.max(1));
        let is_own = |tenant: &&Tenant| tenant.id == turn.tenant;
        let own = self.ring.iter().find(is_own).map_or(0, Tenant::held).saturating_add(1);
        let others = || self.ring.iter().filter(|tenant| !is_own(tenant));
        let for_weight =
            |tenant: &Tenant, of: &Tenant| tenant.held().saturating_mul(of.weight.into());
        let most = others().max_by(|a, b| for_weight(a, b).cmp(&for_weight(b, a)))?;
        let is_less = own.saturating_mul(most.weight.into())
            <= most.held().saturating_sub(1).saturating_mul(weight);
        let weights = others().fold(weight, |sum, other| sum.saturating_add(other.weight.into()));
        let places = self.ring.iter().fold(0, |sum: u64, tenant| sum.saturating_add(tenant.held()));
        let is_within_share = own.saturating_mul(weights) <= places.saturating_mul(weight);
        most.tickets.back().filter(|_| is_less || is_within_share).map(|(ticket, _)| *ticket)
    }

    fn position(&self, ticket: u64) -> Option<usize> {
        self.ring.iter().position(|tenant| tenant.has(ticket))
    }
}

impl Tenant {
    fn has(&self, ticket: u64) -> bool {
        self.tickets.iter().any(|(known, _)| *known == ticket)
    }

    fn held(&self) -> u64 {
        self.tickets.len() as u64
    }
}

/// `a / b`, rounded up.
fn ceil_div(a: i128, b: u32) -> i128 {
    let b = i128::from(b.max(1));
    let whole = a.div_euclid(b);
    whole.saturating_add(i128::from(a.rem_euclid(b) > 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The deficit round robin as its authors write it: visit by visit, and request by request.
    #[derive(Clone, Default)]
    struct Naive {
        ring: VecDeque<NaiveTenant>,
    }

    /// The tenant, its weight, its credit, and its tickets with their costs.
    type NaiveTenant = (u128, u64, u64, VecDeque<(u64, u64)>);

    impl Naive {
        fn push(&mut self, tenant: u128, weight: u32, ticket: u64, cost: u64) {
            let weight = u64::from(weight);
            if let Some(known) = self.ring.iter_mut().find(|known| known.0 == tenant) {
                known.1 = weight;
                known.3.push_back((ticket, cost));
                return;
            }
            let credit = if self.ring.is_empty() { weight } else { 0 };
            self.ring.push_back((tenant, weight, credit, VecDeque::from([(ticket, cost)])));
        }

        fn next_visit(&mut self) {
            if let Some(next) = self.ring.front_mut() {
                next.2 += next.1;
            }
        }

        fn pass(&mut self) -> Option<u64> {
            loop {
                let (_, _, credit, tickets) = self.ring.front_mut()?;
                let (ticket, cost) = tickets[0];
                if *credit < cost {
                    self.ring.rotate_left(1);
                    self.next_visit();
                    continue;
                }
                *credit -= cost;
                tickets.pop_front();
                if tickets.is_empty() {
                    self.ring.pop_front();
                    self.next_visit();
                }
                return Some(ticket);
            }
        }

        fn leave(&mut self, ticket: u64) {
            let has = |tickets: &VecDeque<(u64, u64)>| tickets.iter().any(|of| of.0 == ticket);
            let Some(at) = self.ring.iter().position(|tenant| has(&tenant.3)) else { return };
            self.ring[at].3.retain(|of| of.0 != ticket);
            if self.ring[at].3.is_empty() {
                self.ring.remove(at);
                if at == 0 {
                    self.next_visit();
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push {
            tenant: u128,
            weight: u32,
            cost: u64,
        },
        Pass,
        /// The ticket of this number, if it is there.
        Leave(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = (0..5_u128, prop_oneof![3 => Just(1), 1 => 1..6_u32], cost())
            .prop_map(|(tenant, weight, cost)| Step::Push { tenant, weight, cost });
        let step =
            prop_oneof![5 => push, 3 => Just(Step::Pass), 1 => (0..60_u64).prop_map(Step::Leave)];
        prop::collection::vec(step, 1..80)
    }

    fn cost() -> impl Strategy<Value = u64> {
        prop_oneof![4 => Just(1), 2 => 1..4_u64, 1 => 1..40_u64]
    }

    fn turn(tenant: u128, weight: u32) -> Turn {
        Turn { policy: 1, tenant: Some(tenant), weight }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn tickets_pass_in_the_order_of_a_deficit_round_robin(steps in steps()) {
            let (mut line, mut naive) = (FairLine::default(), Naive::default());
            for (ticket, step) in (0..).zip(steps) {
                match step {
                    Step::Push { tenant, weight, cost } => {
                        line.push(turn(tenant, weight), ticket, cost);
                        naive.push(tenant, weight, ticket, cost);
                    }
                    Step::Pass => {
                        let first = line.order().first().copied();
                        prop_assert_eq!(first, naive.pass());
                        first.into_iter().for_each(|ticket| line.pass(ticket));
                    }
                    Step::Leave(ticket) => {
                        line.leave(ticket);
                        naive.leave(ticket);
                    }
                }
                let mut all = naive.clone();
                let expected: Vec<_> = std::iter::from_fn(|| all.pass()).collect();
                prop_assert_eq!(line.order(), expected);
            }
        }

        /// While a tenant waits, each other one passes no more than its weight allows for each visit,
        /// and one request more.
        #[test]
        fn nobody_waits_longer_than_its_share_implies(
            tenants in prop::collection::vec((1..6_u32, prop::collection::vec(cost(), 1..40)), 2..6),
        ) {
            let (mut line, mut of) = (FairLine::default(), Vec::new());
            for (tenant, (weight, costs)) in (0..).zip(&tenants) {
                for cost in costs {
                    line.push(turn(tenant, *weight), of.len() as u64, *cost);
                    of.push((tenant as usize, *cost));
                }
            }
            let mut used = vec![0; tenants.len()];
            for ticket in line.order() {
                let (tenant, cost) = of[ticket as usize];
                used[tenant] += cost;
                let visits = used[tenant].div_ceil(tenants[tenant].0.into());
                for (other, (weight, costs)) in tenants.iter().enumerate() {
                    let all: u64 = costs.iter().sum();
                    let most = visits * u64::from(*weight);
                    prop_assert!(used[other] <= most.min(all), "{other} before {tenant}");
                }
            }
        }

        #[test]
        fn a_full_line_has_room_for_each_share(
            weights in prop::collection::vec(1..6_u32, 1..6),
            arrivals in prop::collection::vec(0..6_usize, 1..200),
        ) {
            const PLACES: usize = 20;
            let (mut line, mut held) = (FairLine::default(), vec![Vec::new(); weights.len()]);
            let all: u32 = weights.iter().sum();
            // In turn at the end, so that each wants its share and more.
            let last = (0..weights.len()).cycle().take(PLACES * weights.len());
            for (ticket, tenant) in (0..).zip(arrivals.into_iter().chain(last)) {
                let tenant = tenant % weights.len();
                let turn = turn(tenant as u128, weights[tenant]);
                if held.iter().map(Vec::len).sum::<usize>() == PLACES {
                    let Some(leaves) = line.makes_room(turn) else { continue };
                    let of = held.iter().position(|of| of.last() == Some(&leaves)).unwrap();
                    prop_assert_ne!(of, tenant, "the last of another tenant leaves");
                    held[of].pop();
                    line.leave(leaves);
                }
                held[tenant].push(ticket);
                line.push(turn, ticket, 1);
            }
            for (held, weight) in held.iter().zip(&weights) {
                let share = PLACES * *weight as usize / all as usize;
                prop_assert!(held.len() >= share, "{} of {share}", held.len());
            }
        }
    }

    #[test]
    fn a_ticket_that_passes_before_its_turn_is_charged_to_its_tenant() {
        let mut line = FairLine::default();
        for (ticket, tenant) in [(0, 1), (1, 2), (2, 2), (3, 1), (4, 1)] {
            line.push(turn(tenant, 1), ticket, 1);
        }
        assert_eq!(line.order(), [0, 1, 3, 2, 4]);
        // The first one is late.
        line.pass(1);
        assert_eq!(line.order(), [0, 3, 2, 4], "tenant 2 has had its first turn");
    }

    #[test]
    fn costs_and_weights_of_any_size() {
        let mut line = FairLine::default();
        line.push(turn(1, 1), 0, u64::MAX);
        line.push(turn(2, u32::MAX), 1, u64::MAX);
        line.push(turn(3, 0), 2, 1);
        assert_eq!(line.order(), [2, 1, 0]);
        for ticket in [2, 1, 0] {
            line.pass(ticket);
        }
        assert!(line.order().is_empty());
    }
}
