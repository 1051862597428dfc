//! What goes to Redis and comes back: the script, its arguments and its answer.

mod names;
#[cfg(test)]
mod tests;

use std::{sync::LazyLock, time::Duration};

use redis::{
    Arg, Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value,
    aio::ConnectionLike, cluster_async::ClusterConnection, cluster_routing::SingleNodeRoutingInfo,
};

use smallvec::SmallVec;

pub(super) use self::names::Names;
use crate::{
    algorithm::Algorithm,
    clock::Now,
    quota::{MAX_UNITS, MAX_WINDOW, Quota},
    store::{Answer, Change, Charge, Correction, Mode, Usage, Usages},
};

const NANOS_PER_MICRO: u64 = 1_000;
/// Numbers of the script are exact below this.
const EXACT: u64 = 1 << 53;
/// Counts of the script end here, far above every quota.
const MOST: u64 = 1 << 52;
/// The packed size of an operation.
const OPERATION: usize = 2 + 9 + 1 + 5 * 7;
/// Of each operation, the script answers with so many numbers.
const NUMBERS: usize = 3;

static SCRIPT: LazyLock<(Script, &str)> = LazyLock::new(|| {
    let source = include_str!("count.lua");
    (Script::new(source), source)
});

/// One run of the script.
#[derive(Clone, Debug)]
pub(super) struct Request {
    command: Cmd,
    operations: usize,
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

    fn new<'a>(
        names: &Names,
        operations: usize,
        each: impl Iterator<Item = (&'a Charge, Operation)> + Clone,
    ) -> Self {
        let mut keys: SmallVec<[&Charge; 4]> = SmallVec::new();
        let mut packed = Vec::with_capacity(operations * OPERATION);
        for (charge, operation) in each {
            let is_same = |other: &&Charge| (other.shard, other.key) == (charge.shard, charge.key);
            let number = keys.iter().position(is_same).unwrap_or_else(|| {
                keys.push(charge);
                keys.len() - 1
            });
            operation.pack(charge, number, &mut packed);
        }
        let mut command = Cmd::with_capacity(4 + keys.len(), 96 + keys.len() * 64 + packed.len());
        command.arg("EVALSHA").arg(SCRIPT.0.get_hash()).arg(keys.len());
        for key in &keys {
            command.arg(names.key(key));
        }
        let shard = keys.last().map_or(0, |key| key.shard);
        command.arg(packed);
        let request = Self { command, operations, shard };
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

    fn read(&self, reply: Value) -> RedisResult<Answer> {
        let malformed = || {
            let problem = "the script's answer is not as expected";
            RedisError::from((ErrorKind::UnexpectedReturnType, problem))
        };
        let Value::Array(numbers) = reply else { return Err(malformed()) };
        let number = |value: &Value| match value {
            Value::Int(number) => u64::try_from(*number).map_err(|_| malformed()),
            _ => Err(malformed()),
        };
        let Some((at, numbers)) = numbers.split_first() else { return Err(malformed()) };
        if numbers.len() != NUMBERS * self.operations {
            return Err(malformed());
        }
        let at = Duration::from_micros(number(at)?);
        let usage = |numbers: &[Value]| {
            let [wait, remaining, reset] = numbers else { return Err(malformed()) };
            let (wait, reset) = (nanos(number(wait)?), nanos(number(reset)?));
            Ok(Usage::of_nanos(wait, number(remaining)?, reset))
        };
        let usages = numbers.chunks(NUMBERS).map(usage).collect::<RedisResult<Usages>>()?;
        Ok(Answer { usages, at: Now::new(at, at) })
    }
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
    request.read(reply?)
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
    request.read(replies.pop().unwrap_or(Value::Nil).extract_error()?)
}

/// What the script does for a charge or a correction.
struct Operation {
    action: u8,
    /// How many units must fit; or when the units of a correction were charged.
    first: u64,
    units: u64,
}

impl Operation {
    fn charge(charge: &Charge) -> Self {
        let (action, units) = match charge.mode {
            Mode::Enforced if charge.lease > 0 => (3, charge.lease.into()),
            Mode::Enforced => (0, charge.cost),
            Mode::DryRun => (1, charge.cost),
            Mode::Peek => (2, charge.cost),
        };
        let wanted = charge.ahead.saturating_add(charge.cost).min(MOST);
        Self { action, first: wanted, units }
    }

    fn correct(correction: &Correction) -> Self {
        let (action, units) = match correction.change {
            Change::GiveBack(units) => (4, units),
            Change::Take(units) => (5, units),
            Change::Reset => (6, 0),
        };
        // One that was charged just now is given back as if it was later still.
        let charged_at = correction.charged_at.map_or(EXACT - 1, micros);
        Self { action, first: charged_at, units }
    }

    /// `key` is the number of the charge's key.
    fn pack(&self, charge: &Charge, key: usize, packed: &mut Vec<u8>) {
        packed.extend((key as u16 + 1).to_le_bytes());
        packed.extend(names::field(charge));
        packed.push(self.action);
        let Rate { units, window, capacity } = Rate::new(charge.algorithm, &charge.quota);
        for number in [self.first, self.units.min(MOST), units, window, capacity] {
            packed.extend(&number.to_le_bytes()[..7]);
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
    fn new(algorithm: Algorithm, quota: &Quota) -> Self {
        let units = quota.units().clamp(1, MAX_UNITS);
        // Rounded up: never faster than the quota.
        let window = quota.window_nanos().clamp(1, MAX_WINDOW).div_ceil(NANOS_PER_MICRO);
        let capacity = algorithm.capacity(quota).min(MAX_UNITS);
        // A bucket knows its rate only: the smaller its numbers, the shorter the arithmetic.
        let common = if algorithm == Algorithm::TokenBucket { gcd(units, window) } else { 1 };
        Self { units: units / common, window: window / common, capacity }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Redis has one clock, which tells the time since 1970.
fn micros(now: Now) -> u64 {
    (now.unix_nanos() / NANOS_PER_MICRO).min(EXACT - 1)
}

fn nanos(micros: u64) -> u64 {
    micros.saturating_mul(NANOS_PER_MICRO)
}

#[cfg(test)]
mod reply_tests {
    use super::*;

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        let request = Request::probe(&Names::new("test"), 7);
        let int = Value::Int;
        let good = [int(1), int(2), int(3), int(4)];
        let answer = request.read(Value::Array(good.to_vec())).unwrap();
        assert_eq!(answer.at.unix(), Duration::from_micros(1));
        let told = Usage::new(Duration::from_micros(2), 3, Duration::from_micros(4));
        assert_eq!(answer.usages[..], [told]);

        let negative = [int(1), int(2), int(3), int(-4)];
        let text = [int(1), Value::SimpleString("2".into()), int(3), int(4)];
        let arrays = [&good[..0], &good[..1], &good[..3], &negative, &text];
        let arrays = arrays.map(|numbers| Value::Array(numbers.to_vec()));
        let longer = Value::Array([&good[..], &good[1..]].concat());
        let others = [Value::Nil, Value::Okay, int(1), longer];
        for reply in arrays.into_iter().chain(others) {
            let error = request.read(reply.clone()).expect_err("it is malformed");
            assert_eq!(error.kind(), ErrorKind::UnexpectedReturnType, "{reply:?}");
        }
        let largest = [int(i64::MAX), int(i64::MAX), int(i64::MAX), int(i64::MAX)];
        assert!(request.read(Value::Array(largest.to_vec())).is_ok());
    }

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
        // None of these can be built: they divide by nothing.
        let none = Quota::per_window(0, Duration::ZERO);
        assert_eq!(rate(Algorithm::FixedWindow, none), (1, 1, 0));
    }
}
