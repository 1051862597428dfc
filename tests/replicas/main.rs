//! One quota over many replicas, whatever fails: three processes that ask for more than there is.
//!
//! Without the test harness: this program starts itself once more for each replica. Words select
//! scenarios by their names, as with the harness.

mod faults;
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

use self::stage::Row;

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

/// So many at once: they wait more than they work.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    if let Ok(orders) = env::var(replica::ORDERS) {
        replica::run(&orders);
        return ExitCode::SUCCESS;
    }
    if env::args().any(|arg| arg == "--list") {
        SCENARIOS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    quotas::the_checks_see_what_is_too_much();
    let words: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let waiting = SCENARIOS.iter().enumerate().filter(|(_, (name, _))| wanted(name));
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
    print(rows.into_iter().filter_map(|(_, row)| row));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print(rows: impl Iterator<Item = Row>) {
    println!("\n| fault | callers saw | admitted, of a quota of 1 in each window | healed after |");
    println!("|---|---|---|---|");
    for Row { fault, seen, admitted, healed } in rows {
        let healed = healed.map_or(String::new(), |healed| format!("{} ms", healed.as_millis()));
        println!("| {fault} | {seen} | {admitted} | {healed} |");
    }
}
