//! Resets while units are reserved, beside a model that keeps every use for ever:
//! [`take_nothing_off_later_uses`].

use std::{ops::Range, time::Duration};

use http::{Request, request::Parts};
use tower_quota::{
    CheckError, Decision, Limiter, LimiterBuilder, Policy, Quota, Reservation, key::header,
};

use crate::until;

const UNITS: u64 = 1_000;

fn policies() -> [Policy; 3] {
    let quota = Quota::per_day(UNITS);
    [
        Policy::token_bucket("p", quota),
        Policy::fixed_window("p", quota),
        Policy::sliding_window("p", quota),
    ]
}

/// Pseudo-random numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What holds reserved units.
enum Holder {
    Reservation(Reservation),
    /// A request with a meter.
    Decision(Decision),
}

/// One use of the key, which the model keeps for ever.
struct Use {
    units: u64,
    was_reset: bool,
}

struct Case {
    limiter: Limiter,
    key: String,
    uses: Vec<Use>,
    /// Those whose units may still change, each with the index of its use.
    under_way: Vec<(usize, Holder)>,
}

impl Case {
    fn request(&self, cost: u64) -> Parts {
        let request = Request::get("/").header("x-key", &self.key).header("x-cost", cost);
        request.body(()).expect("it has two headers").into_parts().0
    }

    fn used(&self) -> u64 {
        self.uses.iter().filter(|used| !used.was_reset).map(|used| used.units).sum()
    }

    fn add(&mut self, units: u64) -> usize {
        self.uses.push(Use { units, was_reset: false });
        self.uses.len().saturating_sub(1)
    }

    async fn step(&mut self, random: &mut Random) {
        let cost = random.below(5).saturating_add(1);
        match random.below(8) {
            0 | 1 => {
                let check = self.limiter.check("p", &*self.key).cost(cost).await;
                assert!(check.expect("it is in order").is_allowed());
                self.add(cost);
            }
            2 | 3 => {
                let reserve = self.limiter.reserve(["p"], &*self.key).cost("p", cost);
                let reservation = reserve.await.expect("there are units");
                let index = self.add(cost);
                self.under_way.push((index, Holder::Reservation(reservation)));
            }
            4 => {
                let decision = self.limiter.decide(&self.request(cost)).await;
                let index = self.add(cost);
                self.under_way.push((index, Holder::Decision(decision)));
            }
            5 => {
                match self.limiter.reset("p", &*self.key).await {
                    Ok(_) | Err(CheckError::NothingUsed(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                self.uses.iter_mut().for_each(|used| used.was_reset = true);
            }
            _ if self.under_way.is_empty() => {}
            _ => {
                let at = random.below(self.under_way.len() as u64) as usize;
                let (index, holder) = self.under_way.swap_remove(at);
                self.end(index, holder, random.below(7)).await;
            }
        }
    }

    /// Ends one use, of which `units` were really used; 6 of them mean that it is dropped.
    async fn end(&mut self, index: usize, holder: Holder, units: u64) {
        let before = self.uses[index].units;
        let after = match holder {
            Holder::Reservation(reservation) if units == 6 => {
                drop(reservation);
                0
            }
            Holder::Reservation(reservation) => {
                drop(reservation.commit([("p", units)]).await.expect("it is in the list"));
                units
            }
            Holder::Decision(decision) if units == 6 => {
                drop(decision);
                before
            }
            Holder::Decision(decision) => {
                decision.meter().add(units);
                drop(decision);
                units
            }
        };
        // Units before the reset are not counted. Units that were used beyond them are.
        match self.uses[index].was_reset {
            true => drop(self.add(after.saturating_sub(before))),
            false => self.uses[index].units = after,
        }
    }

    async fn left(&self) -> u64 {
        self.limiter.peek("p", &*self.key).await.expect("the policy is there").remaining()
    }
}

/// A correction gives back no more than what is still counted of its own charge, whatever was reset
/// meanwhile. `builder` has the store, and `pause` passes between two steps.
///
/// # Panics
/// If more or less is left than in the model after some steps.
pub async fn take_nothing_off_later_uses(
    builder: impl Fn() -> LimiterBuilder,
    seeds: Range<u64>,
    pause: Duration,
) {
    for policy in policies() {
        let algorithm = policy.algorithm();
        let cost = |request: &Parts| {
            let cost = request.headers.get("x-cost").and_then(|cost| cost.to_str().ok());
            cost.and_then(|cost| cost.parse().ok()).unwrap_or(1)
        };
        let policy = policy.key(header("x-key")).or_refuse().cost(cost).settle_at_end();
        let limiter = builder().policy(policy).build().expect("the policy is in order");
        for seed in seeds.clone() {
            let (limiter, key) = (limiter.clone(), format!("{algorithm:?} {seed}"));
            let mut case = Case { limiter, key, uses: Vec::new(), under_way: Vec::new() };
            let mut random = Random(seed);
            for step in 0..40 {
                case.step(&mut random).await;
                let expected = UNITS.saturating_sub(case.used());
                let is_so = async || Ok((case.left().await == expected).then_some(()));
                let comes_to =
                    if pause.is_zero() { is_so().await } else { until(is_so).await.map(Some) };
                let left = case.left().await;
                assert!(
                    matches!(comes_to, Ok(Some(()))),
                    "{}, step {step}: {left} are left, and not {expected}",
                    case.key
                );
                tokio::time::sleep(pause).await;
            }
        }
    }
}
