//! Random requests, checks and applies, compared with a naive model that keeps every use.

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::advance;
use tower_quota::{Algorithm, Category, CheckError, Limiter, LimiterBuilder, Matcher, Quota};

use super::clock;
use crate::by_key::{policy, request};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const PATHS: [&str; 3] = ["/one", "/two", "/other"];
const WINDOW: u64 = 60;

/// Where the policies of some limits apply.
#[derive(Clone, Debug)]
struct Limits {
    /// A name, a number of units, and whether it is a sliding window.
    policies: Vec<(usize, u64, bool)>,
    /// Of each policy: for every request, for a category, or for checks only.
    places: Vec<Place>,
    swaps_categories: bool,
    exempts_other: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    EveryRequest,
    Category(usize),
    CheckOnly,
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Limits),
    /// Limits that cannot be.
    ApplyWrong(Limits),
    Request {
        path: usize,
        key: u8,
    },
    Check {
        name: usize,
        key: u8,
    },
    /// Seconds.
    Wait(u64),
}

impl Limits {
    fn builder(&self) -> LimiterBuilder {
        let of = |place: Place| {
            let all = self.policies.iter().zip(&self.places).filter(move |(_, at)| **at == place);
            all.map(|((name, units, is_sliding), _)| {
                let algorithm = algorithm(*is_sliding);
                policy(
                    NAMES[*name],
                    algorithm,
                    Quota::per_window(*units, Duration::from_secs(WINDOW)),
                )
            })
        };
        let builder = of(Place::EveryRequest).fold(Limiter::builder(), LimiterBuilder::policy);
        let builder = of(Place::CheckOnly).fold(builder, LimiterBuilder::check_only);
        let builder = match self.exempts_other {
            true => builder.exempt(Matcher::path("/other")),
            false => builder,
        };
        let order = if self.swaps_categories { [1, 0] } else { [0, 1] };
        order.into_iter().fold(builder, |builder, number| {
            let category = Category::new(PATHS[number]).on(Matcher::path(PATHS[number]));
            let category = of(Place::Category(number)).fold(category, Category::policy);
            let is_empty = of(Place::Category(number)).next().is_none();
            if is_empty { builder } else { builder.category(category) }
        })
    }

    /// The policies that apply to a path: name, units, and whether it is a sliding window.
    fn of_path(&self, path: usize) -> Vec<(usize, u64, bool)> {
        let all = self.policies.iter().zip(&self.places);
        let applies = all.filter(|(_, place)| match place {
            Place::EveryRequest => !(path == 2 && self.exempts_other),
            Place::Category(number) => *number == path,
            Place::CheckOnly => false,
        });
        applies.map(|(policy, _)| *policy).collect()
    }
}

fn algorithm(is_sliding: bool) -> Algorithm {
    if is_sliding { Algorithm::SlidingWindow } else { Algorithm::FixedWindow }
}

/// When each key has used each policy.
#[derive(Default)]
struct Model {
    uses: BTreeMap<(usize, bool, u8), Vec<u64>>,
}

impl Model {
    /// How many units are left of a policy; `sure` is how many surely are, as a sliding window gives a
    /// unit back up to a sixtieth of the window late.
    fn used(&self, policy: (usize, u64, bool), key: u8, now: u64) -> (u64, u64) {
        let (name, _, is_sliding) = policy;
        let uses = self.uses.get(&(name, is_sliding, key)).map_or(&[][..], |uses| uses);
        let since = |late: u64| match is_sliding {
            true => (now + 1).saturating_sub(WINDOW + late),
            false => now - now % WINDOW,
        };
        let count = |late| uses.iter().filter(|at| **at >= since(late)).count() as u64;
        (count(0), count(1))
    }

    fn charge(&mut self, policies: &[(usize, u64, bool)], key: u8, now: u64) {
        for (name, _, is_sliding) in policies {
            self.uses.entry((*name, *is_sliding, key)).or_default().push(now);
        }
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let place =
        select(vec![Place::EveryRequest, Place::Category(0), Place::Category(1), Place::CheckOnly]);
    let policy = (1..8_u64, any::<bool>(), place);
    let names = Just((0..NAMES.len()).collect::<Vec<_>>()).prop_shuffle();
    (names, vec(policy, 0..=NAMES.len()), any::<bool>(), any::<bool>()).prop_map(
        |(names, policies, swaps_categories, exempts_other)| Limits {
            places: policies.iter().map(|(_, _, place)| *place).collect(),
            policies: names
                .into_iter()
                .zip(&policies)
                .map(|(name, (units, is_sliding, _))| (name, *units, *is_sliding))
                .collect(),
            swaps_categories,
            exempts_other,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => limits().prop_map(Step::Apply),
        1 => limits().prop_map(Step::ApplyWrong),
        8 => (0..PATHS.len(), 0..2_u8).prop_map(|(path, key)| Step::Request { path, key }),
        4 => (0..NAMES.len(), 0..2_u8).prop_map(|(name, key)| Step::Check { name, key }),
        2 => (1..40_u64).prop_map(Step::Wait),
    ]
}

async fn play(first: Limits, steps: Vec<Step>) {
    let limiter = first.builder().clock(clock()).build().unwrap();
    let (mut current, mut model, mut now) = (first, Model::default(), 0);
    for step in steps {
        let (applies, key, decision) = match &step {
            Step::Wait(seconds) => {
                advance(Duration::from_secs(*seconds)).await;
                now += seconds;
                continue;
            }
            Step::Apply(limits) => {
                limiter.apply(limits.builder()).unwrap();
                current = limits.clone();
                continue;
            }
            Step::ApplyWrong(limits) => {
                let wrong = policy("wrong", Algorithm::FixedWindow, Quota::per_hour(0));
                limiter.apply(limits.builder().check_only(wrong)).unwrap_err();
                continue;
            }
            Step::Request { path, key } => {
                let head = request(PATHS[*path], &key.to_string());
                (current.of_path(*path), *key, limiter.decide(&head).await)
            }
            Step::Check { name, key } => {
                let checked = limiter.check(NAMES[*name], &*key.to_string()).at_once();
                match current.policies.iter().find(|(known, ..)| known == name) {
                    Some(policy) => (vec![*policy], *key, checked.unwrap()),
                    None => {
                        let unknown = CheckError::UnknownPolicy(NAMES[*name].to_owned());
                        assert_eq!(checked.unwrap_err(), unknown);
                        continue;
                    }
                }
            }
        };
        let used = applies.iter().map(|policy| (policy, model.used(*policy, key, now)));
        let surely_fits = used.clone().all(|((_, units, _), (_, at_most))| at_most < *units);
        let may_fit = used.clone().all(|((_, units, _), (at_least, _))| at_least < *units);
        assert!(
            decision.is_allowed() || !surely_fits,
            "{step:?}: {used:?}",
            used = used.collect::<Vec<_>>()
        );
        assert!(may_fit || !decision.is_allowed(), "{step:?}");
        assert_eq!(decision.outcomes().len(), applies.len(), "{step:?}");
        for (name, units, is_sliding) in &applies {
            let outcome = decision.outcome(NAMES[*name]).expect("it applies");
            assert_eq!((outcome.limit(), outcome.algorithm()), (*units, algorithm(*is_sliding)));
        }
        if decision.is_allowed() {
            model.charge(&applies, key, now);
            for policy in &applies {
                let (at_least, at_most) = model.used(*policy, key, now);
                let left = decision.outcome(NAMES[policy.0]).unwrap().remaining();
                assert!(policy.1.saturating_sub(at_most) <= left, "{step:?}");
                assert!(left <= policy.1.saturating_sub(at_least), "{step:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn each_decision_is_that_of_the_limits_that_were_applied_last(
        first in limits(),
        steps in vec(step(), 1..80),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(first, steps));
    }
}
