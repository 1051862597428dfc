//! One decision, ours beside other limiters': from a bare key to the verdict, and from a request's
//! head.
//!
//! `cargo bench -p tower-quota-benches --bench decision -- [--quick] [part of a title …]`

#[path = "../common/mod.rs"]
mod common;
mod contender;
mod growth;
mod measure;
mod peers;

use std::{thread, time::Duration};

use tower_quota::{Policy, Quota};

use crate::{
    common::{
        YEAR,
        args::Args,
        keys::{Order, Spread},
        stats::{InShort, Quartiles, Table, grouped},
    },
    contender::{Budget, Contender, Item, POLICY},
    measure::{Plan, measure},
};

fn main() {
    let args = Args::parse();
    let mut in_short = InShort::new();
    let plan = Plan { rounds: args.pick(31, 5), batch: args.pick(20_000, 2_000), threads: 1 };
    let sizes = args.pick(&[1, 1_000, 1_000_000, 10_000_000][..], &[1, 1_000, 100_000]);
    peers::table(&args, sizes, plan, &mut in_short);
    peers::more(&args, args.pick(&[1, 1_000, 1_000_000], &[1, 1_000]), plan, &mut in_short);
    peers::hot(&args, plan, &mut in_short);
    algorithms(&args, args.pick(&[1_000, 1_000_000], &[1_000]), plan, &mut in_short);
    quick(&args, args.pick(&[1_000, 100_000], &[1_000]), plan, &mut in_short);
    let sizes = args.pick(&[1, 1_000, 1_000_000][..], &[1, 1_000]);
    let plan = Plan { batch: plan.batch / 4, ..plan };
    requests(&args, sizes, plan);
    peers::global(&args, plan, &mut in_short);
    growth::categories(&args, 1_000, plan, &mut in_short);
    growth::policies(&args, sizes, plan, &mut in_short);
    in_short.print();
}

/// Our algorithms beside governor's only one; and a sliding window of which keys have used something
/// in some of its steps, not only in one.
fn algorithms(args: &Args, sizes: &[usize], plan: Plan, in_short: &mut InShort) {
    let title = "Decision: each algorithm, bare key to verdict (governor's token bucket = 1)";
    if !args.wants(title) {
        return;
    }
    let several = format!("sliding window, {STEPS} steps");
    let ours = ["token bucket", "fixed window", "sliding window", &several];
    let table = Table::new(title, &[&["keys", "verdict"], &ours[..]].concat());
    for &keys in sizes {
        let [admitted, refused] = VERDICTS.map(|(verdict, admitted)| {
            let budget = budget(admitted, keys, &[(Spread::Uniform, plan)]);
            let quota = budget.quota();
            let ours = |policy: fn(&'static str, Quota) -> Policy| {
                contender::by_key(policy(POLICY, quota), keys)
            };
            let contenders = [
                contender::governor_by_key(budget),
                ours(Policy::token_bucket),
                ours(Policy::fixed_window),
                ours(Policy::sliding_window),
                used_in_steps(admitted, keys),
            ];
            let ratios = compare(&contenders, keys, plan, admitted);
            let [bucket, fixed, sliding, several] = &ratios[..] else { unreachable!() };
            table.row(&[&grouped(keys), &verdict, bucket, fixed, sliding, several]);
            ratios
        });
        for (algorithm, at) in [(ours[1], 1), (ours[2], 2), (ours[3], 3)] {
            if Some(&keys) == sizes.last() {
                in_short.add(
                    format!("{algorithm}, {} keys: admitted; refused", grouped(keys)),
                    "governor's token bucket",
                    format!("{}; {}", admitted[at], refused[at]),
                );
            }
        }
    }
}

/// A quota that is so quick that it is whole again whenever its key comes.
fn quick(args: &Args, sizes: &[usize], plan: Plan, in_short: &mut InShort) {
    let title =
        "Decision: token bucket of a million units a second, bare key to verdict (governor = 1)";
    if !args.wants(title) {
        return;
    }
    let table = Table::new(title, &["keys", "tower-quota"]);
    for &keys in sizes {
        let budget = Budget { units: 1_000_000, window: Duration::from_secs(1) };
        let policy = Policy::token_bucket(POLICY, budget.quota());
        let contenders = [contender::governor_by_key(budget), contender::by_key(policy, keys)];
        contenders.iter().for_each(|contender| contender.fill(keys, 1));
        let times = measure(&contenders, plan, &mut Order::new(keys, Spread::Uniform), true);
        let ratio = Quartiles::of_ratios(&times[1], &times[0]);
        table.row(&[&grouped(keys), &ratio]);
        let what = format!("token bucket of a million units a second, {} keys", grouped(keys));
        let governor = Quartiles::of(times[0].iter().copied()).median;
        in_short.add(what, format!("governor: {governor:.0} ns"), ratio);
    }
}

/// A sliding window that counts for `keys`, each of which has used it in all of the [`STEPS`] but
/// two: the next to come is that of [`compare`], and the last that of the decisions.
fn used_in_steps(admitted: bool, keys: usize) -> Contender<String> {
    let window = Duration::from_secs(120);
    let units = if admitted { u64::from(u32::MAX) } else { u64::from(STEPS) - 1 };
    let policy = Policy::sliding_window(POLICY, Quota::per_window(units, window));
    let contender = contender::by_key(policy, keys);
    for _ in 2..STEPS {
        contender.fill(keys, 1);
        thread::sleep(window / 60);
    }
    contender
}

/// Token bucket, the key read from the request's header.
fn requests(args: &Args, sizes: &[usize], plan: Plan) {
    let title = "Decision: token bucket, request's head to verdict (governor = 1)";
    if !args.wants(title) {
        return;
    }
    let table = Table::new(title, &["keys", "verdict", "tower-quota"]);
    for &keys in sizes {
        for (verdict, admitted) in VERDICTS {
            let budget = budget(admitted, keys, &[(Spread::Uniform, plan)]);
            let policy = Policy::token_bucket(POLICY, budget.quota());
            let contenders =
                [contender::governor_by_request(budget), contender::by_request(vec![policy], keys)];
            let ratios = compare(&contenders, keys, plan, admitted);
            table.row(&[&grouped(keys), &verdict, &ratios[0]]);
        }
    }
}

/// The ratios to the first contender's times of the others', all keys asked for alike.
fn compare<T: Item>(
    contenders: &[Contender<T>],
    keys: usize,
    plan: Plan,
    admitted: bool,
) -> Vec<Quartiles> {
    let times = times(contenders, keys, plan, admitted);
    times[1..].iter().map(|ours| Quartiles::of_ratios(ours, &times[0])).collect()
}

/// The times of each contender, round by round, all keys asked for alike.
fn times<T: Item>(
    contenders: &[Contender<T>],
    keys: usize,
    plan: Plan,
    admitted: bool,
) -> Vec<Vec<f64>> {
    contenders.iter().for_each(|contender| contender.fill(keys, 1));
    let times = measure(contenders, plan, &mut Order::new(keys, Spread::Uniform), admitted);
    contenders.iter().for_each(|contender| contender.assert_counts_for(keys));
    times
}

const VERDICTS: [(&str, bool); 2] = [("admitted", true), ("refused", false)];

/// In how many steps of a sliding window its keys are used, where it is more than one.
const STEPS: u32 = 4;

/// What each key may have used before.
const USED: u32 = 200;

/// A quota that all `runs` do not use up, over so long that no key is forgotten meanwhile; or one
/// that the first use spends.
fn budget(admitted: bool, keys: usize, runs: &[(Spread, Plan)]) -> Budget {
    if !admitted {
        return Budget { units: 1, window: YEAR };
    }
    let most =
        |(spread, plan): &(Spread, Plan)| plan.decisions(keys) as f64 * spread.largest_share(keys);
    // Twice what is expected of the most frequent key, as chance may want more.
    let units = 2.0 * runs.iter().map(most).sum::<f64>() + f64::from(2 * USED);
    let units = units as u32;
    // Units times nanoseconds fit 64 bits, and a unit comes back after a whole number of these, as
    // it is with quotas in real life.
    let window = Duration::from_nanos((1e19 / f64::from(units)) as u64).min(YEAR);
    Budget { units, window: Duration::from_nanos((window / units).as_nanos() as u64) * units }
}
