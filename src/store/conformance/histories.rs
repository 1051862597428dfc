//! Any history of charges and corrections: two stores answer the same.

use std::{collections::HashMap, sync::LazyLock};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;

use super::{calendars::or_by_calendar, *};
use crate::{
    clock::NANOS_PER_SECOND,
    penalty::Penalty,
    quota::MAX_UNITS,
    store::{made as made_of, pass},
};

/// No history goes on longer.
const END: u64 = START + 3_000_000_000 * SECOND;
/// The memory store counts up to 584 years ahead. Corrections that take units stay far below.
const LONGEST_TAKEN: u128 = NANOS_PER_SECOND as u128 * 86_400 * 100;
const LONGEST_REFILL: u128 = NANOS_PER_SECOND as u128 * 86_400 * 36_500;

/// More plans than a key tracks.
const PLANS: usize = 5;

/// A history under three policies, one for each algorithm. Each step uses one of their plans.
#[derive(Clone, Debug)]
struct History {
    plans: Vec<[Quota; 3]>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Charge(Vec<ChargeSpec>),
    /// Corrects a charge as it was made, or one of which nothing is known.
    Correct(Vec<(ChargeSpec, ChangeSpec, bool)>),
    Later(Later),
}

/// What a [`Charge`] is made from.
#[derive(Clone, Debug)]
struct ChargeSpec {
    key: u64,
    policy: usize,
    plan: usize,
    mode: Mode,
    cost: Units,
    ahead: Units,
    has_penalty: bool,
    or_else: bool,
}

/// So many sixteenths of the capacity, and some units more.
#[derive(Clone, Debug)]
struct Units(u64, u64);

#[derive(Clone, Debug)]
enum ChangeSpec {
    GiveBack(Units),
    Take(Units),
    Reset,
    /// By one of the penalties.
    Penalize(usize),
    Pardon,
}

#[derive(Clone, Debug)]
enum Later {
    Micros(u64),
    /// So many 240ths of a policy's window.
    Window(usize, u64),
    /// The shortest time of the last answer, or one microsecond less.
    Answered(bool),
}

/// Penalties that change while a history goes on.
static PENALTIES: LazyLock<[Penalty; 4]> = LazyLock::new(|| {
    let seconds = Duration::from_secs;
    let of = |after, within, forget_after| {
        Penalty::after(after).refusals_within(within).forget_after(forget_after)
    };
    [
        of(1, seconds(60), seconds(60)).block(seconds(1)).then(seconds(5)).then(seconds(3_600)),
        of(2, seconds(3_600), seconds(86_400)).block(seconds(60)).then(seconds(600)),
        of(3, seconds(1), seconds(1)).block(Duration::from_micros(7)),
        of(2, Duration::from_micros(3), Duration::from_micros(1)).block(seconds(2)),
    ]
});

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
    let fixed = or_by_calendar(quotas().prop_map(of));
    let each = (bucket, fixed, quotas().prop_map(of))
        .prop_map(|(bucket, fixed, sliding)| [bucket, fixed, sliding]);
    prop::collection::vec(each, PLANS)
}

fn units() -> impl Strategy<Value = Units> {
    let few = (Just(0), 0..4_u64).prop_map(|(parts, few)| Units(parts, few));
    prop_oneof![6 => few, 1 => (0..33_u64, 0..2_u64).prop_map(|(parts, few)| Units(parts, few))]
}

fn charge_spec() -> impl Strategy<Value = ChargeSpec> {
    let mode =
        prop_oneof![7 => Just(Mode::Enforced), 1 => Just(Mode::DryRun), 1 => Just(Mode::Peek)];
    let ahead = prop_oneof![5 => Just(Units(0, 0)), 1 => units()];
    // Mostly the first plan, so that one plan lasts.
    let plan = prop_oneof![6 => Just(0_usize), 3 => 1..3_usize, 1 => 3..PLANS];
    let has_penalty = prop::bool::weighted(0.8);
    let or_else = prop::bool::weighted(0.3);
    (0..3_u64, 0..3_usize, plan, mode, units(), ahead, has_penalty, or_else).prop_map(
        |(key, policy, plan, mode, cost, ahead, has_penalty, or_else)| ChargeSpec {
            key,
            policy,
            plan,
            mode,
            cost,
            ahead,
            has_penalty,
            or_else,
        },
    )
}

fn histories() -> impl Strategy<Value = History> {
    let charge = prop::collection::vec(charge_spec(), 1..5).prop_map(|mut specs| {
        specs.sort_by_key(|spec| (spec.policy, spec.key));
        specs.dedup_by_key(|spec| (spec.policy, spec.key));
        // Charges that stand for each other have one mode.
        for index in 1..specs.len() {
            if specs[index - 1].or_else {
                specs[index].mode = specs[index - 1].mode;
            }
        }
        Step::Charge(specs)
    });
    let change = prop_oneof![
        4 => units().prop_map(ChangeSpec::GiveBack),
        3 => units().prop_map(ChangeSpec::Take),
        1 => Just(ChangeSpec::Reset),
        4 => (0..PENALTIES.len()).prop_map(ChangeSpec::Penalize),
        1 => Just(ChangeSpec::Pardon),
    ];
    let correct =
        prop::collection::vec((charge_spec(), change, any::<bool>()), 1..4).prop_map(Step::Correct);
    let later = prop_oneof![
        2 => (0..20_u64).prop_map(Later::Micros),
        2 => (0..3 * SECOND).prop_map(Later::Micros),
        4 => (0..3_usize, 0..500_u64).prop_map(|(policy, parts)| Later::Window(policy, parts)),
        4 => any::<bool>().prop_map(Later::Answered),
    ];
    let step = prop_oneof![6 => charge, 2 => correct, 3 => later.prop_map(Step::Later)];
    (plans(), prop::collection::vec(step, 1..60))
        .prop_map(|(plans, steps)| History { plans, steps })
}

impl Units {
    fn for_quota(&self, quota: &Quota) -> u64 {
        quota.capacity() / 16 * self.0 + self.1
    }
}

impl ChargeSpec {
    fn charge(&self, subject: &Subject<'_>, plans: &[[Quota; 3]]) -> Charge {
        let quota = plans[self.plan][self.policy];
        let one = subject.one(self.key, ALGORITHMS[self.policy], quota);
        let (cost, ahead) = (self.cost.for_quota(&quota), self.ahead.for_quota(&quota));
        let (has_penalty, or_else) = (self.has_penalty, self.or_else);
        Charge { mode: self.mode, cost, ahead, has_penalty, or_else, ..one }
    }
}

impl ChangeSpec {
    fn for_charge(&self, charge: &Charge) -> Change {
        let quota = &charge.quota;
        match self {
            Self::GiveBack(units) => Change::GiveBack(units.for_quota(quota)),
            Self::Take(units) => {
                let most = LONGEST_TAKEN * u128::from(quota.units()) / quota.window().as_nanos();
                Change::Take(units.for_quota(quota).min(u64::try_from(most).unwrap_or(u64::MAX)))
            }
            Self::Reset => Change::Reset,
            Self::Penalize(index) => Change::Penalize(&PENALTIES[*index]),
            Self::Pardon => Change::Pardon,
        }
    }
}

/// A charge that was made, when, and what each store has answered.
struct PastCharge {
    charge: Charge,
    at: Now,
    usages: [Usage; 2],
}

impl PastCharge {
    /// The correction, with what its store has answered.
    fn correction(&self, store: usize, change: Change) -> Correction {
        let Self { charge, at, usages } = self;
        Correction {
            charged_at: Some(*at),
            usage: usages[store],
            ..Correction::new(*charge, change)
        }
    }
}

/// Makes the history in both stores. A correction knows the answer to its charge, as that of a
/// request that is given back does, or else only the time of the last charge.
async fn compare(subject: &Subject<'_>, memory: &Subject<'_>, History { plans, steps }: &History) {
    let (mut made, mut charged_at) = (HashMap::new(), None);
    let mut times = vec![0];
    for step in steps {
        match step {
            Step::Charge(specs) => {
                let charges: Vec<_> = specs.iter().map(|spec| spec.charge(memory, plans)).collect();
                let foreseen = subject.store.preview(&charges, subject.now()).await.unwrap();
                let answers = [subject.answer(&charges).await, memory.answer(&charges).await];
                let known = |answer: &Answer| -> Vec<_> {
                    let snapshots = memory.snapshots(answer).into_iter();
                    snapshots.map(|(wait, remaining, _)| (wait, remaining)).collect()
                };
                assert_eq!(known(&foreseen), known(&answers[0]), "{charges:#?}");
                let [answered, expected] =
                    answers.each_ref().map(|answer| memory.snapshots(answer));
                assert_eq!(answered, expected, "{charges:#?} at {}", memory.micros());
                let fits = |index: usize| answers[0].usages[index].fits();
                for index in made_of(&charges, fits).filter(|_| pass(&charges, fits)) {
                    let (spec, charge) = (&specs[index], &charges[index]);
                    let usages = answers.each_ref().map(|answer| answer.usages[index]);
                    if charge.uses_units() {
                        let made_now = PastCharge { charge: *charge, at: memory.now(), usages };
                        made.insert((spec.policy, spec.key), made_now);
                    }
                }
                charged_at = Some(memory.now());
                times = expected.iter().flat_map(|&(wait, _, reset)| [wait, reset]).collect();
            }
            Step::Correct(specs) => {
                let correction =
                    |store, (spec, change, is_known): &(ChargeSpec, ChangeSpec, bool)| {
                        let charge = spec.charge(memory, plans);
                        let known: Option<&PastCharge> = made.get(&(spec.policy, spec.key));
                        match known.filter(|_| *is_known) {
                            Some(made) => made.correction(store, change.for_charge(&made.charge)),
                            None => Correction {
                                charged_at,
                                ..Correction::new(charge, change.for_charge(&charge))
                            },
                        }
                    };
                let [ours, theirs] = [0, 1].map(|store| -> Vec<_> {
                    specs.iter().map(|spec| correction(store, spec)).collect()
                });
                let expected = memory.correct(&theirs).await;
                times.extend(expected.iter().map(|&(wait, ..)| wait));
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
                    Later::Answered(exactly) => {
                        let shortest = times.iter().filter(|&&time| time > 0).min();
                        shortest.map_or(0, |time| time - u64::from(!exactly))
                    }
                };
                if micros < END - memory.micros() {
                    memory.advance(micros);
                    subject.advance(micros);
                }
            }
        }
    }
}

/// After any history, `store` answers as a `fresh` one does.
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
