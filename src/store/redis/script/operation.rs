//! What the script does for one charge or correction, as it is packed: [`Operation`].

use std::time::Duration;

use super::{
    holder::Holder,
    keys,
    numbers::{EXACT, MAX_COUNT, Rate, micros},
    reply::ExpectedReply,
};
use crate::{
    algorithm::Algorithm,
    penalty::Penalty,
    store::{Change, Charge, Correction, Mode},
};

/// The packed size of most charges, as the module's documentation draws it.
pub(super) const CHARGE_SIZE: usize = 2 + 2 + 1 + 1 + 5 * 8;

/// Added to the action of a charge that has the rest.
const WITH_REST: u8 = 16;

/// The numbers are those of the script.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Enforced = 0,
    DryRun = 1,
    Peek = 2,
    /// Takes as many units as there are, up to a number.
    Lease = 3,
    GiveBack = 4,
    Take = 5,
    Reset = 6,
    /// Counts a refusal or a failure towards a penalty.
    Penalize = 8,
    Pardon = 9,
}

pub(super) struct Operation<'a> {
    /// The charge to make or to correct.
    pub(super) charge: &'a Charge,
    rate: Rate,
    action: Action,
    /// Of a charge, and where a refusal is counted: how many units must fit. Of another correction: when
    /// its charge was made.
    first: u64,
    /// Units; or where the penalty begins in the argument of penalties.
    amount: u64,
    /// Of a correction: the cost of its charge. Of units in flight: the last statement before it.
    cost: u64,
    /// Of a correction in a bucket: what was missing right after its charge, as whole units and parts
    /// of one. Of a charge: 1 if the next one stands for it, or 2 if it only looks for a block; and 0.
    missing: (u64, u64),
}

/// In the place of `or_else`: the charge only looks for a block. As in the script.
const LOOKS: u64 = 2;

impl<'a> Operation<'a> {
    /// `next` is the charge behind it, if there is one.
    pub(super) fn charge(charge: &'a Charge, next: Option<&Charge>, holder: &Holder) -> Self {
        let (action, amount) = match charge.mode {
            // Without a penalty, there is nothing to look for.
            _ if charge.only_looks() && !charge.has_penalty => (Action::Peek, 0),
            Mode::Enforced if charge.lease > 0 => (Action::Lease, charge.lease.into()),
            Mode::Enforced => (Action::Enforced, charge.cost),
            Mode::DryRun => (Action::DryRun, charge.cost),
            Mode::Peek => (Action::Peek, charge.cost),
        };
        let first = charge.units_required().min(MAX_COUNT);
        let (rate, cost) = match charge.algorithm {
            Algorithm::InFlight => (holder.rate(charge), holder.last_statement()),
            algorithm => (Rate::new(algorithm, &charge.quota), 0),
        };
        let or_else = match charge.or_else && next.is_some() {
            _ if charge.only_looks() => LOOKS,
            or_else => or_else.into(),
        };
        Self { charge, rate, action, first, amount, cost, missing: (or_else, 0) }
    }

    /// `penalties` is the argument of penalties, to which that of the correction is added.
    pub(super) fn correct(
        correction: &'a Correction,
        holder: &Holder,
        penalties: &mut Vec<u8>,
    ) -> Self {
        let (action, amount) = match correction.change {
            // Nothing was charged.
            Change::GiveBack(_) | Change::Take(_) if correction.charge.only_looks() => {
                let is_in_flight = correction.charge.algorithm == Algorithm::InFlight;
                (if is_in_flight { Action::GiveBack } else { Action::Take }, 0)
            }
            Change::GiveBack(units) => (Action::GiveBack, units),
            Change::Take(units) => (Action::Take, units),
            Change::Reset => (Action::Reset, 0),
            Change::Penalize(penalty) => (Action::Penalize, pack_penalty(penalty, penalties)),
            Change::Pardon => (Action::Pardon, 0),
        };
        // Where the time is not known, none of its units have come back.
        let first = match correction.change {
            Change::Penalize(_) => correction.charge.units_required().min(MAX_COUNT),
            Change::Pardon => 0,
            _ => correction.charged_at.map_or(EXACT - 1, micros),
        };
        let Correction { charge, usage, .. } = correction;
        if charge.algorithm == Algorithm::InFlight {
            let rate = holder.rate(charge);
            // Of which statement it comes after.
            let (first, cost) = match action {
                Action::Penalize | Action::Pardon => (first, holder.last_statement()),
                // What is under way.
                Action::Take => (charge.cost.min(MAX_COUNT), first.min(holder.last_statement())),
                _ => (0, first.min(holder.last_statement())),
            };
            return Self { charge, rate, action, first, amount, cost, missing: (0, 0) };
        }
        let rate = Rate::new(charge.algorithm, &charge.quota);
        let missing = rate.missing(usage).unwrap_or((charge.cost, 0));
        Self { charge, rate, action, first, amount, cost: charge.cost, missing }
    }

    /// The field that it reads beside that of the count: of the key's penalty, or of when it was reset.
    pub(super) fn second_field(&self) -> Option<[u8; 9]> {
        let has_penalty = match self.action {
            // A reset forgets a penalty that the policy had, too.
            Action::Penalize | Action::Pardon | Action::Reset => true,
            Action::GiveBack if self.charge.algorithm != Algorithm::InFlight => {
                return Some(keys::reset_field(self.charge));
            }
            Action::GiveBack | Action::Take => false,
            _ => self.charge.has_penalty,
        };
        has_penalty.then(|| keys::penalty_field(self.charge))
    }

    /// Packs it behind other operations. `key`, `field` and `second` are the indices of the charge's key,
    /// of its field, and of its [second field](Self::second_field). Returns how to read the reply.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "no request has as many keys and policies as 16 bits count"
    )]
    pub(super) fn pack(
        &self,
        key: usize,
        field: usize,
        second: Option<usize>,
        packed: &mut Vec<u8>,
    ) -> ExpectedReply {
        let Self { charge, rate, .. } = self;
        let [amount, cost, missing] =
            [self.amount, self.cost, self.missing.0].map(|units| units.min(MAX_COUNT));
        let is_charge = (self.action as u8) <= Action::Lease as u8;
        let rest = [cost, missing, self.missing.1];
        let has_rest = self.action == Action::Lease || second.is_some() || rest != [0; 3];
        let flag = if is_charge && has_rest { WITH_REST } else { 0 };
        packed.extend_from_slice(&(key as u16 + 1).to_le_bytes());
        packed.extend_from_slice(&(field as u16 + 1).to_le_bytes());
        packed.extend_from_slice(&[keys::algorithm(charge), self.action as u8 + flag]);
        let numbers = [self.first, amount, rate.units, rate.window, rate.capacity];
        pack_numbers(numbers, packed);
        if has_rest || !is_charge {
            packed.extend_from_slice(&second.map_or(0, |second| second as u16 + 1).to_le_bytes());
            pack_numbers(rest, packed);
        }
        ExpectedReply {
            algorithm: charge.algorithm,
            quota: rate.quota(charge.algorithm, &charge.quota),
            required: self.first,
            lease: if self.action == Action::Lease { amount } else { 0 },
            has_penalty: second.is_some() && self.action != Action::GiveBack,
            only_looks: charge.only_looks(),
        }
    }
}

fn pack_numbers<const N: usize>(numbers: [u64; N], packed: &mut Vec<u8>) {
    for number in numbers {
        packed.extend_from_slice(&(number as f64).to_le_bytes());
    }
}

/// What the operations of a call use: the script makes nothing else.
#[derive(Default)]
pub(super) struct Used {
    /// The algorithms by their numbers, less 1.
    algorithms: [u8; 4],
    gives_back: u8,
    has_penalties: u8,
}

impl Used {
    /// Adds what an operation uses. It may have a second field.
    #[expect(clippy::indexing_slicing, reason = "algorithms have the numbers 1 to 4")]
    pub(super) fn add(&mut self, operation: &Operation<'_>, has_second_field: bool) {
        self.algorithms[usize::from(keys::algorithm(operation.charge).saturating_sub(1))] = 1;
        if has_second_field && operation.action == Action::GiveBack {
            self.gives_back = 1;
        } else if has_second_field {
            self.has_penalties = 1;
        }
    }

    /// The argument of operations: what is used, the number of each key's fields and their names, and the
    /// operations.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "no request has as many policies as 16 bits count"
    )]
    pub(super) fn pack(
        &self,
        keys: usize,
        fields: &[(usize, [u8; 9])],
        operations: &[u8],
    ) -> Vec<u8> {
        let length = 6 + keys * 2 + fields.len() * 9 + operations.len();
        let mut packed = Vec::with_capacity(length);
        packed.extend_from_slice(&self.algorithms);
        packed.extend_from_slice(&[self.gives_back, self.has_penalties]);
        for key in 0..keys {
            let of_key = fields.iter().filter(|(of_key, _)| *of_key == key);
            packed.extend_from_slice(&(of_key.clone().count() as u16).to_le_bytes());
            of_key.for_each(|(_, field)| packed.extend_from_slice(field));
        }
        packed.extend_from_slice(operations);
        packed
    }
}

/// Adds a penalty to those of a call. Returns where it begins, counted from 1.
fn pack_penalty(penalty: &Penalty, packed: &mut Vec<u8>) -> u64 {
    let begins = (packed.len() as u64).saturating_add(1);
    let micros = |time: Duration| time.as_nanos().div_ceil(1_000).min(EXACT.into()) as f64;
    let times = [penalty.within(), penalty.forget_after];
    let times = times.into_iter().chain(penalty.blocks.iter().copied()).map(micros);
    let counts = [f64::from(penalty.after), penalty.blocks.len() as f64];
    counts.into_iter().chain(times).for_each(|number| packed.extend(number.to_le_bytes()));
    begins
}
