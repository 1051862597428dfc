//! Token bucket, from a bare key to the verdict, beside other limiters.

use std::fmt::Display;

use tower_quota::{Policy, Quota};

use crate::{
    USED, VERDICTS, budget,
    common::{
        args::Args,
        keys::{Order, Spread},
        stats::{InShort, Quartiles, Table, grouped},
    },
    contender::{self, POLICY},
    measure::{Plan, measure},
    times,
};

pub fn table(args: &Args, sizes: &[usize], plan: Plan, in_short: &mut InShort) {
    let title = "Decision: token bucket, bare key to verdict (governor = 1)";
    if !args.wants(title) {
        return;
    }
    let columns = ["keys", "asked for", "threads", "verdict", "governor, ns"];
    let peers = ["tower-quota", "awaited", "rate-net", "aerorate"];
    let table = Table::new(title, &[&columns[..], &peers[..]].concat());
    for &keys in sizes {
        let two = Plan { threads: 2, ..plan };
        let mut runs = vec![(Spread::Uniform, plan), (Spread::Uniform, two)];
        if keys > 1 {
            runs.push((Spread::Zipf, plan));
        }
        let [admitted, refused] = VERDICTS.map(|(_, admitted)| compare(keys, &runs, admitted));
        for (run, (spread, plan)) in runs.iter().enumerate() {
            let asked = match spread {
                _ if keys == 1 => "one hot key",
                Spread::Uniform => "uniform",
                Spread::Zipf => "Zipf",
            };
            let row = |verdict: &str, [governor, ours, awaited, rate_net, aerorate]: &Figures| {
                let (keys, threads) = (grouped(keys), plan.threads);
                let nanos = format!("{governor:.0}");
                table.row(&[
                    &keys, &asked, &threads, &verdict, &nanos, ours, awaited, rate_net, aerorate,
                ]);
            };
            row("admitted", &admitted[run]);
            row("refused", &refused[run]);
            let what = match (keys, plan.threads) {
                (1, 1) => continue,
                _ if *spread == Spread::Zipf => continue,
                (1, threads) => format!("one hot key, {threads} threads"),
                (_, 1) => format!("token bucket, {} keys", grouped(keys)),
                (_, threads) => format!("token bucket, {} keys, {threads} threads", grouped(keys)),
            };
            let (admitted, refused) = (&admitted[run], &refused[run]);
            let mut add = |what: &str, column: usize| {
                in_short.add(
                    format!("{what}: admitted; refused"),
                    format!("governor: {:.0}; {:.0} ns", admitted[0].median, refused[0].median),
                    format!("{}; {}", admitted[column], refused[column]),
                );
            };
            add(&what, 1);
            if plan.threads == 1 {
                add(&format!("{what}, awaited"), 2);
            }
        }
    }
}

/// More peers, among them one of sliding windows. Not for as many keys as in the other table: each needs
/// its memory.
pub fn more(args: &Args, sizes: &[usize], plan: Plan, in_short: &mut InShort) {
    let title = "Decision: more peers, bare key to verdict (governor = 1)";
    if !args.wants(title) {
        return;
    }
    let columns = ["keys", "threads", "verdict", "governor, ns"];
    let bucket = ["tower-quota", "throttlecrab", "throttle-kit", "quota"];
    let sliding = ["tower-quota, sliding window", "trypema, sliding window"];
    let table = Table::new(title, &[&columns[..], &bucket, &sliding].concat());
    for &keys in sizes {
        for threads in if keys == 1 { 1..=2 } else { 1..=1 } {
            let plan = Plan { threads, ..plan };
            let [admitted, refused] = VERDICTS.map(|(verdict, admitted)| {
                let budget = budget(admitted, keys, &[(Spread::Uniform, plan)]);
                let by_hour = Quota::per_window(budget.units.into(), contender::HOUR);
                let contenders = [
                    contender::governor_by_key(budget),
                    contender::by_key(Policy::token_bucket(POLICY, budget.quota()), keys),
                    contender::throttlecrab(budget, keys),
                    contender::throttle_kit(budget),
                    contender::quota(budget, keys),
                    contender::by_key(Policy::sliding_window(POLICY, by_hour), keys),
                    contender::trypema(budget.units),
                ];
                let times = times(&contenders, keys, plan, admitted);
                let nanos = format!("{:.0}", Quartiles::of(times[0].iter().copied()));
                let ratios: Vec<_> =
                    times[1..].iter().map(|one| Quartiles::of_ratios(one, &times[0])).collect();
                let mut row: Vec<String> = vec![grouped(keys), threads.to_string()];
                row.extend([verdict.to_owned(), nanos]);
                row.extend(ratios.iter().map(ToString::to_string));
                table.row(&row.iter().map(|cell| cell as &dyn Display).collect::<Vec<_>>());
                ratios
            });
            let name = if keys == 1 { "one hot key" } else { &format!("{} keys", grouped(keys)) };
            let threads = if threads == 1 { "" } else { ", 2 threads" };
            let both = |at: usize| format!("{:.2}; {:.2}", admitted[at].median, refused[at].median);
            let theirs = format!(
                "governor: 1; throttlecrab: {}, throttle-kit: {}, quota: {}",
                both(1),
                both(2),
                both(3)
            );
            let what = format!("beside more peers, {name}{threads}: admitted; refused");
            in_short.add(what, theirs, format!("{}; {}", admitted[0], refused[0]));
        }
    }
}

/// One hot key under each of our algorithms, beside governor's only one; and at once or awaited.
pub fn hot(args: &Args, plan: Plan, in_short: &mut InShort) {
    let title =
        "Decision: one hot key, each algorithm, bare key to verdict (governor's bucket = 1)";
    if !args.wants(title) {
        return;
    }
    let ours = ["token bucket", "awaited", "fixed window", "sliding window"];
    let table = Table::new(title, &[&["threads", "verdict", "governor, ns"][..], &ours].concat());
    for threads in 1..=2 {
        let plan = Plan { threads, ..plan };
        let [admitted, refused] = VERDICTS.map(|(verdict, admitted)| {
            let budget = budget(admitted, 1, &[(Spread::Uniform, plan)]);
            let quota = budget.quota();
            let contenders = [
                contender::governor_by_key(budget),
                contender::by_key(Policy::token_bucket(POLICY, quota), 1),
                contender::by_key_awaited(Policy::token_bucket(POLICY, quota), 1),
                contender::by_key(Policy::fixed_window(POLICY, quota), 1),
                contender::by_key(Policy::sliding_window(POLICY, quota), 1),
            ];
            let times = times(&contenders, 1, plan, admitted);
            let nanos = format!("{:.0}", Quartiles::of(times[0].iter().copied()));
            let ratio = |at: usize| Quartiles::of_ratios(&times[at], &times[0]);
            let ratios = [1, 2, 3, 4].map(ratio);
            let [bucket, awaited, fixed, sliding] = &ratios;
            table.row(&[&threads, &verdict, &nanos, bucket, awaited, fixed, sliding]);
            ratios
        });
        for (at, algorithm) in ours.iter().enumerate().filter(|_| threads == 2) {
            let what = format!("one hot key, 2 threads, {algorithm}: admitted; refused");
            let theirs = "governor's token bucket";
            in_short.add(what, theirs, format!("{}; {}", admitted[at], refused[at]));
        }
    }
}

/// One policy for all callers.
pub fn global(args: &Args, plan: Plan, in_short: &mut InShort) {
    let title =
        "Decision: one global policy, request's head to verdict (governor without keys = 1)";
    if !args.wants(title) {
        return;
    }
    let table = Table::new(title, &["threads", "verdict", "governor, ns", "tower-quota"]);
    for threads in 1..=2 {
        let plan = Plan { threads, ..plan };
        let [admitted, refused] = VERDICTS.map(|(verdict, admitted)| {
            let budget = budget(admitted, 1, &[(Spread::Uniform, plan)]);
            let contenders = [contender::governor_for_all(budget), contender::for_all(budget)];
            let times = times(&contenders, 1, plan, admitted);
            let nanos = format!("{:.0}", Quartiles::of(times[0].iter().copied()));
            let ours = Quartiles::of_ratios(&times[1], &times[0]);
            table.row(&[&threads, &verdict, &nanos, &ours]);
            ours
        });
        if threads == 2 {
            let what = "one global policy, 2 threads, from a request: admitted; refused";
            in_short.add(what, "governor without keys", format!("{admitted}; {refused}"));
        }
    }
}

/// governor's nanoseconds, and the ratios to them: of ours, of ours awaited, and of two more.
type Figures = [Quartiles; 5];

fn compare(keys: usize, runs: &[(Spread, Plan)], admitted: bool) -> Vec<Figures> {
    let budget = budget(admitted, keys, runs);
    let contenders = [
        contender::governor_by_key(budget),
        contender::by_key(Policy::token_bucket(POLICY, budget.quota()), keys),
        contender::by_key_awaited(Policy::token_bucket(POLICY, budget.quota()), keys),
        contender::rate_net(budget, keys),
        contender::aerorate(budget),
    ];
    // A bucket that is full again would be forgotten, and the table not as large as it says.
    let used = if admitted { USED } else { 1 };
    contenders.iter().for_each(|contender| contender.fill(keys, used));
    let run = |(spread, plan): &(Spread, Plan)| {
        let times = measure(&contenders, *plan, &mut Order::new(keys, *spread), admitted);
        let ratio = |peer: usize| Quartiles::of_ratios(&times[peer], &times[0]);
        [Quartiles::of(times[0].iter().copied()), ratio(1), ratio(2), ratio(3), ratio(4)]
    };
    let figures = runs.iter().map(run).collect();
    contenders.iter().for_each(|contender| contender.assert_counts_for(keys));
    figures
}
