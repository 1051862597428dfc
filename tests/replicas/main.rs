//! One quota over many replicas, whatever fails: three processes that request more units than there are
//! (`stage.rs`), or that hold as many units in flight as there are (`holders.rs`).
//!
//! Without the test harness: this program starts itself once more for each replica. Words select
//! scenarios by their names, as with the harness.

mod faults;
mod holder;
mod holders;
mod in_flight;
mod losses;
mod quotas;
mod replica;
mod stage;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::Mutex,
    thread,
};

use self::{replica::Role, stage::Row};

type Scenario = (&'static str, fn() -> Row);

const SCENARIOS: &[Scenario] = &[
    ("none", faults::none),
    ("stopped", faults::stopped),
    ("lost_connections", faults::lost_connections),
    ("flushed_scripts", faults::flushed_scripts),
    ("restarted_with_its_file", faults::restarted_with_its_file),
    ("clocks_an_hour_off", faults::clocks_an_hour_off),
    ("leaving_callers", faults::leaving_callers),
    ("waits", faults::waits),
    ("moved_slots", faults::moved_slots),
    ("killed", losses::killed),
    ("failed_over", losses::failed_over),
    ("evicting", losses::evicting),
    ("full", losses::full),
];
/// Of units in flight.
const IN_FLIGHT: &[Scenario] = &[
    ("in_flight_replica_killed", in_flight::replica_killed),
    ("in_flight_replica_paused", in_flight::replica_paused),
    ("in_flight_cut_off_for_long", in_flight::cut_off_for_long),
    ("in_flight_cut_off_briefly", in_flight::cut_off_briefly),
    ("in_flight_lost_connections", in_flight::lost_connections),
    ("in_flight_stopped", in_flight::stopped),
    ("in_flight_flushed_scripts", in_flight::flushed_scripts),
    ("in_flight_restarted_with_its_file", in_flight::restarted_with_its_file),
    ("in_flight_killed", in_flight::killed),
    ("in_flight_failed_over", in_flight::failed_over),
];

/// So many at once: they wait more than they work.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    if let Ok(role) = env::var(replica::ROLE) {
        match serde_json::from_str(&role).unwrap() {
            Role::Asks(orders) => replica::run(orders),
            Role::Holds(orders) => holder::run(orders),
        }
        return ExitCode::SUCCESS;
    }
    let scenarios = || SCENARIOS.iter().chain(IN_FLIGHT);
    if env::args().any(|arg| arg == "--list") {
        scenarios().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    quotas::the_checks_see_what_is_too_much();
    holders::the_checks_see_what_is_too_much();
    let words: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let waiting = scenarios().enumerate().filter(|(_, (name, _))| wanted(name));
    let (waiting, rows) = (Mutex::new(waiting), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap().next();
    let work = || {
        while let Some((place, (name, scenario))) = next() {
            let row = catch_unwind(AssertUnwindSafe(scenario)).ok();
            println!("test {name} ... {}", if row.is_some() { "ok" } else { "FAILED" });
            rows.lock().unwrap().push((place, row));
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(place, _)| *place);
    let failed = rows.iter().any(|(_, row)| row.is_none());
    let of_quotas = rows.iter().filter(|(place, _)| *place < SCENARIOS.len()).count();
    let of_units = rows.split_off(of_quotas);
    let tables = [
        (rows, "admitted, of a quota of 1 in each window | healed after"),
        (of_units, "held at once, of 6 | all held again after"),
    ];
    for (rows, head) in tables {
        print(head, rows.into_iter().filter_map(|(_, row)| row));
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print(head: &str, rows: impl Iterator<Item = Row>) {
    println!("\n| fault | callers saw | {head} |");
    println!("|---|---|---|---|");
    for Row { fault, seen, admitted, healed } in rows {
        let healed = healed.map_or(String::new(), |healed| format!("{} ms", healed.as_millis()));
        println!("| {fault} | {seen} | {admitted} | {healed} |");
    }
}
