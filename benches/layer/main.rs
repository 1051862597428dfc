//! What a layer adds to a request that an axum router answers, without a network.
//!
//! `cargo bench -p tower-quota-benches --bench layer -- [--quick] [part of a title …]`
//! counts instructions and allocations, too, where valgrind is installed.

#[path = "../common/mod.rs"]
mod common;
mod count;
mod time;

use crate::common::{
    args::Args,
    routers::{Limit, Variant},
    stats::InShort,
};

/// What is compared: a row of each table, with a cell for each limiter.
const ROWS: [(&str, [Variant; 5]); 4] = [
    ("admitted, with headers", limits(true, true)),
    ("admitted, without", limits(true, false)),
    ("refused, with headers", limits(false, true)),
    ("refused, without", limits(false, false)),
];

const LIMITS: [&str; 5] =
    ["three fixed headers", "tower_governor", "rate-net", "throttle-kit", "tower-quota"];

const fn limits(admitted: bool, headers: bool) -> [Variant; 5] {
    [
        Variant { limit: Limit::FixedHeaders, admitted, headers },
        Variant { limit: Limit::TowerGovernor, admitted, headers },
        Variant { limit: Limit::RateNet, admitted, headers },
        Variant { limit: Limit::ThrottleKit, admitted, headers },
        Variant { limit: Limit::TowerQuota, admitted, headers },
    ]
}

/// Whether the variant exists: rate-net sets headers on refusals, and only on those; throttle-kit on
/// what it admits, and only on that.
fn exists(Variant { limit, admitted, headers }: Variant) -> bool {
    match limit {
        Limit::FixedHeaders => admitted && headers,
        Limit::RateNet => admitted != headers,
        Limit::ThrottleKit => admitted == headers,
        _ => true,
    }
}

/// What a cell says where there is no such thing.
const NONE: &str = "–";

/// What the README shows beside ours, of the cells of a row.
fn peers(cells: &[String; 5]) -> String {
    let all = LIMITS.iter().zip(cells).take(LIMITS.len() - 1);
    let known = all.filter(|(_, cell)| *cell != NONE);
    known.map(|(name, cell)| format!("{name}: {cell}")).collect::<Vec<_>>().join("; ")
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [answer, row, column, requests] = &words[..]
        && answer == count::ANSWER
    {
        let number = |word: &String| word.parse::<usize>().expect("a number");
        return count::answer(number(row), number(column), number(requests));
    }
    let (args, mut in_short) = (Args::parse(), InShort::new());
    time::table(&args, &mut in_short);
    count::table(&args, &mut in_short);
    in_short.print();
}
