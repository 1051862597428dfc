//! The longest single decision while fresh keys arrive, and while they expire.

use std::time::{Duration, Instant};

use governor::{RateLimiter, clock::FakeRelativeClock};

use crate::{
    common::{
        args::Args,
        governors,
        keys::{key, write_key},
        process::{numbers_from, thread_time},
        stats::{InShort, Quartiles, Table, grouped},
    },
    subject::{GOVERNOR, SLIDING_WINDOW, Subject, TOKEN_BUCKET, measuring},
};

const WINDOW: Duration = Duration::from_secs(3_600);

/// The longest of some pieces of work: by the thread's own time, and by the wall's.
struct Longest {
    thread: Duration,
    wall: Duration,
    last: (Duration, Instant),
}

impl Longest {
    fn from_now() -> Self {
        let last = (thread_time(), Instant::now());
        Self { thread: Duration::ZERO, wall: Duration::ZERO, last }
    }

    /// Another piece of work ends, and the next begins.
    fn lap(&mut self) {
        let now = (thread_time(), Instant::now());
        self.thread = self.thread.max(now.0 - self.last.0);
        self.wall = self.wall.max(now.1 - self.last.1);
        self.last = now;
    }

    fn print(&self) {
        println!("{} {}", self.thread.as_nanos(), self.wall.as_nanos());
    }
}

/// Prints the longest pause while `keys` arrive, and while they expire: each by the thread's time
/// and by the wall's, in nanoseconds.
pub fn measure(subject: &str, keys: usize) {
    if subject == GOVERNOR {
        return governors_own(keys);
    }
    // tokio's clock stands still until it is moved, and the limiter's follows it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let subject = Subject::new(subject, WINDOW, keys);
        arrive(0..keys, |key| subject.admits(key)).print();
        tokio::time::advance(2 * WINDOW).await;
        // All have expired: as many new ones take their places.
        arrive(keys..2 * keys, |key| subject.admits(key)).print();
    });
}

/// governor drops expired keys in one call, all at once.
fn governors_own(keys: usize) {
    let clock = FakeRelativeClock::default();
    let governor = RateLimiter::dashmap_with_clock(governors(1, WINDOW), clock.clone());
    arrive(0..keys, |key: &String| governor.check_key(key).is_ok()).print();
    clock.advance(2 * WINDOW);
    let mut longest = Longest::from_now();
    governor.retain_recent();
    longest.lap();
    assert!(governor.is_empty(), "governor kept expired keys");
    longest.print();
}

fn arrive(numbers: std::ops::Range<usize>, admits: impl Fn(&String) -> bool) -> Longest {
    let mut key = key(0);
    let mut longest = Longest::from_now();
    for n in numbers {
        write_key(&mut key, n);
        assert!(admits(&key), "refused a fresh key");
        longest.lap();
    }
    longest
}

pub fn table(args: &Args, in_short: &mut InShort) {
    let title = "Memory: longest pause of one decision, in ms of its thread's time (of the wall's)";
    if !args.wants(title) {
        return;
    }
    let sizes: &[usize] = args.pick(&[1_000_000, 10_000_000], &[100_000]);
    let subjects = [GOVERNOR, TOKEN_BUCKET, SLIDING_WINDOW];
    let table = Table::new(title, &[&["keys", "while they"][..], &subjects].concat());
    for &keys in sizes {
        // What a design pauses for comes back in each run; what the machine does on the side need
        // not. So: the median of some runs, ours and governor's in turn.
        let mut runs = subjects.map(|_| Vec::new());
        for _ in 0..args.pick(3, 1) {
            for (subject, runs) in subjects.into_iter().zip(&mut runs) {
                runs.push(numbers_from::<f64>(&mut measuring("pauses", subject, &[keys])));
            }
        }
        for (row, at) in [("arrive", 0), ("expire", 2)] {
            let medians = |at: usize| {
                runs.each_ref().map(|runs: &Vec<Vec<f64>>| {
                    Quartiles::of(runs.iter().map(|run| run[at] / 1e6)).median
                })
            };
            let [thread, wall] = [at, at + 1].map(medians);
            let cell = |of: usize| format!("{:.2} ({:.2})", thread[of], wall[of]);
            let keys = grouped(keys);
            table.row(&[&keys, &row, &cell(0), &cell(1), &cell(2)]);
            let ours = |of: usize| format!("{:.4} ({:.2} ms)", thread[of] / thread[0], thread[of]);
            in_short.add(
                format!("longest pause while {keys} keys {row}: token bucket; sliding window"),
                format!("governor: {:.1} ms", thread[0]),
                format!("{}; {}", ours(1), ours(2)),
            );
        }
    }
}
