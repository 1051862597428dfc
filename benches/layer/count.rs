//! Instructions and allocations of an answer, counted by valgrind: each run gives the same numbers.

use std::{fmt, process::Command};

use axum::{Router, body::Body, http::Request};

use crate::{
    LIMITS, NONE, ROWS,
    common::{
        args::Args,
        process::again,
        routers::{BARE, Variant, answer as answer_one, request},
        stats::{InShort, Table},
    },
    exists, peers,
};

/// The argument with which this program answers requests.
pub const ANSWER: &str = "answer";

/// Answers `requests` with the variant of that index, or bare beyond the last.
pub fn answer(row: usize, column: usize, requests: usize) {
    let variant = ROWS.get(row).map_or(BARE, |(_, limits)| limits[column]);
    let mut router = variant.router();
    let as_expected = answer_all(&mut router, (0..requests).map(request).collect(), variant);
    assert_eq!(as_expected, requests, "{variant:?}");
}

/// Callgrind counts only inside this function, because the cost of building a router varies.
#[inline(never)]
fn answer_all(router: &mut Router, requests: Vec<Request<Body>>, variant: Variant) -> usize {
    let answers = requests.into_iter().map(|request| answer_one(router, request));
    answers.filter(|response| response.status() == variant.status()).count()
}

pub fn table(args: &Args, in_short: &mut InShort) {
    let title = "Layer: instructions (allocations) added to an axum request";
    if !args.wants(title) {
        return;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        return println!("\n{title}: not counted, as valgrind is not installed");
    }
    let requests = args.pick(1_000, 200);
    let bare = Counts::of_each(ROWS.len(), 0, requests);
    let bare_router = format!("bare router: {bare}");
    let table = Table::new(title, &[&[&*bare_router][..], &LIMITS, &["ratio"]].concat());
    // A smoke run counts what matters most.
    for (row, (name, limits)) in ROWS.iter().enumerate().take(args.pick(ROWS.len(), 1)) {
        let added = [0, 1, 2, 3, 4].map(|column| {
            exists(limits[column]).then(|| Counts::of_each(row, column, requests).less(&bare))
        });
        let cells = added.each_ref().map(|added| match added {
            Some(added) => added.to_string(),
            None => NONE.to_owned(),
        });
        let [_, Some(theirs), _, _, Some(ours)] = &added else { unreachable!("both exist") };
        let instructions = ours.instructions / theirs.instructions;
        let ratio = format!("{instructions:.2} ({:.2})", ours.allocations / theirs.allocations);
        let [fixed, governor, rate_net, throttle_kit, quota] = &cells;
        table.row(&[name, fixed, governor, rate_net, throttle_kit, quota, &ratio]);
        if limits[0].headers {
            in_short.add(
                format!("instructions (allocations) added to an axum request, {name}"),
                peers(&cells),
                format!("{quota}: {ratio} of tower_governor"),
            );
        }
    }
}

struct Counts {
    instructions: f64,
    allocations: f64,
}

impl Counts {
    fn less(&self, other: &Self) -> Self {
        Self {
            instructions: self.instructions - other.instructions,
            allocations: self.allocations - other.allocations,
        }
    }

    /// Of one request.
    fn of_each(row: usize, column: usize, requests: usize) -> Self {
        let callgrind =
            ["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*answer_all*"];
        let memcheck = ["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"];
        let count = |options, label, requests| {
            number_after(label, &under_valgrind(options, row, column, requests))
        };
        let allocated = |requests| count(memcheck, "total heap usage:", requests);
        // memcheck counts all of a process: of twice as many requests less those of as many.
        let allocations = allocated(2 * requests) - allocated(requests);
        Self {
            instructions: count(callgrind, "Collected :", requests) / requests as f64,
            allocations: allocations / requests as f64,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ({:.1})", self.instructions, self.allocations)
    }
}

/// What valgrind says of this program answering requests.
fn under_valgrind(options: [&str; 3], row: usize, column: usize, requests: usize) -> String {
    let mut command = Command::new("valgrind");
    command.args(options).arg(again().get_program()).arg(ANSWER);
    command.args([row, column, requests].map(|number| number.to_string()));
    let output = command.output().expect("valgrind runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn number_after(label: &str, text: &str) -> f64 {
    let number = text.split_once(label).and_then(|(_, rest)| rest.split_whitespace().next());
    let number = number.and_then(|number| number.replace(',', "").parse().ok());
    number.unwrap_or_else(|| panic!("no number after `{label}` in {text}"))
}
