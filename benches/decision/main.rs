//! One decision, ours beside its peers': from a bare key to the verdict, and from a request's head.
//!
//! `cargo bench --bench decision -- [--quick] [part of a title …]`

#[path = "../common/mod.rs"]
mod common;
mod contender;
mod rounds;

use std::time::Duration;

use tower_quota::{Policy, Quota};

use crate::{
    common::{
        YEAR,
        args::Args,
        keys::{Order, Spread},
        stats::{Quartiles, Table, grouped},
    },
    contender::{Budget, Contender, Item, POLICY},
    rounds::{Plan, measure},
};

/// What each key has used before: a bucket that is filled up again would be forgotten, and the
/// table not as large as it says.
const FILL: u32 = 200;

fn main() {
    let args = Args::parse();
    let sizes: &[usize] = args.pick(&[1, 1_000, 1_000_000, 10_000_000], &[1, 1_000, 100_000]);
    let plan = Plan { rounds: args.pick(31, 5), batch: args.pick(20_000, 2_000), threads: 1 };
    peers(&args, sizes, plan);
    algorithms(&args, args.pick(&[1_000, 1_000_000], &[1_000]), plan);
    let plan = Plan { batch: plan.batch / 4, ..plan };
    requests(&args, args.pick(&[1, 1_000, 1_000_000], &[1, 1_000]), plan);
    policies(&args, args.pick(&[1, 1_000, 1_000_000], &[1, 1_000]), plan);
}

/// Token bucket, from a bare key to the verdict.
fn peers(args: &Args, sizes: &[usize], plan: Plan) {
    let title = "Decision: token bucket, bare key to verdict (governor = 1)";
    if !args.wants(title) {
        return;
    }
    let columns = ["keys", "asked for", "verdict", "threads", "governor, ns"];
    let peers = ["tower-quota", "rate-net", "aerorate"];
    let table = Table::new(title, &[&columns[..], &peers[..]].concat());
    for &keys in sizes {
        for admitted in [true, false] {
            let two = Plan { threads: 2, ..plan };
            let mut runs = vec![(Spread::Uniform, plan), (Spread::Uniform, two)];
            if keys > 1 {
                runs.push((Spread::Zipf, plan));
            }
            let budget = if admitted { plenty(keys, &runs) } else { ONCE };
            let policy = Policy::token_bucket(POLICY, budget.quota());
            let contenders = [
                contender::governor_by_key(budget),
                contender::by_key(policy, keys),
                contender::rate_net(budget, keys),
                contender::aerorate(budget),
            ];
            fill(&contenders, keys, if admitted { FILL } else { 1 });
            for (spread, plan) in runs {
                let mut order = Order::new(keys, spread);
                let times = measure(&contenders, plan, &mut order, admitted);
                let nanos = Quartiles::of(times[0].iter().copied());
                let nanos = format!("{:.0} ({:.0} to {:.0})", nanos.median, nanos.low, nanos.high);
                let ratios = |peer: usize| Quartiles::of_ratios(&times[peer], &times[0]);
                table.row(&[
                    &grouped(keys),
                    &if keys == 1 {
                        "one hot key"
                    } else if spread == Spread::Zipf {
                        "Zipf"
                    } else {
                        "uniform"
                    },
                    &verdict(admitted),
                    &plan.threads,
                    &nanos,
                    &ratios(1),
                    &ratios(2),
                    &ratios(3),
                ]);
            }
        }
    }
}

/// Our algorithms beside governor's only one.
fn algorithms(args: &Args, sizes: &[usize], plan: Plan) {
    let title = "Decision: each algorithm, bare key to verdict (governor's token bucket = 1)";
    if !args.wants(title) {
        return;
    }
    let columns = ["keys", "verdict", "token bucket", "fixed window", "sliding window"];
    let table = Table::new(title, &columns);
    for &keys in sizes {
        for admitted in [true, false] {
            let budget = if admitted { plenty(keys, &[(Spread::Uniform, plan)]) } else { ONCE };
            let quota = budget.quota();
            let ours = |policy: fn(&'static str, Quota) -> Policy, name| {
                contender::by_key(policy(POLICY, quota), keys).named(name)
            };
            let contenders = [
                contender::governor_by_key(budget),
                ours(Policy::token_bucket, "token bucket"),
                ours(Policy::fixed_window, "fixed window"),
                ours(Policy::sliding_window, "sliding window"),
            ];
            fill(&contenders, keys, if admitted { FILL } else { 1 });
            let mut order = Order::new(keys, Spread::Uniform);
            let times = measure(&contenders, plan, &mut order, admitted);
            let ratios = |ours: usize| Quartiles::of_ratios(&times[ours], &times[0]);
            let cells = (ratios(1), ratios(2), ratios(3));
            table.row(&[&grouped(keys), &verdict(admitted), &cells.0, &cells.1, &cells.2]);
        }
    }
}

/// Token bucket, the key read from the request's header.
fn requests(args: &Args, sizes: &[usize], plan: Plan) {
    let title = "Decision: token bucket, request's head to verdict (governor = 1)";
    if !args.wants(title) {
        return;
    }
    let table = Table::new(title, &["keys", "verdict", "tower-quota"]);
    for &keys in sizes {
        for admitted in [true, false] {
            let budget = if admitted { plenty(keys, &[(Spread::Uniform, plan)]) } else { ONCE };
            let policy = Policy::token_bucket(POLICY, budget.quota());
            let contenders =
                [contender::governor_by_request(budget), contender::by_request(vec![policy], keys)];
            fill(&contenders, keys, 1);
            let mut order = Order::new(keys, Spread::Uniform);
            let times = measure(&contenders, plan, &mut order, admitted);
            let ratio = Quartiles::of_ratios(&times[1], &times[0]);
            table.row(&[&grouped(keys), &verdict(admitted), &ratio]);
        }
    }
}

/// Several token buckets on one key.
fn policies(args: &Args, sizes: &[usize], plan: Plan) {
    let title = "Decision: several policies on one key, request's head to verdict (one policy = 1)";
    if !args.wants(title) {
        return;
    }
    let table = Table::new(title, &["keys", "2 policies", "5 policies"]);
    for &keys in sizes {
        let quota = plenty(keys, &[(Spread::Uniform, plan)]).quota();
        let contenders = [1, 2, 5].map(|policies| {
            let policy = |n: i32| Policy::token_bucket(format!("p{n}"), quota);
            contender::by_request((0..policies).map(policy).collect(), keys)
        });
        fill(&contenders, keys, 1);
        let times = measure(&contenders, plan, &mut Order::new(keys, Spread::Uniform), true);
        let ratios = |policies: usize| Quartiles::of_ratios(&times[policies], &times[0]);
        table.row(&[&grouped(keys), &ratios(1), &ratios(2)]);
    }
}

fn fill<T: Item>(contenders: &[Contender<T>], keys: usize, units: u32) {
    contenders.iter().for_each(|contender| contender.fill(keys, units));
}

/// A quota that the first use spends.
const ONCE: Budget = Budget { units: 1, window: YEAR };

/// A quota that all `runs` do not use up, over so long that no key is forgotten meanwhile.
fn plenty(keys: usize, runs: &[(Spread, Plan)]) -> Budget {
    let most =
        |(spread, plan): &(Spread, Plan)| plan.decisions() as f64 * spread.largest_share(keys);
    // Twice what is expected of the most frequent key, as chance may want more.
    let units = 2.0 * runs.iter().map(most).sum::<f64>() + f64::from(2 * FILL);
    // Units times nanoseconds fit 64 bits, as those of quotas in real life do.
    let window = Duration::from_nanos((1e19 / units) as u64).min(YEAR);
    Budget { units: units as u32, window }
}

fn verdict(admitted: bool) -> &'static str {
    if admitted { "admitted" } else { "refused" }
}
