//! What goes to Redis and comes back: the script, its arguments and its answer.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod names;
mod reply;
#[cfg(test)]
mod tests;

use std::{sync::LazyLock, time::Duration};

use redis::{
    Arg, Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value,
    aio::ConnectionLike, cluster_async::ClusterConnection, cluster_routing::SingleNodeRoutingInfo,
};

use smallvec::SmallVec;

pub(super) use self::names::Names;
use self::reply::Asked;
use crate::{
    algorithm::Algorithm,
    clock::Now,
    quota::{MAX_UNITS, MAX_WINDOW, Quota},
    store::{Answer, Change, Charge, Correction, Mode, Usage},
};

const NANOS_PER_MICRO: u64 = 1_000;
/// Numbers of the script are exact below this.
const EXACT: u64 = 1 << 53;
/// Counts of the script end here, far above every quota.
const MOST: u64 = 1 << 52;
/// In microseconds.
const LONGEST_WINDOW: u64 = MAX_WINDOW / NANOS_PER_MICRO;
/// The packed size of an operation.
const OPERATION: usize = 2 + 2 + 9 + 1 + 1 + 8 * 8;

static SCRIPT: LazyLock<(Script, &str)> = LazyLock::new(|| {
    let source = include_str!("count.lua");
    (Script::new(source), source)
});

/// One run of the script.
#[derive(Clone, Debug)]
pub(super) struct Request {
    command: Cmd,
    asked: SmallVec<[Asked; 4]>,
    shard: u64,
}

impl Request {
    /// All of `charges` or none. No two are of the same key and policy. One with a lease takes as
    /// many units as there are, up to that, and is told how many there were before.
    pub(super) fn charge(names: &Names, charges: &[Charge]) -> Self {
        Self::correct_and_charge(names, &[], charges)
    }

    /// All of `corrections`.
    pub(super) fn correct(names: &Names, corrections: &[Correction]) -> Self {
        Self::correct_and_charge(names, corrections, &[])
    }

    /// All of `corrections`, and then all of `charges` or none.
    #[expect(clippy::arithmetic_side_effects, reason = "lengths of what is in memory")]
    pub(super) fn correct_and_charge(
        names: &Names,
        corrections: &[Correction],
        charges: &[Charge],
    ) -> Self {
        let before = corrections.iter();
        let before = before.map(|correction| (&correction.charge, Operation::correct(correction)));
        let charged = charges.iter().map(|charge| (charge, Operation::charge(charge)));
        Self::new(names, corrections.len() + charges.len(), before.chain(charged))
    }

    /// One of a key that is nobody's. It writes, which not every server does that can be asked.
    pub(super) fn probe(names: &Names, shard: u64) -> Self {
        let quota = Quota::per_second(MAX_UNITS);
        let charge = Charge::new(0, shard.into(), Algorithm::TokenBucket, quota);
        Self::charge(names, &[charge])
    }

    /// What its keys have in common: a cluster keeps them on one server.
    pub(super) fn shard(&self) -> u64 {
        self.shard
    }

    /// Which of a cluster's slots its keys are in.
    pub(super) fn slot(&self) -> u16 {
        names::slot(self.shard)
    }

    #[expect(clippy::arithmetic_side_effects, reason = "lengths of what is in memory")]
    fn new<'a>(
        names: &Names,
        operations: usize,
        each: impl Iterator<Item = (&'a Charge, Operation)> + Clone,
    ) -> Self {
        let mut keys: SmallVec<[&Charge; 4]> = SmallVec::new();
        // Each with the number of its key.
        let mut fields: SmallVec<[(usize, [u8; 9]); 8]> = SmallVec::new();
        let mut packed = Vec::with_capacity(operations * OPERATION);
        let mut asked = SmallVec::with_capacity(operations);
        for (charge, operation) in each {
            let is_same = |other: &&Charge| (other.shard, other.key) == (charge.shard, charge.key);
            let number = keys.iter().position(is_same).unwrap_or_else(|| {
                keys.push(charge);
                keys.len() - 1
            });
            let field = (number, names::field(charge));
            let of_key = fields.iter().filter(|(key, _)| *key == number);
            let place = match of_key.clone().position(|other| *other == field) {
                Some(place) => place,
                None => {
                    let place = of_key.count();
                    fields.push(field);
                    place
                }
            };
            asked.push(operation.pack(charge, (number, place), &mut packed));
        }
        let mut command = Cmd::with_capacity(4 + keys.len(), 96 + keys.len() * 64 + packed.len());
        command.arg("EVALSHA").arg(SCRIPT.0.get_hash()).arg(keys.len());
        for key in &keys {
            command.arg(names.key(key));
        }
        // One of no keys only asks for the time, which any server tells.
        let shard = keys.last().map_or(0, |key| key.shard);
        command.arg(packed);
        let request = Self { command, asked, shard };
        #[cfg(test)]
        if let Some(now) = *names.time.lock().unwrap() {
            return request.at(now, Duration::from_secs(3_600));
        }
        request
    }

    /// Run as if it was `now`, with counts kept so much longer than they say anything: a test's time
    /// is not the server's.
    #[cfg(test)]
    pub(super) fn at(mut self, now: Now, longer: Duration) -> Self {
        self.command.arg(micros(now)).arg(longer.as_millis() as u64);
        self
    }

    /// The same with the script itself, which the server then knows.
    fn with_source(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT.1);
        for argument in self.command.args_iter().skip(2) {
            if let Arg::Simple(argument) = argument {
                command.arg(argument);
            }
        }
        command
    }

    /// Whatever comes back is an answer or an error: a server is not trusted to be in order.
    fn read(&self, reply: &Value) -> RedisResult<Answer> {
        let answer = match reply {
            Value::BulkString(reply) => reply::read(&self.asked, reply),
            _ => None,
        };
        answer.ok_or_else(unexpected)
    }
}

fn unexpected() -> RedisError {
    let problem = "the script's answer is not as expected";
    RedisError::from((ErrorKind::UnexpectedReturnType, problem))
}

/// Runs the script where the keys of `request` are. A server that does not know it is sent it with
/// the request.
pub(super) async fn run(
    connection: &mut impl ConnectionLike,
    request: &Request,
) -> RedisResult<Answer> {
    let reply = match request.command.query_async(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            request.with_source().query_async(connection).await
        }
        reply => reply,
    };
    request.read(&reply?)
}

/// What is understood when a server answers these with any bytes; it panics where that cannot be true.
#[cfg(any(fuzzing, test))]
pub(crate) fn read_any(
    corrections: &[Correction],
    charges: &[Charge],
    reply: &[u8],
) -> Result<Answer, crate::store::StoreError> {
    let request = Request::correct_and_charge(&Names::new(""), corrections, charges);
    let answer = request.read(&Value::BulkString(reply.to_vec()));
    if let Ok(answer) = &answer {
        reply::check(&request.asked, answer);
    }
    answer.map_err(|error| crate::store::StoreError::new(error.to_string()))
}

/// Runs the script on a server of a cluster that is taking over the slot of `request`.
pub(super) async fn run_asking(
    connection: &mut ClusterConnection,
    request: &Request,
    node: SingleNodeRoutingInfo,
) -> RedisResult<Answer> {
    let mut asking = redis::pipe();
    asking.cmd("ASKING").add_command(request.with_source());
    let mut replies = connection.route_pipeline(asking, 0, 2, node).await?;
    request.read(&replies.pop().ok_or_else(unexpected)?.extract_error()?)
}

/// The action of an operation that takes what there is, up to a number of units.
const LEASE: u8 = 3;

/// What the script does for a charge or a correction.
struct Operation {
    action: u8,
    /// How many units must fit; or when the units of a correction were charged.
    first: u64,
    units: u64,
    /// Of a correction, the cost of its charge.
    cost: u64,
    /// Of a correction in a bucket, what was missing right after its charge: whole units, and parts
    /// of one.
    missing: (u64, u64),
}

impl Operation {
    fn charge(charge: &Charge) -> Self {
        let (action, units) = match charge.mode {
            Mode::Enforced if charge.lease > 0 => (LEASE, charge.lease.into()),
            Mode::Enforced => (0, charge.cost),
            Mode::DryRun => (1, charge.cost),
            Mode::Peek => (2, charge.cost),
        };
        Self { action, first: charge.units_required().min(MOST), units, cost: 0, missing: (0, 0) }
    }

    fn correct(correction: &Correction) -> Self {
        let (action, units) = match correction.change {
            Change::GiveBack(units) => (4, units),
            Change::Take(units) => (5, units),
            Change::Reset => (6, 0),
        };
        // One that was charged just now is given back as if it was later still.
        let first = correction.charged_at.map_or(EXACT - 1, micros);
        let Correction { charge, usage, .. } = correction;
        let rate = Rate::new(charge.algorithm, &charge.quota);
        let missing = rate.missing(usage).unwrap_or((charge.cost, 0));
        Self { action, first, units, cost: charge.cost, missing }
    }

    /// `number` is that of the charge's key, `place` that of its field there. Tells how to read what
    /// is answered.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "no request has as many keys and policies as 16 bits count"
    )]
    fn pack(
        &self,
        charge: &Charge,
        (number, place): (usize, usize),
        packed: &mut Vec<u8>,
    ) -> Asked {
        let rate = Rate::new(charge.algorithm, &charge.quota);
        packed.extend((number as u16 + 1).to_le_bytes());
        packed.extend((place as u16 + 1).to_le_bytes());
        packed.extend(names::field(charge));
        packed.extend([names::algorithm(charge), self.action]);
        let [units, cost, missing] =
            [self.units, self.cost, self.missing.0].map(|units| units.min(MOST));
        let quota = [rate.units, rate.window, rate.capacity];
        for number in
            [self.first, units].into_iter().chain(quota).chain([cost, missing, self.missing.1])
        {
            packed.extend((number as f64).to_le_bytes());
        }
        let lease = if self.action == LEASE { units } else { 0 };
        Asked {
            algorithm: charge.algorithm,
            quota: rate.quota(charge.algorithm),
            wanted: self.first,
            lease,
        }
    }
}

/// A quota as the script counts it.
#[derive(Debug, PartialEq, Eq)]
struct Rate {
    units: u64,
    /// In microseconds.
    window: u64,
    capacity: u64,
}

impl Rate {
    /// All numbers are exact in the script, and their sums: units and windows of a quota that can be
    /// built end far below 2^52. One that cannot is counted as a slower one, or as none.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a divisor of both is not 0, and no more than either"
    )]
    fn new(algorithm: Algorithm, quota: &Quota) -> Self {
        let units = quota.units().clamp(1, MAX_UNITS);
        // Rounded up: never faster than the quota.
        let window = quota.window_nanos().max(1).div_ceil(NANOS_PER_MICRO);
        let capacity = match quota.units() {
            0 => 0,
            _ if window > LONGEST_WINDOW && !quota.is_unlimited() => 0,
            _ => algorithm.capacity(quota).min(MAX_UNITS),
        };
        let window = window.min(LONGEST_WINDOW);
        // A bucket knows its rate only: the smaller its numbers, the shorter the arithmetic.
        let common = if algorithm == Algorithm::TokenBucket { gcd(units, window) } else { 1 };
        Self { units: units / common, window: window / common, capacity }
    }

    /// What was missing when this was told, as whole units and parts of one; `None` where that is
    /// not known.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the sum of a capacity and one is exact, and so is a time by a count"
    )]
    fn missing(&self, usage: &Usage) -> Option<(u64, u64)> {
        if !usage.is_known() {
            return None;
        }
        let Some(further) = self.capacity.saturating_sub(usage.remaining()).checked_sub(1) else {
            return Some((0, 0));
        };
        // Of the unit that comes back next.
        let parts = usage.reset().as_nanos() * u128::from(self.units) / u128::from(NANOS_PER_MICRO);
        match u64::try_from(parts).ok().filter(|parts| *parts < self.window) {
            Some(parts) => Some((further, parts)),
            None => Some((further + 1, 0)),
        }
    }

    /// As the algorithms know it, with so many nanoseconds as these are microseconds.
    fn quota(&self, algorithm: Algorithm) -> Quota {
        let window = Duration::from_nanos(self.window);
        match algorithm {
            Algorithm::TokenBucket => Quota::per_window(self.units, window).burst(self.capacity),
            Algorithm::FixedWindow | Algorithm::SlidingWindow => {
                Quota::per_window(self.capacity, window)
            }
        }
    }
}

#[expect(clippy::arithmetic_side_effects, reason = "it ends before it divides by 0")]
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Redis has one clock, which tells the time since 1970.
fn micros(now: Now) -> u64 {
    (now.unix_nanos() / NANOS_PER_MICRO).min(EXACT - 1)
}

#[cfg(test)]
mod rate_tests {
    use super::*;

    #[test]
    fn a_quota_is_told_in_small_numbers_and_never_as_a_faster_one() {
        let rate = |algorithm, quota: Quota| {
            let Rate { units, window, capacity } = Rate::new(algorithm, &quota);
            (units, window, capacity)
        };
        let per_minute = Quota::per_minute(600);
        assert_eq!(rate(Algorithm::TokenBucket, per_minute), (1, 100_000, 600));
        assert_eq!(rate(Algorithm::TokenBucket, per_minute.burst(5)), (1, 100_000, 5));
        assert_eq!(rate(Algorithm::FixedWindow, per_minute), (600, 60_000_000, 600));
        let odd = Quota::per_window(3, Duration::from_nanos(7_001));
        assert_eq!(rate(Algorithm::SlidingWindow, odd), (3, 8, 3));
        // None of these can be built: nothing fits.
        let century = Duration::from_nanos(MAX_WINDOW);
        for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow]
        {
            for none in [
                Quota::per_window(0, Duration::ZERO),
                Quota::per_second(0).burst(5),
                Quota::per_window(9, century + Duration::from_micros(1)),
            ] {
                assert_eq!(rate(algorithm, none).2, 0, "{algorithm:?} of {none:?}");
            }
            // That is not counted; if it was, as much as can be counted would fit.
            assert_eq!(rate(algorithm, Quota::unlimited()).2, MAX_UNITS);
        }
    }

    /// So many numbers of a double are whole, and a count may be twice the capacity, and is added to.
    #[test]
    fn what_can_be_built_is_exact_in_the_script() {
        let century = Duration::from_nanos(MAX_WINDOW);
        let most = Quota::per_window(MAX_UNITS, century).burst(MAX_UNITS);
        assert!(most.problem().is_none());
        for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow]
        {
            let Rate { units, window, capacity } = Rate::new(algorithm, &most);
            assert!([units, window, 2 * capacity].iter().all(|number| *number < MOST));
        }
    }
}
