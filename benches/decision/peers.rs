//! Token bucket, from a bare key to the verdict, beside other limiters.

use tower_quota::Policy;

use crate::{
    USED, VERDICTS, budget,
    common::{
        args::Args,
        keys::{Order, Spread},
        stats::{InShort, Quartiles, Table, grouped},
    },
    contender::{self, POLICY},
    measure::{Plan, measure},
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
