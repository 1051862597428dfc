//! What a layer adds to a request that an axum router answers, without a network.
//!
//! `cargo bench --bench layer -- [--quick] [part of a title …]`; instructions and allocations are
//! counted where valgrind is installed.

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
const ROWS: [(&str, [Variant; 3]); 4] = [
    ("admitted, with headers", limits(true, true)),
    ("admitted, without", limits(true, false)),
    ("refused, with headers", limits(false, true)),
    ("refused, without", limits(false, false)),
];

const LIMITS: [&str; 3] = ["tower_governor", "rate-net", "tower-quota"];

const fn limits(admitted: bool, headers: bool) -> [Variant; 3] {
    [
        Variant { limit: Limit::TowerGovernor, admitted, headers },
        Variant { limit: Limit::RateNet, admitted, headers },
        Variant { limit: Limit::TowerQuota, admitted, headers },
    ]
}

/// Whether there is such a thing: rate-net tells headers with refusals, and only with them.
fn exists(variant: Variant) -> bool {
    variant.limit != Limit::RateNet || variant.headers != variant.admitted
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
