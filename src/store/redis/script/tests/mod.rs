//! The script in a real server and a real cluster.

#[cfg(feature = "calendar")]
mod calendars;
mod hostile;
mod plans;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{Client, ErrorKind, Value};
use tokio::runtime::Runtime;

use super::{numbers::Rate, *};
use crate::{
    algorithm::Algorithm,
    clock::Now,
    penalty::Penalty,
    quota::Quota,
    store::{
        Answer, Change, Charge, Correction, MemoryStore, Mode, RedisStore, RedisStoreBuilder,
        Store, StoreFuture, Usage, conformance,
    },
};

#[path = "../../../../../tests/common/redis/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "these tests use a part")]
mod servers;
use self::servers::{Cluster, Server};

/// A store whose script runs at the caller's time.
struct Timed(RedisStore);

impl Timed {
    fn new(builder: RedisStoreBuilder) -> Self {
        let patience = Duration::from_secs(30);
        let builder = builder.connect_timeout(patience).response_timeout(patience);
        // A remembered refusal would say less than the server.
        Self(builder.decision_timeout(patience).max_denied(0).secret(1).build().unwrap())
    }

    fn set(&self, now: Now) {
        *self.0.replica.shards.manager.names.time.lock().unwrap() = Some(now);
    }
}

impl Store for Timed {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.set(now);
        self.0.charge(charges, now)
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.set(now);
        self.0.correct(corrections, now)
    }

    fn keeps_penalties(&self) -> bool {
        self.0.keeps_penalties()
    }
}

/// The memory store in the script's microseconds, which it takes for nanoseconds. So both round alike.
struct Coarse(MemoryStore);

impl Coarse {
    fn time(now: Now) -> Now {
        let coarse = |time: Duration| Duration::from_nanos(time.as_micros() as u64);
        Now::new(coarse(now.monotonic()), coarse(now.unix()))
    }

    fn charge(charge: &Charge) -> Charge {
        let rate = Rate::new(charge.algorithm, &charge.quota);
        let quota = rate.quota(charge.algorithm, &charge.quota);
        Charge { quota, ..*charge }
    }

    fn correction(correction: &Correction) -> Correction {
        let Correction { charge, charged_at, usage, change, .. } = correction;
        let micros = |time: Duration| Duration::from_nanos(time.as_micros() as u64);
        let usage = match usage.is_known() {
            true => Usage::new(micros(usage.wait()), usage.remaining(), micros(usage.reset())),
            false => *usage,
        };
        let (charge, charged_at) = (Self::charge(charge), charged_at.map(Self::time));
        let change = match *change {
            Change::Penalize(penalty) => Change::Penalize(Self::penalty(penalty)),
            change => change,
        };
        Correction { charged_at, usage, ..Correction::new(charge, change) }
    }

    /// There are few of them, and each is kept once.
    fn penalty(penalty: &Penalty) -> &'static Penalty {
        static ALL: Mutex<Vec<(Penalty, &'static Penalty)>> = Mutex::new(Vec::new());
        let mut all = ALL.lock().unwrap();
        if let Some((_, coarse)) = all.iter().find(|(known, _)| known == penalty) {
            return coarse;
        }
        let micros = |time: Duration| Duration::from_nanos(time.as_micros() as u64);
        let mut coarse = penalty.clone();
        coarse.forget_after = micros(coarse.forget_after);
        coarse.counted = coarse.counted.map(|(counted, within)| (counted, micros(within)));
        coarse.blocks.iter_mut().for_each(|block| *block = micros(*block));
        let coarse: &'static Penalty = Box::leak(Box::new(coarse));
        all.push((penalty.clone(), coarse));
        coarse
    }

    fn answer(answer: StoreFuture, now: Now) -> StoreFuture {
        let fine = |time: Duration| Duration::from_micros(time.as_nanos() as u64);
        let fine = move |usage: Usage| {
            let (wait, reset) = (fine(usage.wait()), fine(usage.reset()));
            match usage.blocked_for() {
                Some(block) => Usage::blocked(fine(block), wait, reset),
                None => Usage::new(wait, usage.remaining(), reset),
            }
        };
        StoreFuture::later(async move {
            let usages = answer.await?.usages.iter().copied().map(fine).collect();
            Ok(Answer { usages, at: now })
        })
    }
}

impl Store for Coarse {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let charges: Vec<_> = charges.iter().map(Self::charge).collect();
        Self::answer(self.0.charge(&charges, Self::time(now)), now)
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        let corrections: Vec<_> = corrections.iter().map(Self::correction).collect();
        Self::answer(self.0.correct(&corrections, Self::time(now)), now)
    }
}

/// Checks three replicas that count together.
fn conforms(builder: impl Fn() -> RedisStoreBuilder, cases: u32) {
    let runtime = Runtime::new().unwrap();
    let stores = [(); 3].map(|()| Arc::new(Timed::new(builder())) as Arc<dyn Store>);
    runtime.block_on(conformance::keeps_every_promise(&*stores[0]));
    runtime.block_on(conformance::counts_each_request_once(&stores));
    runtime.block_on(conformance::draws_on_one_quota_after_the_other(&stores));
    conformance::says_what_another_says(
        &*stores[0],
        || Coarse(MemoryStore::new()),
        &runtime,
        cases,
    );
    conformance::keeps_what_plans_promise(&*stores[0], &runtime, cases / 8);
    conformance::holds_what_has_not_ended(&*stores[0], &runtime, cases / 8);
}

#[test]
fn one_server_conforms() {
    let server = Server::start();
    for (protocol, cases) in [("resp2", 300), ("resp3", 100)] {
        let url = format!("{}?protocol={protocol}", server.url());
        conforms(|| RedisStore::builder(url.as_str()), cases);
        server.ask::<()>(redis::cmd("FLUSHALL").arg("SYNC")).unwrap();
    }
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}

#[test]
fn a_cluster_conforms() {
    let cluster = Cluster::start();
    conforms(|| RedisStore::cluster_builder(cluster.urls()), 100);
    for server in cluster.nodes() {
        assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
        assert_ne!(server.keys(), Vec::<String>::new(), "each has its share");
    }
}

const START: u64 = 1_705_402_770_000_000;
const SECOND: u64 = 1_000_000;

/// One server, to which calls are sent.
struct Sent {
    server: Server,
    names: KeyNames,
    connection: redis::Connection,
    runtime: Runtime,
    asynchronous: redis::aio::MultiplexedConnection,
}

impl Sent {
    fn start() -> Self {
        let (server, runtime) = (Server::start(), Runtime::new().unwrap());
        let client = Client::open(server.url()).unwrap();
        let asynchronous = runtime.block_on(client.get_multiplexed_async_connection()).unwrap();
        let connection = server.connection();
        Self { server, names: KeyNames::new("test"), connection, runtime, asynchronous }
    }

    fn run(&mut self, call: &ScriptCall) -> Answer {
        self.runtime.block_on(call.run(&mut self.asynchronous)).unwrap()
    }

    /// Charges at a time, and returns the wait in microseconds and what remains. Nothing is kept longer
    /// than it matters.
    fn charge(&mut self, micros: u64, charge: Charge) -> (u64, u64) {
        let call = ScriptCall::new(&self.names, &[], &[charge]).at(time(micros), Duration::ZERO);
        let usage = self.run(&call).usages[0];
        (usage.wait().as_micros() as u64, usage.remaining())
    }

    fn correct(&mut self, micros: u64, charge: Charge, change: Change) {
        let correction = Correction::new(charge, change);
        let call = ScriptCall::new(&self.names, &[correction], &[]);
        self.run(&call.at(time(micros), Duration::ZERO));
    }

    /// The key's time to live in milliseconds; below 0 if there is no key.
    fn ttl(&mut self, charge: &Charge) -> i64 {
        redis::cmd("PTTL").arg(self.names.key(charge)).query(&mut self.connection).unwrap()
    }
}

fn time(micros: u64) -> Now {
    Now::new(Duration::from_micros(micros), Duration::from_micros(micros))
}

fn charge(algorithm: Algorithm, quota: Quota) -> Charge {
    Charge::new(1 << 40, 5 << 64 | 7, algorithm, quota)
}

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

#[test]
fn a_count_is_kept_as_long_as_it_says_something() {
    let mut sent = Sent::start();
    let hour = Quota::per_hour(3_600);
    for (algorithm, millis) in [
        // Two seconds, and a quarter longer.
        (Algorithm::TokenBucket, 2_500..=2_502),
        // The hour ends in half a minute.
        (Algorithm::FixedWindow, 37_500..=37_502),
        (Algorithm::SlidingWindow, 4_500_000..=4_500_002),
    ] {
        let charge = Charge { cost: 2, ..charge(algorithm, hour) };
        assert_eq!(sent.charge(START, Charge { cost: 0, ..charge }), (0, 3_600));
        sent.charge(START, Charge { mode: Mode::Peek, ..charge });
        sent.charge(START, Charge { cost: 3_601, ..charge });
        assert_eq!(sent.ttl(&charge), -2, "{algorithm:?}: nothing was used, and nothing kept");
        assert_eq!(sent.charge(START, charge).0, 0);
        let (least, most) = millis.into_inner();
        // A part of that may have passed.
        let ttl = sent.ttl(&charge);
        assert!((least - 1_000..=most).contains(&ttl), "{algorithm:?} is kept for {ttl} ms");
        sent.correct(START, charge, Change::GiveBack(2));
        assert_eq!(sent.ttl(&charge), -2, "{algorithm:?}: all is given back");
        sent.correct(START, charge, Change::Take(9));
        let before = sent.ttl(&charge);
        assert!(before > 0, "{algorithm:?}");
        sent.correct(START, charge, Change::Reset);
        // Only when it was reset is kept, as long as what was used before could be given back.
        let ttl = sent.ttl(&charge);
        assert!((1..=before).contains(&ttl), "{algorithm:?} is kept for {ttl} ms");
        sent.correct(START, charge, Change::GiveBack(1));
        assert!(sent.ttl(&charge) <= ttl, "{algorithm:?}: there was nothing to give back");
        redis::cmd("DEL").arg(sent.names.key(&charge)).exec(&mut sent.connection).unwrap();
    }
    // It matters for less than Redis's shortest time.
    let short = Quota::per_window(1, Duration::from_micros(3));
    for algorithm in ALGORITHMS {
        let charge = Charge { policy: 2 << 40, ..charge(algorithm, short) };
        assert_eq!(sent.charge(START, charge), (0, 0), "{algorithm:?}");
    }
    // It matters for longer than Redis can count: it is kept, and still has a time to live.
    let century = Quota::per_window(1, Duration::from_secs(100 * 365 * 86_400)).burst(1 << 49);
    let slow = Charge { cost: 1 << 49, ..charge(Algorithm::TokenBucket, century) };
    assert_eq!(sent.charge(START, slow), (0, 0));
    assert!(sent.ttl(&slow) > 280 * 365 * 86_400_000);
    assert_eq!(sent.server.keys_without_ttl(), Vec::<String>::new());
}

#[test]
fn the_shortest_count_is_kept_to_its_end() {
    let mut sent = Sent::start();
    let names = sent.names.clone();
    let mut looked = 0;
    for number in 0..64 {
        let algorithm = ALGORITHMS[number % 3];
        let quota = Quota::per_window(1, Duration::from_micros(600));
        let charge = Charge { policy: number as u64, ..charge(algorithm, quota) };
        let call = ScriptCall::new(&names, &[], &[charge]);
        let mut both = redis::pipe();
        let look = both.atomic().add_command(call.with_source()).cmd("PEXPIRETIME");
        let look = look.arg(names.key(&charge));
        let (reply, ends): (Value, i64) = look.query(&mut sent.connection).unwrap();
        let answer = call.read(&reply).unwrap();
        let lasts = answer.at.unix() + answer.usages[0].reset();
        // Otherwise it has expired already.
        if let Ok(ends) = u64::try_from(ends) {
            assert!(Duration::from_millis(ends) >= lasts, "{algorithm:?}: {ends} ms, {lasts:?}");
            looked += 1;
        }
    }
    assert!(looked > 0);
}

#[test]
fn a_key_is_kept_as_long_as_the_longest_of_its_counts() {
    for swapped in [false, true] {
        let mut sent = Sent::start();
        let long = charge(Algorithm::SlidingWindow, Quota::per_hour(10));
        let short =
            Charge { policy: 2 << 40, ..charge(Algorithm::TokenBucket, Quota::per_second(10)) };
        let charges = if swapped { [short, long] } else { [long, short] };
        let names = sent.names.clone();
        sent.run(&ScriptCall::new(&names, &[], &charges).at(time(START), Duration::ZERO));
        assert!(sent.ttl(&long) > 3_590_000, "swapped: {swapped}");
        // A count that ends sooner does not end the key sooner.
        sent.charge(START + SECOND, short);
        assert!(sent.ttl(&long) > 3_590_000, "swapped: {swapped}");
    }
}

#[test]
fn a_lease_takes_what_there_is_and_learns_how_much_there_was() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        let one = charge(algorithm, Quota::per_hour(10));
        let leasing = Charge { cost: 2, lease: 6, ..one };
        let left = |sent: &mut Sent| sent.charge(START, Charge { mode: Mode::Peek, ..one }).1;
        assert_eq!(sent.charge(START, leasing), (0, 10), "{algorithm:?}");
        assert_eq!(left(&mut sent), 4);
        // It fits, but another charge does not: nothing is taken.
        let other = Charge { policy: 2 << 40, cost: 11, ..one };
        let both =
            ScriptCall::new(&sent.names, &[], &[leasing, other]).at(time(START), Duration::ZERO);
        assert_eq!(sent.run(&both).usages[0].remaining(), 4);
        assert_eq!((sent.charge(START, leasing), left(&mut sent)), ((0, 4), 0), "{algorithm:?}");
        // It does not fit, so nothing else of its request is charged.
        let other = Charge { cost: 1, ..other };
        let both =
            ScriptCall::new(&sent.names, &[], &[other, leasing]).at(time(START), Duration::ZERO);
        let usages = sent.run(&both).usages;
        assert!(usages[0].fits() && !usages[1].fits());
        assert_eq!((usages[0].remaining(), usages[1].remaining()), (10, 0), "{algorithm:?}");
    }
}

#[test]
fn the_servers_clock_counts() {
    let mut sent = Sent::start();
    let names = sent.names.clone();
    for algorithm in ALGORITHMS {
        let charge = charge(algorithm, Quota::per_window(5, Duration::from_secs(86_400 * 365)));
        let call = ScriptCall::new(&names, &[], &[charge]);
        let before: (u64, u64) = redis::cmd("TIME").query(&mut sent.connection).unwrap();
        let answer = sent.run(&call);
        let after: (u64, u64) = redis::cmd("TIME").query(&mut sent.connection).unwrap();
        let [before, after] = [before, after]
            .map(|(secs, micros)| Duration::from_secs(secs) + Duration::from_micros(micros));
        assert!((before..=after).contains(&answer.at.unix()), "{:?}", answer.at);
        assert_eq!(answer.at.unix(), answer.at.monotonic());
        assert_eq!(sent.run(&call).usages[0].remaining(), 3);
        // The answer says when the charge was made.
        let correction = Correction {
            charged_at: Some(answer.at),
            ..Correction::new(charge, Change::GiveBack(1))
        };
        let answer = sent.run(&ScriptCall::new(&names, &[correction], &[]));
        assert_eq!(answer.usages[0].remaining(), 4, "{algorithm:?}");
    }
    assert_eq!(sent.server.keys_without_ttl(), Vec::<String>::new());
}

#[test]
fn a_clock_set_back_neither_grants_units_nor_blocks_longer_than_a_refill() {
    let mut sent = Sent::start();
    let quota = Quota::per_minute(6);
    let hour = 3_600 * SECOND;
    for (algorithm, wait) in [
        (Algorithm::TokenBucket, 10 * SECOND),
        // The rest of its minute.
        (Algorithm::FixedWindow, 30 * SECOND),
        (Algorithm::SlidingWindow, 60 * SECOND),
    ] {
        let all = Charge { cost: 6, ..charge(algorithm, quota) };
        let one = Charge { cost: 1, ..all };
        assert_eq!(sent.charge(START, all), (0, 0));
        let call = ScriptCall::new(&sent.names, &[], &[one]);
        let back = START - 12 * hour;
        let keep = Duration::from_secs(3_600);
        let answer = sent.run(&call.clone().at(time(back), keep));
        assert_eq!(answer.usages[0].wait(), Duration::from_micros(wait), "{algorithm:?}");
        // A refusal has the exact wait.
        let early = sent.run(&call.clone().at(time(back + wait - 1), keep));
        assert_eq!(early.usages[0].wait(), Duration::from_micros(1), "{algorithm:?}");
        assert!(sent.run(&call.at(time(back + wait), keep)).usages[0].fits(), "{algorithm:?}");
    }
}

#[test]
fn a_server_that_does_not_know_the_script_is_sent_it_once() {
    let mut sent = Sent::start();
    let each = charge(Algorithm::TokenBucket, Quota::per_hour(10));
    let charges = [each, Charge { policy: 2 << 40, ..each }];
    let call = ScriptCall::new(&sent.names, &[], &charges);
    for (round, sources) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        if round == 2 {
            let flush = redis::cmd("SCRIPT").arg("FLUSH").to_owned();
            sent.server.ask::<()>(&flush).unwrap();
        }
        let answer = sent.run(&call);
        assert_eq!(answer.usages[1].remaining(), 9 - round, "each is charged once");
        assert_eq!(sent.server.calls("eval"), sources);
    }
    let calls = ["evalsha", "hmget", "hset", "time"].map(|command| sent.server.calls(command));
    assert_eq!(calls, [4; 4], "each request reads at once, and writes at once");
    // A refusal and a peek write nothing.
    let over = charges.map(|charge| Charge { cost: 11, ..charge });
    let peek = charges.map(|charge| Charge { mode: Mode::Peek, ..charge });
    sent.run(&ScriptCall::new(&sent.names, &[], &over));
    sent.run(&ScriptCall::new(&sent.names, &[], &peek));
    assert_eq!(["hset", "hdel"].map(|command| sent.server.calls(command)), [4, 0]);
}

#[test]
fn it_is_seldom_said_again_how_long_a_count_is_kept() {
    let mut sent = Sent::start();
    let charge = charge(Algorithm::SlidingWindow, Quota::per_hour(1_000));
    for second in 0..600 {
        assert_eq!(sent.charge(START + second * SECOND, charge).0, 0);
    }
    assert_eq!(sent.server.calls("pexpire"), 1);
    assert_eq!(sent.charge(START + 901 * SECOND, charge), (0, 399));
    assert_eq!(sent.server.calls("pexpire"), 2);
}

#[test]
fn no_charges_are_no_error() {
    let mut sent = Sent::start();
    assert!(sent.run(&ScriptCall::new(&sent.names, &[], &[])).usages.is_empty());
}

#[test]
fn charges_that_stand_for_each_other_are_one_run_and_one_write() {
    let mut sent = Sent::start();
    let next = |policy: u64| Charge {
        policy: policy << 40,
        or_else: policy < 3,
        ..charge(ALGORITHMS[policy as usize - 1], Quota::per_hour(1))
    };
    let call = ScriptCall::new(&sent.names, &[], &[1, 2, 3].map(next));
    for writes in [1, 2, 3, 3] {
        sent.run(&call);
        assert_eq!(sent.server.calls("hset"), writes);
    }
    assert_eq!(["evalsha", "hmget"].map(|command| sent.server.calls(command)), [4, 4]);
    assert_eq!(sent.server.keys_without_ttl(), Vec::<String>::new());
}
