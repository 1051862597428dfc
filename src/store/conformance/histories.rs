//! Any history of charges and corrections.

use std::collections::HashMap;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;

use super::*;
use crate::quota::{MAX_UNITS, NANOS_PER_SECOND};

/// So far a history goes.
const END: u64 = START + 3_000_000_000 * SECOND;
/// Memory does not count further than 584 years ahead. Corrections that take units stay far below.
const LONGEST_TAKEN: u128 = NANOS_PER_SECOND as u128 * 86_400 * 100;
const LONGEST_REFILL: u128 = NANOS_PER_SECOND as u128 * 86_400 * 36_500;

/// More than a key is kept in mind under.
const PLANS: usize = 5;

/// A history under three policies, one for each algorithm, of whose plans each step takes one.
#[derive(Clone, Debug)]
struct History {
    plans: Vec<[Quota; 3]>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Charge(Vec<Asks>),
    /// Of a charge as it was made, or of one that nothing is known of.
    Correct(Vec<(Asks, Changes, bool)>),
    Later(Later),
}

/// What a charge is made of.
#[derive(Clone, Debug)]
struct Asks {
    key: u64,
    policy: usize,
    plan: usize,
    mode: Mode,
    cost: Units,
    ahead: Units,
}

/// A number of units, or parts of 16 of the capacity, and some more.
#[derive(Clone, Debug)]
struct Units(u64, u64);

#[derive(Clone, Debug)]
enum Changes {
    GiveBack(Units),
    Take(Units),
    Reset,
}

#[derive(Clone, Debug)]
enum Later {
    Micros(u64),
    /// Parts of 240 of the window.
    Window(usize, u64),
    /// As long as was told at last, or one microsecond less.
    Told(bool),
}

fn quotas() -> impl Strategy<Value = (u64, u64)> {
    let units = prop_oneof![
        6 => 1..10_u64,
        2 => 1..2_000_u64,
        2 => 1..=MAX_UNITS,
        1 => prop_oneof![Just(MAX_UNITS), Just(MAX_UNITS - 1), Just(1_000_000)],
    ];
    let window = prop_oneof![
        6 => prop_oneof![Just(SECOND), Just(60 * SECOND), Just(3_600 * SECOND), Just(86_400 * SECOND)],
        2 => 1..100_u64,
        2 => 1..100 * 365 * 86_400 * SECOND,
        1 => Just(100 * 365 * 86_400 * SECOND),
    ];
    (units, window)
}

fn plans() -> impl Strategy<Value = Vec<[Quota; 3]>> {
    let burst = prop::option::of(prop_oneof![1..10_u64, 1..=MAX_UNITS]);
    let of = |(units, window)| Quota::per_window(units, Duration::from_micros(window));
    let bucket = (quotas(), burst).prop_map(move |(bucket, burst)| {
        let (bucket, window) = (of(bucket), of(bucket).window().as_nanos());
        let most = LONGEST_REFILL * u128::from(bucket.units()) / window;
        let most = u64::try_from(most).unwrap_or(u64::MAX).max(1);
        burst.map_or(bucket, |burst| bucket.burst(burst.min(most)))
    });
    let each = (bucket, quotas(), quotas())
        .prop_map(move |(bucket, fixed, sliding)| [bucket, of(fixed), of(sliding)]);
    prop::collection::vec(each, PLANS)
}

fn units() -> impl Strategy<Value = Units> {
    let few = (Just(0), 0..4_u64).prop_map(|(parts, few)| Units(parts, few));
    prop_oneof![6 => few, 1 => (0..33_u64, 0..2_u64).prop_map(|(parts, few)| Units(parts, few))]
}

fn asks() -> impl Strategy<Value = Asks> {
    let mode =
        prop_oneof![7 => Just(Mode::Enforced), 1 => Just(Mode::DryRun), 1 => Just(Mode::Peek)];
    let ahead = prop_oneof![5 => Just(Units(0, 0)), 1 => units()];
    // Mostly the first plan: it is the one that lasts.
    let plan = prop_oneof![6 => Just(0_usize), 3 => 1..3_usize, 1 => 3..PLANS];
    (0..3_u64, 0..3_usize, plan, mode, units(), ahead).prop_map(
        |(key, policy, plan, mode, cost, ahead)| Asks { key, policy, plan, mode, cost, ahead },
    )
}

fn histories() -> impl Strategy<Value = History> {
    let charge = prop::collection::vec(asks(), 1..5).prop_map(|mut asks| {
        asks.sort_by_key(|asks| (asks.policy, asks.key));
        asks.dedup_by_key(|asks| (asks.policy, asks.key));
        Step::Charge(asks)
    });
    let change = prop_oneof![
        4 => units().prop_map(Changes::GiveBack),
        3 => units().prop_map(Changes::Take),
        1 => Just(Changes::Reset),
    ];
    let correct =
        prop::collection::vec((asks(), change, any::<bool>()), 1..4).prop_map(Step::Correct);
    let later = prop_oneof![
        2 => (0..20_u64).prop_map(Later::Micros),
        2 => (0..3 * SECOND).prop_map(Later::Micros),
        4 => (0..3_usize, 0..500_u64).prop_map(|(policy, parts)| Later::Window(policy, parts)),
        4 => any::<bool>().prop_map(Later::Told),
    ];
    let step = prop_oneof![6 => charge, 2 => correct, 3 => later.prop_map(Step::Later)];
    (plans(), prop::collection::vec(step, 1..60))
        .prop_map(|(plans, steps)| History { plans, steps })
}

impl Units {
    fn of(&self, quota: &Quota) -> u64 {
        quota.capacity() / 16 * self.0 + self.1
    }
}

impl Asks {
    fn charge(&self, subject: &Subject<'_>, plans: &[[Quota; 3]]) -> Charge {
        let quota = plans[self.plan][self.policy];
        let one = subject.one(self.key, ALGORITHMS[self.policy], quota);
        let (cost, ahead) = (self.cost.of(&quota), self.ahead.of(&quota));
        Charge { mode: self.mode, cost, ahead, ..one }
    }
}

impl Changes {
    fn of(&self, charge: &Charge) -> Change {
        let quota = &charge.quota;
        match self {
            Self::GiveBack(units) => Change::GiveBack(units.of(quota)),
            Self::Take(units) => {
                let most = LONGEST_TAKEN * u128::from(quota.units()) / quota.window().as_nanos();
                Change::Take(units.of(quota).min(u64::try_from(most).unwrap_or(u64::MAX)))
            }
            Self::Reset => Change::Reset,
        }
    }
}

/// A charge that was made, when that was, and what either store has answered.
struct Made {
    charge: Charge,
    at: Now,
    usages: [Usage; 2],
}

impl Made {
    /// As its store knows it.
    fn correction(&self, store: usize, change: Change) -> Correction {
        let Self { charge, at, usages } = self;
        Correction { charge: *charge, charged_at: Some(*at), usage: usages[store], change }
    }
}

/// Makes the history in both stores. What became of charges is known when they are corrected, as of
/// requests that are given back; or no more than when there was one at last.
async fn compare(subject: &Subject<'_>, memory: &Subject<'_>, History { plans, steps }: &History) {
    let (mut made, mut charged_at) = (HashMap::new(), None);
    let mut times = vec![0];
    for step in steps {
        match step {
            Step::Charge(asks) => {
                let charges: Vec<_> = asks.iter().map(|asks| asks.charge(memory, plans)).collect();
                let answers = [subject.answer(&charges).await, memory.answer(&charges).await];
                let [told, expected] = answers.each_ref().map(|answer| memory.told(answer));
                assert_eq!(told, expected, "{charges:#?} at {}", memory.micros());
                let passes = |(charge, (wait, ..)): (&Charge, &Told)| {
                    charge.mode != Mode::Enforced || *wait == 0
                };
                let all_pass = charges.iter().zip(&told).all(passes);
                for (place, (asks, charge)) in asks.iter().zip(&charges).enumerate() {
                    let usages = answers.each_ref().map(|answer| answer.usages[place]);
                    if all_pass && charge.uses_units() && usages[0].fits() {
                        let made_now = Made { charge: *charge, at: memory.now(), usages };
                        made.insert((asks.policy, asks.key), made_now);
                    }
                }
                charged_at = Some(memory.now());
                times = expected.iter().flat_map(|&(wait, _, reset)| [wait, reset]).collect();
            }
            Step::Correct(asks) => {
                let correction = |store, (asks, changes, is_known): &(Asks, Changes, bool)| {
                    let charge = asks.charge(memory, plans);
                    let known: Option<&Made> = made.get(&(asks.policy, asks.key));
                    match known.filter(|_| *is_known) {
                        Some(made) => made.correction(store, changes.of(&made.charge)),
                        None => Correction {
                            charged_at,
                            ..Correction::new(charge, changes.of(&charge))
                        },
                    }
                };
                let [ours, theirs] = [0, 1].map(|store| -> Vec<_> {
                    asks.iter().map(|asks| correction(store, asks)).collect()
                });
                let expected = memory.correct(&theirs).await;
                let context = || format!("{ours:#?} at {}", memory.micros());
                assert_eq!(subject.correct(&ours).await, expected, "{}", context());
            }
            Step::Later(later) => {
                let micros = match *later {
                    Later::Micros(micros) => micros,
                    Later::Window(policy, parts) => {
                        let window = plans[0][policy].window().as_micros() as u64;
                        (window / 240).saturating_mul(parts)
                    }
                    Later::Told(exactly) => {
                        let shortest = times.iter().filter(|&&time| time > 0).min();
                        shortest.map_or(0, |time| time - u64::from(!exactly))
                    }
                };
                if micros < END - memory.micros() {
                    memory.pass(micros);
                    subject.pass(micros);
                }
            }
        }
    }
}

/// After any history, `store` answers as a fresh one does.
pub(crate) fn says_what_another_says<S: Store>(
    store: &dyn Store,
    fresh: impl Fn() -> S,
    runtime: &Runtime,
    cases: u32,
) {
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let result = TestRunner::new(config).run(&histories(), |history| {
        let memory = fresh();
        let subject = Subject::new(store);
        let memory = Subject { store: &memory, ..Subject::new(store) };
        let memory = Subject { shard: subject.shard, ..memory };
        runtime.block_on(compare(&subject, &memory, &history));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
