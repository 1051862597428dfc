//! How much memory keys take, and how long the store's upkeep makes a request wait.
//!
//! `cargo bench -p tower-quota-benches --bench memory -- [--quick] [--seconds N] [part of a title …]`
//! needs Linux's `/proc`. It starts a process for each measurement.

#[path = "../common/mod.rs"]
mod common;
mod subject;

mod bytes;
mod churn;
mod flood;
mod pauses;

use crate::common::{args::Args, stats::InShort};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["measure", what, subject, numbers @ ..] = &words[..] {
        let numbers: Vec<usize> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
        match *what {
            "bytes" => bytes::measure(subject, numbers[0], numbers[1]),
            "pauses" => pauses::measure(subject, numbers[0]),
            "churn" => churn::measure(subject, numbers[0]),
            _ => flood::measure(numbers[0], numbers[1]),
        }
        return;
    }
    let (args, mut in_short) = (Args::parse(), InShort::new());
    bytes::table(&args, &mut in_short);
    pauses::table(&args, &mut in_short);
    churn::table(&args, &mut in_short);
    flood::table(&args, &mut in_short);
    in_short.print();
}
